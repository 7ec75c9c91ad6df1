"""The gate every request to a simulated provider passes: key, quota, ordered API faults.

Owns the order of refusals and the spoiling of answers. Never knows what an endpoint means; the shapes of errors are
the provider's own.
"""

import email.utils
import json
import math
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import anyio
from starlette.requests import Request
from starlette.responses import Response

from holdfast.simulator.faults import API_FAULTS, Fate, Faults, draw
from holdfast.simulator.workers import Workers
from receiver.clock import Clock

Kind = Literal["submit", "read", "manage"]
Handler = Callable[[Request], Awaitable[Response]]

_REFUSALS = {
    "api_unauthorized": 401,
    "api_payment_required": 402,
    "api_forbidden": 403,
    "api_not_found": 404,
}
_UNKNOWN_WORDS = ("hibernating", "ON_HOLD", "")
_HTML = "<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"


class Quota:
    """At most `limit` requests in any `window_s` seconds; the refused ones do not count."""

    def __init__(self, limit: int | None, window_s: float, clock: Clock) -> None:
        """`limit` None means no quota."""
        self.limit = limit
        self.window_s = window_s
        self._clock = clock
        self._taken: deque[float] = deque()

    def take(self) -> float | None:
        """Use one request. None if allowed, else the seconds until one is free again."""
        if self.limit is None:
            return None
        now = self._clock.monotonic()
        while self._taken and self._taken[0] <= now - self.window_s:
            self._taken.popleft()
        if len(self._taken) < self.limit:
            self._taken.append(now)
            return None
        return self._taken[0] + self.window_s - now if self._taken else self.window_s


class Guarded(Protocol):
    """What the gate needs to know of a provider."""

    seed: str
    label: str
    faults: Faults
    counters: Counter[str]
    clock: Clock
    workers: Workers
    trap_url: str
    retry_after: Literal["seconds", "date", "none"]

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request without a good key."""
        ...

    def charge(self, request: Request) -> float | None:
        """Take the request from the quota: None, or the seconds to wait."""
        ...

    def error(self, status: int, message: str = "", code: str | None = None) -> Response:
        """An error in the provider's own shape."""
        ...

    def decorate(self, response: Response) -> Response:
        """Add the headers this provider puts on every answer."""
        ...


class Gate:
    """Wraps the endpoints of one provider."""

    def __init__(self, provider: Guarded) -> None:
        """The provider is asked at each request, so its faults can be changed while it runs."""
        self._provider = provider
        self._asked: Counter[str] = Counter()

    def guard(self, kind: Kind, handler: Handler) -> Handler:
        """The endpoint with key, quota and faults in front of it."""

        async def endpoint(request: Request) -> Response:
            return self._provider.decorate(await self._answer(kind, handler, request))

        return endpoint

    async def _answer(self, kind: Kind, handler: Handler, request: Request) -> Response:
        provider = self._provider
        provider.counters["api_requests"] += 1
        refusal = provider.refusal(request)
        if refusal is not None:
            return refusal
        wait_s = provider.charge(request)
        if wait_s is not None:
            provider.counters["api_over_quota"] += 1
            return self._too_many(wait_s)
        fate = self._fate(kind, request)
        if fate.hits:
            provider.counters["api_faults"] += 1
        early = await self._instead(fate)
        if early is not None:
            return early
        return await self._spoiled(fate, await handler(request), request)

    def _fate(self, kind: Kind, request: Request) -> Fate:
        provider, place = self._provider, f"{request.method} {request.url.path}"
        self._asked[place] += 1
        rng = random.Random(f"{provider.seed}:{provider.label}:api:{place}:{self._asked[place]}")
        fate = draw(rng, provider.faults, API_FAULTS)
        scope = provider.faults.api_scope
        hits = fate.hits if scope in (kind, "all") else frozenset[str]()
        if kind == "submit" and "submit_lost" in fate:
            hits |= {"submit_lost"}
        elif kind != "submit":
            hits -= {"submit_lost"}
        return Fate(hits, fate.spot, fate.lie, fate.twist)

    async def _instead(self, fate: Fate) -> Response | None:
        provider, faults = self._provider, self._provider.faults
        if "api_hang" in fate:
            with anyio.move_on_after(faults.api_hang_s):
                await provider.workers.closing.wait()
            return provider.error(503)
        if "api_slow" in fate:
            with anyio.move_on_after(faults.api_slow_s):
                await provider.workers.closing.wait()
        if "api_error_5xx" in fate:
            return provider.error(500 if fate.twist % 2 else 503)
        if "api_rate_limited" in fate:
            return self._too_many(float(faults.retry_after_s))
        if "api_redirect" in fate:
            return Response(status_code=302 if fate.twist % 2 else 307, headers={"Location": provider.trap_url})
        for fault, status in _REFUSALS.items():
            if fault in fate:
                return provider.error(status)
        return None

    async def _spoiled(self, fate: Fate, response: Response, request: Request) -> Response:
        if "submit_lost" in fate:
            return Response(_HTML, status_code=502, media_type="text/html")
        if "api_huge" in fate:
            filler = "x" * self._provider.faults.api_huge_bytes
            return Response(json.dumps({"filler": filler}), media_type="application/json")
        if "api_malformed" in fate:
            return _malformed(bytes(response.body), fate.twist)
        if "api_wrong_id" in fate:
            asked = request.url.path.rsplit("/", 1)[-1].encode()
            response = _json(bytes(response.body).replace(asked, asked[::-1]), response)
        if "api_unknown_word" in fate:
            word = _UNKNOWN_WORDS[fate.twist % len(_UNKNOWN_WORDS)]
            response = _json(json.dumps(_reworded(json.loads(bytes(response.body)), word)).encode(), response)
        return response

    def _too_many(self, wait_s: float) -> Response:
        provider = self._provider
        response = provider.error(429)
        style = provider.faults.retry_after
        name_wait(response, wait_s, provider.retry_after if style == "provider" else style, provider.clock)
        return response


def name_wait(response: Response, wait_s: float, style: str, clock: Clock) -> None:
    """Put a Retry-After on an answer: `seconds`, `date` or `none`."""
    if style == "seconds":
        response.headers["Retry-After"] = str(math.ceil(wait_s))
    elif style == "date":
        moment = datetime.fromtimestamp(math.ceil(clock.now() + wait_s), UTC)
        response.headers["Retry-After"] = email.utils.format_datetime(moment, usegmt=True)


def _malformed(body: bytes, twist: int) -> Response:
    spoiled = (_HTML.encode(), body[: len(body) // 2], b"", b"[" + body + b"]")[twist % 4]
    return Response(spoiled, media_type="text/html" if twist % 4 == 0 else "application/json")


def _json(body: bytes, like: Response) -> Response:
    fresh = Response(body, status_code=like.status_code, media_type="application/json")
    for name, value in like.headers.items():
        if name not in ("content-length", "content-type"):
            fresh.headers[name] = value
    return fresh


def _reworded(document: Any, word: str) -> Any:
    """The document with every status replaced; extraction statuses of documents included."""
    if isinstance(document, dict):
        return {
            key: word if key.lower().endswith("status") and isinstance(value, str) else _reworded(value, word)
            for key, value in document.items()
        }
    if isinstance(document, list):
        return [_reworded(part, word) for part in document]
    return document
