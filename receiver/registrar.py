"""Puts jobs on record: told by the application, by an operator, by a delivery, or found at the provider.

Registering is idempotent: a fact that is null on record is filled in, an equal one is fine, a different one is a
conflict and changes nothing. A job that comes on record makes the deliveries held for it readable at once. Every
function runs inside the caller's transaction.
"""

from dataclasses import dataclass, replace
from typing import Any

from receiver import clock, timetable
from receiver.records import Delivery, DeliveryId, HistoryEntry, Job, Registration
from receiver.settings import SourceSettings
from receiver.states import JobState, Verdict
from receiver.store.base import Tx

RELEASED = "released"
"""Reason of a delivery that an operator let through: it is trusted when it is read again."""
REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to a registration: 201 new, 200 known (perhaps with facts filled in), 409 a fact differs."""

    status: int
    job: Job
    conflicts: list[str]


def register(tx: Tx, told: Registration, now: float, source: SourceSettings) -> Registered:
    """Put a job on record, or fill in what was not known of it."""
    known = tx.jobs.find(told.source, told.job_id) or (tx.jobs.find(told.source, told.alias) if told.alias else None)
    known = known or _by_link(tx, told, source)
    if known is not None:
        return _fill(tx, known, _named(told, known), now, source)
    told = replace(told, alias=told.alias or other_id(tx, told.source, told.job_id, told.poll_url, source))
    job = Job(
        source=told.source,
        job_id=told.job_id,
        registered_at=now,
        alias=told.alias,
        modality=told.modality,
        submitted_at=told.submitted_at,
        refs=told.refs,
        metadata=told.metadata,
        poll_url=told.poll_url,
        registered_by=told.by,
    )
    job = schedule(job, source, now)
    tx.jobs.add(job)
    tx.jobs.note(HistoryEntry(job.source, job.job_id, now, None, JobState.PENDING, None, told.by, note="registered"))
    _welcome(tx, job)
    return Registered(201, job, [])


def _named(told: Registration, known: Job) -> Registration:
    """What is told of a job, under the id it has on record: whichever other id is told is its alias."""
    others = (each for each in (told.job_id, told.alias) if each and each != known.job_id)
    return replace(told, job_id=known.job_id, alias=next((each for each in others if each != known.alias), known.alias))


def other_id(tx: Tx, name: str, job_id: str, poll_url: str | None, source: SourceSettings) -> str | None:
    """The other id that a provider puts into its links (Omnia), where it is one and names no job yet."""
    found = _id_in_link(poll_url, source)
    return found if found and found != job_id and tx.jobs.find(name, found) is None else None


def _id_in_link(poll_url: str | None, source: SourceSettings) -> str | None:
    in_link = getattr(source.facts, "id_in_link", None)
    found: str | None = in_link(poll_url) if in_link is not None and poll_url is not None else None
    return found


def _by_link(tx: Tx, told: Registration, source: SourceSettings) -> Job | None:
    """The job on record under the id in the link alone: a webhook that came first knew no other. One with another id or
    another link besides is another job."""
    in_link = _id_in_link(told.poll_url, source)
    known = tx.jobs.find(told.source, in_link) if in_link else None
    same = known is not None and known.job_id == in_link and known.alias is None
    return known if known is not None and same and known.poll_url in (None, told.poll_url) else None


def schedule(job: Job, source: SourceSettings, now: float) -> Job:
    """Set a job's deadline and first question; says in `last_error` why nobody can be asked about it, if so."""
    return timetable.scheduled(job, source, now, obstacle=source.facts.cannot_ask(job, source))


