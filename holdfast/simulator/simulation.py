"""Several simulated providers behind real sockets, with one control desk.

Owns the servers and which provider is where. Never knows a provider's shapes (`omnifence.py` and its neighbours) nor
what the desk answers (`control.py`).
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from holdfast.simulator import control
from holdfast.simulator.base import Simulator

_SHUTDOWN_S = 2


class Simulation:
    """Some simulators served together.

        async with Simulation([OmniFence()]).serve() as sim:
            ...  # configure base_url = sim.base_url("omnifence")
            await sim.idle()
            jobs = sim["omnifence"].truth()

    Each provider is served below its own path on one port, or with `separate_ports` on a port of its own.
    """

    def __init__(
        self, simulators: Iterable[Simulator] | Mapping[str, Simulator], *, separate_ports: bool = False
    ) -> None:
        """A mapping names each simulator (two of one provider, say); otherwise the provider's name is used.

        Raises ValueError for a name given twice or one that cannot stand in a path.
        """
        if isinstance(simulators, Mapping):
            self.simulators: dict[str, Simulator] = dict(simulators)
        else:
            given = list(simulators)
            self.simulators = {one.name: one for one in given}
            if len(self.simulators) != len(given):
                raise ValueError("the same provider twice needs a mapping with names")
        for name in self.simulators:
            if not name.replace("_", "").replace("-", "").isalnum() or name.startswith("_"):
                raise ValueError(f"{name!r} cannot be the name of a simulator")
            self.simulators[name].label = name
        self.control_url = ""
        self._separate_ports = separate_ports

    def __getitem__(self, name: str) -> Simulator:
        return self.simulators[name]

    def base_url(self, name: str) -> str:
        """What to configure as this provider's base_url, once served."""
        return self.simulators[name].base_url

    def addresses(self) -> dict[str, Any]:
        """Where everything is, as JSON."""
        return {
            "control_url": self.control_url,
            "providers": {
                name: {
                    "provider": one.name,
                    "base_url": one.base_url,
                    "webhook_url": one.webhook_url,
                    "webhook_secret": one.secret,
                }
                for name, one in self.simulators.items()
            },
        }

    def snapshot(self) -> dict[str, Any]:
        """The truth of all providers, as JSON: `{"providers": {NAME: {"counters", "faults", "jobs", …}}}`."""
        return {"providers": {name: one.snapshot() for name, one in self.simulators.items()}}

    async def idle(self) -> None:
        """Wait until every job that ends has ended and every webhook is delivered or given up."""
        while any(one.is_busy for one in self.simulators.values()):
            for one in self.simulators.values():
                await one.idle()

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["Simulation"]:
        """Serve until the block is left; port 0 takes a free one. Raises OSError when the address is taken."""
        with contextlib.ExitStack() as opened:
            desk = opened.enter_context(listening(host, port))
            origin = _origin(host, desk)
            served: list[tuple[ASGIApp, socket.socket]] = []
            mounts: list[BaseRoute] = list(control.routes(self))
            for name, one in self.simulators.items():
                one.trap_url = f"{origin}/_control/trap/{name}"
                if self._separate_ports:
                    own = opened.enter_context(listening(host, 0))
                    one.base_url = _origin(host, own) + one.base_path
                    served.append((one.app, own))
                else:
                    one.base_url = f"{origin}/{name}{one.base_path}"
                    mounts.append(Mount(f"/{name}", app=one.app))
            self.control_url = f"{origin}/_control/"
            served.append((Starlette(routes=mounts), desk))
            async with AsyncExitStack() as running:
                for app, listener in served:
                    await running.enter_async_context(serving(app, listener))
                for one in self.simulators.values():  # stopped first, so that no request hangs on
                    await running.enter_async_context(one.running())
                yield self


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the program it runs in, and says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the embedding program."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets=sockets)
        self.ready.set()


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an ASGI app on a listening socket while the block runs."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    server = _Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [listener])
        await server.ready.wait()
        try:
            yield
        finally:
            server.should_exit = True


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, closed with the block; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        listener.setblocking(False)
        yield listener


def _origin(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
