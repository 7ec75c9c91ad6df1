"""One request and its answer on a guarded connection.

Beyond uvicorn's own: head and body of a short answer leave in one write (one packet, one system call), an answer that
is given before its request was whole is the last on the connection, and reading stops while later requests wait.
"""

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import structlog
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

from receiver import answers
from receiver.framing import split_target

if TYPE_CHECKING:
    from receiver.guard import Guard

APPLICATION_FAILED = "http.application_failed"

_NO_BODY = (204, 304)
_log = structlog.get_logger("receiver.exchange")


class Exchange(RequestResponseCycle):
    """What the application reads a request from and writes its answer to."""

    def __init__(self, guard: "Guard", *, keep_alive: bool) -> None:
        super().__init__(
            scope=_scope(guard),
            transport=guard.transport,
            flow=guard.flow,
            logger=guard.logger,
            access_logger=guard.access_logger,
            access_log=False,
            default_headers=guard.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=guard.expect_100_continue,
            keep_alive=keep_alive,
            on_response=guard.on_response_complete,
        )
        self.late = False
        """The body did not come in time; its sender has been told."""
        self._guard = guard
        self._held = b""
        """The head of an answer of known length, kept back for its body."""
        self._until_close = False
        """No length and no chunks: an HTTP/1.0 reader learns the end from the connection's."""

    async def run_asgi(self, app: Any) -> None:
        """Let the application answer. Whatever it does, its caller hears something or the connection ends."""
        instead = answers.UNEXPECTED
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                _log.error(APPLICATION_FAILED, error="it ended without a whole answer", path=self.scope["path"])
        except asyncio.CancelledError:  # the server stops and has waited long enough; nothing else cancels this task
            instead = answers.STOPPING
        except Exception as error:  # noqa: BLE001 - the application's mistakes are its own; the listener lives on
            _log.error(APPLICATION_FAILED, error=str(error), exc_info=error)
        if not self.response_complete and not self.disconnected:
            if self.response_started and not self._held:
                self.transport.close()  # half an answer is out: only the connection's end tells that it is half
            else:
                self.response_started, self.chunked_encoding, self._held = False, None, b""
                self.keep_alive = False
                await self.send(instead.start)
                await self.send(instead.body)
        self.on_response = lambda: None

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            if self.flow.read_paused and self._guard.wants_more():
                self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect", "late": self.late}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started and kind == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        elif self.response_started and not self.response_complete and kind == "http.response.body":
            self._go_on(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"the application sent {kind!r} out of turn")

    def _start(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        if self.more_body or self._guard.is_last():
            self.keep_alive = False
        head = head_of(status, self.default_headers, headers)
        lines = [head.lines]
        self.expected_content_length, self.chunked_encoding = head.length, head.chunked
        if head.close:
            self.keep_alive = False
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _NO_BODY:
            self._until_close = self.scope["http_version"] == "1.0"
            self.chunked_encoding = not self._until_close
            if self.chunked_encoding:
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        lines.append(b"\r\n" if self.keep_alive or head.close else b"connection: close\r\n\r\n")
        self._held = b"".join(lines)
        if self.chunked_encoding or self._until_close:
            self._write(b"")  # a stream's first part may be long in coming; its reader waits for the head

    def _write(self, data: bytes) -> None:
        held, self._held = self._held, b""
        if held or data:
            self.transport.write(held + data if held else data)

    def _go_on(self, body: bytes, more_body: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            self._write(b"")
        elif self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self._write(chunk if more_body else chunk + b"0\r\n\r\n")
        else:
            if not self._until_close:
                self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the application sent more than the content-length it named")
            self._write(body)
        if more_body:
            return
        if self.expected_content_length:
            raise RuntimeError("the application sent less than the content-length it named")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self._guard.close()
        self.on_response()


def _scope(guard: "Guard") -> Any:
    """What ASGI tells an application of the request whose head was just read."""
    raw_path, query = split_target(guard.url)
    path = raw_path.decode("latin-1")
    return {
        "type": "http",
        "asgi": {"version": guard.asgi_version, "spec_version": "2.3"},
        "http_version": guard.parser.get_http_version(),
        "method": guard.parser.get_method().decode("ascii"),
        "scheme": guard.scheme,
        "server": guard.server,
        "client": guard.client,
        "root_path": guard.root_path,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "headers": guard.headers,
        "state": guard.app_state.copy(),
    }


class _Head(NamedTuple):
    """The head of an answer, and what it says of the answer's end."""

    lines: bytes
    length: int
    chunked: bool | None
    """None: neither chunks nor a length were named."""
    close: bool


def head_of(status: int, own: Sequence[tuple[bytes, bytes]], headers: Sequence[tuple[bytes, bytes]]) -> _Head:
    """The head of an answer as it is written, but for its last line. `own`: the server's headers. Raises RuntimeError
    for a header that cannot be sent."""
    return _written(status, tuple(own), tuple(headers))


@lru_cache(maxsize=256)
def _written(status: int, own: tuple[tuple[bytes, bytes], ...], headers: tuple[tuple[bytes, bytes], ...]) -> _Head:
    """Most answers say the same within a second (that of `Date`), so most are written once."""
    lines, length, chunked, close = [STATUS_LINE[status]], 0, None, False
    told = {name.lower() for name, _ in headers}  # an answer passed on has its own date
    for name, value in (*(pair for pair in own if pair[0] not in told), *headers):
        name = name.lower()
        if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
            raise RuntimeError("the application sent a header that would break the answer in two")
        if name == b"content-length":
            length, chunked = int(value), False
        elif name == b"transfer-encoding" and value.lower() == b"chunked":
            chunked = True
        elif name == b"connection" and value.lower() == b"close":
            close = True
        lines.append(b"%b: %b\r\n" % (name, value))
    return _Head(b"".join(lines), length, chunked, close)
