"""A bad file at the start: out of the way, kept whole, and nobody else's file touched."""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.errors import StoreUnavailable
from receiver.marks import Mark, beside
from receiver.store.sqlite import driver, schema
from receiver.store.sqlite.boot import BootReport, BootState, family, inspect
from receiver.store.sqlite.driver import sqlite3
from tests.store.damaged import KEPT, ROWS, build, fold, insert, poke, wal_of
from tests.support import ManualClock, run_python


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "holdfast.db"
    build(path)
    return path


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    build(folder / "holdfast.db")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.endswith("-shm")
    }


def readable(db: Path) -> int:
    """How many rows there are once it is opened as the store opens it."""
    connection = driver.open_writer(db)
    schema.migrate(connection)
    count = int(connection.execute("SELECT count(*) FROM deliveries").fetchone()[0])
    connection.close()
    return count


def folded_then(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def both(db: Path) -> None:
        fold(db)
        change(db)

    return both


def become_a_folder(db: Path) -> None:
    db.unlink()
    db.mkdir()


CASES: dict[str, tuple[Callable[[Path], object], BootState, int]] = {
    "intact": (lambda db: None, BootState.SOUND, ROWS),
    "intact, stopped cleanly": (fold, BootState.SOUND, ROWS),
    "db empty, wal present": (lambda db: os.truncate(db, 0), BootState.DAMAGED, 0),
    "db header zeroed, no wal": (folded_then(lambda db: poke(db, 0, bytes(100))), BootState.DAMAGED, 0),
    "db random, no wal": (folded_then(lambda db: poke(db, 0, os.urandom(db.stat().st_size))), BootState.DAMAGED, 0),
    "schema page garbage": (folded_then(lambda db: poke(db, 100, os.urandom(900))), BootState.DAMAGED, 0),
    "db truncated mid page": (folded_then(lambda db: os.truncate(db, 700)), BootState.DAMAGED, 0),
    "db truncated at a page": (folded_then(lambda db: os.truncate(db, 8192)), BootState.DAMAGED, 0),
    "db cut inside its magic": (folded_then(lambda db: os.truncate(db, 9)), BootState.DAMAGED, 0),
    "db emptied": (folded_then(lambda db: os.truncate(db, 0)), BootState.DAMAGED, 0),
    "page size nonsense": (folded_then(lambda db: poke(db, 16, b"\x12\x34")), BootState.DAMAGED, 0),
    "db gone, wal left": (Path.unlink, BootState.DAMAGED, 0),
    "db gone, mark left": (folded_then(Path.unlink), BootState.DAMAGED, 0),
    "db is a directory": (become_a_folder, BootState.DAMAGED, 0),
    "wal header zeroed": (lambda db: poke(wal_of(db), 0, bytes(32)), BootState.SOUND, KEPT),
    "wal random": (lambda db: wal_of(db).write_bytes(os.urandom(50000)), BootState.SOUND, KEPT),
    "wal gone": (lambda db: wal_of(db).unlink(), BootState.SOUND, KEPT),
    "shm garbage": (lambda db: family(db)[2].write_bytes(os.urandom(32768)), BootState.SOUND, ROWS),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_bad_file_leaves_a_path_that_can_be_used_and_all_of_the_evidence(case: str, db: Path) -> None:
    """After a look the store can begin, and every byte that was there before lies somewhere still."""
    spoil, state, rows = CASES[case]
    spoil(db)
    before = contents(db.parent)

    report = inspect(db, ManualClock())

    after = contents(db.parent)
    assert report.state is state
    assert set(before.values()) <= set(after.values())
    assert (report.moved_to is not None) == (state is BootState.DAMAGED)
    assert bool(report.todo) == bool(report.moved_to or report.copied_to)
    assert readable(db) == rows
    if state is BootState.DAMAGED:
        assert report.mark == Mark(ROWS, ROWS)
        assert not beside(db).exists()
        assert report.why


@pytest.mark.parametrize("case", ["db header zeroed", "db random"])
def test_what_is_all_in_the_wal_is_not_given_up_with_the_file(case: str, tmp_path: Path) -> None:
    """A destroyed first page is no loss when the WAL has a newer one, and SQLite may say so."""
    db = tmp_path / "holdfast.db"
    scratch = tmp_path / "scratch.db"
    connection = driver.open_writer(scratch)
    schema.migrate(connection)
    insert(connection, range(1, 20))
    for old, new in zip(family(scratch)[:2], family(db)[:2], strict=True):
        shutil.copyfile(old, new)
    connection.close()
    poke(db, 0, bytes(100) if case == "db header zeroed" else os.urandom(db.stat().st_size))

    report = inspect(db, ManualClock())

    assert report.state in (BootState.SOUND, BootState.DAMAGED)
    if report.state is BootState.SOUND:
        assert readable(db) == 19
    else:
        assert report.moved_to is not None
        assert (report.moved_to / wal_of(db).name).stat().st_size > 0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.99])
