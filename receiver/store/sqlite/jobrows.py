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
PACKED = ", ".join(
    f"iif({field} IS NULL, NULL, json(printf('%!.17g', {field})))" if field in _REALS else field for field in FIELDS
)
"""COLUMNS for `packed`: SQLite before 3.43 writes a number into JSON with fifteen digits."""
_OF = attrgetter(*FIELDS)
_ASSEMBLED = assembler(Job, FIELDS)
_KEY = frozenset(FIELDS[:2])
_STATES = {each.value: each for each in JobState}
_EVIDENCE = {int(each): each for each in Evidence}
_STRONGEST = max(Evidence)
_NOT_COMPARED = frozenset(("result", "metadata"))
"""Numbers that are equal may have been written differently, so these are the same only when nobody touched them."""


def changed_fields(old: Job, new: Job) -> tuple[str, ...]:
    """The columns in which two states of one job differ."""
    return tuple(
        [
            field
            for field, before, after in zip(FIELDS, _OF(old), _OF(new), strict=True)
            if before is not after and (field in _NOT_COMPARED or before != after) and field not in _KEY
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


_WRITTEN: dict[str, Callable[[Any], Any]] = {
    "state": lambda state: state.value,
    "reason": lambda reason: reason.value if reason else None,
    "decided_by": lambda by: by.value if by else None,
    "evidence": int,
    **dict.fromkeys(
        ("submitted_at", "registered_at", "next_poll_at", "deadline_at", "settled_at", "asked_at", "not_before",
         "first_miss_at"), _text,
    ),
    **dict.fromkeys(("refs", "metadata"), lambda value: None if value is None else jsontext.dump(value)),
    "result": lambda value: None if value is None else jsontext.dump_shared(value),
}  # fmt: skip
"""How a field becomes its column; the others are written as they are."""


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
    refs = json_or_none(row[16])
    return _ASSEMBLED(
        (
            row[0],
            row[1],
            row[2],
            row[3],
            _STATES.get(row[4]) or JobState(row[4]),
            Reason(row[5]) if row[5] else None,
            By(row[6]) if row[6] else None,
            row[7],
            instant_or_none(row[8]) if row[8] else None,
            instant_or_none(row[9]) or 0.0,
            instant_or_none(row[10]) if row[10] else None,
            instant_or_none(row[11]) if row[11] else None,
            instant_or_none(row[12]) if row[12] else None,
            row[13],
            row[14],
            json_or_none(row[15]) if row[15] else row[15],
            refs if isinstance(refs, dict) else None,
            json_or_none(row[17]) if row[17] else row[17],
            row[18],
            _EVIDENCE.get(row[19]) or Evidence(min(max(row[19], 0), _STRONGEST)),
            *row[20:22],
            instant_or_none(row[22]) if row[22] else None,
            instant_or_none(row[23]) if row[23] else None,
            *row[24:26],
            instant_or_none(row[26]) if row[26] else None,
            *row[27:30],
        )
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
