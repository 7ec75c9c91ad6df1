"""The only file that knows APScheduler: it ticks, nothing more. What is due is in the tables.

Its defaults skip late runs and stop when the wall clock steps back (agronholm/apscheduler#752), so the options are set
here and a guard on the monotonic clock wakes it after a step. Shutdown is ours: stop ticking, then await the work.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from receiver.clock import Clock

log = structlog.get_logger("holdfast.schedule")

GUARD_S = 0.5
STEP_S = 2.0
"""A wall clock that moved so much against the monotonic one was stepped."""


class Every(BaseTrigger):  # type: ignore[misc]  # the library has no types
    """Fires every so many seconds counted from now. The library's own interval trigger makes up for every run that a
    clock leaping forward seems to have missed: millions of them, all held in memory."""

    def __init__(self, interval_s: float) -> None:
        self._interval = timedelta(seconds=interval_s)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The next run: one interval from now."""
        return now if previous_fire_time is None else now + self._interval


class Schedule:
    """Named duties at fixed intervals. A duty must return quickly (it starts work, it does not do it)."""

    def __init__(self, clock: Clock, on_step: Callable[[float], Awaitable[None]]) -> None:
        self._clock = clock
        self._on_step = on_step
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,  # otherwise the local zone is guessed, and guessed wrong in containers
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._guard: asyncio.Task[None] | None = None
        self.ticked_at = clock.monotonic()

    def every(self, interval_s: float, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        """Run a duty now and then every `interval_s` seconds."""

        async def tick() -> None:
            self.ticked_at = self._clock.monotonic()
            await duty()

        self._scheduler.add_job(tick, Every(interval_s), id=name, next_run_time=self._now())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def start(self) -> None:
        """Begin to tick; needs the running event loop."""
        self._scheduler.start()
        self._guard = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        offset = self._clock.now() - self._clock.monotonic()
        while True:
            await asyncio.sleep(GUARD_S)
            now = self._clock.now() - self._clock.monotonic()
            step, offset = now - offset, now
            if abs(step) < STEP_S:
                continue
            log.warning("clock.stepped", by_s=round(step, 3))
            for job in self._scheduler.get_jobs():
                job.modify(next_run_time=self._now())
            self._scheduler.wakeup()
            await self._on_step(step)

    def stop(self) -> None:
        """Stop ticking. Work that was started is not touched. May be called again."""
        if self._guard is None:
            return
        self._guard.cancel()
        self._guard = None
        self._scheduler.shutdown(wait=False)  # takes effect in the next round of the loop
