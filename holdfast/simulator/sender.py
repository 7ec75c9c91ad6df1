"""Sends webhooks the way one provider does, and the way it should not: every webhook fault happens here.

Owns the HTTP client, the attempts and their count in the truth. Never decides who is hit (`faults.py`) and never knows
what a payload means: the provider encodes it and makes its headers, anew for each attempt.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import httpx

from holdfast.simulator.faults import Fate, Faults
from holdfast.simulator.truth import Attempt, SimulatedJob
from receiver.clock import Clock


@dataclass(frozen=True, slots=True)
class SendPolicy:
    """How a provider delivers: how long it waits for the answer, and after which waits it tries again."""

    timeout_s: float
    waits_s: tuple[float, ...] = ()
    only_200: bool = False
    """Whether 200 alone counts; otherwise any 2xx."""

    def accepts(self, status: int) -> bool:
        """Whether this answer ends the delivery."""
        return status == 200 if self.only_200 else 200 <= status < 300


@dataclass(slots=True)
class Webhook:
    """One thing to tell. `attempts` is the provider's own delivery log of it."""

    event: str
    body: dict[str, Any]
    job: SimulatedJob | None
    event_id: str = ""
    delivery_id: str = ""
    wrong: dict[str, Any] | None = None
    """The same body naming a job that does not exist."""
    forged: bool = False
    faults: frozenset[str] = frozenset()
    attempts: list[Attempt] = field(default_factory=list)
    tried: anyio.Event = field(default_factory=anyio.Event)
    """Set when the first attempt is over, or was dropped."""

    def as_dict(self) -> dict[str, Any]:
        """JSON form of an event that belongs to no job."""
        return {
            "event": self.event,
            "event_id": self.event_id,
            "body": self.body,
            "faults": sorted(self.faults),
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }


LANES = 100
"""Requests under way at once; many more make the client's connection pool slow."""
CUT_OFF = "the connection was given up in mid-body"
_MALFORMED = ("cut", "text", "array", "empty", "bad utf-8")


class Sender:
    """Delivers webhooks for one simulator. One client, loopback or wherever the URL points; `close()` it."""

    def __init__(self, policy: SendPolicy, clock: Clock, counters: Counter[str], time_scale: float = 1.0) -> None:
        """`time_scale` multiplies the waits between attempts; the timeout of an attempt stays what it is."""
        self.policy = policy
        self._clock = clock
        self._counters = counters
        self._time_scale = time_scale
        self._client: httpx.AsyncClient | None = None
        self._lanes = anyio.Semaphore(LANES)
        self._gone_out = anyio.Event()
        self.log: list[Webhook] = []

    def _opened(self) -> httpx.AsyncClient:
        """The client, built on first use: no environment proxies, no redirects; no provider follows one."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(self.policy.timeout_s),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),  # `_lanes` is the limit
                follow_redirects=False,
                trust_env=False,
            )
        return self._client

    async def close(self) -> None:
        """Close the client and its connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def deliver(self, webhook: Webhook, url: str, fate: Fate, faults: Faults, provider: "Speaks") -> None:
        """Send one webhook with everything its fate holds, retries and the second copy included."""
        webhook.faults = fate.hits
        self.log.append(webhook)
        try:
            await self._deliver(webhook, url, fate, faults, provider)
        finally:
            webhook.tried.set()

    async def _deliver(self, webhook: Webhook, url: str, fate: Fate, faults: Faults, provider: "Speaks") -> None:
        if "drop" in fate:
            self._count(webhook, "dropped")
            self._note(webhook, Attempt(self._clock.now(), webhook.event, "dropped", None, None, 0.0))
            return
        if "delay" in fate:
            low, high = faults.delay_s
            await anyio.sleep(low + (high - low) * fate.spot)
            self._count(webhook, "late")
        if "reorder" in fate:
            self._count(webhook, "reordered")
            with anyio.move_on_after(faults.reorder_s):
                await self._gone_out.wait()
        for fault in ("wrong_id", "malformed", "slow", "stale"):
            if fault in fate and (fault != "wrong_id" or webhook.wrong is not None):
                self._count(webhook, fault)
        async with anyio.create_task_group() as group:
            group.start_soon(self._until_accepted, webhook, url, fate, faults, provider)
            if "duplicate" in fate:
                await anyio.sleep(faults.duplicate_gap_s)
                self._count(webhook, "duplicated")
                group.start_soon(self._attempt, webhook, url, _Shot(fate, faults, "duplicate", 1), provider)

    async def forge(self, webhook: Webhook, url: str, provider: "Speaks") -> None:
        """Send one webhook that is not the provider's: once, without its secrets."""
        webhook.forged = True
        shot = _Shot(None, None, "forged", 1)
        self._counters["forged"] += 1
        if webhook.job is not None:
            webhook.job.counts["forged"] += 1
        await self._attempt(webhook, url, shot, provider)

    async def send_once(self, webhook: Webhook, url: str, provider: "Speaks") -> Attempt:
        """One plain attempt now, without faults or retries (a provider's test button)."""
        self.log.append(webhook)
        await self._attempt(webhook, url, _Shot(None, None, "genuine", 1), provider)
        return webhook.attempts[-1]

    async def _until_accepted(self, webhook: Webhook, url: str, fate: Fate, faults: Faults, provider: "Speaks") -> None:
        waits = (0.0, *self.policy.waits_s)
        for number, wait_s in enumerate(waits, start=1):
            await anyio.sleep(wait_s * self._time_scale)
            if number > 1:
                self._count(webhook, "retried")
            shot = _Shot(fate, faults, "genuine" if number == 1 else "retry", number)
            accepted = await self._attempt(webhook, url, shot, provider)
            webhook.tried.set()
            if accepted:
                return
        self._count(webhook, "given_up")

    async def _attempt(self, webhook: Webhook, url: str, shot: "_Shot", provider: "Speaks") -> bool:
        async with self._lanes:  # the wait for a lane is the simulator's own: the attempt begins after it
            return await self._attempt_now(webhook, url, shot, provider)

    async def _attempt_now(self, webhook: Webhook, url: str, shot: "_Shot", provider: "Speaks") -> bool:
        at, started = self._clock.now(), self._clock.monotonic()
        body = webhook.wrong if shot.has("wrong_id") and webhook.wrong is not None else webhook.body
        raw = provider.encode(webhook, body, shot.number)
        if shot.has("malformed") and shot.fate is not None:
            raw = broken(raw, shot.fate.twist)
        headers = provider.headers(
            webhook, raw, at - (shot.faults.stale_s if shot.has("stale") and shot.faults else 0.0)
        )
        status, error = await self._post(url, raw, headers, shot)
        self._note(webhook, Attempt(at, webhook.event, shot.kind, status, error, self._clock.monotonic() - started))
        accepted = status is not None and self.policy.accepts(status)
        if shot.kind == "forged":
            self._counters["forged_acknowledged"] += accepted
            return accepted
        self._count(webhook, "sent")
        if shot.hangs():
            self._count(webhook, "hung")
        self._count(webhook, "acknowledged" if accepted else "refused")
        self._gone_out.set()
        self._gone_out = anyio.Event()
        return accepted

    async def _post(
        self, url: str, raw: bytes, headers: dict[str, str], shot: "_Shot"
    ) -> tuple[int | None, str | None]:
        content: bytes | AsyncIterator[bytes] = raw
        if shot.faults is not None and shot.hangs():
            content = _hanging(raw, min(shot.faults.hang_s, self.policy.timeout_s))
            headers = {**headers, "Content-Length": str(len(raw))}
        elif shot.faults is not None and shot.has("slow"):
            content = _dribbling(raw, shot.faults.slow_s)
            headers = {**headers, "Content-Length": str(len(raw))}
        try:
            with anyio.fail_after(self.policy.timeout_s):
                answer = await self._opened().post(url, content=content, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, _CutOffError, TimeoutError) as error:
            return None, str(error) or type(error).__name__
        return answer.status_code, None

    def _count(self, webhook: Webhook, counter: str) -> None:
        self._counters[counter] += 1
        if webhook.job is not None:
            webhook.job.counts[counter] += 1

    def _note(self, webhook: Webhook, attempt: Attempt) -> None:
        webhook.attempts.append(attempt)
        if webhook.job is not None:
            webhook.job.attempts.append(attempt)


