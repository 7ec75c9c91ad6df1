"""An application in trouble: what it is owed waits, and nobody else waits for it."""

from pathlib import Path

import pytest

from faults import application, day


@pytest.mark.process
@pytest.mark.parametrize("planted", [False, True])
def test_an_application_that_was_away_is_told_everything_without_a_stampede(planted: bool, tmp_path: Path) -> None:
    """Away, then back but for one message it never takes: all others arrive; one that never comes back is noticed."""
    assert bool(application.away(tmp_path, away_s=1.0, planted=planted).faults) == planted


@pytest.mark.parametrize("manner", ["refuses", "is silent"])
def test_an_application_back_after_hours_is_told_everything_at_once_and_in_order(
    manner: str, fast_folder: Path
) -> None:
    """In virtual time: every message once by its id, each job's in order, soon after its return, never too many."""
    assert day.away(fast_folder, manner=manner, messages=60, away_s=4 * 3600.0).faults == []


def test_messages_of_a_job_out_of_order_are_caught(fast_folder: Path) -> None:
    """The check can fail."""
    assert day.away(fast_folder, messages=60, away_s=3600.0, planted="any-order").faults
