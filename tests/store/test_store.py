"""What every store promises of itself: work in one transaction, hints after commits, a whole file at the end."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.errors import StoreUnavailable
from receiver.store.base import Store, Tx
from tests.store.rows import add_jobs, add_messages, delivery, job, message
from tests.support import aeventually


async def test_work_is_answered_after_its_commit(store: Store, reopen: Callable[[], Store]) -> None:
    """What it returns is returned; what it did is there for everybody, and for the next life."""
    assert await store.write(lambda tx: tx.meta.put("k", "v") or 42) == 42  # type: ignore[func-returns-value]

    assert await store.read(lambda view: view.meta("k")) == "v"
    assert reopen().read_sync(lambda view: view.meta("k")) == "v"


async def test_work_of_many_is_done_one_by_one(store: Store) -> None:
    """Read, add one, write: no update is lost."""

    def count(tx: Tx) -> None:
        tx.meta.put("n", str(int(tx.meta.get("n") or 0) + 1))

    await asyncio.gather(*(store.write(count) for _ in range(200)))

    assert await store.read(lambda view: view.meta("n")) == "200"


async def test_a_caller_that_goes_away_takes_nothing_with_it(store: Store) -> None:
    """Cancelled waiting is not cancelled work: what was queued is committed, and the writer lives on."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        begun.set()
        assert go_on.wait(10)
        tx.meta.put("slow", "done")

    task = asyncio.create_task(store.write(slow))
    assert await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()

    assert await store.write(lambda tx: tx.meta.get("slow")) == "done"


def test_deliveries_go_before_work(store: Store) -> None:
    """However much work is queued, a delivery waits for one piece at the most."""
    order: list[str] = []
    begun, gate = threading.Event(), threading.Event()

    def first(tx: Tx) -> None:
        begun.set()
        assert gate.wait(10)

    def work(tx: Tx) -> None:
        order.append("work")

    threads = [threading.Thread(target=store.write_sync, args=(each,)) for each in (first, *[work] * 20)]
    for thread in threads:
        thread.start()
        assert begun.wait(10)
    store.submit(delivery(store), lambda error: order.append("delivery" if error is None else str(error)))
    gate.set()
    for thread in threads:
        thread.join()

    assert order[0] == "delivery"
    assert len(order) == 21


async def test_a_commit_is_hinted_at(store: Store) -> None:
    """Whoever listens hears what kind of thing changed; a look that changed nothing wakes nobody."""
    heard: list[frozenset[str]] = []
    store.on_commit(heard.append)
    await store.record(delivery(store))
    assert await aeventually(lambda: any("deliveries" in each for each in heard))
    heard.clear()
    await store.write(lambda tx: tx.jobs.add(job()))
    await store.write(lambda tx: tx.outbox.add(message()))
    assert await aeventually(lambda: {"jobs", "outbox"} <= set().union(*heard))
    heard.clear()
    await store.write(lambda tx: tx.jobs.due("src", 0.0, 10))
    await store.write(lambda tx: tx.meta.put("k", "v"))
    assert await aeventually(lambda: bool(heard))

    assert len(heard) == 1


async def test_a_failed_transaction_spoils_no_other(store: Store) -> None:
    """What one piece of work breaks is its own: a constraint, an error of the program, a wrong statement."""

    def constraint(tx: Tx) -> None:
        tx.jobs.add(job("half"))
        tx.jobs.change(job("half"), job("half", settled_at=1.0))

    def program(tx: Tx) -> None:
        tx.jobs.add(job("half"))
        raise KeyError("mine")

    for broken in (constraint, program):
        with pytest.raises(Exception, match=r"CHECK|mine"):
            await store.write(broken)
    add_jobs(store, job("whole"))

    assert store.read_sync(lambda view: [row["job_id"] for row in view.jobs()[0]]) == ["whole"]
    assert store.health().takes_writes


def test_a_closed_store_says_so(store: Store) -> None:
    """It finishes what is queued, and takes nothing more; closing again is nothing."""
    add_messages(store, message())
    store.close()
    store.close()

    with pytest.raises(StoreUnavailable):
        store.write_sync(lambda tx: tx.meta.get("k"))
    assert not store.health().takes_writes


def test_health_says_what_durable_means_here(store: Store) -> None:
    """WAL, a sync for every commit, nothing spilled, nothing missing."""
    health = store.health()

    assert (health.takes_writes, health.why_not, health.missing) == (True, None, 0)
    assert (health.journal_mode, health.synchronous) == ("wal", "FULL")
    assert (health.spill_records, health.spill_bytes, health.waiting_bytes) == (0, 0, 0)
    assert health.file_bytes + health.wal_bytes > 0
    assert health.quarantined_file is None


def test_a_backup_that_cannot_be_written_says_so(store: Store, tmp_path: Path) -> None:
    """One readable sentence with what to do."""
    with pytest.raises(StoreUnavailable, match="backing up"):
        store.backup(str(tmp_path / "no-such-folder" / "copy.db"))


def test_a_store_leaves_no_thread_behind(reopen: Callable[[], Store]) -> None:
    """Opened and closed again and again."""
    reopen().read_sync(lambda view: view.unread())
    before = threading.active_count()
    for _ in range(10):
        reopen().read_sync(lambda view: view.unread())

    assert threading.active_count() <= before
