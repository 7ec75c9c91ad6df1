"""Work that goes on beside the requests: jobs that live, webhooks that go out. Owns the waiting for all of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc


class Workers:
    """One task group with a count of what is still to be done."""

    def __init__(self) -> None:
        """Usable inside `running()` only."""
        self.closing = anyio.Event()
        self._group: anyio.abc.TaskGroup | None = None
        self._busy = 0
        self._settled = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work until the block is left, then stop everything where it is."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                try:
                    yield
                finally:
                    self.closing.set()
                    group.cancel_scope.cancel()
        finally:
            self._group = None

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start one piece of work; `idle()` waits for it."""
        assert self._group is not None, "a simulator works inside running()"
        self._busy += 1
        self._group.start_soon(self._busily, work, args)

    async def _busily(self, work: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await work(*args)
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._settled.set()
                self._settled = anyio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether some work is not done."""
        return self._busy > 0

    async def idle(self) -> None:
        """Wait until all work is done."""
        while self.is_busy:
            await self._settled.wait()
