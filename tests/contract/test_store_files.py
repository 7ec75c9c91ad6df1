"""The database file: whose it is, and whether rows are missing from it."""

from hashlib import sha256
from pathlib import Path

import pytest

from receiver.clock import SystemClock
from receiver.errors import StoreUnavailable
from receiver.records import Delivery
from receiver.store.base import Retention
from receiver.store.sqlite import driver
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from tests.receiver.scene import Scene
from tests.support import START, aeventually


def by_hand(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    """Not even its journal mode is changed, which is written into the file."""
    path = tmp_path / "theirs.db"
    by_hand(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()

    with pytest.raises(StoreUnavailable, match="another program"):
        driver.open_writer(path)

    assert path.read_bytes() == before


async def test_rows_that_somebody_removed_are_missing(fast_folder: Path) -> None:
    """What was acknowledged, is gone, and was not pruned is reported after a start, and once."""
    scene = Scene(fast_folder / "holdfast.db")
    await scene.deliver_all([{"job_id": f"j{index}", "status": "completed"} for index in range(5)])
    await scene.read()
    scene.store.close()
    by_hand(scene.path, "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries ORDER BY id LIMIT 2)")

    scene.restart()
    first = scene.store.health().missing
    scene.restart()
    again = scene.store.health().missing
    told = await scene.store.read(lambda view: view.meta("deliveries.missing"))
    scene.store.close()

    assert (first, again, told) == (2, 2, "2")


async def test_rows_that_were_pruned_are_not_missing(fast_folder: Path) -> None:
    """Retention removes what it may; nobody is alarmed."""
    scene = Scene(fast_folder / "holdfast.db")
    await scene.deliver_all([{"job_id": f"j{index}", "status": "completed"} for index in range(5)])
    await scene.read()
    old = Retention(START + 1e6, None, None, None, held_before={"known": START + 1e6})
    gone = await scene.store.write(lambda tx: tx.meta.prune(old, 100))

    scene.restart()
    missing = scene.store.health().missing
    scene.store.close()

    assert gone["deliveries"] == 5
    assert missing == 0


async def test_a_start_waits_for_nobody(fast_folder: Path) -> None:
    """While somebody else holds the database, a receiver starts all the same and acknowledges into the journal."""
    path = fast_folder / "holdfast.db"
    SqliteStore(SqliteOptions(path), SystemClock()).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store = SqliteStore(SqliteOptions(path, spill_after_s=0.05), SystemClock())
    try:
        await store.record(Delivery(store.next_id(), "known", START, "192.0.2.1", (), b"{}", sha256(b"{}").hexdigest()))
        waiting = store.health().spill_records
        holder.execute("ROLLBACK")
        await aeventually(lambda: store.health().spill_records == 0)
        kept = await store.read(lambda view: view.deliveries()[0])
    finally:
        holder.close()
        store.close()

    assert waiting == 1
    assert [row["source"] for row in kept] == ["known"]
