"""The short way from a small request to its answer: no task, no scope, no messages between server and application.

Most deliveries are one packet. For those an application may offer, besides being called the ASGI way, to answer at
once (`AnswersAtOnce`): it is handed the whole request and a function that takes the answer, now or later. Whatever is
not whole when its head is read, or is larger, or is not a POST, goes the long way, and so does whatever the
application hands back. What is answered and how connections end is the same on both ways.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from receiver.answers import Answer, Reply
from receiver.exchange import head_of
from receiver.framing import Framing, split_target

if TYPE_CHECKING:
    from receiver.guard import Guard

SHORT_BYTES = 65_536
"""Larger bodies go the long way: they hold a claim on memory from their first byte."""

_NOBODY_WAITS = asyncio.Event()


class AnswersAtOnce(Protocol):
    """What an application offers that can do without a task."""

    def at_once(
        self, raw_path: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes, remote: str, reply: Reply
    ) -> bool:
        """Answer a POST whose head says how long its body is. `reply` is called once, from this call or later on the
        loop; False: it will not be, and nothing was done; the request is to go the long way. Raises nothing."""
        ...


def is_short(guard: "Guard", framing: Framing) -> bool:
    """Whether the request whose head was just read may go the short way, if its body follows at once."""
    return (
        0 < framing.length_bytes <= SHORT_BYTES
        and guard.parser.get_method() == b"POST"
        and not guard.expect_100_continue
        and not guard.flow.write_paused  # then an answer waits for its reader, and so must the next request
        and not guard.parser.should_upgrade()
    )


class Shortcut:
    """One request on its short way; to the connection it looks like an exchange (`receiver.exchange`)."""

    __slots__ = ("_guard", "disconnected", "keep_alive", "response_complete", "response_started")

    message_event = _NOBODY_WAITS

    def __init__(self, guard: "Guard", *, keep_alive: bool) -> None:
        self._guard = guard
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = self.response_complete = False

    def take(self, application: AnswersAtOnce | None, body: bytes) -> bool:
        """Hand the request to the application; False when it wants it the long way."""
        guard = self._guard
        if application is None:
            return False
        remote = guard.client[0] if guard.client else "unix"
        return application.at_once(split_target(guard.url)[0], guard.headers, body, remote, self.reply)

    def reply(self, answer: Answer) -> None:
        """Send the answer, unless its reader has gone."""
        guard = self._guard
        if self.response_complete or self.disconnected:
            return
        self.response_started = self.response_complete = True
        keep_alive = self.keep_alive and not guard.is_last()
        head = head_of(answer.status, guard.server_state.default_headers, answer.start["headers"])
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        guard.transport.write(b"%b%b%b" % (head.lines, end, answer.body["body"]))
        if not keep_alive:
            guard.close()
        guard.on_response_complete()
