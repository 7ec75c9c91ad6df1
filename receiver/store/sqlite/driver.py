"""The one place that decides which SQLite library this process uses, and how a connection is opened.

Two SQLite libraries in one process break POSIX locking and lose committed rows, and sqlite-utils prefers `pysqlite3`
by itself when it is installed; so the choice is made here, once, and everything else is handed connections.
"""

import contextlib
import functools
import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from receiver.errors import StoreUnavailable

if TYPE_CHECKING:
    import sqlite3
else:

    def _library() -> ModuleType:
        try:
            return importlib.import_module("pysqlite3")
        except ImportError:
            return importlib.import_module("sqlite3")

    sqlite3 = _library()

__all__ = ["Connection", "Row", "open_reader", "open_writer", "sqlite3", "two_writers_are_safe", "version"]

Connection = sqlite3.Connection
Row = tuple[Any, ...]

SAFE_FOR_TWO_WRITERS = (3, 51, 3)
"""From here on (and in back-ports, see below) the WAL-reset bug is fixed: sqlite.org/wal.html#walresetbug."""

BUSY_MS = 100
"""How long SQLite itself waits for a lock; the writer keeps trying after that, and looks at its queue in between."""

CHECKPOINT_PAGES = 2000
"""The log is folded into the file whenever it has grown by this many pages of 4 KiB."""


_STATEMENTS = 512
"""Statements the writer keeps ready. Rows are written many together, one statement for each kind and number of them;
what had to give way to another would be parsed again with every transaction."""

FOREIGN = "it holds tables of another program; point store.url at a file of its own"


_LENIENT = functools.partial(str, encoding="utf-8", errors="replace")
"""Text that a flipped bit spoiled is read with a mark where it is spoiled. Refused, it would look like a database that
takes no writes, for whoever meets it, for ever."""


_NOTHING: dict[None, None] = {}
# SQLite takes these as they are. Told nothing, the library asks each such value of each statement in three places how
# it wants to be adapted, with an exception each; a row of a dozen values then costs more to hand over than to insert.
sqlite3.register_adapter(type(None), _NOTHING.get)
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)


def version() -> str:
    """The version of the SQLite library in use."""
    return str(sqlite3.sqlite_version)


def two_writers_are_safe() -> bool:
    """Whether two processes may write to one file with this library."""
    parts = tuple(int(part) for part in version().split("."))
    return (
        parts >= SAFE_FOR_TWO_WRITERS
        or (parts[:2] == (3, 44) and parts >= (3, 44, 6))
        or (parts[:2] == (3, 50) and parts >= (3, 50, 7))
    )


def open_writer(path: Path) -> Connection:
    """The writing connection: WAL, every commit synced, transactions begun by hand.

    Settings are read back: a durability that was not taken is refused, not hoped for. Raises StoreUnavailable.
    """
    # SQLite would make it 0644, and what a reader of our group makes beside it (-shm, -wal) follows the file's mode: we
    # could then no longer write. Only ever a file that was not there: closing a descriptor drops our process's locks.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664))
    try:
        connection = sqlite3.connect(
            path,
            timeout=BUSY_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS,
        )
        if is_foreign(connection):  # before WAL is set, for that is written into the file
            connection.close()
            raise StoreUnavailable(f"opening the database {path}: {FOREIGN}")
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA mmap_size=0")  # reads through a map would hide I/O errors as signals
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")  # passive: waits for nobody
        connection.execute("PRAGMA cache_size=-16000")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.text_factory = _LENIENT
        synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    except sqlite3.Error as error:
        raise StoreUnavailable(
            f"opening the database {path}: {error}; check that the file is a database and its folder can be written"
        ) from error
    if mode != "wal" or synchronous != 2:
        connection.close()
        raise StoreUnavailable(
            f"opening the database {path}: journal_mode={mode} synchronous={synchronous} where wal and 2 are needed; "
            "is it on a network file system?"
        )
    return connection


def is_foreign(connection: Connection) -> bool:
    """Whether the file holds tables and none of them is ours."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return bool(tables) and "_sqlite_migrations" not in tables


def says_damaged(error: BaseException) -> bool:
    """Whether SQLite met something in the file that no database holds."""
    return isinstance(error, sqlite3.DatabaseError) and any(
        words in str(error) for words in ("database disk image is malformed", "file is not a database")
    )


def open_reader(path: Path) -> Connection:
    """A connection that cannot write. Raises StoreUnavailable."""
    try:
        connection = sqlite3.connect(
            f"file:{quoted(path)}?mode=ro", uri=True, timeout=2.0, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA query_only=ON")
        connection.text_factory = _LENIENT
        connection.execute("PRAGMA cache_size=-2000")
    except sqlite3.Error as error:
        raise StoreUnavailable(f"opening the database {path} for reading: {error}") from error
    return connection


def quoted(path: Path) -> str:
    """A path inside an SQLite file: URI."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
