"""What can still be read of a damaged database comes back, and nothing is invented."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.store.sqlite import driver, schema
from receiver.store.sqlite import salvage as salvaging
from receiver.store.sqlite.boot import inspect
from receiver.store.sqlite.driver import Connection, sqlite3
from receiver.store.sqlite.salvage import SalvageReport, insert, salvage, waiting
from receiver.store.sqlite.shapes import Row
from tests.store.damaged import KEPT, ROWS, body_of, build, fold, poke, wal_of
from tests.support import ManualClock

TABLES = ("deliveries", "event_keys", "jobs", "job_history", "outbox")
PAGE = 4096


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    build(folder / "holdfast.db")
    return folder


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folded")
    build(folder / "holdfast.db")
    fold(folder / "holdfast.db")
    return folder


def copied(origin: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for file in origin.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder / "holdfast.db"


class Live:
    """The fresh database that rows are brought back into."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self.connection: Connection = sqlite3.connect(path, isolation_level=None)
        schema.migrate(self.connection)

    def insert(self, table: str, rows: list[Row]) -> int:
        self.connection.execute("BEGIN IMMEDIATE")
        new = insert(self.connection, table, rows)
        self.connection.execute("COMMIT")
        return new

    def ids(self) -> set[int]:
        return {id for (id,) in self.connection.execute("SELECT id FROM deliveries")}

    def count(self, table: str) -> int:
        return int(self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def all_true(self) -> bool:
        """Whether every delivery here is one that was there, bit for bit."""
        return all(
            body == body_of(id) and hashlib.sha256(body).hexdigest() == digest
            for id, body, digest in self.connection.execute("SELECT id, body, body_sha256 FROM deliveries")
        )


def set_aside(db: Path) -> Path:
    """Move it aside whatever is wrong with it, as `inspect` does."""
    folder = db.with_name(f"{db.name}.damaged-20260413T143000Z")
    folder.mkdir()
    for file in (db, wal_of(db)):
        if file.exists():
            os.rename(file, folder / file.name)
    return folder


def brought_back(db: Path) -> tuple[SalvageReport, Live]:
    live = Live()
    return salvage(set_aside(db), live.insert), live


@pytest.mark.parametrize("state", ["killed", "stopped"])
def test_a_whole_database_comes_back_whole(state: str, pristine: Path, folded: Path, tmp_path: Path) -> None:
    """Every row of every table that carries a promise, with or without a WAL; a second time adds nothing."""
    db = copied(pristine if state == "killed" else folded, tmp_path)
    before = Live(db).connection.execute("SELECT * FROM jobs ORDER BY job_id").fetchall()

    report, live = brought_back(db)

    assert live.ids() == set(range(1, ROWS + 1))
    assert live.all_true()
    assert {table: live.count(table) for table in TABLES} == {
        "deliveries": ROWS, "event_keys": ROWS, "jobs": ROWS // 5, "job_history": ROWS // 5, "outbox": ROWS // 5,
    }  # fmt: skip
    assert live.connection.execute("SELECT * FROM jobs ORDER BY job_id").fetchall() == before
    assert (report.damaged, report.complaints) == (set(), [])
    assert report.line.endswith("every row could be read")

    folder = next(iter(tmp_path.glob("*.damaged-*")))
    assert not salvage(folder, live.insert).new.total()


def test_numbers_of_the_old_file_do_not_clash_with_those_of_the_new(folded: Path, tmp_path: Path) -> None:
    """Messages and history that came in meanwhile keep their numbers; what comes back keeps its order after them."""
    live = Live()
    for n in (1, 2, 3):
        live.connection.execute(
            "INSERT INTO outbox (id, source, type, payload, created_at) VALUES (?, 's', 't', '{}', '')", (f"new{n}",)
        )
    salvage(set_aside(copied(folded, tmp_path)), live.insert)

    messages = [id for (id,) in live.connection.execute("SELECT id FROM outbox ORDER BY seq")]
    assert messages == ["new1", "new2", "new3", *(f"msg{n}" for n in range(5, ROWS + 1, 5))]
    story = [job for (job,) in live.connection.execute("SELECT job_id FROM job_history ORDER BY id")]
    assert story == [f"job{n}" for n in range(5, ROWS + 1, 5)]


def test_what_is_there_already_is_not_overwritten(folded: Path, tmp_path: Path) -> None:
    """A job that moved on in the fresh database stays as it is."""
    live = Live()
    live.connection.execute("INSERT INTO jobs (source, job_id, modality) VALUES ('s', 'job5', 'image')")

    salvage(set_aside(copied(folded, tmp_path)), live.insert)

    modality = live.connection.execute("SELECT modality FROM jobs WHERE job_id = 'job5'").fetchone()
    assert modality == ("image",)
    assert live.count("jobs") == ROWS // 5


def every_other_leaf(db: Path) -> None:
    data = db.read_bytes()
    for n, at in enumerate(range(PAGE, len(data), PAGE)):
        if data[at] == 0x0D and n % 2:
            poke(db, at, bytes(PAGE))


HEADERLESS = {
    "header zeroed": lambda db: poke(db, 0, bytes(100)),
    "schema page garbage": lambda db: poke(db, 100, os.urandom(900)),
    "first page gone": lambda db: poke(db, 0, os.urandom(PAGE)),
    "page size nonsense": lambda db: poke(db, 16, b"\x12\x34"),
}


@pytest.mark.parametrize("case", HEADERLESS)
def test_a_database_that_cannot_be_opened_gives_its_rows_all_the_same(case: str, folded: Path, tmp_path: Path) -> None:
    """Without header and schema the pages still hold the rows, and their shape says whose they are."""
    db = copied(folded, tmp_path)
    HEADERLESS[case](db)

    report, live = brought_back(db)

    assert live.ids() == set(range(1, ROWS + 1))
    assert live.all_true()
    assert (live.count("jobs"), live.count("outbox"), live.count("job_history")) == (ROWS // 5,) * 3
    messages = [id for (id,) in live.connection.execute("SELECT id FROM outbox ORDER BY seq")]
    assert messages == [f"msg{n}" for n in range(5, ROWS + 1, 5)]
    assert report.complaints


PARTLY: dict[str, tuple[Callable[[Path], object], float]] = {
    "cut mid page": (lambda db: os.truncate(db, db.stat().st_size // 2 + 700), 0.3),
    "every other leaf zeroed": (every_other_leaf, 0.2),
    "first half random": (lambda db: poke(db, 0, os.urandom(db.stat().st_size // 2)), 0.3),
}


@pytest.mark.parametrize("case", PARTLY)
def test_what_is_left_of_a_torn_file_comes_back(case: str, folded: Path, tmp_path: Path) -> None:
    """Half a file gives about half of its rows, and only true ones."""
    db = copied(folded, tmp_path)
    spoil, share = PARTLY[case]
    spoil(db)

    report, live = brought_back(db)

    assert len(live.ids()) >= ROWS * share
    assert live.all_true()
    assert report.complaints


@pytest.mark.parametrize("kind", ["empty", "gone", "random", "folder"])
def test_a_wal_gives_its_rows_without_its_database(kind: str, pristine: Path, tmp_path: Path) -> None:
    """SQLite would delete such a WAL; every delivery committed through it is read from its pages."""
    db = copied(pristine, tmp_path)
    if kind == "empty":
        os.truncate(db, 0)
    elif kind == "random":
        db.write_bytes(os.urandom(20000))
    else:
        db.unlink()
        if kind == "folder":
            db.mkdir()

    _, live = brought_back(db)

    assert live.ids() >= set(range(KEPT + 1, ROWS + 1))
    assert live.all_true()
    assert live.count("jobs") >= (ROWS - KEPT) // 5
    assert live.count("outbox") >= (ROWS - KEPT) // 5


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_rows_that_a_flipped_bit_in_the_wal_made_vanish_come_back(share: float, pristine: Path, tmp_path: Path) -> None:
    """SQLite drops all that follows the flip; from the copy that was kept, all but the row it hit are read."""
    db = copied(pristine, tmp_path)
    wal = wal_of(db)
    at = int(wal.stat().st_size * share)
    poke(wal, at, bytes([wal.read_bytes()[at] ^ 16]))
    inspected = inspect(db, ManualClock())
    assert inspected.copied_to is not None
    connection = driver.open_writer(db)
    left = {id for (id,) in connection.execute("SELECT id FROM deliveries")}
    connection.close()
    assert len(left) == ROWS - (inspected.missing or 0)
    live = Live(db)

    salvage(inspected.copied_to, live.insert)

    assert len(live.ids()) >= ROWS - 1 > len(left)
    assert live.all_true()


@pytest.mark.parametrize("header", [bytes(32), b"\xff" * 32])
def test_a_wal_with_a_destroyed_header_comes_back(header: bytes, pristine: Path, tmp_path: Path) -> None:
    """The frames say of themselves what the header no longer does."""
    db = copied(pristine, tmp_path)
    poke(wal_of(db), 0, header)
    inspected = inspect(db, ManualClock())
    assert inspected.copied_to is not None
    live = Live(db)
    assert live.count("deliveries") == KEPT

    salvage(inspected.copied_to, live.insert)

    assert live.ids() == set(range(1, ROWS + 1))
    assert live.all_true()


def test_each_page_lost_costs_only_what_was_on_it(folded: Path, tmp_path: Path) -> None:
    """Whichever page is gone, the rows on the others come back: by the tree where it holds, by the pages where not."""
    size = (folded / "holdfast.db").stat().st_size
    lost = []
    for at in range(0, size, PAGE)[::3]:
        folder = tmp_path / str(at)
        db = copied(folded, folder)
        poke(db, at, b"\xa5" * PAGE)

        _, live = brought_back(db)

        lost.append(ROWS - len(live.ids()))
        assert live.all_true()
        shutil.rmtree(folder)
    assert max(lost) <= 6, "a page holds at most six deliveries"
    assert lost.count(0) > 3


def test_a_changed_body_is_not_handed_on(folded: Path, tmp_path: Path) -> None:
    """The digest of the row tells; the delivery is named, and its bytes stay where they are."""
    db = copied(folded, tmp_path)
    data = db.read_bytes()
    at = data.index(body_of(100))
    poke(db, at + 50, b"\0\0\0\0")

    report, live = brought_back(db)

    assert live.ids() == set(range(1, ROWS + 1)) - {100}
    assert report.damaged == {100}
    assert "1 deliveries are damaged" in report.line
    note = json.loads((Path(report.folder) / "salvaged.json").read_text())
    assert note["damaged"] == [100]


@pytest.mark.parametrize("seed", range(30))
def test_no_damage_is_an_exception_or_an_invention(seed: int, pristine: Path, folded: Path, tmp_path: Path) -> None:
    """Bits flipped and stretches overwritten anywhere: what comes back is what was there."""
    rnd = random.Random(seed)
    db = copied(rnd.choice([pristine, folded]), tmp_path)
    for _ in range(rnd.choice([1, 3, 40])):
        file = rnd.choice([file for file in (db, wal_of(db)) if file.exists()])
        at = rnd.randrange(rnd.choice([200, file.stat().st_size]))
        junk = rnd.choice(
            [bytes([file.read_bytes()[at] ^ 1 << rnd.randrange(8)]), rnd.randbytes(rnd.randrange(1, 400))]
        )
        poke(file, at, junk)

    report, live = brought_back(db)

    assert live.ids() <= set(range(1, ROWS + 1))
    assert live.all_true()
    assert len(live.ids()) > ROWS // 2
    assert sum(report.new.values()) >= len(live.ids())


def test_an_unreadable_block_of_the_disk_is_stepped_over(
    folded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector costs its own 4 KiB, not the file."""
    folder = set_aside(copied(folded, tmp_path))
    pread = os.pread

    def bad_sector(fd: int, size: int, at: int) -> bytes:
        if at <= 40 * PAGE < at + size:
            raise OSError(5, "Input/output error")
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", bad_sector)
    live = Live()

    report = salvage(folder, live.insert)

    assert ROWS - 6 <= len(live.ids()) <= ROWS
    assert any("Input/output error" in line for line in report.complaints)


def test_a_salvage_that_was_interrupted_is_still_to_be_done(folded: Path, tmp_path: Path) -> None:
    """Until every row was taken the folder counts as waiting, and the original in it is as it was."""
    db = copied(folded, tmp_path)
    folder = set_aside(db)
    digest = hashlib.sha256((folder / db.name).read_bytes()).hexdigest()
    (tmp_path / "other.db.damaged-20260413T143000Z").mkdir()
    live = Live()

    def refuse(table: str, rows: list[Row]) -> int:
        if table == "outbox":
            raise TimeoutError("database is locked")
        return live.insert(table, rows)

    with pytest.raises(TimeoutError):
        salvage(folder, refuse)

    assert waiting(db) == [folder]
    assert [file.name for file in folder.iterdir()] == [db.name]
    salvage(folder, live.insert)
    assert waiting(db) == []
    assert live.count("job_history") == ROWS // 5
    assert hashlib.sha256((folder / db.name).read_bytes()).hexdigest() == digest


def test_a_database_of_another_age_gives_what_it_has(tmp_path: Path) -> None:
    """Tables and columns that are not there yet are no hindrance."""
    db = tmp_path / "holdfast.db"
    connection = sqlite3.connect(db)
    body = b'{"a": 1}'
    connection.execute("CREATE TABLE deliveries (id INTEGER PRIMARY KEY, source, received_at, body, body_sha256, old)")
    connection.execute(
        "INSERT INTO deliveries VALUES (7, 's', 'now', ?, ?, 'x')", (body, hashlib.sha256(body).hexdigest())
    )
    connection.commit()
    connection.close()

    report, live = brought_back(db)

    assert live.ids() == {7}
    assert "jobs: the table is not there" in report.complaints


def test_a_row_that_breaks_a_rule_is_passed_over(tmp_path: Path) -> None:
    """One row the fresh database would not take does not keep the others out."""
    live = Live()
    live.connection.execute("BEGIN")
    good: Row = {"source": "s", "job_id": "a", "state": "pending"}
    bad: Row = {"source": "s", "job_id": "b", "state": "nonsense"}
    wrong: Row = {"source": "s", "job_id": "c", "polls": "many"}

    assert insert(live.connection, "jobs", [bad, wrong, good]) == 1


def test_batches_are_bounded(folded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is never asked to take more than a batch at once."""
    monkeypatch.setattr(salvaging, "_BATCH_ROWS", 7)
    sizes: list[int] = []

    def count(table: str, rows: list[Row]) -> int:
        sizes.append(len(rows))
        return 0

    salvage(set_aside(copied(folded, tmp_path)), count)

    assert max(sizes) == 7
    assert sum(sizes) >= ROWS
