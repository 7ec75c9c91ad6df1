"""Statements over `jobs`, `job_history` and `polls`."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import structlog

from receiver import clock, jsontext
from receiver.records import HistoryEntry, Job, Poll
from receiver.states import By, Evidence, JobState, Reason
from receiver.store.sqlite.driver import Row, sqlite3
from receiver.store.sqlite.gathering import Gathering, Runs, Statement, packed, sizes, values

log = structlog.get_logger("holdfast.store")

FIELDS = (
    "source", "job_id", "alias", "modality", "state", "reason", "decided_by", "provider_status", "submitted_at",
    "registered_at", "next_poll_at", "deadline_at", "settled_at", "polls", "last_error", "result", "refs", "metadata",
    "poll_url", "evidence", "revision", "registered_by", "asked_at", "not_before", "wait_s", "misses", "first_miss_at",
    "late_polls", "last_message_id", "remaining_s",
)  # fmt: skip
COLUMNS = ", ".join(FIELDS)

# Due order is the order of the index; the key makes it total, so that a page never starves its tail.
DUE = f"SELECT {COLUMNS} FROM jobs WHERE source = ? AND next_poll_at <= ? ORDER BY next_poll_at LIMIT ? OFFSET ?"
OVERDUE = (
    f"SELECT {COLUMNS} FROM jobs WHERE source = ? AND state = 'pending' AND deadline_at <= ?"
    " ORDER BY deadline_at LIMIT ?"
)
UNSCHEDULED = f"SELECT {COLUMNS} FROM jobs WHERE scheduled = 0 AND source = ? LIMIT ?"
OPEN = f"SELECT {COLUMNS} FROM jobs WHERE source = ? AND state = 'pending' ORDER BY registered_at LIMIT ?"
NEXT_DUE = "SELECT min(next_poll_at) FROM jobs WHERE source = ? AND next_poll_at IS NOT NULL"
BY_ID = f"SELECT {COLUMNS} FROM jobs WHERE source = ? AND job_id = ?"
BY_ALIAS = f"SELECT {COLUMNS} FROM jobs WHERE source = ? AND alias = ?"
INSERT = f"INSERT OR IGNORE INTO jobs ({COLUMNS}, scheduled) VALUES ({', '.join('?' * len(FIELDS))}, 1)"
_OF = attrgetter(*FIELDS)
_EVIDENCE = {int(each): each for each in Evidence}
_STRONGEST = max(Evidence)
_NOT_COMPARED = frozenset(("result", "metadata"))
"""Numbers that are equal may have been written differently, so these are the same only when nobody touched them."""
_SCHEDULES = frozenset(("state", "next_poll_at", "deadline_at"))


@lru_cache(maxsize=256)
def change_of(fields: tuple[str, ...]) -> str:
    """The statement that writes these columns. An index is only touched when one of its columns is named, and a job has
    seven indices; so what stayed as it was is not written again."""
    written = [f"{field} = ?" for field in fields]
    if not _SCHEDULES.isdisjoint(fields):
        written.append("scheduled = 1")
    columns = ", ".join(written or ["polls = polls"])
    return f"UPDATE jobs SET {columns} WHERE source = ? AND job_id = ? AND state = ? AND revision = ?"


@lru_cache(maxsize=256)
def changes_of(fields: tuple[str, ...]) -> Statement:
    """The same for many jobs at once: their keys and guards first, then these columns."""
    written = [f"{field} = new.column{number}" for number, field in enumerate(fields, 5)]
    if not _SCHEDULES.isdisjoint(fields):
        written.append("scheduled = 1")
    columns = ", ".join(written or ["polls = polls"])

    @lru_cache
    def statement(rows: int) -> str:
        return (
            f"UPDATE jobs SET {columns} FROM ({values(rows, 4 + len(fields))}) AS new"
            " WHERE jobs.source = new.column1 AND jobs.job_id = new.column2 AND jobs.state = new.column3"
            " AND jobs.revision = new.column4"
        )

    return statement


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


@lru_cache
def note(rows: int) -> str:
    """Append so many lines to jobs' stories."""
    return (
        "INSERT INTO job_history (source, job_id, at, from_state, to_state, reason, by, delivery_id, poll_id, note)"
        f" {values(rows, 10)}"
    )


def forget(runs: Runs, keys: Sequence[tuple[str, str]]) -> int:
    """Delete ended jobs with their history and polls; answers how many."""
    statement = "DELETE FROM jobs WHERE source = ? AND job_id = ? AND state <> 'pending'"
    gone = [key for key in keys if runs.execute(statement, key).rowcount]
    for table in ("job_history", "polls"):
        runs.executemany(f"DELETE FROM {table} WHERE source = ? AND job_id = ?", gone)
    return len(gone)


