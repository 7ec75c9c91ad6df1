"""A small database as a killed process leaves it, and ways to damage it. Used by the tests of boot and salvage."""

import hashlib
import shutil
from pathlib import Path

from receiver.marks import HighWaterMark, beside
from receiver.store.sqlite import driver, schema
from receiver.store.sqlite.boot import family

ROWS = 300
KEPT = 60
"""Rows that were folded into the database file before the rest went to the WAL."""
AT = "2026-04-13T14:30:00.000Z"


def body_of(id: int) -> bytes:
    """Most fit into a page, some need several more."""
    return hashlib.sha256(str(id).encode()).digest() * (400 if id % 17 == 0 else 20)


def insert(connection: driver.Connection, ids: range) -> None:
    """Ten deliveries a transaction, so that losing part of a WAL loses part of the rows; a job, a message and a story
    with every fifth."""
    for id in ids:
        if not connection.in_transaction:
            connection.execute("BEGIN")
        body = body_of(id)
        connection.execute(
            "INSERT INTO deliveries (id, source, received_at, body, body_sha256, job_id) VALUES (?, 's', ?, ?, ?, ?)",
            (id, AT, body, hashlib.sha256(body).hexdigest(), f"job{id}"),
        )
        connection.execute("INSERT INTO event_keys VALUES ('s', ?, ?, ?)", (f"key{id}", id, AT))
        if id % 5 == 0:
            connection.execute(
                "INSERT INTO jobs (source, job_id, modality, metadata) VALUES ('s', ?, 'video', '{}')", (f"job{id}",)
            )
            connection.execute(
                "INSERT INTO job_history (source, job_id, at, to_state, by) VALUES ('s', ?, ?, 'pending', 'x')",
                (f"job{id}", AT),
            )
            connection.execute(
                "INSERT INTO outbox (id, source, job_id, type, payload, created_at) VALUES (?, 's', ?, 't', '{}', ?)",
                (f"msg{id}", f"job{id}", AT),
            )
        if id % 10 == 0 or id == ids[-1]:
            connection.execute("COMMIT")


def build(db: Path, kept: int = KEPT) -> None:
    """Some rows in the file, some in the WAL, and a mark."""
    scratch = db.with_name("scratch.db")
    connection = driver.open_writer(scratch)
    schema.migrate(connection)
    if kept:
        insert(connection, range(1, kept + 1))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    insert(connection, range(kept + 1, ROWS + 1))
    for old, new in zip(family(scratch)[:2], family(db)[:2], strict=True):
        shutil.copyfile(old, new)
    connection.close()
    for file in family(scratch):
        file.unlink(missing_ok=True)
    mark = HighWaterMark(beside(db))
    mark.note(ROWS, ROWS)
    mark.close()


def wal_of(db: Path) -> Path:
    """Its write-ahead log."""
    return family(db)[1]


def poke(file: Path, at: int, data: bytes) -> None:
    """Overwrite some bytes."""
    with open(file, "r+b") as out:
        out.seek(at)
        out.write(data)


def fold(db: Path) -> None:
    """Stop cleanly: the WAL is folded into the file and gone."""
    driver.open_writer(db).close()
    assert not wal_of(db).exists()
