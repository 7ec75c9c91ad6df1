"""The record's interface (`base`) and its implementations, one folder a dialect. `open_store` picks by URL."""

from collections.abc import Callable
from typing import TypeVar

from receiver.clock import Clock
from receiver.settings import Settings
from receiver.store.base import Store
from receiver.store.views import View

T = TypeVar("T")


def open_store(settings: Settings, clock: Clock, *, keeper: bool = True) -> Store:
    """Open the record these settings name, its schema brought up. `keeper`: this process records deliveries (it owns
    the spill journal). Raises StoreUnavailable."""
    from receiver.store.sqlite.store import SqliteOptions, SqliteStore

    store = settings.store
    return SqliteStore(
        SqliteOptions(
            store.path,
            store.spill_path,
            store.spill_max_bytes,
            store.spill_after_s,
            settings.intake.max_waiting_bytes,
            keeper,
        ),
        clock,
    )


def look(settings: Settings, question: Callable[[View], T]) -> T:
    """Answer one question from the record without opening it for writing. Raises StoreUnavailable."""
    from receiver.store.sqlite.maintenance import look_at

    return look_at(settings.store.path, question)
