"""The outbox as server-sent events: `id:` is the message's id, `data:` its payload on one line.

Each stream reads a few messages at a time and goes on when they are sent, so a slow reader costs one small batch and
the connection's own buffer; one that takes nothing for `stall_s` is cut off. Reading acknowledges nothing.
"""

import asyncio
from dataclasses import dataclass

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.errors import StoreUnavailable
from receiver.store.base import Store
from receiver.store.views import View
from reconciler.api.bell import Bell, heard
from reconciler.api.call import Call, left
from reconciler.api.desk import Limits
from reconciler.api.outlet import Outlet
from reconciler.api.problem import unavailable
from reconciler.api.routing import Answer, Route

log = structlog.get_logger("holdfast.api")

BATCH = 10
"""Messages read at once: results may be megabytes each."""
KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]

Messages = list[tuple[int, str, str]]


@dataclass(slots=True)
class Place:
    """Where a reader is in the outbox."""

    after: int
    """The position of the last message it was sent."""
    backlog_until: int = 0
    """Up to here only undelivered messages are sent, to a reader that came without a place of its own."""


class EventStream:
    """One reader's stream; an ASGI application for the rest of its request."""

    def __init__(self, store: Store, bell: Bell, limits: Limits, last_event_id: str | None) -> None:
        self._store = store
        self._bell = bell
        self._limits = limits
        self._last_event_id = last_event_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the reader leaves, stalls, or the listener stops."""
        outlet = send if isinstance(send, Outlet) else Outlet(send, self._limits.stall_s)
        place = await self._store.read(self._begin)
        leaving = asyncio.ensure_future(left(receive))
        writing = asyncio.ensure_future(self._write(outlet, place))
        try:
            await asyncio.wait({leaving, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not writing.done():
                writing.cancel()
        if writing.done():
            writing.result()  # raises what went wrong

    def _begin(self, view: View) -> Place:
        if self._last_event_id is None:
            return Place(0, view.last_seq())
        # An id that is not kept any more was pruned: all that is kept came after it, as far as anybody can tell.
        return Place(view.message_seq(self._last_event_id) or 0)

    async def _write(self, outlet: Outlet, place: Place) -> None:
        await outlet({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await outlet.write(b": stream of the outbox\n\n")
        sent_at = asyncio.get_running_loop().time()
        with self._bell.listen("outbox") as news:
            while not self._bell.closed:
                if await self._send_next(outlet, place):
                    sent_at = asyncio.get_running_loop().time()
                else:
                    sent_at = await self._idle(outlet, news, sent_at)
        await outlet.write(b"", more=False)

    async def _send_next(self, outlet: Outlet, place: Place) -> bool:
        """Send what comes next; False when there is nothing."""
        try:
            batch = await self._store.read(lambda view: _next(view, place))
        except StoreUnavailable as error:
            log.warning("stream.read_failed", error=str(error))
            return False
        for seq, message_id, payload in batch:
            await outlet.write(event(message_id, payload))
            place.after = seq
        if not batch and place.backlog_until:
            place.after, place.backlog_until = max(place.after, place.backlog_until), 0
            return True
        return bool(batch)

    async def _idle(self, outlet: Outlet, news: asyncio.Event, sent_at: float) -> float:
        """Wait for a commit, or until it is time to look anyway. A connection that stays silent gets a comment."""
        await heard(news, min(self._limits.tick_s, self._limits.keep_alive_s))
        now = asyncio.get_running_loop().time()
        if now - sent_at < self._limits.keep_alive_s or self._bell.closed:
            return sent_at
        await outlet.write(KEEP_ALIVE)
        return now


def _next(view: View, place: Place) -> Messages:
    if not place.backlog_until:
        return view.stream(place.after, BATCH)
    batch = view.stream(place.after, BATCH, undelivered_only=True)
    return [one for one in batch if one[0] <= place.backlog_until]


def event(message_id: str, payload: str) -> bytes:
    """A message as one event. JSON has line breaks only where a blank would do as well."""
    written = payload.replace("\r", " ").replace("\n", " ")
    name = message_id.replace("\r", " ").replace("\n", " ").replace("\0", " ")
    return f"id: {name}\ndata: {written}\n\n".encode()


class Streams:
    """All streams of this process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.open = 0

    def admit(self, stream: EventStream) -> ASGIApp:
        """The stream, counted while it lasts. Raises ProblemError 503 when there are too many."""
        if self.open >= self._most:
            raise unavailable("too many streams are open already; claim messages instead")
        self.open += 1

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await stream(scope, receive, send)
            finally:
                self.open -= 1

        return counted


async def stream_outbox(call: Call) -> ASGIApp:
    """Messages as they are staged."""
    last_event_id = call.request.headers.get("last-event-id") or None
    desk, parts = call.desk, call.parts
    return parts.streams.admit(EventStream(desk.store, parts.bell, desk.limits, last_event_id))


ROUTES = [
    Route(
        method="GET",
        path="/v1/outbox/stream",
        handler=stream_outbox,
        summary="Messages as they come, as server-sent events; reading acknowledges nothing",
        headers={
            "Last-Event-ID": "The id of the last message seen; without it the stream begins with what is undelivered."
        },
        answers={200: Answer("`id:` is the message's id, `data:` its payload on one line.", None, "text/event-stream")},
        tags=("outbox",),
    ),
]
