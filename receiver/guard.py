"""HTTP/1.1 on one connection, with a bound on everything a stranger can make us keep or wait for.

uvicorn's httptools protocol reads strictly but has no deadline for a head, none for a body nobody reads, no bound on
heads and trailers (Kludex/uvicorn#157), and lets one read of 256 KiB start thousands of pipelined requests. This adds
those bounds, refuses a request that can be read in two ways, and closes so that an early answer is not lost to a
reset. It judges the wire alone: no path, no source, no body. Deadlines are kept by `receiver.connections`.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from receiver import answers
from receiver.answers import Answer
from receiver.connections import Floor, Phase
from receiver.exchange import Exchange
from receiver.framing import WATCHED, Framing, size_of, split_target

_SLICE_BYTES = 4096
"""The parser is fed in slices of this size where several requests may lie in one read, and waits after the first."""
_DRY_BYTES = 32_768
"""Chunk extensions and trailers may bring this many bytes in a row without one byte of body."""
_STASH_BYTES = 65_536


_NO_PIPELINE: deque[Any] = deque()  # uvicorn's own queue, unused: one for all, as idle connections should weigh little


class _Refused(Exception):  # noqa: N818 - not an error: it stops the parser, nothing else does
    """The head was refused; nothing behind it may be read."""


class Guard(HttpToolsProtocol):
    """One connection. Made by the server for each, with the listener's Floor."""

    __slots__ = (
        "_active", "_begun_bytes", "_body_bytes", "_closing", "_deaf", "_dry_bytes", "_ending", "_floor",
        "_framing", "_in_body", "_left_bytes", "_limits", "_queue", "_resuming", "_spoken", "_stash",
        "_unread_bytes",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        floor: "Floor[Guard]",
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._floor = floor
        self._limits = floor.limits
        self._active: Exchange | None = None
        """The exchange the application works on."""
        self._queue: list[Exchange] = []
        """Pipelined exchanges that wait for it."""
        self.pipeline = _NO_PIPELINE
        self._closing = False
        """The last answer is out, or there will be none: nothing that comes in is read any more."""
        self._deaf = False
        """What comes in makes no sense any more, but earlier requests are still to be answered."""
        self._ending = False
        """Nothing more comes in; close when all is answered."""
        self._in_body = False
        self._spoken = False
        """Whether a whole head ever came."""
        self._begun_bytes = 0
        """Bytes of the head that is being read, as fed; counts what the parser still keeps to itself."""
        self._body_bytes = self._left_bytes = self._dry_bytes = 0
        self._unread_bytes = 0
        """What lay unsent when the other side was last seen to stop reading."""
        self._stash = b""
        self._framing = Framing()
        self._resuming = False
        """A fresh parser reads the head it is told, which is nobody's request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        others = self._floor.connections
        if len(others) >= self._limits.max_connections and (victim := others.dispensable()):
            self._floor.count("too_many")
            victim.cut()
        others.enter(self, Phase.FRESH, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self._floor.connections.leave(self)
        self._closing, self._stash = True, b""
        self._queue.clear()
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True
            self._active.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override] # asyncio asks whether to stay open
        if self._limits.half_close and not self._closing and not self._in_body and self._unanswered():
            self._ending = True
            return True
        return None

    def _unanswered(self) -> bool:
        return self._active is not None and not self._active.response_complete

    def is_last(self) -> bool:
        """Whether the answer that begins now is the last on this connection."""
        return (self._ending or self._floor.draining) and not self._queue and not self._stash

    def wants_more(self) -> bool:
        """Whether reading on serves the request that is being answered, and not a later one."""
        return not self._queue and not self._stash and not self._deaf

    def _settle(self) -> None:
        """Tell the Floor which phase this connection is in now."""
        if self._closing and (self._in_body or not self.transport.get_write_buffer_size()):
            phase = Phase.CLOSING
        elif self._closing or self.flow.write_paused:
            phase = Phase.STUCK
        elif self._in_body:
            phase = Phase.BODY
        elif self._unanswered():
            phase = Phase.BUSY
        elif self._begun_bytes:
            phase = Phase.HEAD
        else:
            phase = Phase.IDLE if self._spoken else Phase.FRESH
        if phase is Phase.STUCK:
            self._unread_bytes = self.transport.get_write_buffer_size()
        self._floor.connections.enter(self, phase, self.loop.time())

    def pause_writing(self) -> None:
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._settle()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._deaf:
            return  # answered already; it is read only so that the answer is not lost to a reset
        if self._stash:
            self._stash += data
            if len(self._stash) > _STASH_BYTES:
                self.flow.pause_reading()
            return
        if len(data) <= _SLICE_BYTES and not self._queue:
            self._feed(data)
        else:
            self._feed_slices(data)
        if not self._closing:
            self._settle()

    def _feed_slices(self, data: bytes) -> None:
        """Feed what came; what lies behind a request that waits for its turn is kept back."""
        at = 0
        while at < len(data) and not (self._closing or self._deaf):
            if self._queue:
                self._stash = data[at:]
                self.flow.pause_reading()
                return
            step = max(_SLICE_BYTES, self._left_bytes if self._in_body else 0)
            self._feed(data[at : at + step])
            at += step

    def _feed(self, data: bytes) -> None:
        was_body, before = self._in_body, self._body_bytes
        self._begun_bytes += 0 if was_body else len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            if not (self._closing or self._deaf):
                self._floor.count("bad_request")
                self.refuse(answers.BAD_REQUEST)
            return
        if self._in_body:
            self._dry_bytes = self._dry_bytes + len(data) if was_body and self._body_bytes == before else 0
            if self._dry_bytes > _DRY_BYTES:
                self._floor.count("trailers")
                self.refuse(answers.HEAD_TOO_LARGE)
        elif self._begun_bytes > self._limits.max_head_bytes:
            self._floor.count("head_too_large")
            self.refuse(answers.HEAD_TOO_LARGE)

    def _stay(self, rest: bytes) -> None:
        """No other protocol is spoken here: a request that offers one (Java's client does) is taken as it is.

        The parser takes everything behind such a head for the other protocol, the request's own body too. So a fresh
        one reads on, told how long the body is.
        """
        if self.scope["method"] == "CONNECT":
            self._deaf = self._ending = True
            return
        if self._in_body:
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            self._resuming = True
            self.parser.feed_data(self._framing.plain_head())
        if rest:
            self._feed(rest)

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        super().on_message_begin()
        self._framing.reset()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer: nothing of ours is decided by what comes behind the body
        name = name.lower()
        if name in WATCHED:
            self._framing.watch(name, value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._resuming:
            self._resuming = False
            return
        version = self.parser.get_http_version()
        self._spoken = True
        if refusal := self._judge_head(version):
            self.refuse(refusal)
            raise _Refused
        scope = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        scope["raw_path"], scope["query_string"] = split_target(self.url)
        text = scope["raw_path"].decode("latin-1")
        scope["path"] = unquote(text) if "%" in text else text
        exchange = Exchange(self, keep_alive=version == "1.1" and self.parser.should_keep_alive())
        self.cycle = exchange
        self._in_body, self._body_bytes, self._dry_bytes = True, 0, 0
        self._left_bytes = self._framing.length_bytes
        if self._unanswered():
            self.flow.pause_reading()
            self._queue.append(exchange)
        else:
            self._active = exchange
            self._start_asgi_task(exchange, self.app)

    def _judge_head(self, version: str) -> Answer | None:
        """Why this head is not taken, or None."""
        limit = self._limits.max_head_bytes
        if self._begun_bytes > limit and size_of(self.url, self.headers) > limit:
            self._floor.count("head_too_large")
            return answers.HEAD_TOO_LARGE
        if refusal := self._framing.judge(version):
            self._floor.count("bad_request")
        return refusal

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._left_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing.has_body:
            return  # its body is still to come: see `_stay`
        self._in_body = False
        self._begun_bytes = self._left_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._closing or self.transport.is_closing():
            return
        if self._queue:
            self._active = self._queue.pop(0)
            self._start_asgi_task(self._active, self.app)
        if self._stash and not self._queue:  # also the body of the request that was just begun
            stash, self._stash = self._stash, b""
            self._feed_slices(stash)
        if not self._closing:
            if (self._ending or self._deaf) and not self._unanswered():
                self.close()
            elif self.wants_more():
                self.flow.resume_reading()
            self._settle()

    def close(self) -> None:
        """The answer is out and it was the last. A sender that is still sending is let finish for a moment: closing
        under it would reset the connection, and the answer with it."""
        if self._closing:
            return
        self._closing, self._stash = True, b""
        if (self._in_body or self._begun_bytes) and not self.transport.is_closing():
            with contextlib.suppress(OSError):  # it may be gone already
                self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()
        self._settle()

    def refuse(self, answer: Answer) -> None:
        """Answer on the wire's own behalf, as the last thing on this connection. A request read before and not yet
        answered comes first; then the connection ends without a word, for an answer now would be taken for its own."""
        active = self._active
        if active is None or active.response_complete:
            self.transport.write(answer.raw())
        elif self._in_body and self.cycle is active:
            if not active.response_started and not active.disconnected:
                self.transport.write(answer.raw())
            active.disconnected = True
            active.message_event.set()
        else:
            if self._in_body:  # the broken one is the last in the queue: nobody will answer it
                self._queue.pop()
                self.cycle = self._queue[-1] if self._queue else active
            self._deaf = self._ending = True
            self._in_body, self._begun_bytes, self._stash = False, 1, b""
            return
        self._begun_bytes = self._begun_bytes or 1
        self.close()

    def too_late(self, phase: Phase) -> None:
        """A deadline has passed."""
        if phase is Phase.IDLE:
            self.close()
        elif phase is Phase.BODY and self.cycle is self._active and not self.cycle.response_started:
            self._active.late = True
            self.refuse(answers.TOO_SLOW)
        elif phase is Phase.STUCK and self.transport.get_write_buffer_size() < self._unread_bytes:
            self._floor.connections.leave(self)  # it reads, if slowly: the time begins anew
            self._settle()
        else:
            self.cut()

    def cut(self) -> None:
        """End the connection at once."""
        self._closing = True
        self._floor.connections.leave(self)
        self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: close what is silent; what is being answered closes with its answer."""
        if not self._unanswered():
            self.close()
