"""Generated databases are such as the product would have written."""

from pathlib import Path

from bench.generate import history
from bench.record import DATABASE
from receiver.store.sqlite.store import SqliteOptions, SqliteStore


def test_nothing_is_missing_from_a_generated_history(tmp_path: Path) -> None:
    """Its own counts agree with its rows, so a start on it finds nothing to complain of."""
    history(tmp_path, deliveries=30, settled=6, pending=4)
    store = SqliteStore(SqliteOptions(tmp_path / DATABASE))
    recorded = store.write_sync(lambda tx: tx.meta.get("deliveries.recorded"))
    missing = store.health().missing
    store.close()

    assert (recorded, missing) == ("30", 0)
