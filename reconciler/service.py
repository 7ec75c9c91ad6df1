"""Everything that happens later, wired together: interpreting, asking, telling, pruning, alerting.

Three loops are woken by commits (interpreting, telling) or by the ticker (asking); each also looks by itself from time
to time, so a lost wake-up costs a moment, never a fact. Stopping lets what is on its way finish.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from random import Random

import structlog

from receiver import timetable
from receiver.clock import Clock
from receiver.errors import StoreUnavailable
from receiver.interpret import SHORT_BATCH, Interpreter
from receiver.ledger import Ledger
from receiver.records import Job
from receiver.settings import AppSettings, Settings
from receiver.store.base import Store, Tx
from reconciler.alerts import watch_webhook_loss
from reconciler.dispatch import IN_FLIGHT, Dispatch, Push
from reconciler.gaps import GapWatch, Timing
from reconciler.outbound import Outbound, tls_context
from reconciler.prune import prune
from reconciler.pushing import Pusher
from reconciler.schedule import Schedule
from reconciler.sweep import PassReport, Sweep, pass_safely

log = structlog.get_logger("holdfast.reconciler")

LOOK_S = 1.0
"""The loops look by themselves this often."""
LOOK_APART_S = 0.1
"""What another process recorded is looked for this often: a look that finds nothing costs next to nothing."""
GATHER_S = 0.02
"""Passes of a loop that is woken again and again begin so far apart: one transaction serves all that came meanwhile.
What comes after a silence is served at once."""
FLOOD = 24
"""While so many wait at the door, reading what came before pauses between its turns: they are to be answered first."""
PRUNE_EVERY_S = 600.0
ALERT_EVERY_S = 15.0
GAP_LOOK_S = 5.0
"""Whether it is time to read a delivery log is looked at this often; how often it is read is `gaps.Timing`."""


class Bell:
    """Wakes one loop from any thread; many rings before it wakes are one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()
        self._rung = False

    def ring(self) -> None:
        """Wake the loop. From any thread, also after the loop has closed."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float) -> None:
        """Sleep until it is rung or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._rung = False  # first: a ring from here on is heard, at worst once too often
        self._event.clear()


