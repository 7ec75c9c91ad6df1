"""Statements over `jobs`, `job_history` and `polls`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from receiver import clock
from receiver.records import HistoryEntry, Job, Poll
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.gathering import Gathering, Runs, Statement, packed, sizes, values
from receiver.store.sqlite.jobrows import COLUMNS, FIELDS, PACKED, changed_fields, instant_or_none, jobs_of, values_of

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


@lru_cache
def insert(rows: int) -> str:
    """Put so many jobs on record."""
    return f"INSERT OR IGNORE INTO jobs ({COLUMNS}, scheduled) {values(rows, len(FIELDS) + 1)}"


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
        self._absent: set[tuple[str, str]] = set()
        """Ids that are no job's, neither as its id nor as its alias."""

    def _many(self, statement: str, *values: Any) -> list[Job]:
        return jobs_of(self._c.execute(statement, values))

    def find(self, source: str, any_id: str) -> Job | None:
        ahead = self._ahead.pop((source, any_id), None)
        if ahead is not None:
            self._handed[id(ahead)] = ahead
            return ahead
        if (source, any_id) in self._absent:
            return None
        found = self._many(BY_ID, source, any_id) or self._many(BY_ALIAS, source, any_id)
        return found[0] if found else None

    def look_ahead(self, keys: Sequence[tuple[str, str]]) -> None:
        at = 0
        wanted = list(dict.fromkeys(keys))
        for size in sizes(len(wanted)):
            asked = f"FROM ({values(size, 2)}) AS asked CROSS JOIN jobs"
            same = "jobs.source = asked.column1 AND jobs.job_id = asked.column2"
            given = [part for key in wanted[at : at + size] for part in key]
            found = jobs_of(packed(self._c, PACKED, f"{asked} ON {same}", given))
            self._ahead.update(((job.source, job.job_id), job) for job in found)
            at += size
        self._look_for_absent([key for key in wanted if key not in self._ahead])

    def _look_for_absent(self, unknown: Sequence[tuple[str, str]]) -> None:
        at, taken = 0, set[tuple[str, str]]()
        for size in sizes(len(unknown)):
            asked = f"FROM ({values(size, 2)}) AS asked CROSS JOIN jobs"
            given = [part for key in unknown[at : at + size] for part in key]
            for column in ("job_id", "alias"):  # also as an id: a row that cannot be read is there all the same
                same = f"jobs.source = asked.column1 AND jobs.{column} = asked.column2"
                found = packed(self._c, f"jobs.source, jobs.{column}", f"{asked} ON {same}", given)
                taken.update((row[0], row[1]) for row in found)
            at += size
        self._absent |= set(unknown) - taken

    def add(self, job: Job) -> bool:
        ids = {(job.source, each) for each in (job.job_id, job.alias) if each is not None}
        row = (*values_of(job), 1)
        if not ids <= self._absent:
            self._absent -= ids
            return bool(self._c.execute(insert(1), row).rowcount)
        self._absent -= ids
        self._handed[id(job)] = job
        self._c.put(insert, row, guarded=True, first=True)
        return True

    def change(self, old: Job, new: Job, *, whole: bool = False) -> bool:
        fields = FIELDS[2:] if whole else changed_fields(old, new)
        if self._handed.pop(id(old), None) is not None and "alias" not in fields:
            row = (old.source, old.job_id, old.state.value, old.revision, *values_of(new, fields))
            self._c.put(changes_of(fields), row, ("job", old.source, old.job_id), guarded=True)
            return True
        self._ahead.pop((old.source, old.job_id), None)
        self._absent.discard((old.source, new.alias or ""))
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
        rows = packed(self._c, PACKED, f"FROM ({DUE})", (source, clock.text(now), limit, skip))
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
