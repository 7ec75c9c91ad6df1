"""A provider for the pass-through, which keeps what it was sent and answers what it was told to, byte by byte."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from reconciler.api.desk import Limits
from tests.api.conftest import Open
from tests.api.office import Office

Script = Callable[["Received", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Received:
    """One request as it came over the wire."""

    line: str
    headers: list[tuple[str, str]]
    body_bytes: int = 0
    digest: str = ""
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Upstream:
    """The provider. `answer` is written as it is after the request was read; `script` replaces the whole exchange."""

    answer: bytes = b""
    script: Script | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    address: str = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = [line.partition(": ")[::2] for line in head[1:] if line]
            received = Received(head[0], [(name, value) for name, value in pairs])
            self.requests.append(received)
            if self.script is not None:
                await self.script(received, reader, writer)
            else:
                await read_body(received, reader)
                writer.write(self.answer)
                await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Upstream"]:
        """Serve on loopback for a while."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"http://{host}:{port}"
        async with server:
            yield self


async def read_body(received: Received, reader: asyncio.StreamReader) -> None:
    """Read the body by its framing, keeping its digest and its first bytes alone."""
    digest = hashlib.sha256()

    def take(data: bytes) -> None:
        digest.update(data)
        received.body_bytes += len(data)
        received.body = (received.body + data)[:10_000]

    if received.all("transfer-encoding"):
        while size := int((await reader.readline()).strip(), 16):
            take((await reader.readexactly(size + 2))[:-2])
        await reader.readline()
    else:
        left = int((received.all("content-length") or ["0"])[0])
        while left:
            data = await reader.read(min(left, 65536))
            if not data:
                raise ConnectionError("the request broke off")
            left -= len(data)
            take(data)
    received.digest = digest.hexdigest()


def reply(status: str, body: bytes = b"", *headers: str, kind: str = "application/json") -> bytes:
    """An answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


ACCEPTED = reply("202 Accepted", b'{"job_id": "j-1", "status": "queued"}', "X-Request-Id: r1", "Set-Cookie: a=1")
PATH = "/submit/moderation/api/v1/moderate/video"


@contextlib.asynccontextmanager
async def passing(
    open_office: Open, upstream: Upstream, limits: Limits | None = None, **source: Any
) -> AsyncIterator[tuple[Office, httpx.AsyncClient]]:
    """An office over the real server, whose source `moderation` is this provider."""
    async with upstream.running():
        base = {"provider": "omnifence", "base_url": upstream.address, "api_key": "provider-key"}
        office = open_office(sources={"moderation": base | source}, limits=limits or Limits())
        async with office.served() as address, httpx.AsyncClient(base_url=address, timeout=60) as client:
            yield office, client


async def jobs_of(office: Office) -> dict[str, dict[str, Any]]:
    """The jobs on record, by id."""
    rows, _ = await office.store.read(lambda view: view.jobs())
    return {row["job_id"]: row for row in rows}
