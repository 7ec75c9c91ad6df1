"""The long poll: thousands may wait, and one query a tick looks for all of them together.

A waiter is woken when its job has ended, is gone, or the listener stops. Looks follow commits, spaced so that their
cost stays a small share of the time, and happen every `tick_s` in any case (another process may have written).
"""

import asyncio
import contextlib
from collections.abc import Iterator

import structlog

from receiver.clock import Clock
from receiver.errors import StoreUnavailable
from receiver.states import JobState
from receiver.store.base import Store
from reconciler.api.bell import Bell, heard
from reconciler.api.desk import Limits
from reconciler.api.problem import unavailable

log = structlog.get_logger("holdfast.api")

Key = tuple[str, str]
_SPACING = 5.0
"""After a look that took t seconds, the next comes t times this later at the earliest."""


class Waiting:
    """All waiters of this process, by job."""

    def __init__(self, store: Store, clock: Clock, bell: Bell, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._bell = bell
        self._limits = limits
        self._waiters: dict[Key, set[asyncio.Future[None]]] = {}
        self._count = 0
        self._looker: asyncio.Task[None] | None = None
        self._news: asyncio.Event | None = None
        self.looks = 0
        """How many queries were made; for tests and for the curious."""

    def __len__(self) -> int:
        return self._count

    @contextlib.contextmanager
    def ended(self, key: Key) -> Iterator[asyncio.Future[None]]:
        """A future that is done once the job is no longer pending, is not on record under exactly this id, or the
        listener stops. Raises ProblemError 503 when too many wait already."""
        if self._count >= self._limits.most_waiters:
            raise unavailable("too many are waiting already; ask again in a moment")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, set()).add(future)
        self._count += 1
        self._look_soon()
        try:
            yield future
        finally:
            self._count -= 1
            mine = self._waiters.get(key)
            if mine is not None:
                mine.discard(future)
                if not mine:
                    del self._waiters[key]

    def _look_soon(self) -> None:
        if self._looker is None or self._looker.done():
            self._looker = asyncio.get_running_loop().create_task(self._look(), name="holdfast-waiting")
        elif self._news is not None:
            self._news.set()

    async def _look(self) -> None:
        with self._bell.listen("jobs") as news:
            self._news = news
            try:
                while self._waiters and not self._bell.closed:
                    began = self._clock.monotonic()
                    await self._look_once()
                    await asyncio.sleep(min((self._clock.monotonic() - began) * _SPACING, self._limits.tick_s))
                    await heard(news, self._limits.tick_s)
            finally:
                self._news = None
                self._looker = None
        if self._bell.closed:
            self._wake(list(self._waiters))

    async def _look_once(self) -> None:
        keys = list(self._waiters)
        try:
            states = await self._store.read(lambda view: view.job_states(keys))
        except StoreUnavailable as error:
            log.warning("wait.look_failed", error=str(error), waiting=len(keys))
            return
        except Exception:
            log.exception("wait.look_failed", waiting=len(keys))  # whoever waits is looked for again at the next tick
            return
        self.looks += 1
        self._wake([key for key in keys if states.get(key) != JobState.PENDING])

    def _wake(self, keys: list[Key]) -> None:
        for key in keys:
            for future in self._waiters.get(key, ()):
                if not future.done():
                    future.set_result(None)
