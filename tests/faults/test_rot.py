"""Rotten files: a flipped bit is noticed, a bad file keeps no receiver from starting, nothing is thrown away."""

import hashlib
from pathlib import Path

import pytest

from faults import rot
from receiver.interpret import understood
from receiver.records import Delivery
from receiver.settings import SourceSettings
from receiver.store.sqlite.deliveries import delivery_of
from receiver.store.sqlite.shapes import digest_holds
from receiver.store.sqlite.store import SqliteOptions, SqliteStore


def test_no_flipped_bit_does_harm_unnoticed(tmp_path: Path) -> None:
    """Whatever a bit in the database or its log does to a delivery, its digest, the mark or the start tells of it."""
    assert rot.flips(tmp_path, 60).faults == []


@pytest.mark.parametrize("without", ["digest", "mark"])
def test_each_of_the_two_detectors_is_needed(without: str, tmp_path: Path) -> None:
    """The check can fail: without the digests, or without the mark, flips go unnoticed."""
    assert rot.flips(tmp_path, 40, digest=without != "digest", mark=without != "mark").faults


@pytest.mark.process
def test_a_receiver_starts_on_a_bad_file_and_keeps_it(tmp_path: Path) -> None:
    """Three of the twelve kinds: the first acknowledgement within a second, the evidence whole, the log says so."""
    kinds = ("database empty, log left", "database random", "log random")
    assert rot.bad_files(tmp_path, kinds=kinds).faults == []


@pytest.mark.process
@pytest.mark.parametrize("planted", ["", "no-mark"])
def test_rows_that_vanished_are_told_of(planted: str, tmp_path: Path) -> None:
    """In the log, in `status` and in `check`, with the word missing; without the mark nobody would know."""
    assert bool(rot.told(tmp_path, planted=planted).faults) == bool(planted)


def _flipped(folder: Path, old: bytes, new: bytes) -> Path:
    """A database in which some bytes of its schema are others."""
    db = folder / "holdfast.db"
    SqliteStore(SqliteOptions(db)).close()
    data = db.read_bytes()
    assert old in data
    db.write_bytes(data.replace(old, new))
    return db


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"CHECK ((state = 'pending')", b"CHECK ((svate = 'pending')"),  # only a writing connection minds
        (b"CHECK (state IN (", b"CHECK\xa0(state IN ("),  # what SQLite says of it is no text
        (b"CHECK ((state = 'pending')", b"CHECK ((st\xe5te = 'pending')"),  # both
        (b"CREATE TABLE jobs", b"CREATE TAALE jobs"),
    ],
)
def test_a_store_starts_on_a_damaged_schema(old: bytes, new: bytes, tmp_path: Path) -> None:
    """A bit in the schema moves the file aside like any other damage; the store takes deliveries into a fresh one."""
    db = _flipped(tmp_path, old, new)

    store = SqliteStore(SqliteOptions(db))
    try:
        store.record_sync(Delivery(store.next_id(), "s", 0.0, "x", (), b"{}", "0" * 64))
        moved = store.health().quarantined_file
    finally:
        store.close()

    assert moved is not None
    assert new in (Path(moved) / db.name).read_bytes()


@pytest.mark.parametrize("body", ["{}", 7, 7.5])
def test_a_body_that_is_no_longer_bytes_is_damage_and_stops_nobody(body: float | str) -> None:
    """One bit in a row's header makes text or a number of a body: not handed on, and read as bytes."""
    row = (1, "s", "2026-04-13T14:30:00.000Z", "", "[]", body, "0" * 64, "new", None, None, None, None)

    assert not digest_holds({"id": 1, "body": body, "body_sha256": hashlib.sha256(b"{}").hexdigest()})
    assert delivery_of(row).body == str(body).encode()
    assert understood(delivery_of(row), SourceSettings.named("s", provider="omnifence")).reading.problem == "damaged"