def _fill(tx: Tx, known: Job, told: Registration, now: float, source: SourceSettings) -> Registered:
    conflicts: list[str] = []
    filled: dict[str, Any] = {}
    for field in ("modality", "submitted_at", "poll_url", "alias", "metadata"):
        given, kept = getattr(told, field), getattr(known, field)
        if given is None or _same(field, given, kept):
            continue
        if kept is None or not known.vouched:  # what a delivery or a list told gives way to the application's word
            filled[field] = given
        else:
            conflicts.append(field)
    refs = dict(known.refs or {})
    for key, value in (told.refs or {}).items():
        if not known.vouched:
            refs[key] = value
        elif refs.setdefault(key, value) != value:
            conflicts.append(f"refs.{key}")
    if refs != (known.refs or {}):
        filled["refs"] = refs
    if "poll_url" in filled and known.alias is None and "alias" not in filled:
        filled["alias"] = other_id(tx, known.source, known.job_id, filled["poll_url"], source)
    if filled.get("alias") and tx.jobs.find(known.source, filled["alias"]) is not None:
        conflicts.append("alias")  # it names another job already
    if conflicts:
        return Registered(409, known, conflicts)
    vouches = told.by in ("application", "operator")
    if vouches and not known.vouched:
        filled["registered_by"] = told.by
    job = known.with_(**filled)
    if filled and job.state is JobState.PENDING:
        fresh = schedule(job, source, now)
        job = fresh.with_(next_poll_at=min(fresh.next_poll_at or now, known.next_poll_at or now))
    if job != known:
        tx.jobs.change(known, job)
        job = tx.jobs.find(job.source, job.job_id) or job
    if vouches:
        _welcome(tx, job)
    return Registered(200, job, [])


def _same(field: str, given: Any, kept: Any) -> bool:
    if field == "submitted_at" and kept is not None:
        return clock.text(given) == clock.text(kept)
    return bool(given == kept)


def _welcome(tx: Tx, job: Job) -> None:
    tx.deliveries.welcome(job.source, [job.job_id] + ([job.alias] if job.alias else []))


def pick_up(tx: Tx, job: Job, source: SourceSettings, now: float) -> None:
    """Give a job that was inserted by SQL its due times, and let the deliveries held for it be read. Anybody's clock
    and anybody's text may stand in its columns: a time that is none, or lies ahead, counts as now."""
    if job.state is not JobState.PENDING:
        tx.jobs.change(job, job.with_(settled_at=job.settled_at or now), whole=True)
        return
    registered_at = min(job.registered_at, now) if job.registered_at > 0 else now
    alias = job.alias or other_id(tx, job.source, job.job_id, job.poll_url, source)
    picked = schedule(job.with_(registered_at=registered_at, alias=alias), source, now)
    tx.jobs.change(job, picked, whole=True)
    tx.jobs.note(HistoryEntry(job.source, job.job_id, now, None, job.state, None, job.registered_by, note="inserted"))
    _welcome(tx, picked)


def adopt(tx: Tx, job: Job, source: SourceSettings, now: float) -> Job | None:
    """Put on record a job that nobody registered, found by asking; None when it is on record already. The provider's
    answer, not a held webhook, settles it; held deliveries of it are read again all the same."""
    job = schedule(job, source, now).with_(next_poll_at=now)
    if not tx.jobs.add(job):
        return None
    tx.jobs.note(
        HistoryEntry(
            job.source, job.job_id, now, None, JobState.PENDING, None, job.registered_by, note="found at the provider"
        )
    )
    _welcome(tx, job)
    return job


def make_due(tx: Tx, job: Job, now: float, *, anew: bool = False) -> Job:
    """Let the job be asked about now; never before its own Retry-After."""
    wait_s = 0.0 if anew else job.wait_s  # anew: widening begins again, also before `poll_after_s`
    due = job.with_(next_poll_at=max(now, job.not_before or 0.0), wait_s=wait_s)
    if due != job:
        tx.jobs.change(job, due)
    return due


def replay(tx: Tx, delivery_id: DeliveryId, now: float) -> Delivery | None:
    """Let a delivery be interpreted again; None when there is no such delivery."""
    return _reread(tx, delivery_id, REPLAYED)


def release(tx: Tx, delivery_id: DeliveryId, now: float, who: str) -> Delivery | None:
    """Let a quarantined or held delivery through: an operator vouches for it and for its job."""
    return _reread(tx, delivery_id, RELEASED)


def _reread(tx: Tx, delivery_id: DeliveryId, reason: str) -> Delivery | None:
    delivery = tx.deliveries.get(delivery_id)
    if delivery is None:
        return None
    again = delivery.with_(verdict=Verdict.NEW, reason=reason)
    tx.deliveries.decide(again)
    return again
