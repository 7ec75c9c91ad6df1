"""A raw server on loopback: it keeps what came in byte for byte, and answers with whatever bytes a test wants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Writer = asyncio.StreamWriter


@dataclass
class Peer:
    """Answers each request head with `answer`; a function may write by itself and take its time."""

    port: int = 0
    answer: bytes | Callable[[Writer], Awaitable[None]] = b""
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has gone away."""

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        """The request targets, as they were on the wire."""
        return [head.split(b" ", 2)[1].decode("latin-1") for head in self.heads]

    def header(self, name: str, at: int = -1) -> list[str]:
        """The values of a header in one request."""
        lines = self.heads[at].decode("latin-1").split("\r\n")[1:]
        pairs = [line.split(": ", 1) for line in lines if ": " in line]
        return [value for key, value in pairs if key.lower() == name]

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        """One connection: requests until the client goes."""
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    await self.serve_one(reader, writer)
        finally:
            self.gone.set()
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def serve_one(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        """One request."""
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        length = next((int(each) for each in self.header("content-length")), 0)
        self.bodies.append(await reader.readexactly(length))
        if callable(self.answer):
            await self.answer(writer)
        else:
            writer.write(self.answer)
        await writer.drain()


def http(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.asynccontextmanager
async def listening(answer: bytes | Callable[[Writer], Awaitable[None]] = b"") -> AsyncIterator[Peer]:
    """A peer that listens while the block runs; what it still serves is cut off at the end."""
    peer = Peer(answer=answer)
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.get_running_loop().create_task(peer.serve(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
