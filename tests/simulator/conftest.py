"""A webhook receiver on a real loopback socket, and simulators to order."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.simulator import SIMULATORS, Faults, Settings, Simulation, Simulator
from holdfast.simulator.simulation import listening, serving


@dataclass
class Hook:
    """What was posted to it; answers with the statuses in `answers` first, then with `status`."""

    url: str = ""
    status: int = 200
    answers: list[int] = field(default_factory=list)
    received: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    cut_off: int = 0
    on_take: Callable[[], None] = lambda: None

    async def take(self, request: Request) -> Response:
        """One delivery."""
        try:
            body = await request.body()
        except ClientDisconnect:
            self.cut_off += 1
            return Response(status_code=400)
        self.on_take()
        self.received.append(request)
        self.bodies.append(body)
        return Response(status_code=self.answers.pop(0) if self.answers else self.status)


class Socket:
    """The one listening socket of all hooks; what arrives goes to the hook of the running test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.hook = Hook(url)

    async def take(self, request: Request) -> Response:
        """One delivery."""
        return await self.hook.take(request)


@pytest.fixture(scope="session")
async def receiving() -> AsyncIterator[Socket]:
    """One server for the whole session: starting and stopping one costs more than most tests."""
    with listening("127.0.0.1", 0) as listener:
        socket = Socket(f"http://127.0.0.1:{listener.getsockname()[1]}/in/some/token")
        app = Starlette(routes=[Route("/in/{source}/{token}", socket.take, methods=["POST"])])
        async with serving(app, listener):
            yield socket


@pytest.fixture
def hook(receiving: Socket) -> Hook:
    """A receiver at `hook.url`, whose last path segment is a token."""
    receiving.hook = Hook(receiving.url)
    return receiving.hook


class Run:
    """Starts simulators without a server: their app is asked in-process, their webhooks go over real sockets."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def start(self, name: str = "omnifence", faults: dict[str, Any] | None = None, **changes: Any) -> Simulator:
        """A running simulator; jobs take 20 ms and nothing is limited unless said otherwise."""
        given: dict[str, Any] = {"job_duration_s": (0.02, 0.02), "failed_share": 0.0, "quota_per_min": 0, **changes}
        clock = given.pop("clock", None)
        simulator = SIMULATORS[name](Settings(faults=Faults().changed(faults or {}), **given), clock)
        await self._stack.enter_async_context(simulator.running())
        return simulator

    async def client(self, simulator: Simulator, **headers: str) -> httpx.AsyncClient:
        """A client of its API with a key of the usual form."""
        given = {"Authorization": "Bearer test", **headers}
        transport = httpx.ASGITransport(simulator.app)
        client = httpx.AsyncClient(transport=transport, base_url="http://provider.test", headers=given)
        return await self._stack.enter_async_context(client)


@pytest.fixture
async def run(hook: Hook) -> AsyncIterator[Run]:
    """Starts simulators and stops them all at the end, before the receiver: what was entered last is left first."""
    async with AsyncExitStack() as stack:
        yield Run(stack)


@pytest.fixture
async def served(hook: Hook) -> AsyncIterator[Simulation]:
    """OmniFence behind a real socket, its webhooks going to the hook."""
    settings = Settings(seed=5, job_duration_s=(0.02, 0.02), failed_share=0.0, webhook_url=hook.url)
    async with Simulation([SIMULATORS["omnifence"](settings)]).serve() as simulation:
        yield simulation
