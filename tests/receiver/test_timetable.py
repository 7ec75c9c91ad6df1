"""When a job is asked about and when it is given up: instants in, instants out."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import timetable
from receiver.records import Job
from receiver.settings import ReconcileSettings, SourceSettings
from tests.support import START

RULES = ReconcileSettings()
SOURCE = SourceSettings.named("src", provider="omnifence", api_key="key", timeouts={"slow": {"fail_after_s": 5000}})


def job(**facts: Any) -> Job:
    return Job("src", "j1", **{"registered_at": START, "modality": "prompt", **facts})


def scheduled(*, now: float = START, askable: bool = True, **facts: Any) -> Job:
    return timetable.scheduled(job(**facts), SOURCE, now, obstacle=None if askable else "nobody holds a key")


@pytest.mark.parametrize(
    ("modality", "poll_after_s", "fail_after_s"),
    [("prompt", 60, 300), ("image", 60, 300), ("video", 300, 900), ("slow", 300, 5000), ("novel", 300, 900),
     (None, 300, 900)],
)  # fmt: skip
def test_a_modality_sets_the_first_question_and_the_deadline(
    modality: str | None, poll_after_s: float, fail_after_s: float
) -> None:
    """The source's figures, else the provider's, else 900 s; one nobody told takes the defaults."""
    made = scheduled(modality=modality)

    assert (made.next_poll_at, made.deadline_at) == (START + poll_after_s, START + fail_after_s)


def test_the_deadline_counts_from_the_submission() -> None:
    """What was submitted a while ago is due sooner, and may be overdue at once."""
    assert scheduled(submitted_at=START - 100).deadline_at == START + 200
    assert scheduled(submitted_at=START - 5000).deadline_at == START - 4700


@pytest.mark.parametrize("facts", [{"submitted_at": START + 9000}, {"registered_at": START + 9000}])
def test_a_time_that_lies_ahead_is_clamped_to_now(facts: dict[str, Any]) -> None:
    """A sender's clock that is ahead buys no time (CONTRACT 10)."""
    assert scheduled(**facts).deadline_at == START + 300


def test_a_job_nobody_can_be_asked_about_waits_for_its_deadline() -> None:
    """It is due once: when it ends."""
    made = scheduled(askable=False)

    assert made.next_poll_at == made.deadline_at == START + 300
    assert made.last_error == "cannot be asked about: nobody holds a key"


def test_a_new_schedule_keeps_the_providers_own_wait() -> None:
    """Never earlier than Retry-After, also when facts are filled in meanwhile."""
    assert scheduled(not_before=START + 200).next_poll_at == START + 200


def test_a_new_schedule_does_not_start_a_clock_that_stands_still() -> None:
    """While a person is waited for there is no deadline, whatever else becomes known."""
    assert scheduled(remaining_s=120.0).deadline_at is None


def test_waits_widen_from_the_least_to_the_most() -> None:
    """5 s, half as much again each time, never more than 300 s."""
    waits, each = [], job(deadline_at=None)
    for _ in range(15):
        each = timetable.postponed(each, RULES, START, Random(1))
        waits.append(each.wait_s)

    assert waits[:3] == [5.0, 7.5, 11.25]
    assert waits[-1] == RULES.poll_max_s
    assert waits == sorted(waits)  # type: ignore[type-var]  # none of them is None


@given(st.floats(0, 10_000), st.floats(-10_000, 10_000), st.none() | st.floats(0, 10_000), st.integers())
def test_the_next_question_lies_where_it_may(
    wait_s: float, to_deadline_s: float, retry_after_s: float | None, seed: int
) -> None:
    """Within jitter of its wait, not after a deadline that lies ahead, and never before Retry-After."""
    before = job(wait_s=wait_s or None, deadline_at=START + to_deadline_s)
    after = timetable.postponed(before, RULES, START, Random(seed), retry_after_s=retry_after_s)
    granted = START + min(retry_after_s, RULES.retry_after_max_s) if retry_after_s is not None else None

    assert after.next_poll_at is not None
    assert after.wait_s is not None
    assert after.next_poll_at >= (granted or START)
    assert after.next_poll_at <= max(START + after.wait_s * (1 + timetable.JITTER), granted or 0.0)
    if START + to_deadline_s > START:
        assert after.next_poll_at <= max(START + to_deadline_s, granted or 0.0)
    assert after.not_before == granted


def test_a_wait_the_provider_asked_for_is_believed_up_to_a_cap() -> None:
    """`retry_after_max_s`: a Retry-After of a year does not lose a job."""
    late = timetable.postponed(job(), RULES, START, Random(1), retry_after_s=31_536_000.0)

    assert late.next_poll_at == late.not_before == START + 300


def test_jitter_spreads_jobs_that_were_submitted_together() -> None:
    """A thousand jobs of one moment are not asked about in one moment for ever."""
    chance = Random(3)
    spread = {timetable.postponed(job(wait_s=200.0), RULES, START, chance).next_poll_at for _ in range(1000)}

    assert len(spread) > 900


def test_the_deadline_clock_stops_and_runs_on() -> None:
    """What was left when a person was waited for is left when they have decided."""
    waiting = timetable.frozen(job(deadline_at=START + 120), START, stands_still=True)
    still = timetable.frozen(waiting, START + 9000, stands_still=True)
    going = timetable.frozen(still, START + 9000, stands_still=False)

    assert (waiting.deadline_at, waiting.remaining_s) == (None, 120)
    assert still == waiting
    assert (going.deadline_at, going.remaining_s) == (START + 9120, None)
    assert timetable.frozen(going, START + 9500, stands_still=False) == going


def test_an_overdue_clock_that_stops_has_nothing_left() -> None:
    """It does not gain time by waiting."""
    assert timetable.frozen(job(deadline_at=START - 50), START, stands_still=True).remaining_s == 0.0


def test_late_looks_widen_from_the_timeout_to_a_day() -> None:
    """Three by default: one timeout later, in between, a day later; then no more."""
    looks = [
        timetable.late_look_at(job(deadline_at=START + 300, late_polls=made), RULES, START + 300) for made in range(4)
    ]

    assert looks[0] == START + 600
    assert looks[2] == pytest.approx(START + 300 + timetable.LATE_WATCH_S)
    assert looks[3] is None
    first, between, last = (look - START - 300 for look in looks[:3] if look is not None)
    assert between / first == pytest.approx(last / between)


@pytest.mark.parametrize(("late_polls", "looks"), [(0, 0), (1, 1), (5, 5)])
def test_late_polls_counts_the_looks(late_polls: int, looks: int) -> None:
    """`late_polls` in the configuration is how many there are; none is allowed."""
    rules = ReconcileSettings(late_polls=late_polls)
    made = [timetable.late_look_at(job(deadline_at=START, late_polls=each), rules, START) for each in range(9)]

    assert sum(look is not None for look in made) == looks
    assert all(look is None or look > START for look in made)