class Speaks:
    """What the sender needs from a provider: bytes and headers for an attempt."""

    def encode(self, webhook: Webhook, body: dict[str, Any], attempt: int) -> bytes:
        """The bytes of one attempt (from 1); by default the body as compact JSON, the same every time."""
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    def headers(self, webhook: Webhook, raw: bytes, at: float) -> dict[str, str]:
        """The headers of one attempt; `at` is the time the provider signs with, seconds since 1970."""
        return {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class _Shot:
    fate: Fate | None
    faults: Faults | None
    kind: str
    number: int

    def has(self, fault: str) -> bool:
        return self.fate is not None and fault in self.fate

    def hangs(self) -> bool:
        return self.has("hang") and self.kind == "genuine"


class _CutOffError(Exception):
    """The sender gives up in mid-body."""


async def _hanging(raw: bytes, hang_s: float) -> AsyncIterator[bytes]:
    yield raw[: max(1, len(raw) // 2)]
    await anyio.sleep(hang_s)
    raise _CutOffError(CUT_OFF)


async def _dribbling(raw: bytes, slow_s: float, pieces: int = 10) -> AsyncIterator[bytes]:
    size = max(1, -(-len(raw) // pieces))
    for start in range(0, len(raw), size):
        yield raw[start : start + size]
        await anyio.sleep(slow_s / pieces)


def broken(raw: bytes, twist: int) -> bytes:
    """A body no receiver can act on; the kind is chosen by the dice."""
    kind = _MALFORMED[twist % len(_MALFORMED)]
    if kind == "cut":
        return raw[: len(raw) // 2]
    if kind == "text":
        return b"OK job finished"
    if kind == "array":
        return b"[" + raw + b"]"
    if kind == "empty":
        return b""
    return raw.replace(b'"', b'"\xff\xfe', 1)


def guessed(url: str, twist: int) -> str:
    """The URL as somebody writes it who knows the address but not the token: the last path segment is a guess.

    A path of fewer than three segments carries no token and stays as it is.
    """
    parts = urlsplit(url)
    segments = parts.path.split("/")
    if len(segments) < 4:
        return url
    segments[-1] = f"guess-{twist:08x}"
    return urlunsplit(parts._replace(path="/".join(segments)))
