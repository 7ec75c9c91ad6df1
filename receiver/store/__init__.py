"""The record's interface (`base`) and its implementations, one folder a dialect. `open_store` picks by URL."""

from receiver.clock import Clock
from receiver.settings import Settings
from receiver.store.base import Store


def open_store(settings: Settings, clock: Clock) -> Store:
    """Open the record these settings name, its schema brought up. Raises StoreUnavailable."""
    from receiver.store.sqlite.store import SqliteOptions, SqliteStore

    store = settings.store
    return SqliteStore(
        SqliteOptions(
            store.path,
            store.spill_path,
            store.spill_max_bytes,
            store.spill_after_s,
            settings.intake.max_waiting_bytes,
        ),
        clock,
    )
