"""One HTTP connection's life: which phase it is in, who is being answered on it, and how it ends.

Owns what `receiver.connections` needs to know of a connection and every way to close it, so that an early answer is not
lost to a reset. What comes in is read by `receiver.guard`.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from receiver import answers
from receiver.answers import Answer
from receiver.connections import Floor, Phase
from receiver.exchange import Exchange
from receiver.framing import Framing
from receiver.shortcut import Shortcut

_NO_PIPELINE: deque[Any] = deque()  # uvicorn's own queue, unused: one for all, as idle connections should weigh little

_READ_BYTES = 32_768
"""asyncio makes room for so much before each read and gives back what stays empty. Its own 256 KiB cost more than all
else about reading a request (the allocator tidies up whenever 64 KiB come back), and 32 KiB are eight of its slices."""


class Wire(HttpToolsProtocol):
    """One connection of a listener, with the listener's Floor."""

    cycle: Any  # an Exchange or a Shortcut; uvicorn knows its own kind alone

    __slots__ = (
        "_active", "_begun_bytes", "_body_bytes", "_closing", "_deaf", "_dry_bytes", "_ending", "_floor",
        "_framing", "_in_body", "_keeps_alive", "_left_bytes", "_limits", "_queue", "_resuming", "_short", "_spoken",
        "_stash", "_unread_bytes",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        floor: "Floor[Wire]",
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._floor = floor
        self._limits = floor.limits
        self._active: Exchange | Shortcut | None = None
        """The exchange the application works on."""
        self._short: list[bytes] | None = None
        """The body so far of a request that goes the short way, if all of it is in what is being fed."""
        self._queue: list[Exchange] = []
        """Pipelined exchanges that wait for it."""
        self.pipeline = _NO_PIPELINE
        self._closing = False
        """The last answer is out, or there will be none: nothing that comes in is read any more."""
        self._deaf = False
        """What comes in makes no sense any more, but earlier requests are still to be answered."""
        self._ending = False
        """Nothing more comes in; close when all is answered."""
        self._in_body = self._keeps_alive = False
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
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES
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
        active = self._active
        if phase is Phase.IDLE:
            self.close()
        elif (
            phase is Phase.BODY
            and isinstance(active, Exchange)
            and self.cycle is active
            and not active.response_started
        ):
            active.late = True
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

    def give_up(self) -> None:
        """The server stops and waits no longer for an answer; where a task makes it, the task is told."""
        if isinstance(self._active, Shortcut):
            self._active.reply(answers.STOPPING)

    def shutdown(self) -> None:
        """The server stops: close what is silent; what is being answered closes with its answer."""
        if not self._unanswered():
            self.close()
