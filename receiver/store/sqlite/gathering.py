"""Rows on their way into few statements.

Every statement lets go of the interpreter's lock and has to win it back from the event loop, which costs a busy
process ten times what the row costs SQLite. So within one transaction rows of one kind wait for each other and are
written together: at its end at the latest, and always before any other statement runs, so that nobody reads past them.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from receiver.store.sqlite.driver import Connection, Row, sqlite3

LARGEST = 64
"""Rows of one statement at most."""

Statement = Callable[[int], str]
"""How many rows -> the statement that writes so many, its values row by row."""


class Runs(Protocol):
    """What runs statements: a connection, or one that gathers."""

    def execute(self, statement: str, values: Any = ..., /) -> "sqlite3.Cursor":
        """Run one statement."""
        ...

    def executemany(self, statement: str, rows: Iterable[Any], /) -> "sqlite3.Cursor":
        """Run one statement for each row."""
        ...


class Overtaken(RuntimeError):  # noqa: N818 - says what happened
    """A guarded row was not as it had been read in this very transaction: a mistake of ours, nothing is kept."""


def sizes(rows: int) -> Iterable[int]:
    """So many rows as few powers of two: few different statements, each prepared once."""
    while rows:
        size = min(LARGEST, 1 << (rows.bit_length() - 1))
        yield size
        rows -= size


@lru_cache(maxsize=1024)
def values(rows: int, columns: int) -> str:
    """The VALUES of so many rows."""
    row = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([row] * rows)}"


def packed(runs: Runs, columns: str, rest: str, given: Sequence[Any]) -> list[list[Any]]:
    """All rows of `SELECT columns rest` in one step instead of one step a row. No column may be a BLOB. Raises what
    SQLite raises, and OperationalError or ValueError where a text is not UTF-8."""
    row = runs.execute(f"SELECT json_group_array(json_array({columns})) {rest}", given).fetchone()
    rows: list[list[Any]] = json.loads(row[0])
    return rows


class Gathering:
    """A connection, for the length of one transaction, that lets rows wait for their like."""

    __slots__ = ("_c", "_guarded", "_keys", "_order", "_waiting")

    def __init__(self, connection: Connection) -> None:
        self._c = connection
        self._waiting: dict[Statement, list[Row]] = {}
        self._order: dict[Statement, int] = {}
        self._guarded: set[Statement] = set()
        self._keys: set[Hashable] = set()

    def put(
        self,
        statement: Statement,
        row: Row,
        key: Hashable = None,
        *,
        guarded: bool = False,
        first: bool = False,
        last: bool = False,
    ) -> None:
        """Let a row wait. Two with one key never share a statement; a guarded one must change exactly one row. What is
        put `first` is written before all others, so that they find it, and what is put `last` after them."""
        if key is not None:
            if key in self._keys:
                self.flush()
            self._keys.add(key)
        if guarded:
            self._guarded.add(statement)
        if first or last:
            self._order[statement] = -1 if first else 1
        self._waiting.setdefault(statement, []).append(row)

    def flush(self) -> None:
        """Write what waits. Raises what SQLite raises, and Overtaken."""
        waiting, self._waiting = self._waiting, {}
        guarded, self._guarded = self._guarded, set()
        self._keys.clear()
        for statement in sorted(waiting, key=lambda each: self._order.get(each, 0)):
            rows = waiting[statement]
            written = at = 0
            for size in sizes(len(rows)):
                values = [value for row in rows[at : at + size] for value in row]
                written += self._c.execute(statement(size), values).rowcount
                at += size
            if statement in guarded and written != len(rows):
                raise Overtaken(f"{len(rows) - written} of {len(rows)} rows were no longer as they had been read")

    def execute(self, statement: str, values: Any = ()) -> "sqlite3.Cursor":
        """Run one statement, after all that waits."""
        if self._waiting:
            self.flush()
        return self._c.execute(statement, values)

    def executemany(self, statement: str, rows: Iterable[Any]) -> "sqlite3.Cursor":
        """Run one statement for each row, after all that waits."""
        if self._waiting:
            self.flush()
        return self._c.executemany(statement, rows)
