"""Looks at the database file before anything opens it for writing, and moves a damaged one out of the way.

A bad file must not keep intake from acknowledging, and must not be lost either: SQLite takes a file shorter than a
page for a new database, and deletes a WAL whose database is empty. So the database, its WAL and its mark are renamed
into a folder beside it, and a fresh file can begin. Nothing is ever deleted or written to here. A file that was never
ours is not touched at all: that is a wrong setting, and the start stops (StoreUnavailable).

`inspect` opens and closes the file, which drops every lock this process holds on it (POSIX locks are like that): call
it before the first connection, holding the lock that keeps a second receiver out.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from receiver.clock import Clock, text
from receiver.errors import StoreUnavailable, sentence
from receiver.marks import HighWaterMark, Mark, beside, missing
from receiver.store.sqlite import walfile
from receiver.store.sqlite.driver import Connection, quoted, sqlite3, version

_HEAD_BYTES = 64 * 1024
_LARGEST_WAL_COPY_BYTES = 256 * 1024 * 1024
_STEPS_BETWEEN_LOOKS = 10_000
"""Virtual machine steps between two looks at the clock: about a millisecond."""
_ROW_COMPLAINT = re.compile(r"(NULL value in|CHECK constraint failed in|\S+ value in|non-\S+ value in) ")
"""What quick_check says of single rows (www.sqlite.org/pragma.html#pragma_quick_check): the file itself is sound."""
_SHARED_LOCK = (510, 0x40000002)
"""Length and start of the bytes that every open connection holds a lock on: sqlite.org/fileformat2.html, os_unix.c."""


class BootState(StrEnum):
    """What was found."""

    NEW = "new"
    """There is no database yet."""
    SOUND = "sound"
    """It can be opened and nothing speaks against it; see `checked`."""
    BUSY = "busy"
    """Somebody holds it, so it could not be looked at. That is not damage."""
    UNKNOWN = "unknown"
    """The system would not let us look (an I/O error, no room for the WAL index). Opening it will say more."""
    DAMAGED = "damaged"
    """It was damaged and has been moved to `moved_to`; the path is free for a fresh file."""


@dataclass(frozen=True, slots=True)
class BootReport:
    """What `inspect` found and did."""

    state: BootState
    why: str = ""
    """What speaks against the file, or why it could not be looked at; empty when all is well."""
    moved_to: Path | None = None
    """Where the damaged database lies now, with its WAL and its mark."""
    copied_to: Path | None = None
    """Where a copy of the WAL lies, when rows were lost from it: the next write would have overwritten it."""
    checked: bool = False
    """Whether quick_check came to its end within the time given."""
    mark: Mark | None = None
    """The mark that lay beside the file; it went along with a file that was moved."""
    missing: int | None = None
    """Deliveries missing against the mark; None when nothing can be said, or not in the time given."""
    held_by_others: bool = False
    """Another process has the moved file open and goes on with it: it has to be started again."""

    @property
    def todo(self) -> str:
        """One line for the operator; empty when there is nothing to do."""
        folder = self.moved_to or self.copied_to
        if folder is None:
            return ""
        other = "; start the other Holdfast processes again, they still use the old file" if self.held_by_others else ""
        return f"what can be read of {folder} is brought back by itself; keep that folder until it is{other}"


def inspect(path: Path, clock: Clock, budget_s: float = 1.0) -> BootReport:
    """Look at the database file, for at most about `budget_s` seconds, and move a damaged one aside.

    Raises StoreUnavailable, with nothing touched, when the file or its folder cannot be written, when the file is
    something else than a database and never was ours, or when a damaged one cannot be moved.
    """
    real = Path(os.path.realpath(path))  # SQLite keeps the WAL beside the file a link points to
    try:
        _must_be_writable(real.parent, "its folder")
        mark = HighWaterMark(beside(path)).read()
        why = _before_opening(real, mark)
        if why is None and not real.exists():
            return BootReport(BootState.NEW)
        report = BootReport(BootState.DAMAGED, why) if why else _checked(real, mark, clock, budget_s)
        report = replace(report, mark=mark)
        if report.state is BootState.DAMAGED:
            return _moved_aside(real, beside(path), report, clock)
        if report.state is BootState.SOUND:
            return _with_wal_kept(real, report, clock)
        return report
    except OSError as problem:
        met = problem.strerror or str(problem)
        raise _unavailable(path, met, "check the path, the permissions and the disk") from problem


def family(database: Path) -> tuple[Path, ...]:
    """The files SQLite keeps for one database, the database first."""
    return (database, *(database.with_name(database.name + tail) for tail in ("-wal", "-shm", "-journal")))


# -- before anything opens it ----------------------------------------------------------------------------------------


def _before_opening(real: Path, mark: Mark | None) -> str | None:
    """What is wrong with the file, as far as that can be seen without SQLite. Raises StoreUnavailable if not ours."""
    wal_bytes = _size_bytes(family(real)[1])
    held = f", though {mark.count} deliveries were recorded in it" if mark else ""
    try:
        kind = os.stat(real)
    except FileNotFoundError:
        if wal_bytes:
            return "the database is gone and its WAL is still there"
        return f"the database is gone{held}" if mark else None
    if stat.S_ISDIR(kind.st_mode):
        if wal_bytes or mark:
            return "a directory stands in the place of the database"
        raise _unavailable(real, "it is a directory", "let store.url name a file in it")
    if not stat.S_ISREG(kind.st_mode):
        raise _unavailable(real, "it is not a regular file", "point store.url at another path")
    _must_be_writable(real, "it")
    if kind.st_size == 0:
        if wal_bytes:
            return "the database is empty and its WAL is not"
        return f"the database is empty{held}" if mark else None
    if wal_bytes:
        return None  # the first pages may be in the WAL, so only SQLite can tell
    return _wrong_shape(real, kind.st_size, mark)


def _wrong_shape(real: Path, size_bytes: int, mark: Mark | None) -> str | None:
    """Whether a file without a WAL has the outline of a database."""
    with open(real, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(walfile.MAGIC):
        page_bytes = walfile.page_bytes_of(head)
        if page_bytes is None:
            return "the header names a page size that does not exist"
        if size_bytes % page_bytes:
            return f"the file is cut off: {size_bytes} bytes are no whole number of {page_bytes}-byte pages"
        return None
    was_ours = mark is not None or walfile.MAGIC.startswith(head) or not any(head)
    if was_ours or (b"\0" in head and b"CREATE TABLE deliveries" in head):
        return "the file does not begin like a database"
    raise _unavailable(real, "it is not a database, and nothing was changed", "point store.url at another path")


# -- what SQLite says ------------------------------------------------------------------------------------------------


def _checked(real: Path, mark: Mark | None, clock: Clock, budget_s: float) -> BootReport:
    """Open it read-only, which neither folds in nor deletes a WAL, and ask SQLite."""
    deadline = clock.monotonic() + budget_s
    report = BootReport(BootState.SOUND)
    try:
        with _reader(real) as connection:
            connection.set_progress_handler(lambda: clock.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
            report = replace(report, missing=_missing(connection, mark))
            _read_schema_as_a_writer(connection)
            complaints = [str(row[0]) for row in connection.execute("PRAGMA quick_check(100)")]
    except sqlite3.NotSupportedError as error:
        return replace(report, state=BootState.DAMAGED, why=str(error))
    except sqlite3.Error as error:
        return _judged(error, report)
    except UnicodeDecodeError as error:  # SQLite quotes the damaged schema, and that is no longer text
        return replace(report, state=BootState.DAMAGED, why=f"the schema is not text: {error}")
    complaints = [line for line in complaints if line != "ok"]
    damage = [line for line in complaints if not _ROW_COMPLAINT.match(line)]
    if damage:
        return replace(report, state=BootState.DAMAGED, why=damage[0], checked=True)
    return replace(report, why=complaints[0] if complaints else "", checked=True)


def _read_schema_as_a_writer(connection: Connection) -> None:
    """Raise what a writer would: a read-only connection lets a flipped bit in a table's conditions pass, a writing one
    then calls the whole schema malformed."""
    statements = connection.execute(
        "SELECT CAST(sql AS BLOB) FROM sqlite_master WHERE sql NOTNULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as scratch:
        for (statement,) in statements:
            try:
                scratch.execute(statement.decode())
            except sqlite3.Error as error:
                raise sqlite3.NotSupportedError(f"the schema cannot be read: {error}") from error


def _missing(connection: Connection, mark: Mark | None) -> int | None:
    """Deliveries missing against the mark; the kept count is read when the greatest id does not clear the file."""
    if mark is None:
        return None
    try:
        newest = int(connection.execute("SELECT coalesce(max(id), 0) FROM deliveries").fetchone()[0])
        if newest >= mark.last_id:
            return missing(mark, newest, None)
        recorded = recorded_ever(connection)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return mark.count  # the tables themselves were in the lost part
        raise
    return missing(mark, newest, recorded)


def recorded_ever(connection: Connection) -> int:
    """How many deliveries were ever committed to this file; counted when no count was kept."""
    kept = connection.execute("SELECT value FROM meta WHERE key = 'deliveries.recorded'").fetchone()
    return int(kept[0] if kept else connection.execute("SELECT count(*) FROM deliveries").fetchone()[0])


def _judged(error: sqlite3.Error, report: BootReport) -> BootReport:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_INTERRUPT:
        return report  # too big for the time given: sound as far as we looked
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return replace(report, state=BootState.BUSY, why=str(error))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return replace(report, state=BootState.DAMAGED, why=str(error))
    return replace(report, state=BootState.UNKNOWN, why=str(error))


@contextlib.contextmanager
def _reader(real: Path) -> Iterator[Connection]:
    connection = sqlite3.connect(f"file:{quoted(real)}?mode=ro", uri=True, timeout=0.1, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


# -- keeping the evidence --------------------------------------------------------------------------------------------


def _moved_aside(real: Path, mark_path: Path, report: BootReport, clock: Clock) -> BootReport:
    held = _held_by_others(real)
    folder = _new_folder(real, report.why, clock)
    for file in family(real):  # the database first: a WAL left alone is found again, one taken away is not missed
        if file.exists():
            os.rename(file, folder / file.name)
    if mark_path.exists():
        shutil.move(mark_path, folder / beside(real).name)
    _sync_folder(folder)
    _sync_folder(real.parent)
    return replace(report, moved_to=folder, held_by_others=held)


def _with_wal_kept(real: Path, report: BootReport, clock: Clock) -> BootReport:
    """Copy a WAL that lost transactions before the next write goes over it."""
    wal = family(real)[1]
    size_bytes = _size_bytes(wal)
    spoilt = "" if walfile.header_is_sound(wal) else "the header of its WAL is destroyed"
    gone = f"{report.missing} deliveries are missing against the mark" if report.missing else ""
    why = "; ".join(filter(None, (spoilt, gone)))
    if not why or size_bytes < walfile.HEADER_BYTES:
        return replace(report, why=report.why or why)
    folder = _new_folder(real, f"{why}; the database itself is in use, this is a copy of its WAL", clock)
    if size_bytes <= _LARGEST_WAL_COPY_BYTES:
        with contextlib.suppress(OSError):  # a full disk must not keep a sound database from being used
            shutil.copyfile(wal, folder / wal.name)
    _sync_folder(folder)
    _sync_folder(real.parent)
    return replace(report, why=why, copied_to=folder)


def _new_folder(real: Path, why: str, clock: Clock) -> Path:
    """Make `<database>.damaged-<UTC time>` with a note in it."""
    written = text(clock.now())
    stem = f"{real.name}.damaged-{re.sub('[-:]|[.][0-9]+', '', written)}"
    for turn in range(1, 1000):
        folder = real.with_name(stem if turn == 1 else f"{stem}-{turn}")
        try:
            os.mkdir(folder, 0o770)
        except FileExistsError:
            continue
        with contextlib.suppress(OSError), open(folder / "why.txt", "w", encoding="utf-8") as note:
            note.write(
                f"{written}\n{real}: {why}\nSQLite {version()}\nSee docs/reliability.md for what to do with this.\n"
            )
            note.flush()
            os.fsync(note.fileno())
        return folder
    raise _unavailable(real, f"a thousand folders {stem}-… are there already", "move them elsewhere")


def _held_by_others(real: Path) -> bool:
    """Whether another process has the database open: in WAL mode it then holds a shared lock all the time."""
    try:
        with open(real, "rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *_SHARED_LOCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


# -- small things ----------------------------------------------------------------------------------------------------


def _must_be_writable(path: Path, what: str) -> None:
    if not path.exists():
        raise _unavailable(path, f"{what} does not exist", "make it, or point store.url elsewhere")
    if not os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)):
        raise _unavailable(
            path, f"{what} cannot be written", "give Holdfast's user write access, or point store.url elsewhere"
        )


def _unavailable(path: Path, met: str, todo: str) -> StoreUnavailable:
    return StoreUnavailable(sentence(f"opening the database {path}", met, todo))


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