def test_a_cut_wal_is_copied_before_the_next_write_goes_over_it(share: float, db: Path) -> None:
    """Rows that vanished from the WAL are noticed by the mark alone, and the WAL as it was is kept."""
    os.truncate(wal_of(db), int(wal_of(db).stat().st_size * share))
    was = wal_of(db).read_bytes()

    report = inspect(db, ManualClock())

    assert report.state is BootState.SOUND
    assert report.missing == ROWS - readable(db) > 0
    assert report.copied_to is not None
    assert (report.copied_to / wal_of(db).name).read_bytes() == was
    assert "missing" in (report.copied_to / "why.txt").read_text()


def test_a_flipped_bit_in_the_wal_is_noticed_by_the_mark(db: Path) -> None:
    """SQLite says ok and drops everything after the flip; the mark knows how many there were."""
    wal = wal_of(db)
    at = wal.stat().st_size // 3
    poke(wal, at, bytes([wal.read_bytes()[at] ^ 4]))

    report = inspect(db, ManualClock())

    assert (report.state, report.checked) == (BootState.SOUND, True)
    assert report.missing == ROWS - readable(db) > 0
    assert report.copied_to is not None


def test_pruned_rows_are_not_missing(db: Path) -> None:
    """What was ever recorded is counted, not what is left, so an empty table after pruning raises no alarm."""
    connection = driver.open_writer(db)
    connection.execute("DELETE FROM deliveries")
    connection.close()

    report = inspect(db, ManualClock())

    assert (report.state, report.missing, report.copied_to) == (BootState.SOUND, 0, None)


def test_the_first_start_is_nothing_to_report(tmp_path: Path) -> None:
    """No file, no mark: a new database may begin, and looking made nothing."""
    report = inspect(tmp_path / "holdfast.db", ManualClock())

    assert report == BootReport(BootState.NEW)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_of_a_crash_before_the_first_write_is_new(tmp_path: Path) -> None:
    """SQLite makes the file before it writes to it; a kill in between is no damage."""
    db = tmp_path / "holdfast.db"
    db.touch()

    assert inspect(db, ManualClock()).state is BootState.SOUND
    assert readable(db) == 0


FOREIGN = {
    "a text": b"Dear diary,\nnothing happened.\n" * 50,
    "a dump": b"-- dump\nCREATE TABLE deliveries (id INTEGER);\n",
    "a pdf": b"%PDF-1.7\n" + os.urandom(3000),
    "random bytes": os.urandom(5000),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_never_was_a_database_is_refused_and_not_touched(kind: str, tmp_path: Path) -> None:
    """A wrong store.url stops the start with exit 69 and what to do; the file stays as it was, where it was."""
    db = tmp_path / "notes.txt"
    db.write_bytes(FOREIGN[kind])

    with pytest.raises(StoreUnavailable, match=r"it is not a database.*store\.url") as refusal:
        inspect(db, ManualClock())

    assert refusal.value.exit_code == 69
    assert contents(tmp_path) == {"notes.txt": hashlib.sha256(FOREIGN[kind]).hexdigest()}


def test_a_folder_named_by_mistake_is_refused_and_not_touched(tmp_path: Path) -> None:
    """Somebody's folder is not moved aside because store.url forgot the file's name."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "precious").write_text("x")

    with pytest.raises(StoreUnavailable, match="it is a directory"):
        inspect(tmp_path / "state", ManualClock())

    assert (tmp_path / "state" / "precious").read_text() == "x"


def test_a_pipe_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """Nothing that is no regular file is opened, let alone waited for."""
    os.mkfifo(tmp_path / "holdfast.db")

    with pytest.raises(StoreUnavailable, match="not a regular file"):
        inspect(tmp_path / "holdfast.db", ManualClock())


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """The message names the folder and what to do."""
    with pytest.raises(StoreUnavailable, match="its folder does not exist; make it"):
        inspect(tmp_path / "nowhere" / "holdfast.db", ManualClock())


@pytest.mark.parametrize("target", ["file", "folder"])
def test_what_cannot_be_written_is_refused(target: str, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only file or folder is exit 69 at once, not a failing intake later."""
    closed = db if target == "file" else db.parent
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and allowed(path, mode))
    before = contents(db.parent)

    with pytest.raises(StoreUnavailable, match="cannot be written; give") as refusal:
        inspect(db, ManualClock())

    assert refusal.value.exit_code == 69
    assert contents(db.parent) == before


def test_a_damaged_file_that_cannot_be_moved_stops_the_start(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place for the evidence nothing is begun over it."""
    os.truncate(db, 0)

    def refuse(old: Path, new: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)

    with pytest.raises(StoreUnavailable, match="Read-only file system"):
        inspect(db, ManualClock())

    assert db.exists()


HOLD = """
import sys
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.boot import inspect
from pathlib import Path
from tests.support import ManualClock, RunningProcess
child = RunningProcess(["-c", sys.argv[2], sys.argv[1]])
with child:
    child.wait_for_output("holding")
    report = inspect(Path(sys.argv[1]), ManualClock())
    print(report.state, report.held_by_others, report.moved_to is not None)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("hold", "said"),
    [
        pytest.param(
            "PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; INSERT INTO meta VALUES ('a', 'b')",
            "busy False False",
            id="exclusive",
        ),
        pytest.param(
            "SELECT 1 FROM meta; BEGIN; INSERT INTO meta VALUES ('a', 'b')", "sound False False", id="writing"
        ),
    ],
)
def test_a_file_that_somebody_holds_is_not_damaged(hold: str, said: str, db: Path) -> None:
    """A lock is answered with waiting, never with moving the file away."""
    holder = (
        "import sys, threading\nfrom receiver.store.sqlite.driver import sqlite3\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        f"for s in {hold!r}.split(';'): c.execute(s).fetchall()\n"
        "print('holding', flush=True)\nthreading.Event().wait(60)\n"
    )

    answer = run_python("-c", HOLD, str(db), holder)

    assert answer.stdout.strip() == said, answer.stderr


