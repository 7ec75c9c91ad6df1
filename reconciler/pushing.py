"""Posts to the application over kept-alive connections: one POST, the status and headers of its answer.

A push is the one request made thousands of times a second to a place the operator chose, and a general client spends
ten times longer on one than everything else about a message does. This one knows HTTP/1.1 with and without TLS, and
nothing else: no redirects, no proxies, no cookies, no decoding; bodies of answers are read only to keep a connection.
A connection is given back after a whole, clean exchange alone; whatever else happens to it, it is closed.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import httptools

from receiver import __version__

USER_AGENT = f"holdfast/{__version__}"
IDLE_S = 30.0
"""A connection unused for so long is closed rather than used: the other side is about to close it too."""
LARGEST_HEAD_BYTES = 65_536
LARGEST_BODY_BYTES = 65_536
"""So much of an answer that nobody wants is read to keep its connection; past it a new one is cheaper."""


class Gone(ConnectionError):  # noqa: N818 - it says what became of it
    """The connection ended before the first byte of an answer: on one that was kept, nobody may have read the call."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an URL leads."""

    host: str
    port: int
    secure: bool
    start: bytes
    """The request line and the headers that are the same every time."""


@lru_cache(maxsize=64)
def target_of(url: str) -> Target:
    """An `app.url` in parts; settings have seen to it that it is plain ASCII with a host and without credentials."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\n"
    port = parts.port or (443 if secure else 80)
    return Target(parts.hostname or "", port, secure, head.encode("ascii"))


class Connection(asyncio.Protocol):
    """One connection with one call under way at most."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, dict[str, str]]] | None = None
        self._open = True
        self._begin()

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._head_bytes = self._body_bytes = 0
        self._status: int | None = None

    @property
    def is_usable(self) -> bool:
        """Whether another call may be made on it."""
        return self._open and self.transport is not None and not self.transport.is_closing()

    async def call(self, request: bytes) -> tuple[int, dict[str, str]]:
        """Send and wait for the answer. Raises OSError; when it is cancelled the connection is closed."""
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._begin()
        self.transport.write(request)
        try:
            return await self._answer
        finally:
            if not self._answer.done() or self._answer.cancelled():
                self.close()
            self._answer = None

    def close(self) -> None:
        """End it at once."""
        self._open = False
        if self.transport is not None:
            self.transport.abort()

    # -- what the transport says --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # nobody asked
            return
        if self._status is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(OSError(f"the answer is not HTTP: {error}"))
            return
        if self._status is None and self._head_bytes > LARGEST_HEAD_BYTES:
            self._fail(OSError("the head of the answer is too long"))
        elif self._body_bytes > LARGEST_BODY_BYTES:
            self._finish(reusable=False)

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        if self._status is not None and not ({"content-length", "transfer-encoding"} & self._headers.keys()):
            self._finish(reusable=False)  # its end is the end of the answer
        elif self._head_bytes:
            self._fail(OSError("the connection ended in the middle of the answer"))
        else:
            self._fail(Gone(str(exc) if exc else "the connection was closed without an answer"))

    # -- what the parser says -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # more than was asked for: the rest of it must not be the next call's answer

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._status is not None and 100 <= self._status < 200 and self._status != 101:
            self._begin()  # an interim answer: the real one follows
        else:
            self._finish(reusable=bool(self._parser.should_keep_alive()))

    def _finish(self, *, reusable: bool) -> None:
        if not reusable or self._status == 101:
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._status or 0, self._headers))

    def _fail(self, error: OSError) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class Pusher:
    """Pushes to applications, each call bounded by `timeout_s`; keeps up to `connections` idle ones for each place."""

    def __init__(self, timeout_s: float, connections: int, tls: Callable[[], ssl.SSLContext]) -> None:
        """`tls` makes the context for https, when the first one is called."""
        self._timeout_s = timeout_s
        self._connections = connections
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[tuple[str, int, bool], list[Connection]] = {}

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        """POST and read the status; the answer's body is not wanted. Raises OSError (or TimeoutError) without one."""
        target = target_of(url)
        request = _request(target, body, headers)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._call(target, request)
        except TimeoutError:
            raise TimeoutError(f"no answer within {self._timeout_s:g} s") from None
        except OSError as error:
            raise OSError(f"{type(error).__name__}: {error}"[:300]) from error

    async def _call(self, target: Target, request: bytes) -> tuple[int, dict[str, str]]:
        kept = self._take(target)
        if kept is not None:
            with contextlib.suppress(Gone):  # closed while it lay idle: that is nobody's refusal, a fresh one will tell
                return await self._exchange(target, kept, request)
        return await self._exchange(target, await self._connect(target), request)

    async def _exchange(self, target: Target, connection: Connection, request: bytes) -> tuple[int, dict[str, str]]:
        answer = await connection.call(request)
        idle = self._idle.setdefault((target.host, target.port, target.secure), [])
        if connection.is_usable and len(idle) < self._connections:
            connection.idle_since = asyncio.get_running_loop().time()
            idle.append(connection)
        else:
            connection.close()
        return answer

    def _take(self, target: Target) -> Connection | None:
        idle = self._idle.get((target.host, target.port, target.secure), [])
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while idle:
            connection = idle.pop()
            if connection.is_usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self, target: Target) -> Connection:
        loop = asyncio.get_running_loop()
        if target.secure and self._tls is None:
            self._tls = await loop.run_in_executor(None, self._make_tls)
        _, connection = await loop.create_connection(
            Connection, target.host, target.port, ssl=self._tls if target.secure else None
        )
        return connection

    async def close(self) -> None:
        """Close what is idle; what is under way ends with its call."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
        await asyncio.sleep(0)


def _request(target: Target, body: bytes, headers: dict[str, str]) -> bytes:
    """The call as it goes over the wire. Raises OSError for a header that would break it in two."""
    lines = [target.start]
    for name, value in headers.items():
        if not value.isprintable():
            raise OSError(f"the header {name} holds a character that no header can carry")
        lines.append(f"{name}: {value}\r\n".encode())
    lines.append(b"content-length: %d\r\n\r\n" % len(body))
    lines.append(body)
    return b"".join(lines)
