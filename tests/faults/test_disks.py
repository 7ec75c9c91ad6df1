"""Locked, slow, full and failing disks: acknowledged is kept, and the receiver comes back by itself."""

import threading
from pathlib import Path

import pytest

from faults import NotMeasured, Result, disk, each, locked
from receiver.errors import StoreUnavailable
from receiver.records import Delivery
from receiver.store.sqlite.store import SqliteOptions, SqliteStore

pytestmark = pytest.mark.process


def full(folder: Path, *, elsewhere: bool) -> Result:
    """On a file system that is full; where none can be mounted, on one that lets no file grow."""
    try:
        return disk.full(folder, elsewhere=elsewhere)
    except NotMeasured:
        return disk.quota(folder / "quota")


def test_while_somebody_holds_the_database_everybody_is_acknowledged(tmp_path: Path) -> None:
    """A foreign BEGIN EXCLUSIVE, then VACUUMs: nobody refused, the first wait about a second, the others none."""
    assert locked.locked(tmp_path, 2.5).faults == []


def test_waiting_for_the_database_would_be_caught(tmp_path: Path) -> None:
    """The check can fail: without the journal next to nothing is acknowledged."""
    assert locked.locked(tmp_path, 1.5, planted="no-spill").faults


def test_a_disk_that_stands_still_holds_up_nobody_when_the_journal_lies_elsewhere(tmp_path: Path) -> None:
    """Each sync of the database takes two seconds; no acknowledgement takes more than one and a half."""
    try:
        assert locked.stalled(tmp_path, elsewhere=True, lasting_s=2.5).faults == []
    except NotMeasured as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_full_disk_costs_no_acknowledged_delivery(elsewhere: bool, tmp_path: Path) -> None:
    """With the journal on another disk nobody is refused; when there is room again both go on without a restart."""
    assert full(tmp_path, elsewhere=elsewhere).faults == []


@pytest.mark.parametrize("elsewhere", [True, False])
def test_no_io_error_costs_an_acknowledged_delivery(elsewhere: bool, tmp_path: Path) -> None:
    """Twelve kinds of error on a running receiver: acknowledged is kept, and it goes on a moment after each."""
    try:
        assert disk.errors(tmp_path, elsewhere=elsewhere, lasting_s=0.15).faults == []
    except NotMeasured as why:
        pytest.skip(str(why))


def test_an_error_answered_as_success_is_caught(tmp_path: Path) -> None:
    """The check can fail: a failed commit that is acknowledged all the same."""
    try:
        assert disk.errors(tmp_path, elsewhere=False, lasting_s=0.1, planted="answered-errors").faults
    except NotMeasured as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("planted", ["", "answered-errors"])
def test_whichever_operation_fails_nothing_acknowledged_is_lost(planted: str, tmp_path: Path) -> None:
    """Start, record, spill, drain, stop, and one operation in it fails, once and for ever; a planted bug is found."""
    try:
        result = each.every(tmp_path, step=40, first=5, planted=planted)
    except NotMeasured as why:
        pytest.skip(str(why))
    assert bool(result.faults) == bool(planted), result.faults


def test_the_writer_outlives_whoever_fails_on_its_thread(tmp_path: Path) -> None:
    """A callback that raises costs its own news, not every delivery and every job from then on."""
    store = SqliteStore(SqliteOptions(tmp_path / "holdfast.db", spill_after_s=0.05))
    raised = threading.Event()

    def fails(changed: frozenset[str]) -> None:
        if not raised.is_set():
            raised.set()
            raise RuntimeError("of somebody who only listens")

    try:
        store.on_commit(fails)
        for _ in range(3):
            store.record_sync(Delivery(store.next_id(), "s", 0.0, "x", (), b"{}", "0" * 64))
        assert raised.is_set()
        assert store.write_sync(lambda tx: tx.meta.get("no such key")) is None
    except StoreUnavailable as error:
        pytest.fail(str(error))
    finally:
        store.close()
