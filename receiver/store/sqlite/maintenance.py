"""Looking at a database file, checking it and copying it, from outside the process that owns it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from receiver.clock import SystemClock
from receiver.errors import StoreUnavailable
from receiver.store.base import View
from receiver.store.sqlite import driver, schema
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.views import SqliteView

T = TypeVar("T")
CHECK_S = 2.0
"""How long `check_file` looks at most."""


def look_at(path: Path, look: Callable[[View], T]) -> T:
    """One look at a record that another process may own. Raises StoreUnavailable."""
    if not path.exists():
        raise StoreUnavailable(
            f"reading the database {path}: there is no such file; start `holdfast run`, or `holdfast migrate`"
        )
    connection = driver.open_reader(path)
    try:
        connection.execute("BEGIN")
        return look(SqliteView(connection))
    except sqlite3.Error as error:
        raise StoreUnavailable(
            f"reading the database {path}: {error}; run `holdfast migrate`, or see `holdfast check`"
        ) from error
    finally:
        connection.close()


def check_file(path: Path) -> str | None:
    """What is wrong with a database file, in one line; None when a quick check (bounded in time) finds nothing."""
    end = time_limit(CHECK_S)
    try:
        connection = driver.open_reader(path)
        try:
            connection.set_progress_handler(end, 10_000)
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            newer = schema.newer_step(connection)
        finally:
            connection.close()
    except StoreUnavailable as error:
        return error.message
    except sqlite3.Error as error:
        return None if "interrupted" in str(error) else f"{path}: {error}; is it a database, and may we read it?"
    if newer is not None:
        return f"{path} was written by a newer version of Holdfast (step {newer}); install that version"
    return (
        None
        if answer == "ok"
        else f"{path} is damaged ({answer}); the next start moves it aside and begins a fresh one"
    )


def time_limit(seconds: float) -> Callable[[], bool]:
    """A progress handler that stops SQLite after so many seconds."""
    clock = SystemClock()
    end = clock.monotonic() + seconds
    return lambda: clock.monotonic() > end


def copy_to(database: Path, path: str, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy a database in steps, over a connection of its own; the writer goes on meanwhile. Raises StoreUnavailable."""
    if not database.exists():
        raise StoreUnavailable(f"backing up {database}: there is no such file; check store.url")
    try:
        source, target = driver.open_reader(database), sqlite3.connect(path)
        try:
            source.backup(
                target, pages=2048, progress=lambda _status, left, total: progress and progress(total - left, total)
            )
            answer = target.execute("PRAGMA quick_check").fetchone()[0]
        finally:
            source.close()
            target.close()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"backing up to {path}: {error}; is the folder there and writable?") from error
    if answer != "ok":
        raise StoreUnavailable(f"backing up to {path}: the copy did not pass its check ({answer})")
