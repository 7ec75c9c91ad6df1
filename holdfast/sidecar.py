"""Puts the running sidecar together from its parts, by role, and takes it apart in order.

`run` has both roles; `receive` only the public door (no provider keys, no outgoing connection); `reconcile` everything
else. A role is held by a lock beside the database, so that there is never a second one.
"""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from holdfast.runtime import settle_in
from receiver.clock import Clock, SystemClock
from receiver.door import Door
from receiver.errors import StoreUnavailable
from receiver.intake import Intake
from receiver.listeners import Listener, open_listener, passed_listeners
from receiver.locks import RoleLock, held
from receiver.notify import Notifier
from receiver.server import HttpServer, private_limits, public_limits
from receiver.settings import Settings
from receiver.store import open_store
from receiver.store.base import Store, Tx
from receiver.store.sqlite import driver

if TYPE_CHECKING:
    from reconciler.api.app import PrivateApi
    from reconciler.service import Reconciler

log = structlog.get_logger("holdfast.sidecar")

FLUSH_S = 5.0
"""The counts of the door are written down this often; a crash loses at most so much of them."""
GRACE_S = 10.0
SALVAGE_AGAIN_S = 60.0
BOTH = ("receiver", "reconciler")


@dataclass(slots=True)
class Sidecar:
    """The parts of one process. Build it, `start` it, wait, `stop` it."""

    settings: Settings
    roles: Sequence[str]
    clock: Clock = field(default_factory=SystemClock)
    store: Store | None = None
    door: HttpServer | None = None
    desk: HttpServer | None = None
    intake: Intake | None = None
    reconciler: "Reconciler | None" = None
    notifier: Notifier = field(default_factory=Notifier)
    _api: "PrivateApi | None" = None
    _locks: list[RoleLock] = field(default_factory=list)
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    _listeners: dict[str, Listener] = field(default_factory=dict)

    def prepare(self) -> None:
        """Everything that can fail for a reason a person must see: locks, listeners, record. Raises HoldfastError."""
        path = self.settings.store.path
        for role in self.roles:
            lock = RoleLock(path, role)
            lock.acquire()
            self._locks.append(lock)
        refuse_second_writer(self.settings, self.roles)
        passed = passed_listeners()
        if "receiver" in self.roles:
            self._listeners["intake"] = passed.get("intake") or open_listener(self.settings.intake.listen)
        if "reconciler" in self.roles:
            self._listeners["api"] = passed.get("api") or open_listener(self.settings.api.listen)
        self.store = open_store(self.settings, self.clock, keeper="receiver" in self.roles)

    async def start(self) -> None:
        """Serve. When this returns both listeners answer."""
        assert self.store is not None
        if "receiver" in self.roles:
            self.intake = Intake(
                self.settings.intake, self.settings.sources, self.store, self.clock, when_shed=self._shed
            )
            self.door = HttpServer(Door(self.intake), self._listeners["intake"], public_limits(self.settings.intake))
            await self.door.start()
            self._tasks.append(asyncio.create_task(self._flush()))
            self._tasks.append(asyncio.create_task(self._salvage(self.store)))
        if "reconciler" in self.roles:
            await self._start_reconciler(self.store)
        self._tasks.append(asyncio.create_task(self._live()))
        self.notifier.ready(f"listening on {', '.join(self.addresses().values())}")
        log.info("sidecar.started", roles=list(self.roles), **self.addresses())

    async def _start_reconciler(self, store: Store) -> None:
        from reconciler.api.app import build_app
        from reconciler.api.desk import Desk
        from reconciler.service import Reconciler

        self.reconciler = reconciler = Reconciler(self.settings, store, self.clock, apart="receiver" not in self.roles)

        async def poll_now(source: str, job_id: str) -> bool:
            reconciler.urge(source, job_id)
            return True

        desk = Desk(
            store=store,
            settings=self.settings,
            clock=self.clock,
            poke=reconciler.poke,
            poll_now=poll_now,
            intake_counters=self.intake.counters if self.intake else None,
            push_outcomes=lambda: reconciler.dispatch.counters.pushes,
            trouble=reconciler.trouble,
        )
        self._api = build_app(desk)
        self.desk = HttpServer(self._api, self._listeners["api"], private_limits())
        reconciler.start()
        await self.desk.start()

    def addresses(self) -> dict[str, str]:
        """Where each listener is, as a client would write it."""
        return {name: listener.address for name, listener in self._listeners.items()}

    def _shed(self, source: str) -> None:
        """Intake had to refuse a sender that never sends again: ask about its open jobs."""
        store = self.store
        if store is not None:
            task = asyncio.get_running_loop().create_task(self._want_sweep(store, source))
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    async def _want_sweep(self, store: Store, source: str) -> None:
        now = self.clock.now()
        while True:
            try:
                await store.write(lambda tx: tx.sources.want_sweep([source], now))
            except StoreUnavailable:
                await asyncio.sleep(1.0)  # the record takes no writes yet; that is why intake refused
            else:
                return

    async def _salvage(self, store: Store) -> None:
        """Bring back what a damaged file still holds, on a thread, while intake goes on in a fresh one."""
        while True:
            try:
                await asyncio.to_thread(store.salvage)
            except (OSError, StoreUnavailable) as error:
                log.warning("store.salvage_waits", error=str(error), again_s=SALVAGE_AGAIN_S)
                await asyncio.sleep(SALVAGE_AGAIN_S)
            else:
                return

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._flush_once()

    async def _flush_once(self) -> None:
        assert self.intake is not None
        assert self.store is not None
        refusals, acks = self.intake.counters.take_refusals(), self.intake.counters.take_acks()
        if not refusals and not acks:
            return

        def keep(tx: Tx) -> None:
            tx.sources.count_refusals(refusals)
            tx.sources.count_acks(acks)

        try:
            await self.store.write(keep)
        except StoreUnavailable as error:
            log.warning("counters.not_kept", error=str(error))

    async def _live(self) -> None:
        """Tell the watchdog, from the loop that does the work."""
        interval_s = self.notifier.watchdog_s
        while interval_s is not None:
            await asyncio.sleep(interval_s)
            if self.reconciler is None or not self.reconciler.trouble():
                self.notifier.alive()

    async def stop(self) -> None:
        """Stop taking, finish what is on its way, close. What was acknowledged is kept whatever happens here."""
        self.notifier.stopping()
        log.info("sidecar.stopping")
        if self.door is not None:
            await self.door.stop(GRACE_S)
        if self.intake is not None:
            await self._flush_once()
            self.intake.close()
        if self.desk is not None:
            if self._api is not None:
                self._api.stop()  # waits and streams end, so that their connections can close in order
            await self.desk.stop(2.0)
            if self._api is not None:
                self._api.close()
        if self.reconciler is not None:
            await self.reconciler.stop(GRACE_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.close()

    def close(self) -> None:
        """Close the record and let go of the roles."""
        if self.store is not None:
            self.store.close()
        for lock in self._locks:
            lock.release()


def refuse_second_writer(settings: Settings, roles: Sequence[str]) -> None:
    """Two processes writing one file need an SQLite without the WAL-reset bug. Raises StoreUnavailable (69)."""
    if driver.two_writers_are_safe():
        return
    others = [role for role in BOTH if role not in roles and held(settings.store.path, role)]
    if others:
        raise StoreUnavailable(
            f"opening {settings.store.path}: the {others[0]} process writes to it already and this SQLite "
            f"({driver.version()}) can corrupt a file with two writers (sqlite.org/wal.html#walresetbug); install "
            "SQLite 3.51.3 or newer (pip install pysqlite3), or use `holdfast run`"
        )


def serve(sidecar: Sidecar, announce: "contextlib.AbstractContextManager[None] | None" = None) -> None:
    """Run until SIGTERM or SIGINT. Raises HoldfastError when it cannot start."""
    sidecar.prepare()
    try:
        asyncio.run(_serve(sidecar, announce or contextlib.nullcontext()))
    finally:
        sidecar.close()


async def _serve(sidecar: Sidecar, announce: "contextlib.AbstractContextManager[None]") -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await sidecar.start()
    settle_in()
    with announce:
        await stop.wait()
    await sidecar.stop()
