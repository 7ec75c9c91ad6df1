"""When a job is asked about next, and when it is given up. Pure: instants in, instants out; chance is handed in.

Deadlines are wall-clock instants, for they are promises about stored facts and must survive a restart. A question due
later than the deadline is asked at the deadline: the last question decides (CONTRACT 5, Timeouts).
"""

from random import Random

from receiver.records import Job
from receiver.settings import ReconcileSettings, SourceSettings

WIDENING = 1.5
"""Each wait between two questions is so much longer than the one before, up to `poll_max_s`."""
JITTER = 0.2
"""Waits vary by so much either way, so that jobs submitted together are not asked about together for ever; but none is
shorter than `poll_min_s` or longer than `poll_max_s`."""
LATE_WATCH_S = 86_400.0
"""How long a stale job is still looked after."""


def started(job: Job) -> float:
    """What timeouts count from: the submission, else the registration; a submission in the future counts from now."""
    return min(job.started_at, job.registered_at)


def scheduled(job: Job, source: SourceSettings, now: float, *, obstacle: str | None) -> Job:
    """A job with its deadline and its first question set. One nobody can be asked about (`obstacle`: why) waits for its
    deadline, and says so in `last_error`."""
    poll_after_s, fail_after_s = source.effective_timeouts(job.modality)
    began = min(started(job), now)
    deadline = began + fail_after_s
    first = min(began + poll_after_s, deadline) if obstacle is None else deadline
    stands_still = job.remaining_s is not None
    return job.with_(
        deadline_at=None if stands_still else deadline,
        next_poll_at=max(first, job.not_before or 0.0),
        last_error=None if obstacle is None else f"cannot be asked about: {obstacle}",
    )


def first_question_at(job: Job, source: SourceSettings) -> float:
    """When asking about a job begins by itself (`poll_after_s`)."""
    return started(job) + source.effective_timeouts(job.modality)[0]


def next_wait_s(job: Job, rules: ReconcileSettings, chance: Random) -> tuple[float, float]:
    """(the wait to remember, the wait to take now): widening, with jitter."""
    widened = rules.poll_min_s if job.wait_s is None else job.wait_s * WIDENING
    wait = min(max(widened, rules.poll_min_s), rules.poll_max_s)
    shortest, longest = max(rules.poll_min_s, wait * (1 - JITTER)), min(rules.poll_max_s, wait * (1 + JITTER))
    return wait, chance.uniform(shortest, max(shortest, longest))


def postponed(
    job: Job, rules: ReconcileSettings, now: float, chance: Random, *, retry_after_s: float | None = None
) -> Job:
    """A pending job with its next question set: never before the provider's Retry-After, else at the latest at the
    deadline while that lies ahead."""
    wait, taken = next_wait_s(job, rules, chance)
    due = now + taken
    if job.deadline_at is not None and job.deadline_at > now:
        due = min(due, job.deadline_at)
    not_before = None
    if retry_after_s is not None:
        not_before = now + min(retry_after_s, rules.retry_after_max_s)
        due = max(due, not_before)
    return job.with_(wait_s=wait, next_poll_at=due, not_before=not_before)


def frozen(job: Job, now: float, *, stands_still: bool) -> Job:
    """Stop the deadline clock (somebody at the provider is waited for), or let it run on with what was left."""
    if stands_still and job.remaining_s is None and job.deadline_at is not None:
        return job.with_(remaining_s=max(0.0, job.deadline_at - now), deadline_at=None)
    if not stands_still and job.remaining_s is not None:
        return job.with_(deadline_at=now + job.remaining_s, remaining_s=None)
    return job


def late_look_at(job: Job, rules: ReconcileSettings, now: float) -> float | None:
    """When a stale job is looked at again: `late_polls` looks, widening from its timeout to a day. None: no more."""
    if job.late_polls >= rules.late_polls:
        return None
    first = max(rules.poll_min_s, min((job.deadline_at or now) - started(job), LATE_WATCH_S))
    steps = max(1, rules.late_polls - 1)
    wait = first * (LATE_WATCH_S / first) ** (job.late_polls / steps) if rules.late_polls > 1 else first
    return now + wait
