"""`holdfast backup PATH`: what it writes, and what it never writes over."""

import os
from pathlib import Path

import pytest

from receiver.errors import UsageError
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.maintenance import copy_to
from tests.store.damaged import ROWS, build


@pytest.fixture
def database(fast_folder: Path) -> Path:
    path = fast_folder / "holdfast.db"
    build(path)
    return path


def deliveries(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM deliveries").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize(
    "name", ["holdfast.db", "holdfast.db-wal", "holdfast.db.mark", "link.db", "./../{folder}/holdfast.db"]
)
def test_a_backup_never_replaces_the_database_it_copies(database: Path, name: str) -> None:
    """Neither the file itself, by whatever name, nor what lies beside it as a part of it."""
    (database.parent / "link.db").symlink_to(database)
    before = database.stat()

    with pytest.raises(UsageError, match="name another file"):
        copy_to(database, str(database.parent / name.format(folder=database.parent.name)))

    after = database.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


def test_a_backup_never_replaces_a_file_that_is_no_database(database: Path) -> None:
    """A mistyped path costs nobody a file."""
    letter = database.with_name("letter.txt")
    letter.write_text("Dear operator")

    with pytest.raises(UsageError, match="no database"):
        copy_to(database, str(letter))

    assert letter.read_text() == "Dear operator"


def test_a_backup_replaces_an_older_backup_whole(database: Path) -> None:
    """The copy has every row, as private as the database, and nothing is left beside it."""
    copy = database.with_name("copy.db")
    copy_to(database, str(copy))
    os.chmod(database, 0o640)

    copy_to(database, str(copy))

    assert deliveries(copy) == ROWS
    assert copy.stat().st_mode & 0o777 == 0o640
    assert not [file.name for file in database.parent.iterdir() if file.name.startswith("copy.db") and file != copy]
