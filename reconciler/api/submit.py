"""Pass-through: the application's request goes to the provider, and the job it started is on record before the answer
is handed back.

Neither the request nor the answer is changed, apart from what a proxy must change and the credentials. On any doubt
the answer still goes back, and the doubt is logged: what the provider has begun is not undone by our not knowing it.
A crash between the provider's answer and the record leaves a job that only adoption finds.
"""

import re
from collections.abc import AsyncIterator
from urllib.parse import unquote_to_bytes

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.secrets import Secret
from receiver.settings import SourceSettings
from reconciler.api import shapes
from reconciler.api.call import Call
from reconciler.api.guard import Guard, values
from reconciler.api.models import MODALITY_LENGTH
from reconciler.api.outlet import BrokenOffError, Outlet
from reconciler.api.peeking import Peek, refs_in
from reconciler.api.problem import ProblemError, bad_request
from reconciler.api.recording import Recording, Told
from reconciler.api.routing import ANY, TAIL, Answer, Route
from reconciler.passing import HeaderPairs, Incoming, Outgoing, TooSlowError, UnreachableError

log = structlog.get_logger("holdfast.api")

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110, 7.6.1, and two from practice: they speak of one connection, and there are two."""
_OURS = b"x-holdfast-"
_TARGET = re.compile(rb"[\x21-\x7e]*")
_MODALITY_HEADER = b"x-holdfast-modality"


async def submit(call: Call) -> ASGIApp:
    """Prepare the way to the provider; the answer is fetched and handed back by the `Relay`."""
    source = call.source()
    base_url = source.effective_base_url
    if base_url is None:
        raise ProblemError(502, "the source has no base_url: there is nowhere to pass this on to")
    headers = call.request.headers.raw
    refs = refs_in(headers)
    peek = Peek(_body(call.request), headers) if _has_body(headers) else None
    outgoing = Outgoing(
        method=call.request.method,
        base_url=base_url,
        target=target_of(call),
        headers=forwarded(headers, source, call.parts.guard),
        body=peek,
        timeout_s=source.reconcile(call.desk.settings.reconcile).http_timeout_s,
    )
    recording = Recording(
        call.desk, source, call.request.method, call.path["path"], Told(modality_of(headers), refs, peek)
    )
    return Relay(call, outgoing, recording)


def target_of(call: Call) -> bytes:
    """Path and query as they came, byte by byte. Raises ProblemError 400 for a path that climbs or cannot be sent."""
    path = call.path["path"].encode("latin-1")
    if any(unquote_to_bytes(part) in (b".", b"..") for part in re.split(rb"/|%2[fF]|\\|%5[cC]", path)):
        raise bad_request("the path climbs: it holds a segment of dots alone")
    query: bytes = call.request.scope["query_string"]
    target = (path or b"/") + (b"?" + query if query else b"")
    if not _TARGET.fullmatch(target):
        raise bad_request("the path holds a character that must be escaped")
    return target


def forwarded(headers: HeaderPairs, source: SourceSettings, guard: Guard) -> HeaderPairs:
    """The caller's headers as the provider gets them: without those of the connection, without ours, and with the
    source's credentials where the caller brought none of its own."""
    dropped = HOP_BY_HOP | _named(headers) | {b"host", b"expect"}
    kept = [
        (name, value)
        for name, value in headers
        if name not in dropped and not name.startswith(_OURS) and not (name == b"authorization" and guard.is_own(value))
    ]
    credentials = source.facts.auth_headers(source) if _held(source.api_key) else {}
    own = {b"authorization", *(name.lower().encode() for name in credentials)}
    if not any(name in own for name, _ in kept):
        kept += [(name.lower().encode(), value.encode("latin-1")) for name, value in credentials.items()]
    return kept


def handed_back(incoming: Incoming) -> HeaderPairs:
    """The provider's headers as the caller gets them."""
    headers = [(name.lower(), value) for name, value in incoming.headers]
    dropped = HOP_BY_HOP | _named(headers)
    if incoming.status in (204, 304):  # they have no body, whatever their Content-Length says of another answer
        dropped |= {b"content-length"}
    return [(name, value) for name, value in headers if name not in dropped]


