"""Months in seconds: whatever providers, applications and crashes do, every job ends and is told, on time and once."""

from pathlib import Path

from faults import months


def test_every_job_of_a_simulated_while_ends_and_is_told_once(fast_folder: Path) -> None:
    """Lost webhooks, hangs, 429s, outages, crashes: no job without an end, no early question, none a quarter late."""
    result = months.simulate(fast_folder, [1], 2)

    assert result.faults == []
    assert float(str(result.figures["crashes"])) > 0


def test_a_seed_stands_for_one_history(fast_folder: Path) -> None:
    """The same seed replays exactly, so that a failing one can be looked into; another seed is another history."""
    histories = [months.universe(fast_folder / "sim.db", seed, 0.3).history.hexdigest() for seed in (5, 5, 6)]

    assert histories[0] == histories[1] != histories[2]


def test_a_question_before_its_time_is_caught(fast_folder: Path) -> None:
    """The check can fail: a reconciler that forgets Retry-After asks too early."""
    assert months.simulate(fast_folder, [2], 2, bug="ignore-retry-after").faults
