"""HTTP/1.1 on one connection, with a bound on everything a stranger can make us keep or wait for.

uvicorn's httptools protocol reads strictly but has no deadline for a head, none for a body nobody reads, no bound on
heads and trailers (Kludex/uvicorn#157), and lets one read of 256 KiB start thousands of pipelined requests. This adds
those bounds and refuses a request that can be read in two ways. It judges the wire alone: no path, no source, no body.
How a connection ends is in `receiver.wire`, its deadlines are kept by `receiver.connections`.
"""

import httptools

from receiver import answers
from receiver.answers import Answer
from receiver.exchange import Exchange
from receiver.framing import WATCHED, size_of
from receiver.shortcut import Shortcut, is_short
from receiver.wire import Wire

_SLICE_BYTES = 4096
"""The parser is fed in slices of this size where several requests may lie in one read, and waits after the first."""
_DRY_BYTES = 32_768
"""Chunk extensions and trailers may bring this many bytes in a row without one byte of body."""
_STASH_BYTES = 65_536


class _Refused(Exception):  # noqa: N818 - not an error: it stops the parser, nothing else does
    """The head was refused; nothing behind it may be read."""


class Guard(Wire):
    """One connection. Made by the server for each, with the listener's Floor."""

    __slots__ = ()

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
        if self._short is not None and not self._closing:
            self._go_long_way(self._short, more=True)
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
        if self.parser.get_method() == b"CONNECT":
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
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
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
        self._in_body, self._body_bytes, self._dry_bytes = True, 0, 0
        self._left_bytes = self._framing.length_bytes
        self._keeps_alive = version == "1.1" and self.parser.should_keep_alive()
        if self._floor.application is not None and is_short(self, self._framing) and not self._unanswered():
            self._short = []
        else:
            self._begin(Exchange(self, keep_alive=self._keeps_alive))

    def _begin(self, exchange: Exchange) -> None:
        """Let the application answer, now or when its turn comes."""
        self.cycle = exchange
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

    def _go_long_way(self, parts: list[bytes], *, more: bool) -> None:
        """Give the application a request as an exchange after all, with what there is of its body."""
        self._short = None
        exchange = Exchange(self, keep_alive=self._keeps_alive)
        exchange.body += b"".join(parts)
        exchange.more_body = more
        exchange.message_event.set()
        self._begin(exchange)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._left_bytes -= len(body)
        if self._short is not None:
            self._short.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing.has_body:
            return  # its body is still to come: see `_stay`
        self._in_body = False
        self._begun_bytes = self._left_bytes = 0
        if self._short is None:
            super().on_message_complete()
            return
        parts, self._short = self._short, None
        self._active = self.cycle = shortcut = Shortcut(self, keep_alive=self._keeps_alive)
        if not shortcut.take(self._floor.application, b"".join(parts)):
            self._active = None
            self._go_long_way(parts, more=False)

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
