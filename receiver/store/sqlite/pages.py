"""Pages of jobs, newest first, at a cost that does not grow with history.

The order is that of the rows' own numbers. The index over (source, state, reason) has it too, but only among rows that
are alike in all three; so a page filtered by some of them is merged from the newest rows of each kind that fits, and
there are few kinds: seven for each source.
"""

import heapq
import itertools
from typing import Any

from receiver import clock
from receiver.states import JobState, Reason
from receiver.store.sqlite.driver import Connection, Row
from receiver.store.sqlite.jobrows import COLUMNS

NEWEST = f"SELECT rowid, {COLUMNS} FROM jobs WHERE rowid < ? ORDER BY rowid DESC LIMIT ?"
ALIKE = (
    f"SELECT rowid, {COLUMNS} FROM jobs INDEXED BY jobs_state WHERE source = ? AND state = ? AND reason IS ?"
    " AND rowid < ? ORDER BY rowid DESC LIMIT ?"
)
OVERDUE = (
    f"SELECT rowid, {COLUMNS} FROM jobs INDEXED BY jobs_deadline WHERE state = 'pending' AND source = ?"
    " AND deadline_at < ? AND rowid < ? ORDER BY rowid DESC LIMIT ?"
)
KINDS: list[tuple[str, str | None]] = [
    (JobState.PENDING.value, None),
    (JobState.COMPLETED.value, None),
    *((JobState.FAILED.value, reason.value) for reason in Reason),
]
"""(state, reason) as far as the table's own rules allow."""


def newest_jobs(
    connection: Connection, filters: dict[str, str | None], overdue_at: float | None, before: int, limit: int
) -> list[Row]:
    """Up to `limit` jobs below a row number, newest first: rowid and the columns of a job."""
    source, state, reason = (filters.get(name) for name in ("source", "state", "reason"))
    if source is None and state is None and reason is None and overdue_at is None:
        return connection.execute(NEWEST, (before, limit)).fetchall()
    sources = [source] if source is not None else _sources(connection)
    found: list[Any] = []
    if overdue_at is not None:
        if state in (None, JobState.PENDING.value) and reason is None:
            at = clock.text(overdue_at)
            found = [connection.execute(OVERDUE, (each, at, before, limit)) for each in sources]
    else:
        kinds = [
            kind for kind in KINDS if (state is None or kind[0] == state) and (reason is None or kind[1] == reason)
        ]
        found = [connection.execute(ALIKE, (each, *kind, before, limit)) for each in sources for kind in kinds]
    merged = heapq.merge(*found, key=lambda row: -int(row[0]))
    return list(itertools.islice(merged, limit))


def _sources(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT DISTINCT source FROM tallies WHERE kind = 'jobs'")]
