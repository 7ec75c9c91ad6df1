"""The HTTP server under both listeners: uvicorn on sockets that are bound already, with bounds, stopped gracefully.

Owns a listener's life: start, who is connected, stop. Signals belong to whoever wires the process (uvicorn would take
them and end it behind our back), the application to whoever hands it in. Sockets come from `receiver.listeners`, never
from uvicorn's `--fd`: it takes every descriptor for a unix socket, so TCP_NODELAY is never set and every answer on a
kept connection waits 44 ms for the other side's delayed acknowledgement.
"""

import asyncio
import contextlib
import functools
import resource
import socket
from collections.abc import Generator
from dataclasses import replace
from typing import Any, cast

import uvicorn

from receiver.connections import Floor, Limits, Phase
from receiver.guard import Guard
from receiver.listeners import Listener
from receiver.settings import IntakeSettings
from receiver.wire import Wire

_BACKLOG = 4096
_QUIET_S = 0.3
"""How long a stop waits for a connection that was accepted but has not spoken, or has just been answered."""
_LAST_S = 0.5
"""How long the last answers may take to leave after that."""
_LOOK_S = 0.02
_SPARE_DESCRIPTORS = 128
"""Left for the database, the journal and the sockets we open ourselves."""


def public_limits(settings: IntakeSettings) -> Limits:
    """The bounds of the public listener."""
    return Limits(
        header_timeout_s=settings.header_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        max_connections=settings.max_connections,
        half_close=True,
    )


def private_limits() -> Limits:
    """The bounds of the private listener: uploads pass through it for as long as they take, thousands wait at once, and
    a job's id in the path may be long."""
    return Limits(header_timeout_s=10.0, body_timeout_s=None, max_connections=10_000, max_head_bytes=131_072)


class HttpServer:
    """One listener with an ASGI application behind it."""

    def __init__(self, app: Any, listener: Listener, limits: Limits) -> None:
        """Nothing is served before `start`; the listener is ours from here on and is closed by `stop`."""
        self.listener = listener
        self.floor: Floor[Wire] = Floor(_within_descriptors(limits))
        self.floor.application = app if hasattr(app, "at_once") else None
        config = uvicorn.Config(
            app,
            http=cast("Any", functools.partial(Guard, floor=self.floor)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whom to believe is the proxy's and the operator's matter; the header is recorded
            backlog=_BACKLOG,
        )
        self._server = _Server(config, self.floor)
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as a client would write it: `http://127.0.0.1:8080` or `unix:/run/holdfast.sock`."""
        return self.listener.address

    @property
    def open_connections(self) -> int:
        """How many are connected now."""
        return len(self.floor.connections)

    async def start(self) -> None:
        """Serve; when this returns, the next connection is answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=self.listener.sockets))
        started = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait((self._task, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Take no more connections, answer what was asked, close. What is not answered within `grace_s` is cut off.

        Whoever was accepted is heard: a sender that connected a moment ago is given a moment to speak. May be called
        twice.
        """
        self._server.grace_s = grace_s
        self._server.should_exit = True
        self._server.wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,))
            self._task.result()
        self.listener.close()


class _Server(uvicorn.Server):
    """uvicorn's server with our tick and our way to stop."""

    def __init__(self, config: uvicorn.Config, floor: Floor[Wire]) -> None:
        super().__init__(config)
        self._floor = floor
        self.ready = asyncio.Event()
        self.wake = asyncio.Event()
        self.grace_s = 10.0

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are not ours."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self.wake.wait()

    async def on_tick(self, counter: int) -> bool:
        self._floor.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting first, hear out who is connected, then close (uvicorn's own order loses the unheard)."""
        loop = asyncio.get_running_loop()
        began, connections = loop.time(), self._floor.connections
        self._floor.draining = True
        await self._stop_accepting()
        while loop.time() - began < self.grace_s:
            now = loop.time()
            self._floor.sweep(now)
            unheard = connections.since(Phase.FRESH, began - _QUIET_S) if now - began < _QUIET_S else 0
            recent = connections.since(Phase.IDLE, now - _QUIET_S)
            if not unheard and not recent and not connections.count(Phase.HEAD, Phase.BODY, Phase.STUCK, Phase.BUSY):
                break
            await asyncio.sleep(_LOOK_S)
        for connection in [*connections.within(Phase.IDLE), *connections.within(Phase.FRESH)]:
            connection.shutdown()
        await self._end()

    async def _stop_accepting(self) -> None:
        """Close the listening sockets without losing whom the kernel has connected already.

        Turns of the loop, in this order: accept who waits; look no more; let the accepted ones become connections
        (asyncio drops them when their server has closed in between); close.
        """
        await _turns(2)
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for each in server.sockets:
                loop.remove_reader(each.fileno())
        await _turns(3)
        for server in self.servers:
            server.close()

    async def _end(self) -> None:
        """Let the last answers leave; cut off what is still working after the grace."""
        for connection in self._floor.connections.within(Phase.BUSY):
            connection.give_up()
        tasks = list(self.server_state.tasks)
        if tasks:
            for task in tasks:
                task.cancel("the server stops and its grace is over")
            await asyncio.wait(tasks, timeout=1.0)
        for _ in range(int(_LAST_S / _LOOK_S)):
            if not len(self._floor.connections):
                break
            await asyncio.sleep(_LOOK_S)
        for phase in Phase:
            for connection in self._floor.connections.within(phase):
                connection.cut()
        await asyncio.sleep(0)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _within_descriptors(limits: Limits) -> Limits:
    """Never more connections than there are descriptors for: running out would refuse newcomers at random."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or limits.max_connections <= soft - _SPARE_DESCRIPTORS:
        return limits
    return replace(limits, max_connections=max(1, soft - _SPARE_DESCRIPTORS))
