"""Generated rows: open jobs, waiting messages, and whole databases of millions, made by SQLite itself in seconds.

Rows are what the product would have written, triggers and indices included, so that kept counts are right. Only ever a
file of the benchmark's own, written by one process at a time.
"""

from collections.abc import Sequence
from pathlib import Path

from bench.processes import SOURCE
from bench.record import DATABASE
from receiver import clock
from receiver.clock import SystemClock
from receiver.store.sqlite import schema
from receiver.store.sqlite.driver import Connection, open_writer

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
_OPEN_JOBS = (
    f"{_NUMBERS} INSERT INTO jobs (source, job_id, modality, registered_at, next_poll_at, deadline_at, scheduled)"
    " SELECT :source, :prefix || i, 'prompt', :now, :later, :later, 1 FROM n"
)
_MESSAGES = (
    f"{_NUMBERS} INSERT INTO outbox (id, source, job_id, type, payload, created_at, next_attempt_at)"
    " SELECT 'msg_' || i, :source, 'm' || (i % :jobs), 'job.completed', json_object('id', 'msg_' || i, 'type',"
    " 'job.completed', 'timestamp', :now, 'data', json_object('source', :source, 'provider', 'omnifence', 'job_id',"
    " 'm' || (i % :jobs), 'state', 'completed', 'result', json_object('n', i, 'pad', :pad))), :now, :now FROM n"
)
_DELIVERIES = (
    f"{_NUMBERS} INSERT INTO deliveries (id, source, received_at, remote, headers, body, body_sha256, event_key,"
    " job_id, verdict) SELECT :base + i, :source, :then, '127.0.0.1', :headers, CAST(:body AS BLOB),"
    " printf('%064x', i), 'key' || i, 'g' || (i / 5), 'accepted' FROM n"
)
_KEYS = (
    f"{_NUMBERS} INSERT INTO event_keys (source, event_key, delivery_id, at)"
    " SELECT :source, 'key' || i, :base + i, :then FROM n"
)
_SETTLED_JOBS = (
    f"{_NUMBERS} INSERT INTO jobs (source, job_id, modality, state, decided_by, registered_at, deadline_at, settled_at,"
    " result, evidence, revision, scheduled) SELECT :source, 'g' || i, 'prompt', 'completed', 'webhook', :then, :later,"
    " :then, '{}', 3, 1, 1 FROM n"
)
_STEP = 50_000
_BODY_BYTES = 300


def _opened(folder: Path) -> Connection:
    folder.mkdir(parents=True, exist_ok=True)
    connection = open_writer(folder / DATABASE)
    connection.execute("PRAGMA busy_timeout=10000")
    schema.migrate(connection)
    return connection


def _steps(connection: Connection, statement: str, count: int, values: dict[str, object]) -> None:
    for first in range(1, count + 1, _STEP):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(statement, {**values, "first": first, "last": min(count, first + _STEP - 1)})
        connection.execute("COMMIT")


def _times() -> dict[str, object]:
    now = SystemClock().now()
    return {
        "source": SOURCE,
        "now": clock.text(now),
        "later": clock.text(now + 86_400.0),
        "then": clock.text(now - 86_400.0),
        "base": int((now - 86_400.0) * 1000) << 20,
    }


def open_jobs(folder: Path, prefix: str, count: int) -> None:
    """Jobs on record that nothing was heard of yet: `prefix1` to `prefixN`, due tomorrow."""
    connection = _opened(folder)
    try:
        _steps(connection, _OPEN_JOBS, count, {**_times(), "prefix": prefix})
    finally:
        connection.close()


def known_jobs(folder: Path, source: str, jobs: Sequence[str]) -> None:
    """These jobs on record, open, registered a moment ago and not due yet."""
    connection = _opened(folder)
    times = _times()
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO jobs (source, job_id, modality, registered_at, next_poll_at, deadline_at, scheduled)"
            " VALUES (?, ?, 'prompt', ?, ?, ?, 1)",
            [(source, job, times["now"], times["later"], times["later"]) for job in jobs],
        )
        connection.execute("COMMIT")
    finally:
        connection.close()


def pending_messages(folder: Path, *, jobs: int, each: int) -> None:
    """Messages that wait to be pushed, `each` of every job, in order of their number."""
    connection = _opened(folder)
    try:
        _steps(connection, _MESSAGES, jobs * each, {**_times(), "jobs": jobs, "pad": "x" * 600})
    finally:
        connection.close()


def history(folder: Path, *, deliveries: int, settled: int, pending: int) -> None:
    """A file after months: so many deliveries that are done with, settled jobs and pending ones not yet due."""
    connection = _opened(folder)
    try:
        connection.execute("PRAGMA synchronous=OFF")  # generated, not acknowledged: nobody relies on these rows
        values = _times()
        headers = '[["host","bench"],["content-type","application/json"]]'
        body = '{"job_id":"g","status":"completed","pad":"' + "x" * _BODY_BYTES + '"}'
        _steps(connection, _DELIVERIES, deliveries, {**values, "headers": headers, "body": body})
        _steps(connection, _KEYS, deliveries, values)
        _steps(connection, _SETTLED_JOBS, settled, values)
        _steps(connection, _OPEN_JOBS, pending, {**values, "prefix": "o"})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
