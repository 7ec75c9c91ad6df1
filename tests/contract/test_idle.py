"""A sidecar with nothing to do does nothing."""

from pathlib import Path

from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from tests.support import ManualClock


async def test_looking_for_work_wakes_nobody(tmp_path: Path) -> None:
    """A transaction that changed no row is not announced; else whoever looked would wake himself without end."""
    store = SqliteStore(SqliteOptions(tmp_path / "holdfast.db"), ManualClock())
    heard: list[frozenset[str]] = []
    store.on_commit(heard.append)
    try:
        assert await store.write(lambda tx: tx.outbox.claim(1.0, 2.0, 10, ["any"])) == []
        assert heard == []
        await store.write(lambda tx: tx.meta.put("word", "said"))
        assert len(heard) == 1, "a change is announced"
    finally:
        store.close()