def modality_of(headers: HeaderPairs) -> str | None:
    """What the caller says of the modality; None: read it from the path. Raises ProblemError 400."""
    given = values(headers, _MODALITY_HEADER)
    if not given:
        return None
    modality = given[0].strip()
    if len(given) > 1 or not (0 < len(modality) <= MODALITY_LENGTH and modality.isascii() and modality.isprintable()):
        raise bad_request("X-Holdfast-Modality is not one name of a modality, as in video")
    return modality


def _named(headers: HeaderPairs) -> set[bytes]:
    """The headers that Connection names: they are of this connection too."""
    listed = (part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b","))
    return set(listed) - {b"", b"close", b"keep-alive"}


def _held(key: Secret | None) -> bool:
    return key is not None and key.is_held


def _has_body(headers: HeaderPairs) -> bool:
    return any(name == b"transfer-encoding" for name, _ in headers) or any(
        length.strip() not in ("", "0") for length in values(headers, b"content-length")
    )


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


class Relay:
    """Fetches the provider's answer, has its jobs recorded, and hands it back."""

    def __init__(self, call: Call, outgoing: Outgoing, recording: Recording) -> None:
        self._call = call
        self._outgoing = outgoing
        self._recording = recording

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ProblemError 502 or 504 before anything was sent, BrokenOffError after."""
        outlet = send if isinstance(send, Outlet) else Outlet(send, self._call.desk.limits.stall_s)
        source = self._recording.source.name
        try:
            async with self._call.parts.passing.carry(self._outgoing) as incoming:
                await self._hand_back(incoming, outlet)
        except ClientDisconnect:
            log.info("submit.caller_left", source=source, what="the upload was broken off; nothing was registered")
        except (UnreachableError, TooSlowError) as error:
            if outlet.started:
                log.warning("submit.broken_off", source=source, error=str(error))
                raise BrokenOffError from error
            log.warning("submit.no_answer", source=source, error=str(error))
            if isinstance(error, TooSlowError):
                raise ProblemError(
                    504, f"the provider did not answer in time ({error}); nothing was registered"
                ) from None
            raise ProblemError(502, f"the provider cannot be reached ({error}); nothing was registered") from None

    async def _hand_back(self, incoming: Incoming, outlet: Outlet) -> None:
        held = bytearray()
        whole = False
        if self._recording.wanted(incoming):
            whole = await self._hold(incoming, held)
            if whole:
                await self._recording.record(incoming, bytes(held))
            else:
                self._recording.doubt("the answer is too large to be looked into")
        await outlet({"type": "http.response.start", "status": incoming.status, "headers": handed_back(incoming)})
        await outlet.write(bytes(held))
        held.clear()
        if not whole:
            async for chunk in incoming.chunks:
                await outlet.write(chunk)
        await outlet.write(b"", more=False)

    async def _hold(self, incoming: Incoming, held: bytearray) -> bool:
        """Keep the answer until it is whole; False when it grows past what is looked into."""
        async for chunk in incoming.chunks:
            held += chunk
            if len(held) > self._call.desk.limits.answer_bytes:
                return False
        return True


_PASSED = {
    200: Answer("The provider's answer, whatever its status, unchanged.", None, "*/*"),
    404: Answer("No such source (or the provider's own 404).", shapes.ProblemShape),
    502: Answer("The provider cannot be reached; nothing was registered.", shapes.ProblemShape),
    504: Answer("The provider did not answer in time; nothing was registered.", shapes.ProblemShape),
}

ROUTES = [
    Route(
        method=ANY,
        path=f"/submit/{{source}}/{TAIL}",
        handler=submit,
        summary="Pass a request on to the provider, and record the job it starts before answering",
        headers={
            "X-Holdfast-Refs": "A JSON object of texts: what the job is asked about by, where no answer tells.",
            "X-Holdfast-Modality": "The job's modality, instead of the one read from the path.",
            "X-Holdfast-Token": "The API token, where Authorization is the caller's own for the provider.",
        },
        answers=_PASSED,
        tags=("submit",),
    )
]
