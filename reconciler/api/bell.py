"""Turns the store's commits into wake-ups on the event loop, and says when the listener is closing."""

import asyncio
import contextlib
from collections.abc import Iterator

from receiver.store.base import Store


class Bell:
    """Rung by the writer's thread after a commit; a hint to look, never a promise that anything is there."""

    def __init__(self, store: Store) -> None:
        self.closed = False
        """True once the listener is stopping: waits end, streams end."""
        self._listeners: dict[asyncio.Event, str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        store.on_commit(self._committed)

    @contextlib.contextmanager
    def listen(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever a commit changed `name` (`jobs`, `outbox`), and when the bell is closed."""
        self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._listeners[event] = name
        if self.closed:
            event.set()
        try:
            yield event
        finally:
            del self._listeners[event]

    def close(self) -> None:
        """Wake everybody up for the last time. On the event loop; may be called twice."""
        self.closed = True
        for event in self._listeners:
            event.set()

    def _committed(self, changed: frozenset[str]) -> None:
        loop = self._loop
        if loop is not None and self._listeners:
            with contextlib.suppress(RuntimeError):  # the loop has ended; nobody listens any more
                loop.call_soon_threadsafe(self._ring, changed)

    def _ring(self, changed: frozenset[str]) -> None:
        for event, name in self._listeners.items():
            if name in changed:
                event.set()


async def heard(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, at most so long, and make it ready for the next time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()
