"""A job as a row of `jobs`, there and back."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import structlog

from receiver import clock, jsontext
from receiver.records import Job, assembler
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
_INSTANTS = (
    "submitted_at", "registered_at", "next_poll_at", "deadline_at", "settled_at", "asked_at", "not_before",
    "first_miss_at",
)  # fmt: skip
PACKED = ", ".join(
    f"iif({field} IS NULL, NULL, json(printf('%!.17g', {field})))" if field in _REALS else field for field in FIELDS
)
"""COLUMNS for `packed`: SQLite before 3.43 writes a number into JSON with fifteen digits."""
_ASSEMBLED = assembler(Job, FIELDS)
_KEY = frozenset(FIELDS[:2])
_STATES = {each.value: each for each in JobState}
_EVIDENCE = {int(each): each for each in Evidence}
_STRONGEST = max(Evidence)
_NOT_COMPARED = frozenset(("result", "metadata"))
"""Numbers that are equal may have been written differently, so these are the same only when nobody touched them."""


def changed_fields(old: Job, new: Job) -> tuple[str, ...]:
    """The columns in which two states of one job differ."""
    was = vars(old)
    return tuple(
        [
            field
            for field, after in vars(new).items()
            if (before := was[field]) is not after and (field in _NOT_COMPARED or before != after) and field not in _KEY
        ]
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


def _object_or_none(written: str) -> dict[str, Any] | None:
    value = json_or_none(written)
    return value if isinstance(value, dict) else None


_WRITTEN: dict[str, Callable[[Any], Any]] = {
    "state": lambda state: state.value,
    "reason": lambda reason: reason.value if reason else None,
    "decided_by": lambda by: by.value if by else None,
    "evidence": int,
    **dict.fromkeys(_INSTANTS, _text),
    **dict.fromkeys(("refs", "metadata"), lambda value: None if value is None else jsontext.dump(value)),
    "result": lambda value: None if value is None else jsontext.dump_shared(value),
}  # fmt: skip
"""How a field becomes its column; the others are written as they are."""
_READ: tuple[tuple[int, Callable[[Any], Any]], ...] = tuple(
    (FIELDS.index(field), read)
    for field, read in {
        **dict.fromkeys(_INSTANTS, instant_or_none),
        "reason": Reason,
        "decided_by": By,
        "result": json_or_none,
        "refs": _object_or_none,
        "metadata": json_or_none,
    }.items()
)
"""How a column that is not NULL becomes its field."""
_STATE, _EVIDENCE_AT, _REGISTERED_AT = (FIELDS.index(field) for field in ("state", "evidence", "registered_at"))


def values_of(job: Job, fields: tuple[str, ...] = FIELDS) -> Row:
    """A job as the values of these columns."""
    return tuple([write(job) for write in _writers(fields)])


@lru_cache(maxsize=256)
def _writers(fields: tuple[str, ...]) -> tuple[Callable[[Job], Any], ...]:
    return tuple(_writer(field) for field in fields)


def _writer(field: str) -> Callable[[Job], Any]:
    read, written = attrgetter(field), _WRITTEN.get(field)
    return read if written is None else lambda job: written(read(job))


def job_of(row: Sequence[Any]) -> Job:
    """A job from FIELDS. Raises ValueError or TypeError for a row that is none."""
    told = list(row)
    for at, read in _READ:
        if told[at] is not None:
            told[at] = read(told[at])
    told[_STATE] = _STATES.get(told[_STATE]) or JobState(told[_STATE])
    told[_EVIDENCE_AT] = _EVIDENCE.get(told[_EVIDENCE_AT]) or Evidence(min(max(told[_EVIDENCE_AT], 0), _STRONGEST))
    told[_REGISTERED_AT] = told[_REGISTERED_AT] or 0.0
    return _ASSEMBLED(told)


def jobs_of(rows: Iterable[Sequence[Any]]) -> list[Job]:
    """Jobs from FIELDS. One that a flipped bit made unreadable is left out: it must not hold up the others."""
    found = []
    for row in rows:
        try:
            found.append(job_of(row))
        except (ValueError, TypeError) as error:
            log.error("store.job_unreadable", source=row[0], job=row[1], why=str(error), todo="run `holdfast check`")
    return found