@pytest.mark.process
def test_it_is_said_when_another_process_goes_on_with_the_moved_file(db: Path) -> None:
    """A process that has the old file open would go on writing to it; the operator is told to start it again."""
    fold(db)
    with open(db, "r+b") as file:
        size_bytes = file.seek(0, os.SEEK_END)
    holder = (
        "import sys, threading\nfrom receiver.store.sqlite.driver import sqlite3\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN'); c.execute('SELECT count(*) FROM meta').fetchall()\n"
        f"f = open(sys.argv[1], 'r+b'); f.seek(4096); f.write(bytes({size_bytes - 4096})); f.flush()\n"
        "print('holding', flush=True)\nthreading.Event().wait(60)\n"
    )

    answer = run_python("-c", HOLD, str(db), holder)

    assert answer.stdout.strip() == "damaged True True", answer.stderr


class HurriedClock(ManualClock):
    """Every look at it takes a tenth of a second."""

    def monotonic(self) -> float:
        self.advance(0.1)
        return super().monotonic()


def test_the_check_of_a_big_file_stops_in_time(tmp_path: Path) -> None:
    """A file too big to check within the time is used unchecked, and that is said."""
    db = tmp_path / "holdfast.db"
    connection = driver.open_writer(db)
    schema.migrate(connection)
    insert(connection, range(1, 4000))
    connection.close()
    clock = HurriedClock()
    began = clock.now()

    report = inspect(db, clock, budget_s=0.5)

    assert (report.state, report.checked) == (BootState.SOUND, False)
    assert clock.now() - began < 2.0
    assert inspect(db, ManualClock()).checked


def test_a_row_that_breaks_a_rule_is_no_reason_to_move_the_file(db: Path) -> None:
    """What quick_check says of a single row is reported, and the database stays in use."""
    connection = driver.open_writer(db)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, 'received_at TEXT', 'received_at INTEGER')"
        " WHERE name = 'deliveries'"
    )
    connection.close()

    report = inspect(db, ManualClock())

    assert (report.state, report.moved_to) == (BootState.SOUND, None)
    assert report.why == "non-INTEGER value in deliveries.received_at"


def test_damage_at_every_start_gets_a_folder_of_its_own(pristine: Path, tmp_path: Path) -> None:
    """Two bad files in the same second are two sets of evidence."""
    clock, folders = ManualClock(), set()
    for _ in range(3):
        for file in pristine.iterdir():
            shutil.copyfile(file, tmp_path / file.name)
        os.truncate(tmp_path / "holdfast.db", 0)
        folders.add(inspect(tmp_path / "holdfast.db", clock).moved_to)

    assert {folder.name for folder in folders if folder} == {
        "holdfast.db.damaged-20260413T143000Z",
        "holdfast.db.damaged-20260413T143000Z-2",
        "holdfast.db.damaged-20260413T143000Z-3",
    }
    for folder in filter(None, folders):
        assert {file.name for file in folder.iterdir()} == {
            "holdfast.db",
            "holdfast.db-wal",
            "holdfast.db.mark",
            "why.txt",
        }
        assert stat.S_IMODE(folder.stat().st_mode) & 0o007 == 0o000 or os.umask(os.umask(0)) == 0


def test_a_database_behind_a_link_is_moved_where_it_lies(db: Path, tmp_path: Path) -> None:
    """SQLite keeps the WAL beside the file, not beside the link; so does what moves them."""
    os.truncate(db, 0)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(db)

    report = inspect(link, ManualClock())

    assert report.moved_to is not None
    assert report.moved_to.parent == db.parent
    assert readable(link) == 0
    assert db.exists()


@pytest.mark.parametrize("seed", range(40))
def test_no_flipped_byte_in_the_file_keeps_it_from_being_looked_at(seed: int, pristine: Path, tmp_path: Path) -> None:
    """Whatever one byte says, the answer is a report; and a file called sound can be opened."""
    for file in pristine.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    db = tmp_path / "holdfast.db"
    at = (seed * 2654435761) % db.stat().st_size if seed >= 20 else seed * 5
    poke(db, at, bytes([db.read_bytes()[at] ^ (1 << seed % 8)]))

    report = inspect(db, ManualClock())

    assert report.state in (BootState.SOUND, BootState.DAMAGED)
    try:
        assert readable(db) >= 0
    except sqlite3.DatabaseError:
        pytest.fail(f"called {report.state} and cannot be opened")