class SqliteJobs:
    """Keeps the promises of `base.Jobs`."""

    def __init__(self, connection: Gathering) -> None:
        self._c = connection
        self._ahead: dict[tuple[str, str], Job] = {}
        """Read ahead and not handed out yet."""
        self._handed: dict[int, Job] = {}
        """Handed out of those, by identity: nobody else changes them while this transaction runs."""

    def _many(self, statement: str, *values: Any) -> list[Job]:
        return jobs_of(self._c.execute(statement, values))

    def find(self, source: str, any_id: str) -> Job | None:
        ahead = self._ahead.pop((source, any_id), None)
        if ahead is not None:
            self._handed[id(ahead)] = ahead
            return ahead
        found = self._many(BY_ID, source, any_id) or self._many(BY_ALIAS, source, any_id)
        return found[0] if found else None

    def look_ahead(self, keys: Sequence[tuple[str, str]]) -> None:
        at = 0
        wanted = list(dict.fromkeys(keys))
        for size in sizes(len(wanted)):
            asked = f"FROM ({values(size, 2)}) AS asked CROSS JOIN jobs"
            same = "jobs.source = asked.column1 AND jobs.job_id = asked.column2"
            given = [part for key in wanted[at : at + size] for part in key]
            found = jobs_of(packed(self._c, COLUMNS, f"{asked} ON {same}", given))
            self._ahead.update(((job.source, job.job_id), job) for job in found)
            at += size

    def add(self, job: Job) -> bool:
        return bool(self._c.execute(INSERT, values_of(job)).rowcount)

    def change(self, old: Job, new: Job, *, whole: bool = False) -> bool:
        fields = FIELDS[2:] if whole else changed_fields(old, new)
        if self._handed.pop(id(old), None) is not None and "alias" not in fields:
            row = (old.source, old.job_id, old.state.value, old.revision, *values_of(new, fields))
            self._c.put(changes_of(fields), row, ("job", old.source, old.job_id), guarded=True)
            return True
        self._ahead.pop((old.source, old.job_id), None)
        try:
            return self._change(old, new, fields)
        except sqlite3.IntegrityError:
            if new.alias == old.alias:
                raise
            # Another job holds that alias: the rest of the change still stands.
            return self._change(old, new, tuple(field for field in fields if field != "alias"))

    def _change(self, old: Job, new: Job, fields: tuple[str, ...]) -> bool:
        guard = (old.source, old.job_id, old.state.value, old.revision)
        return bool(self._c.execute(change_of(fields), (*values_of(new, fields), *guard)).rowcount)

    def unscheduled(self, source: str, limit: int) -> list[Job]:
        return self._many(UNSCHEDULED, source, limit)

    def due(self, source: str, now: float, limit: int, skip: int = 0) -> list[Job]:
        rows = packed(self._c, COLUMNS, f"FROM ({DUE})", (source, clock.text(now), limit, skip))
        return jobs_of(rows)

    def open(self, source: str, limit: int) -> list[Job]:
        return self._many(OPEN, source, limit)

    def count_open(self, source: str, at_most: int) -> int:
        row = self._c.execute(
            "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE source = ? AND state = 'pending' LIMIT ?)",
            (source, at_most),
        )
        return int(row.fetchone()[0])

    def make_due(self, source: str, at: float, wait_until: float, after: str | None, limit: int) -> str | None:
        self._ahead.clear()
        # The column as it is written is the cursor: anybody may have written it.
        rowid, _, since = (after or "0 ").partition(" ")
        rows = self._c.execute(
            "SELECT rowid, registered_at, job_id FROM jobs WHERE source = ? AND state = 'pending'"
            " AND registered_at >= ? AND (registered_at > ? OR rowid > ?) ORDER BY registered_at, rowid LIMIT ?",
            (source, since, since, int(rowid), limit),
        ).fetchall()
        due = clock.text(at)
        self._c.executemany(
            "UPDATE jobs SET next_poll_at = max(?, min(coalesce(not_before, ''), ?)) WHERE rowid = ?"
            " AND state = 'pending' AND next_poll_at > ?",
            [(due, clock.text(wait_until), row[0], due) for row in rows],
        )
        if len(rows) < limit:
            return None
        return f"{rows[-1][0]} {rows[-1][1]}"

    def overdue(self, source: str, now: float, limit: int) -> list[Job]:
        return self._many(OVERDUE, source, clock.text(now), limit)

    def next_due_at(self, source: str) -> float | None:
        return instant_or_none(self._c.execute(NEXT_DUE, (source,)).fetchone()[0])

    def note(self, entry: HistoryEntry) -> None:
        self._c.put(
            note,
            (
                entry.source,
                entry.job_id,
                clock.text(entry.at),
                entry.from_state.value if entry.from_state else None,
                entry.to_state.value,
                entry.reason,
                entry.by,
                entry.delivery_id,
                entry.poll_id,
                entry.note,
            ),
        )

    def add_poll(self, poll: Poll) -> int:
        cursor = self._c.execute(
            "INSERT INTO polls (source, job_id, at, request, http_status, outcome, latency_ms, error)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                poll.source,
                poll.job_id,
                clock.text(poll.at),
                poll.request,
                poll.http_status,
                poll.outcome,
                poll.latency_ms,
                poll.error,
            ),
        )
        return int(cursor.lastrowid or 0)

    def delete(self, keys: Sequence[tuple[str, str]]) -> int:
        self._ahead.clear()
        return forget(self._c, keys)
