"""What the file says afterwards: rows counted and times read by the benchmark itself, over a reading connection."""

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from receiver import clock
from receiver.clock import SystemClock
from receiver.store.sqlite.driver import Connection, open_reader, sqlite3

DATABASE = "holdfast.db"
_CLOCK = SystemClock()


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Connection]:
    """A connection that cannot write."""
    connection = open_reader(folder / DATABASE)
    try:
        yield connection
    finally:
        connection.close()


def count(folder: Path, question: str, *values: object) -> int:
    """One number from the file; 0 while there is no table yet."""
    try:
        with reading(folder) as connection:
            return int(connection.execute(question, values).fetchone()[0] or 0)
    except sqlite3.OperationalError:
        return 0


def deliveries(folder: Path, column: str = "id", table: str = "deliveries") -> int:
    """How many deliveries the file holds."""
    return count(folder, f"SELECT count({column}) FROM {table}")


def missing(folder: Path, acknowledged: list[int]) -> int:
    """How many acknowledged deliveries are not in the file."""
    with reading(folder) as connection:
        there = {row[0] for row in connection.execute("SELECT id FROM deliveries")}
    return len(set(acknowledged) - there)


def wait_until(folder: Path, question: str, wanted: int, timeout_s: float) -> tuple[int, float]:
    """Wait until a count is at least `wanted`, or no longer; (the last count, the seconds it took)."""
    began = _CLOCK.monotonic()
    pause = 0.05
    while (seen := count(folder, question)) < wanted and _CLOCK.monotonic() - began < timeout_s:
        _nap(pause)
    return seen, _CLOCK.monotonic() - began


def _nap(seconds: float) -> None:
    from threading import Event

    Event().wait(seconds)


@dataclass(frozen=True, slots=True)
class Flow:
    """A delivery's way from arrival to the outbox, from the times in the tables."""

    staged: int
    per_s: float
    """Messages staged a second, from the first to the last."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    """From `deliveries.received_at` to `outbox.created_at`."""


def flow(folder: Path, *, skip_s: float = 0.0) -> Flow:
    """How deliveries became messages; the first `skip_s` seconds are left out."""
    question = (
        "SELECT deliveries.received_at, outbox.created_at FROM outbox"
        " JOIN job_history ON job_history.source = outbox.source AND job_history.job_id = outbox.job_id"
        " AND job_history.to_state <> 'pending' JOIN deliveries ON deliveries.id = job_history.delivery_id"
    )
    with reading(folder) as connection:
        pairs = [(clock.instant(came), clock.instant(staged)) for came, staged in connection.execute(question)]
    if not pairs:
        return Flow(0, 0.0, 0.0, 0.0, 0.0)
    first = min(staged for _, staged in pairs) + skip_s
    pairs = [pair for pair in pairs if pair[1] >= first] or pairs
    ends = [staged for _, staged in pairs]
    waits = sorted((staged - came) * 1000 for came, staged in pairs)
    began = min(ends)  # when the first batch was done: the time runs from there, and that batch is not counted
    later, took = sum(end > began for end in ends), max(max(ends) - began, 0.001)
    at_99 = waits[min(len(waits) - 1, int(0.99 * len(waits)))]
    return Flow(len(pairs), later / took, statistics.median(waits), at_99, waits[-1])


def seconds_between(first: str | None, last: str | None) -> float:
    """Between two times as the tables have them; 0.0 when one is missing."""
    return clock.instant(last) - clock.instant(first) if first and last else 0.0


def bytes_on_disk(folder: Path) -> int:
    """The database with its log and everything beside it that holds rows."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name.startswith(DATABASE))