class Reconciler:
    """The background half of Holdfast. `start` needs a running event loop."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        chance: Random | None = None,
        gap_timing: Timing | None = None,
        *,
        apart: bool = False,
    ) -> None:
        """`apart`: another process records the deliveries, so that no bell rings here when one comes."""
        self._look_s = LOOK_APART_S if apart else LOOK_S
        self._settings = settings
        self._store = store
        self._clock = clock
        chance = chance or Random()  # noqa: S311 - jitter, nothing secret
        rules = {name: source.reconcile(settings.reconcile) for name, source in settings.sources.items()}
        self._rules = rules

        def late_look(job: Job, now: float) -> float | None:
            return timetable.late_look_at(job, rules[job.source], now)

        self.ledger = Ledger(lambda source: settings.sources[source].provider, late_look)
        self.outbound = Outbound(clock)
        self.sweep = Sweep(
            store, settings.sources, settings.reconcile, self.ledger, outbound=self.outbound, clock=clock, chance=chance
        )
        self.gaps = GapWatch(store, settings.sources, self.sweep.asker, clock, gap_timing)
        self.interpreter = Interpreter(store, settings.sources, self.ledger, clock, self.urge)
        apps = self._applications()
        self._pushers: dict[tuple[str, float], Pusher] = {}
        self.dispatch = Dispatch(store, apps, self._pusher, clock, chance)
        self.schedule = Schedule(clock, self._clock_stepped)
        self._passes: dict[str, asyncio.Task[PassReport | None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._bells: tuple[Bell, ...] = ()
        self._stopping = False
        self._duties: dict[str, asyncio.Task[None]] = {}

    def _applications(self) -> dict[str, AppSettings]:
        """Where each source's messages go. What is still owed of a source that is no longer configured goes to `[app]`:
        it was promised."""
        sources = self._settings.sources
        apps = {name: app for name, source in sources.items() if (app := self._settings.app_for(source))}
        if self._settings.app is not None:
            kept = self._store.read_sync(lambda view: view.tallies())
            told_of = {source for kind, source, _ in kept if kind == "outbox"}
            apps |= dict.fromkeys(told_of - sources.keys(), self._settings.app)
        return apps

    def _pusher(self, app: AppSettings) -> Push:
        return self._pushers.setdefault((app.url, app.timeout_s), Pusher(app.timeout_s, IN_FLIGHT, tls_context))

    # -- running ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin all loops and the ticker."""
        loop = asyncio.get_running_loop()
        interpret, tell = self._bells = Bell(loop), Bell(loop)

        def committed(changed: frozenset[str]) -> None:
            if "deliveries" in changed:
                interpret.ring()
            if "outbox" in changed:
                tell.ring()

        self._store.on_commit(committed)
        self._loops = [
            loop.create_task(self._loop("interpret", interpret, self._interpret_all), name="interpret"),
            loop.create_task(self._loop("dispatch", tell, self._tell_all), name="dispatch"),
        ]
        self.schedule.every(self._settings.reconcile.tick_s, "tick", self._tick)
        for name in self._settings.sources:
            self.schedule.every(self._rules[name].tick_s, f"sweep.{name}", functools.partial(self._sweep_tick, name))
        self.schedule.every(PRUNE_EVERY_S, "prune", self._duty("prune", self._prune))
        alert_s = min(ALERT_EVERY_S, self._settings.alerts.webhook_loss_window_s)
        self.schedule.every(alert_s, "alerts", self._duty("alerts", self._alert))
        for name in self.gaps.sources:
            look = functools.partial(self._look_for_gaps, name)
            self.schedule.every(GAP_LOOK_S, f"gaps.{name}", self._duty(f"gaps.{name}", look))
        self.schedule.start()

    async def _loop(self, name: str, bell: Bell, work: Callable[[], Awaitable[object]]) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            began = loop.time()
            try:
                await work()
            except StoreUnavailable as error:
                log.warning("loop.store_unavailable", loop=name, error=str(error))
            except Exception:
                log.exception("loop.failed", loop=name)
            await bell.wait(self.dispatch.rest_s(LOOK_S) if name == "dispatch" else self._look_s)
            await asyncio.sleep(max(0.0, began + GATHER_S - loop.time()))

    async def _interpret_all(self) -> None:
        while not self._stopping and await self.interpreter.run_once() >= SHORT_BATCH:  # few are gathered first
            if self.interpreter.crowd > FLOOD:
                await asyncio.sleep(GATHER_S)

    async def _tell_all(self) -> None:
        if not self._stopping:
            await self.dispatch.run_once()

    async def _tick(self) -> None:
        """The heart-beat that `trouble` listens to; the sources tick by themselves."""

    async def _sweep_tick(self, name: str) -> None:
        self._begin_pass(name)

    def _begin_pass(self, name: str) -> None:
        running = self._passes.get(name)
        wanted = self._loops and not self._stopping and name in self._settings.sources
        if wanted and (running is None or running.done()):
            self._passes[name] = asyncio.get_running_loop().create_task(pass_safely(self.sweep, name))

    def urge(self, source: str, job_id: str) -> None:
        """Ask about a job at once, between two ticks; in the next pass while the loops do not run (`--once`)."""
        self.sweep.urge(source, job_id)
        self._begin_pass(source)

    def poke(self, source: str) -> None:
        """Look at a source now instead of at the next tick."""
        self._begin_pass(source)

    def trouble(self) -> list[str]:
        """Why the background half is not well; empty when it is."""
        silent_s = self._clock.monotonic() - self.schedule.ticked_at
        limit_s = max(10.0, 5 * self._settings.reconcile.tick_s)
        found = [f"the scheduler has not ticked for {silent_s:.0f} s"] if silent_s > limit_s else []
        return found + [f"the loop {task.get_name()} has ended" for task in self._loops if task.done()]

    def _duty(self, name: str, work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            try:
                await work()
            except StoreUnavailable as error:
                log.warning("duty.store_unavailable", duty=name, error=str(error))
            except Exception:
                log.exception("duty.failed", duty=name)

        async def begin() -> None:
            running = self._duties.get(name)
            if running is None or running.done():
                self._duties[name] = asyncio.get_running_loop().create_task(run())

        return begin

    async def _prune(self) -> None:
        gone = await prune(self._store, self._settings.retention, self._settings.sources, self._clock)
        if gone:
            log.info("prune.done", **gone)

    async def _alert(self) -> None:
        for name in await watch_webhook_loss(self._store, self._settings.sources, self._settings.alerts, self._clock):
            log.warning("alert.webhook_loss", source=name)

    async def _look_for_gaps(self, name: str) -> None:
        if await self.gaps.look(name):
            self.poke(name)  # its open jobs are asked about at once

    async def _clock_stepped(self, by_s: float) -> None:
        now = self._clock.now()
        longest = max((app.retry_max_s for app in [self._settings.app] if app), default=43_200.0)

        def settle(tx: Tx) -> None:
            tx.outbox.bring_forward(now + longest * 2 if by_s > 0 else now)

        await self._store.write(settle)
        await self.sweep.clock_stepped()

    async def once(self) -> dict[str, PassReport]:
        """One full pass: read everything, look for gaps, ask about everything due, tell everything due, prune. For
        `--once`."""
        await self._interpret_all_now()
        for name in self.gaps.sources:
            await self.gaps.look(name, now=True)
        reports = {}
        for name in self._settings.sources:
            reports[name] = await self.sweep.pass_once(name)
        await self._interpret_all_now()
        await self.dispatch.run_once()
        await self._prune()
        return reports

    async def _interpret_all_now(self) -> None:
        while await self.interpreter.run_once():
            pass

    async def stop(self, grace_s: float = 10.0) -> None:
        """Stop ticking, let passes and pushes finish for a while, then cut them off; nothing learned is lost."""
        self._stopping = True
        self.schedule.stop()
        for bell in self._bells:
            bell.ring()
        await self.dispatch.drain(min(grace_s, 5.0))
        tasks = [*self._loops, *self._duties.values(), *self._passes.values()]
        for task in self._passes.values():
            task.cancel()  # a pass may wait minutes for its budget; what it learned is committed already
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for pusher in self._pushers.values():
            await pusher.close()
        self.outbound.close()
