"""A real public listener on loopback with a recorder in memory behind it, and plain sockets to knock with.

The recorder is a fake at our own edge: it does what a store promises, or fails as one may. Everything between it and
the socket is the product's.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from receiver.clock import Clock, SystemClock
from receiver.commits import Done
from receiver.connections import Limits
from receiver.door import Door
from receiver.errors import StoreUnavailable
from receiver.intake import Intake
from receiver.listeners import Listener, open_listener
from receiver.records import Delivery, DeliveryId
from receiver.server import HttpServer, public_limits
from receiver.settings import IntakeSettings, SourceSettings

TOKEN = "correct-horse-battery-staple"
SECRET = "s3cret-of-the-sender"
FIRST_ID = 1_776_090_600_000 << 20


class MemoryRecorder:
    """Keeps deliveries in a list. `holding`: nothing is durable until `let_go`; `broken`: nothing ever is."""

    def __init__(self) -> None:
        self.kept: list[Delivery] = []
        self.holding = False
        self.broken = ""
        self.refusing = ""
        self._held: list[tuple[Delivery, Done]] = []
        self._last = FIRST_ID

    def next_id(self) -> DeliveryId:
        self._last += 1
        return DeliveryId(self._last)

    def submit(self, delivery: Delivery, done: Done) -> None:
        if self.refusing:
            raise StoreUnavailable(self.refusing)
        if self.holding:
            self._held.append((delivery, done))
        elif self.broken:
            done(StoreUnavailable(self.broken))
        else:
            self.kept.append(delivery)
            done(None)

    @property
    def waiting(self) -> int:
        """How many deliveries are being held up."""
        return len(self._held)

    def let_go(self, error: StoreUnavailable | None = None) -> None:
        """What was held up is durable now, or lost for this reason."""
        held, self._held = self._held, []
        for delivery, done in held:
            if error is None:
                self.kept.append(delivery)
            done(error)


def sources(**more: SourceSettings) -> dict[str, SourceSettings]:
    """One source of each kind: nothing to prove, a path token, a secret header, a signature."""
    usual = {
        "plain": SourceSettings.named("plain", provider="omnifence"),
        "tokened": SourceSettings.named("tokened", provider="omnifence", path_token=TOKEN),
        "secret": SourceSettings.named("secret", provider="omniai", secret=SECRET, secret_header="x-sender-proof"),
        "signed": SourceSettings.named("signed", provider="omnist", secret=SECRET),
        "strict": SourceSettings.named("strict", provider="omnist", secret=SECRET, stale_policy="reject"),
    }
    return usual | more


@dataclass(slots=True)
class Answered:
    """One answer off the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(slots=True)
class Wire:
    """A listener that serves."""

    intake: Intake
    recorder: MemoryRecorder
    server: HttpServer
    shed: list[str] = field(default_factory=list)

    @property
    def kept(self) -> list[Delivery]:
        return self.recorder.kept

    @property
    def refused(self) -> dict[tuple[str, str], int]:
        return self.intake.counters.refused

    @property
    def port(self) -> int:
        return self.server.listener.port

    async def connect(self) -> "Caller":
        """A new connection."""
        return Caller(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(
        self,
        path: str,
        body: bytes = b"{}",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    ) -> Answered:
        """One request on a connection of its own."""
        async with await self.connect() as caller:
            return await caller.ask(path, body, method=method, headers=headers)


class Caller:
    """One raw connection; a context manager that closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, *pieces: bytes) -> None:
        """Send bytes as they are; what cannot be sent any more is dropped, as the answer tells why."""
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()

    async def ask(
        self,
        path: str,
        body: bytes = b"{}",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    ) -> Answered:
        """One well-formed request, and its answer."""
        await self.send(request(path, body, method=method, headers=headers))
        return await self.answer(head_only=method == "HEAD")

    async def answer(self, timeout_s: float = 10.0, *, head_only: bool = False) -> Answered:
        """The next answer."""
        async with asyncio.timeout(timeout_s):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = [
                (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:-2])
            ]
            length = next((int(value) for name, value in headers if name == "content-length"), 0)
            body = b"" if head_only else await self.reader.readexactly(length)
        return Answered(int(lines[0].split(" ", 2)[1]), headers, body)

    async def rest(self, timeout_s: float = 10.0) -> bytes:
        """Everything until the other side closes; a reset ends it too."""
        got = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(timeout_s):
                while data := await self.reader.read(65_536):
                    got += data
        return got


def request(
    path: str,
    body: bytes = b"{}",
    *,
    method: str = "POST",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
) -> bytes:
    """A request as bytes, with `host` and the body's length unless `headers` has its own."""
    pairs: Iterable[tuple[str, str]] = headers.items() if isinstance(headers, Mapping) else headers
    given = list(pairs)
    names = {name.lower() for name, _ in given}
    if "host" not in names:
        given.insert(0, ("host", "hooks.example.com"))
    if "content-length" not in names and "transfer-encoding" not in names and method == "POST":
        given.append(("content-length", str(len(body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in given)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + (body if method == "POST" else b"")


def statuses(raw: bytes) -> list[int]:
    """The status codes in what came over a wire."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", raw)]


@contextlib.asynccontextmanager
async def serving(
    configured: Mapping[str, SourceSettings] | None = None,
    *,
    clock: Clock | None = None,
    limits: Limits | None = None,
    listener: Listener | None = None,
    recorder: MemoryRecorder | None = None,
    grace_s: float = 2.0,
    **intake: Any,
) -> AsyncIterator[Wire]:
    """A public listener on a port of its own. `intake`: keys of `[intake]`; `limits` replaces what follows of them."""
    settings = IntakeSettings(listen="127.0.0.1:0", **intake)
    recorder = recorder or MemoryRecorder()
    shed: list[str] = []
    judge = Intake(
        settings,
        sources() if configured is None else configured,
        recorder,
        clock or SystemClock(),
        when_shed=shed.append,
    )
    listener = listener or open_listener(settings.listen)
    server = HttpServer(Door(judge), listener, limits or public_limits(settings))
    await server.start()
    try:
        yield Wire(judge, recorder, server, shed)
    finally:
        await server.stop(grace_s)
        judge.close()
