"""The SQLite store: one writer thread, a spill thread, and readers that never wait for either.

What commits together is visible in the callers' functions handed to `write`; this file owns connections, start and
stop. A connection belongs to one thread: sharing one hides failures.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from receiver.clock import Clock, SystemClock
from receiver.errors import StoreUnavailable
from receiver.marks import HighWaterMark
from receiver.records import Delivery, DeliveryId
from receiver.spill import SpillJournal
from receiver.store.base import StoreHealth, Tx, View
from receiver.store.sqlite import driver, schema
from receiver.store.sqlite.boot import BootReport, inspect
from receiver.store.sqlite.driver import Connection, sqlite3
from receiver.store.sqlite.filesystem import file_system
from receiver.store.sqlite.maintenance import copy_to
from receiver.store.sqlite.outcomes import tell
from receiver.store.sqlite.salvage import salvage, waiting
from receiver.store.sqlite.spilling import Spiller
from receiver.store.sqlite.stock import take_stock
from receiver.store.sqlite.views import SqliteView
from receiver.store.sqlite.walfile import WalWatch
from receiver.store.sqlite.writer import Pending, Work, Writer

log = structlog.get_logger("holdfast.store")
T = TypeVar("T")

READERS = 4
BOOT_LOOK_S = 0.1
"""How long a start looks at the file before it is used: the first acknowledgement must not wait for long."""
DRAIN_AGAIN_S = 30.0
"""After the journal held a file that could not be read, it is looked at again this much later."""
_RECORDED = frozenset(("deliveries",))
_WORKED = frozenset(("deliveries", "jobs", "outbox"))


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """Where the file is and how patient the store is."""

    path: Path
    spill_dir: Path | None = None
    spill_max_bytes: int = 1 << 30
    spill_after_s: float = 1.0
    max_waiting_bytes: int = 64 << 20
    """Bodies queued for the writer together; past it `record` refuses at once."""
    keeper: bool = True
    """Whether this process is the one that records deliveries: it alone owns the spill journal and the high-water mark
    and may move a damaged file aside. The others (reconcile, the command line) leave them alone."""


class SqliteStore:
    """Keeps the promises of `base.Store`."""

    def __init__(self, options: SqliteOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock: Clock = clock or SystemClock()
        self._hooks: list[Callable[[frozenset[str]], None]] = []
        self._id_lock = threading.Lock()
        self._local = threading.local()
        self._readers_open: list[Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="holdfast-reader")
        self._journal = SpillJournal(
            options.spill_dir or options.path.with_name(options.path.name + "-spill"), options.spill_max_bytes
        )
        self._mark = HighWaterMark(options.path.with_name(options.path.name + ".mark"))
        self._marked = self._looked = self._drain_at = 0.0
        self._wal = WalWatch(options.path)
        self._missing = self._recorded = self._newest = 0
        self._quarantined: str | None = None
        self._damaged: str | None = None
        """What a look at the file met since the start; told until the next one, which sets the file aside."""
        self._closed = False
        self._writer = Writer(options.path, self._clock, answer=self._answer, on_commit=self._committed)
        self._spiller = Spiller(
            self._journal,
            self._clock,
            options.spill_after_s,
            failing=lambda: self._writer.failing,
            commits=lambda: self._writer.commits,
        )
        self._open()

    # -- start and stop -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        path = self._options.path
        report = inspect(path, self._clock, BOOT_LOOK_S) if self._options.keeper else None
        connection = driver.open_writer(path)
        try:
            with contextlib.suppress(sqlite3.OperationalError):  # somebody reads or writes: the log is folded in later
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            schema.migrate(connection)
            if report is not None:
                self._catch_up(connection, report)
        except sqlite3.Error as error:
            connection.close()
            raise StoreUnavailable(
                f"opening the database {path}: {error}; check that nobody holds it and that its folder can be written"
            ) from error
        except StoreUnavailable:
            connection.close()
            raise
        self._hold_log_open(path)
        self._writer.on_idle = self._idle
        self._writer.start(connection)
        if self._options.keeper:
            self._spiller.start()
        self._log_durability()
        if report is not None and report.todo:
            self._quarantined = str(report.moved_to or report.copied_to)
            log.error("store.damaged", why=report.why, todo=report.todo)

    def _catch_up(self, connection: Connection, report: BootReport) -> None:
        """Where ids and counts go on from, and whether rows are missing that an earlier life had committed."""
        mark = self._mark.read()
        standing = take_stock(connection, self._mark, report)
        self._newest, self._recorded, self._missing = standing.last_id, standing.recorded, standing.missing
        marks = [each.last_id for each in (mark, report.mark) if each is not None]
        self._last_id = max(standing.last_id, self._journal.last_id, *marks)

    def _log_durability(self) -> None:
        kind, remote = file_system(self._options.path)
        log.info(
            "store.opened",
            path=str(self._options.path),
            journal_mode="wal",
            synchronous="FULL",
            file_system=kind,
            sqlite=driver.version(),
            spill_records=self._journal.records,
        )
        if remote:
            log.warning(
                "store.network_file_system", file_system=kind, what="WAL needs a local disk: sqlite.org/wal.html"
            )

    def _hold_log_open(self, path: Path) -> None:
        """A connection that does nothing, so that the writer's, opened anew after a failed sync, never finds the log
        unattended: SQLite would take for committed what that sync left in memory and on no disk, and all that follows
        would hang on it until a power cut."""
        with contextlib.suppress(sqlite3.Error, StoreUnavailable):
            holder = driver.open_reader(path)
            self._readers_open.append(holder)
            holder.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # Readers first: the last connection to close folds the log into the file, and only the writer's can.
        self._readers.shutdown(wait=True)
        for connection in self._readers_open:
            connection.close()
        self._writer.close()
        if self._options.keeper:
            self._spiller.close()
            with contextlib.suppress(OSError):
                self._mark.sync()

    # -- deliveries ---------------------------------------------------------------------------------------------

    def next_id(self) -> DeliveryId:
        with self._id_lock:
            self._last_id = max(self._last_id + 1, int(self._clock.now() * 1000) << 20)
            return DeliveryId(self._last_id)

    def submit(self, delivery: Delivery, done: Callable[[StoreUnavailable | None], object]) -> None:
        """Queue a delivery; `done` is called from another thread once it is durable, or with the reason it is not."""
        if not self._options.keeper:
            raise StoreUnavailable(
                "keeping a delivery: this process is not the receiver; start it with `holdfast receive`"
            )
        if self._spiller.waiting_bytes + len(delivery.body or b"") > self._options.max_waiting_bytes:
            raise StoreUnavailable(
                "keeping a delivery: too much waits for the disk already; the sender should try again"
            )
        pending = Pending(delivery, done, self._clock.monotonic())
        self._spiller.watch(pending)
        self._writer.put(pending)
        self._look_in_time()

    def waiting(self) -> int:
        return self._spiller.waiting

    def _answer(self, group: Sequence[Pending]) -> None:
        for pending in self._spiller.settle(group):
            pending.done(None)

    async def record(self, delivery: Delivery) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.submit(delivery, lambda error: tell(loop, future, None, error))
        await future

    def record_sync(self, delivery: Delivery) -> None:
        """`record` for a caller without an event loop."""
        future: Future[None] = Future()
        self.submit(delivery, lambda error: future.set_exception(error) if error else future.set_result(None))
        future.result()

    # -- work and looks -----------------------------------------------------------------------------------------

    async def write(self, work: Callable[[Tx], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put_work(work, lambda value, error: tell(loop, future, value, error))
        return await future

    def write_sync(self, work: Callable[[Tx], T]) -> T:
        future: Future[T] = Future()
        self._put_work(work, lambda value, error: future.set_exception(error) if error else future.set_result(value))
        return future.result()

    def _put_work(self, work: Callable[[Tx], Any], done: Callable[[Any, BaseException | None], object]) -> None:
        if self._closed:
            raise StoreUnavailable("writing to the database: it is closed")
        self._writer.put(Work(work, done, self._clock.monotonic()))
        self._look_in_time()

    async def read(self, look: Callable[[View], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._look, look)

    def read_sync(self, look: Callable[[View], T]) -> T:
        return self._readers.submit(self._look, look).result()

    def _look(self, look: Callable[[View], T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = driver.open_reader(self._options.path)
            self._readers_open.append(connection)
        try:
            connection.execute("BEGIN")
            try:
                return look(SqliteView(connection))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._local.connection = None
            self._readers_open.remove(connection)
            connection.close()
            if driver.says_damaged(error) and self._damaged is None:
                self._damaged = f"{error}: restart Holdfast, it sets the file aside and brings back what can be read"
                log.error("store.damaged", path=str(self._options.path), why=str(error), todo=self._damaged)
            raise StoreUnavailable(
                f"reading the database {self._options.path}: {error}; see `holdfast check`"
            ) from error

    def on_commit(self, hook: Callable[[frozenset[str]], None]) -> None:
        self._hooks.append(hook)

    # -- called on the writer's thread --------------------------------------------------------------------------

    def _committed(self, deliveries: Sequence[Delivery], added: int) -> None:
        if added:
            self._recorded += added
            self._newest = max(self._newest, max(delivery.id for delivery in deliveries))
            with contextlib.suppress(OSError):  # a mark that cannot be written under-reports; it never blocks
                self._mark.note(self._newest, self._recorded)
        changed = _RECORDED if deliveries else _WORKED
        for hook in self._hooks:
            hook(changed)

    def _look_in_time(self) -> None:
        """Under a steady load the writer is never idle, and what it does then must be done all the same."""
        now = self._clock.monotonic()
        if self._options.keeper and now - self._looked >= 1.0 and self._writer.failing is None:
            self._looked = now
            self._writer.put(Work(lambda tx: None, lambda value, error: None if error else self._idle(), now))

    def _idle(self) -> None:
        if not self._options.keeper:
            return
        now = self._looked = self._clock.monotonic()
        if self._journal.records and self._writer.failing is None and now >= self._drain_at:
            report = self._journal.drain(self._writer.insert)
            facts = {"damaged": len(report.damaged), "torn_bytes": report.torn_bytes, "left": report.left}
            log.info("spill.drained", records=report.records, **facts)
            self._drain_at = now + DRAIN_AGAIN_S if report.left else 0.0
        if now - self._marked >= 1.0:
            self._marked = now
            self._wal.look(now)
            with contextlib.suppress(OSError):
                self._mark.sync()

    def salvage(self) -> list[str]:
        lines = []
        for folder in waiting(self._options.path) if self._options.keeper else []:
            report = salvage(folder, self._restore)
            log.info("store.salvaged", **report.facts())
            lines.append(report.line)
        return lines

    def _restore(self, table: str, rows: list[dict[str, Any]]) -> int:
        def put_back(tx: Tx) -> tuple[int, int]:
            return tx.meta.restore(table, rows), int(tx.meta.get("deliveries.missing") or 0)

        new, self._missing = self.write_sync(put_back)
        if table == "deliveries":
            self._recorded += new
        return new

    # -- looking after it ---------------------------------------------------------------------------------------

    def health(self) -> StoreHealth:
        path, why_not = self._options.path, self._writer.failing or self._damaged
        return StoreHealth(
            takes_writes=why_not is None and not self._closed,
            why_not=why_not,
            sqlite_version=driver.version(),
            journal_mode="wal",
            synchronous="FULL",
            file_system=file_system(path)[0],
            file_bytes=_size(path),
            wal_bytes=_size(path.with_name(path.name + "-wal")),
            spill_records=self._journal.records,
            spill_bytes=self._journal.size_bytes,
            spill_damaged=self._journal.damaged,
            waiting_bytes=self._spiller.waiting_bytes,
            missing=self._missing,
            quarantined_file=self._quarantined,
        )

    def backup(self, path: str, progress: Callable[[int, int], None] | None = None) -> None:
        copy_to(self._options.path, path, progress)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
