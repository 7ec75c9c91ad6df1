"""The spill journal and the store that owns it: what was spilled is moved in, however busy the store is."""

import hashlib
from pathlib import Path

from receiver.records import Delivery, DeliveryId
from receiver.spill import SpillJournal
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from tests.support import START, eventually


def test_a_store_that_is_never_idle_empties_its_journal_all_the_same(fast_folder: Path) -> None:
    """Work comes without a pause, as from many sources that are swept: what was spilled is moved in within seconds."""
    journal = SpillJournal(fast_folder / "holdfast.db-spill", 1 << 20)
    journal.append([Delivery(DeliveryId(7), "s", START, "x", (), b"{}", hashlib.sha256(b"{}").hexdigest())])
    journal.close()
    store = SqliteStore(SqliteOptions(fast_folder / "holdfast.db"))
    try:

        def drained() -> bool:
            store.write_sync(lambda tx: None)
            return store.health().spill_records == 0

        eventually(drained, 5.0)
        assert store.read_sync(lambda view: view.delivery(DeliveryId(7))) is not None
    finally:
        store.close()
