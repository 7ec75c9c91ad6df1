"""What a row of each of our tables looks like, so that one found without its table can be given back to it."""

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from receiver import clock
from receiver.states import JobState, Verdict
from receiver.store.sqlite import schema
from receiver.store.sqlite.carve import Candidate, Value
from receiver.store.sqlite.driver import sqlite3

Row = dict[str, Value]
_TYPES: dict[str, tuple[type, ...]] = {"TEXT": (str,), "INTEGER": (int,), "REAL": (float, int), "BLOB": (bytes,)}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MESSAGE_STATES = ("pending", "delivered", "dead")


@dataclass(frozen=True, slots=True)
class Column:
    """One column as declared."""

    name: str
    type: str
    must: bool
    """NOT NULL."""
    is_rowid: bool
    """INTEGER PRIMARY KEY: in the record it is NULL, and the row's number is its value."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's columns in the order of its records."""

    table: str
    columns: tuple[Column, ...]
    needed: int
    """Columns every record has; later ones were added later and may be missing at the end of an old record."""

    def row(self, candidate: Candidate) -> Row | None:
        """The candidate as a row of this table, or None when it cannot be one."""
        if not self.needed <= len(candidate.values) <= len(self.columns):
            return None
        row: Row = {}
        for column, value in zip(self.columns, candidate.values, strict=False):
            if column.is_rowid and value is None:
                row[column.name] = candidate.rowid
            elif isinstance(value, _TYPES[column.type]) or (value is None and not column.must):
                row[column.name] = value
            else:
                return None
        return row if _PLAUSIBLE[self.table](row) else None


@functools.cache
def shapes() -> dict[str, Shape]:
    """The shapes of the present schema, by table."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        schema.migrate(connection)
        return {
            table: _shape(connection.execute(f"PRAGMA table_info({table})").fetchall(), table) for table in _PLAUSIBLE
        }
    finally:
        connection.close()


def digest_holds(row: Row) -> bool:
    """Whether a delivery's body is the one that came in; a body that was pruned has nothing to compare."""
    body = row.get("body")
    if body is None:
        return True
    # A flipped bit in the row's header makes text or a number of it, in a STRICT table too.
    return isinstance(body, bytes) and hashlib.sha256(body).hexdigest() == row.get("body_sha256")


def _shape(described: list[tuple[int, str, str, int, str | None, int]], table: str) -> Shape:
    keys = [line for line in described if line[5]]
    alone = keys[0][1] if len(keys) == 1 and keys[0][2] == "INTEGER" else None
    columns = tuple(Column(name, kind, bool(must), name == alone) for _, name, kind, must, _, _ in described)
    needed = max(number for number, _, _, must, default, key in described if key or (must and default is None)) + 1
    return Shape(table, columns, needed)


def _is_time(value: Value) -> bool:
    return isinstance(value, str) and clock.is_text(value)


def _delivery(row: Row) -> bool:
    return (
        row.get("verdict", "new") in list(Verdict)
        and _DIGEST.fullmatch(str(row["body_sha256"])) is not None
        and digest_holds(row)
    )


def _job(row: Row) -> bool:
    return row["state"] in list(JobState) and bool(row["source"]) and bool(row["job_id"])


def _message(row: Row) -> bool:
    return row["state"] in _MESSAGE_STATES and str(row["payload"]).startswith("{") and _is_time(row["created_at"])


def _history(row: Row) -> bool:
    return row["to_state"] in list(JobState) and _is_time(row["at"])


_PLAUSIBLE: dict[str, Callable[[Row], bool]] = {
    "deliveries": _delivery,
    "jobs": _job,
    "outbox": _message,
    "job_history": _history,
    "event_keys": lambda row: bool(row["source"]),
}
