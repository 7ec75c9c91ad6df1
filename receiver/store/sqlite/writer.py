"""The one writer: a thread that owns the only writing connection, commits deliveries in groups, and runs work.

Deliveries always go first: between two pieces of work the thread looks for deliveries that arrived meanwhile. One
commit covers everything that waited (group commit), so a burst costs a few syncs, not one each. A commit that fails is
rolled back and the connection reopened; a failed sync is never tried again as if it had worked. Whoever waits longer
than `spill_after_s` is taken over by the spill thread (`spilling.py`); a delivery both spilled and committed later is
one row, because ids are unique.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from receiver.clock import Clock
from receiver.errors import StoreUnavailable
from receiver.records import Delivery
from receiver.store.base import Tx
from receiver.store.sqlite import driver
from receiver.store.sqlite.deliveries import LARGEST_INSERT, in_one, put_in
from receiver.store.sqlite.driver import Connection, sqlite3
from receiver.store.sqlite.transaction import SqliteTx

log = structlog.get_logger("holdfast.store")

WORK_PATIENCE_S = 10.0
"""How long a piece of work waits for a database that takes no writes before its caller hears so."""
IDLE_S = 0.5


class Pending:
    """A delivery that somebody waits for."""

    __slots__ = ("delivery", "done", "over", "since")

    def __init__(self, delivery: Delivery, done: Callable[[StoreUnavailable | None], object], since: float) -> None:
        self.delivery = delivery
        self.done = done
        self.since = since
        self.over = False
        """True once answered (committed, spilled or given up): the writer passes over it. Whoever sets it answers."""


class Work:
    """A function that wants a transaction."""

    __slots__ = ("done", "run", "since")

    def __init__(
        self, run: Callable[[Tx], Any], done: Callable[[Any, BaseException | None], object], since: float
    ) -> None:
        self.run = run
        self.done = done
        self.since = since


class Writer:
    """Owns the writing connection. Everything public here may be called from any thread."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        answer: Callable[[Sequence[Pending]], None],
        on_commit: Callable[[Sequence[Delivery], int], None],
    ) -> None:
        self._path = path
        self._clock = clock
        self._answer = answer
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[Pending | Work | None] = queue.SimpleQueue()
        self._records: deque[Pending] = deque()
        self._work: deque[Work] = deque()
        self._connection: Connection | None = None
        self._closing = False
        self._wrote = False
        """Whether the last transaction changed a row."""
        self.failing: str | None = None
        """Why the last commit did not work; None while commits work. Read by the spill thread and by /readyz."""
        self.failing_since: float | None = None
        self.commits = 0
        """How many transactions have worked."""
        self.on_idle: Callable[[], None] = lambda: None
        """Called on the writer's thread when nothing waits (draining the spill, syncing the mark)."""
        self._thread = threading.Thread(target=self._run, name="holdfast-writer", daemon=True)

    def start(self, connection: Connection) -> None:
        """Take over an open connection and begin."""
        self._connection = connection
        self._thread.start()

    def put(self, item: Pending | Work) -> None:
        """Queue a delivery or a piece of work."""
        self._queue.put(item)

    def close(self) -> None:
        """Finish what is queued, then close the connection."""
        self._closing = True
        self._queue.put(None)
        self._thread.join(timeout=30.0)

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    break
            except Exception:
                # Somebody's callback failed. Nobody else would ever commit anything again if this thread ended.
                log.exception("store.writer_failed")
        if self._connection is not None:
            self._connection.close()

    def _turn(self) -> bool:
        """Take what has come and do one thing; False when there is nothing left to do for ever."""
        self._take(block=not (self._records or self._work))
        if self._records:
            self.commit_waiting()
        elif self._work:
            self._do(self._work.popleft())
        elif self._closing and self._queue.empty():
            return False
        else:
            self._idle()
        return True

    def _take(self, *, block: bool) -> None:
        try:
            item = self._queue.get(timeout=IDLE_S) if block else self._queue.get_nowait()
            while True:
                if isinstance(item, Pending):
                    self._records.append(item)
                elif item is not None:
                    self._work.append(item)
                if len(self._records) >= LARGEST_INSERT:
                    return
                item = self._queue.get_nowait()
        except queue.Empty:
            return

    def _idle(self) -> None:
        try:
            if self.failing is not None:
                self.transact(lambda tx: None)
            self.on_idle()
        except (sqlite3.Error, StoreUnavailable, OSError) as error:
            self._failed(error)
        except Exception:
            log.exception("store.idle_failed")

    def commit_waiting(self) -> None:
        """Commit the deliveries that wait now, and answer them. Only on the writer's thread."""
        group = [self._records.popleft() for _ in range(in_one(len(self._records)))]
        group = [pending for pending in group if not pending.over]
        if not group:
            return
        deliveries = [pending.delivery for pending in group]
        try:
            added = self._attempt(lambda connection: put_in(connection, deliveries))
        except (sqlite3.Error, StoreUnavailable, OSError) as error:
            self._failed(error)
            self._records.extendleft(reversed(group))  # still in order; the spill thread watches their age
            return
        self._answer(group)  # first: the mark may lag behind, it then reports too little and never too much
        self._on_commit(deliveries, added)

    def insert(self, deliveries: Sequence[Delivery]) -> None:
        """Keep drained deliveries; those waiting at the door go first. Only on the writer's thread."""
        self._take(block=False)
        if self._records:
            self.commit_waiting()
        self._on_commit(deliveries, self.transact(lambda tx: tx.deliveries.add(deliveries)))

    def transact(self, work: Callable[[Tx], Any]) -> Any:
        """Run `work` in one transaction. Only on the writer's thread; raises what SQLite raises, rolled back."""

        def whole(connection: Connection) -> Any:
            tx = SqliteTx(connection)
            connection.execute("BEGIN IMMEDIATE")
            value = work(tx)
            tx.flush()
            connection.execute("COMMIT")
            return value

        return self._attempt(whole)

    def _attempt(self, transaction: Callable[[Connection], Any]) -> Any:
        """Run a whole transaction; whatever stops it, nothing of it stays."""
        connection = self._open()
        changes = connection.total_changes
        try:
            value = transaction(connection)
            self.commits += 1
        except BaseException as error:
            self._roll_back(connection, error)
            raise
        if self.failing is not None:
            log.info("store.recovered", after_s=round(self._clock.monotonic() - (self.failing_since or 0.0), 3))
            self.failing, self.failing_since = None, None
        self._wrote = connection.total_changes != changes
        return value

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = driver.open_writer(self._path)
        return self._connection

    def _roll_back(self, connection: Connection, error: BaseException) -> None:
        broken = isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError)
        try:
            if connection.in_transaction:  # the error may have ended it already
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            broken = True
        if broken and not is_locked(error):
            # After an I/O error what the connection holds in memory is not to be trusted: begin with a new one.
            self._connection = None
            try:
                connection.close()
            except sqlite3.Error as close_error:
                log.warning("store.close_failed", error=str(close_error))

    def _failed(self, error: BaseException) -> None:
        if self.failing is None:
            self.failing_since = self._clock.monotonic()
            log.warning(
                "store.commit_failed", error=str(error), doing="deliveries go to the spill journal until it works"
            )
        self.failing = str(error)
        if not is_locked(error):
            # SQLite waits for a lock by itself; for anything else pause here, so that a broken disk is not hammered.
            threading.Event().wait(0.05)

    def _do(self, work: Work) -> None:
        try:
            value = self.transact(work.run)
        except (sqlite3.OperationalError, StoreUnavailable, OSError) as error:
            self._failed(error)
            if self._closing or self._clock.monotonic() - work.since > WORK_PATIENCE_S:
                work.done(
                    None,
                    StoreUnavailable(
                        f"writing to the database {self._path}: {error}; see `holdfast check`, then try again"
                    ),
                )
            else:
                self._work.append(work)
            return
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            work.done(None, error)
            return
        if self._wrote:  # a look that found nothing to do wakes nobody, least of all whoever looked
            self._on_commit([], 0)
        work.done(value, None)


def is_locked(error: BaseException) -> bool:
    """Whether somebody else holds the database: waiting helps, nothing is broken."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
