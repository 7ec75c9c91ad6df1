"""The spill journal and the store that owns it: what was spilled is moved in, however busy the store is."""

import hashlib
from pathlib import Path

from receiver.errors import StoreUnavailable
from receiver.records import Delivery, DeliveryId
from receiver.spill import SpillJournal
from receiver.store.sqlite.spilling import Spiller
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from receiver.store.sqlite.writer import Pending
from tests.support import START, ManualClock, eventually


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


class Watch:
    """The spill thread's looks, one at a time; what it took over is in `kept`."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.failing: str | None = None
        self.commits = 0
        self.kept: list[int] = []
        self.spiller = Spiller(
            SpillJournal(folder / "spill", 1 << 20),
            self.clock,
            1.0,
            failing=lambda: self.failing,
            commits=lambda: self.commits,
        )

    def arrive(self, number: int) -> None:
        def done(error: StoreUnavailable | None) -> None:
            assert error is None
            self.kept.append(number)

        one = Delivery(DeliveryId(number), "s", START, "x", (), b"{}", hashlib.sha256(b"{}").hexdigest())
        self.spiller.watch(Pending(one, done, self.clock.monotonic()))

    def after(self, seconds: float) -> list[int]:
        self.clock.advance(seconds)
        self.spiller._look()
        return self.kept


def test_a_delivery_is_taken_over_before_its_second_is_over(fast_folder: Path) -> None:
    """The journal's own sync is to end within `spill_after_s`."""
    watch = Watch(fast_folder)
    watch.arrive(1)

    assert watch.after(0.79) == []
    assert watch.after(0.02) == [1]


def test_a_disk_that_stood_still_a_moment_ago_is_not_waited_for_again(fast_folder: Path) -> None:
    """What comes while the same commit hangs is taken over at once; after a commit that worked it is waited for."""
    watch = Watch(fast_folder)
    watch.arrive(1)
    watch.after(0.81)
    watch.arrive(2)
    assert watch.after(0.03) == [1, 2]
    watch.commits += 1
    watch.arrive(3)

    assert watch.after(0.5) == [1, 2]
    assert watch.after(0.31) == [1, 2, 3]


def test_a_database_known_to_fail_is_waited_for_a_moment_only(fast_folder: Path) -> None:
    """Whoever holds it may let go; a quarter of a second is long for that."""
    watch = Watch(fast_folder)
    watch.failing = "database is locked"
    watch.arrive(1)

    assert watch.after(0.24) == []
    assert watch.after(0.02) == [1]
