"""The stores that keep the promises of `receiver.store.base`: each test of the conformance suite runs on every one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.store.base import Store
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from tests.support import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Stands still until it is moved."""
    return ManualClock()


@pytest.fixture(params=["sqlite"])
def reopen(request: pytest.FixtureRequest, fast_folder: Path, clock: ManualClock) -> Iterator[Callable[[], Store]]:
    """Opens the record, again and again: what an earlier life committed is there."""
    assert request.param == "sqlite"
    opened: list[SqliteStore] = []

    def open_it() -> Store:
        for store in opened:
            store.close()
        opened.append(SqliteStore(SqliteOptions(fast_folder / "record.db"), clock))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    """A fresh record."""
    return reopen()
