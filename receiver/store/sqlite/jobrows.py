"""A job as a row of `jobs`, there and back."""

import json
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import structlog

from receiver import clock, jsontext
from receiver.records import Job
from receiver.states import By, Evidence, JobState, Reason
from receiver.store.sqlite.driver import Row

log = structlog.get_logger("holdfast.store")

FIELDS = (
    "source", "job_id", "alias", "modality", "state", "reason", "decided_by", "provider_status", "submitted_at",
    "registered_at", "next_poll_at", "deadline_at", "settled_at", "polls", "last_error", "result", "refs", "metadata",
    "poll_url", "evidence", "revision", "registered_by", "asked_at", "not_before", "wait_s", "misses", "first_miss_at",
    "late_polls", "last_message_id", "remaining_s",
)  # fmt: skip
COLUMNS = ", ".join(FIELDS)
_REALS = ("wait_s", "remaining_s")
PACKED = ", ".join(
    f"iif({field} IS NULL, NULL, json(printf('%!.17g', {field})))" if field in _REALS else field for field in FIELDS
)
"""COLUMNS for `packed`: SQLite before 3.43 writes a number into JSON with fifteen digits."""
_OF = attrgetter(*FIELDS)
_EVIDENCE = {int(each): each for each in Evidence}
_STRONGEST = max(Evidence)
_NOT_COMPARED = frozenset(("result", "metadata"))
"""Numbers that are equal may have been written differently, so these are the same only when nobody touched them."""


def changed_fields(old: Job, new: Job) -> tuple[str, ...]:
    """The columns in which two states of one job differ."""
    return tuple(
        field
        for field, before, after in zip(FIELDS[2:], _OF(old)[2:], _OF(new)[2:], strict=True)
        if before is not after and (field in _NOT_COMPARED or before != after)
    )


def _text(instant: float | None) -> str | None:
    return None if instant is None else clock.text(instant)


def instant_or_none(written: str | None) -> float | None:
    """An instant from a column anybody may have written: what is no time is no fact."""
    if written is None:
        return None
    try:
        return clock.instant(written)
    except (ValueError, OverflowError):
        return None


def json_or_none(written: str | None) -> Any:
    """A JSON column parsed; text that is not JSON stays text (anybody may write the table)."""
    if written is None:
        return None
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        return written


_WRITTEN: dict[str, Callable[[Any], Any]] = {
    "state": lambda state: state.value,
    "reason": lambda reason: reason.value if reason else None,
    "decided_by": lambda by: by.value if by else None,
    "evidence": int,
    **dict.fromkeys(
        ("submitted_at", "registered_at", "next_poll_at", "deadline_at", "settled_at", "asked_at", "not_before",
         "first_miss_at"), _text,
    ),
    **dict.fromkeys(("result", "refs", "metadata"), lambda value: None if value is None else jsontext.dump(value)),
}  # fmt: skip
"""How a field becomes its column; the others are written as they are."""


def values_of(job: Job, fields: Sequence[str] = FIELDS) -> Row:
    """A job as the values of these columns."""
    return tuple(_WRITTEN[field](getattr(job, field)) if field in _WRITTEN else getattr(job, field) for field in fields)


def job_of(row: Sequence[Any]) -> Job:
    """A job from FIELDS."""
    refs = json_or_none(row[16])
    return Job(
        source=row[0],
        job_id=row[1],
        alias=row[2],
        modality=row[3],
        state=JobState(row[4]),
        reason=Reason(row[5]) if row[5] else None,
        decided_by=By(row[6]) if row[6] else None,
        provider_status=row[7],
        submitted_at=instant_or_none(row[8]),
        registered_at=instant_or_none(row[9]) or 0.0,
        next_poll_at=instant_or_none(row[10]),
        deadline_at=instant_or_none(row[11]),
        settled_at=instant_or_none(row[12]),
        polls=row[13],
        last_error=row[14],
        result=json_or_none(row[15]),
        refs=refs if isinstance(refs, dict) else None,
        metadata=json_or_none(row[17]),
        poll_url=row[18],
        evidence=_EVIDENCE.get(row[19]) or Evidence(min(max(row[19], 0), _STRONGEST)),
        revision=row[20],
        registered_by=row[21],
        asked_at=instant_or_none(row[22]),
        not_before=instant_or_none(row[23]),
        wait_s=row[24],
        misses=row[25],
        first_miss_at=instant_or_none(row[26]),
        late_polls=row[27],
        last_message_id=row[28],
        remaining_s=row[29],
    )


def jobs_of(rows: Iterable[Sequence[Any]]) -> list[Job]:
    """Jobs from FIELDS. One that a flipped bit made unreadable is left out: it must not hold up the others."""
    found = []
    for row in rows:
        try:
            found.append(job_of(row))
        except (ValueError, TypeError) as error:
            log.error("store.job_unreadable", source=row[0], job=row[1], why=str(error), todo="run `holdfast check`")
    return found
