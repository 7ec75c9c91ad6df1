"""Looking at a database file, checking it and copying it, from outside the process that owns it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from receiver.clock import SystemClock
from receiver.errors import StoreUnavailable, UsageError
from receiver.store.base import View
from receiver.store.sqlite import driver, schema
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.views import SqliteView

T = TypeVar("T")
CHECK_S = 2.0
"""How long `check_file` looks at most."""
_MAGIC = b"SQLite format 3\0"


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
    """Copy a database in steps, over a connection of its own; the writer goes on meanwhile. The copy takes its name
    once it passed its check, so an older one is never left half replaced. Raises StoreUnavailable."""
    target = Path(path)
    if not database.exists():
        raise StoreUnavailable(f"backing up {database}: there is no such file; check store.url")
    _refuse_to_replace(target, database)
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, database.stat().st_mode & 0o777))
        answer = _copy(database, part, progress)
        if answer != "ok":
            raise StoreUnavailable(f"backing up to {path}: the copy did not pass its check ({answer})")
        part.replace(target)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreUnavailable(f"backing up to {path}: {why}; is the folder there and writable?") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _refuse_to_replace(target: Path, database: Path) -> None:
    """A backup replaces an older backup; never the database itself, what belongs to it, or a file of another kind."""
    elsewhere = "name another file for the copy"
    if target.resolve() == database.resolve() or (target.exists() and target.samefile(database)):
        raise UsageError(f"backing up to {target}: that is the database itself; {elsewhere}")
    if target.resolve().parent == database.resolve().parent and target.name.startswith(
        tuple(f"{database.name}{ending}" for ending in ("-wal", "-shm", "-journal", ".mark", "-spill"))
    ):
        raise UsageError(f"backing up to {target}: that name belongs to the database; {elsewhere}")
    if target.exists():
        if not target.is_file():
            raise UsageError(f"backing up to {target}: that is no file; {elsewhere}")
        with target.open("rb") as file:
            if file.read(len(_MAGIC)) not in (b"", _MAGIC):
                raise UsageError(f"backing up to {target}: what is there is no database; {elsewhere}")


def _copy(database: Path, part: Path, progress: Callable[[int, int], None] | None) -> str:
    """The answer of the copy's check. On the disk when this returns."""
    source, target = driver.open_reader(database), sqlite3.connect(part)
    try:
        # One snapshot from beginning to end: else every commit of another process makes SQLite begin anew
        # (sqlite.org/c3ref/backup_finish.html), and a copy of a busy database would never be finished.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(
            target, pages=2048, progress=lambda _status, left, total: progress and progress(total - left, total)
        )
        answer = str(target.execute("PRAGMA quick_check").fetchone()[0])
    finally:
        source.close()
        target.close()
    with part.open("rb") as file:
        os.fsync(file.fileno())
    return answer
