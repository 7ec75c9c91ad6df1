"""The Python client of the private listener: register jobs, wait for them, take messages, submit through it.

    with Client("http://127.0.0.1:8081", token="…") as holdfast:
        holdfast.register("moderation", job_id, modality="image", metadata={"post": 7})
        job = holdfast.wait("moderation", job_id, timeout_s=60)
        for message in holdfast.messages():
            handle(message)          # acknowledged when the loop asks for the next one

`Client` and `AsyncClient` differ in how they send, not in what: `holdfast/calls.py` builds every request. Errors are
`ClientError` (with `.status`), `NotFound`, `Conflict`, or httpx's own when nobody answers. `wait` and `messages` sit
out a sidecar that is restarted meanwhile; one that was never reached is an error at once.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from holdfast import calls
from holdfast.calls import AWAY, Call, ClientError, Conflict, Facts, Hand, Job, Message, NotFound
from receiver.clock import SystemClock

__all__ = ["AsyncClient", "Client", "ClientError", "Conflict", "Facts", "Job", "Message", "NotFound"]
log = logging.getLogger("holdfast.client")

PAUSE_S = 0.5
"""Between two looks into an empty outbox, and before a sidecar that is away is asked again."""
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)  # thousands may wait at once
_clock = SystemClock()


def _judged(answer: httpx.Response) -> Any:
    """The answer's document. Raises ClientError."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if answer.status_code >= 400 or document is None:
        raise calls.refusal(answer.status_code, document, answer.text or answer.reason_phrase)
    return document


def _is_away(error: Exception) -> bool:
    return not isinstance(error, ClientError) or error.status in AWAY


def _verified(url: str) -> bool:
    return url.startswith("https:")  # to load certificates takes longer than to ask, and plain HTTP shows none


def _bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _with_token(token: str | None, request: dict[str, Any]) -> dict[str, Any]:
    """The caller's own Authorization is for the provider; ours then comes by its other name."""
    headers = httpx.Headers(request.pop("headers", None))
    if token:
        headers["X-Holdfast-Token"] = token
    return {**request, "headers": headers}


class Client:
    """The synchronous client. Thread-safe; a context manager."""

    def __init__(self, base_url: str = "http://127.0.0.1:8081", token: str | None = None) -> None:
        """`base_url`: of the private listener, `unix:/path` too. Raises nothing: nobody is asked yet."""
        url, socket = calls.address_of(base_url)
        transport = httpx.HTTPTransport(verify=_verified(url), uds=socket, retries=1, limits=_LIMITS)
        self._http = httpx.Client(base_url=url, headers=_bearer(token), timeout=30.0, transport=transport)
        self._token = token
        self._reached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def _do(self, call: Call) -> Any:
        answer = self._http.request(
            call.method, call.path, json=call.json, params=call.params, timeout=httpx.Timeout(call.timeout_s)
        )
        self._reached = True
        return _judged(answer)

    def register(self, source: str, job_id: str, **facts: Unpack[Facts]) -> Job:
        """Put a job on record: modality, submitted_at (text), poll_url, alias, refs, metadata. Saying the same again
        does no harm; another fact raises Conflict."""
        job: Job = self._do(calls.register(source, job_id, facts))
        return job

    def job(self, source: str, job_id: str) -> Job:
        """One job with its whole story. Raises NotFound."""
        job: Job = self._do(calls.show(source, job_id))
        return job

    def wait(self, source: str, job_id: str, timeout_s: float = 30.0) -> Job:
        """The job as soon as it has ended, or as it is when the time is up (`job["state"] == "pending"`)."""
        end = _clock.monotonic() + timeout_s
        while True:
            try:
                job: Job = self._do(calls.wait(source, job_id, end - _clock.monotonic()))
                if job["state"] != "pending" or _clock.monotonic() >= end:
                    return job
            except (httpx.TransportError, ClientError) as error:
                if not (self._reached and _is_away(error)) or _clock.monotonic() >= end:
                    raise
            _pause(min(PAUSE_S, end - _clock.monotonic()))

    def claim(self, limit: int = 10, lease_s: float = 60.0) -> list[Message]:
        """Take messages for a while; nobody else gets them until the lease runs out."""
        return calls.messages_of(self._do(calls.claim(limit, lease_s)))

    def ack(self, *ids: str) -> int:
        """Say that messages were handled; answers how many were still waiting for that."""
        return int(self._do(calls.ack(ids))["acked"])

    def messages(
        self, limit: int = 10, lease_s: float = 60.0, idle_s: float | None = None
    ) -> Generator[Message, None, None]:
        """Messages one by one, for ever (or until none came for `idle_s`). Each is acknowledged when the next one is
        asked for; one whose handling raised is not, and comes again when its lease has run out. Leases are renewed
        while you work; what was claimed for a loop you leave is given back."""
        hand = Hand(lease_s, idle_s, _clock)
        with self._renewing(hand):
            while not hand.idle:
                if self._acknowledge(hand) and self._take(hand, limit):
                    while (message := hand.next()) is not None:
                        yield message
                        hand.handled(message)
                        self._acknowledge(hand)
                else:
                    _pause(PAUSE_S if idle_s is None else min(PAUSE_S, idle_s))
            if hand.done:
                self.ack(*hand.done)

    def _take(self, hand: Hand, limit: int) -> bool:
        asked_at = _clock.monotonic()
        with self._sitting_out(hand):
            messages = self.claim(limit, hand.lease_s)
            hand.take(messages, asked_at)
            return bool(messages)
        return False

    def _acknowledge(self, hand: Hand) -> bool:
        """Whether everything handled is acknowledged."""
        if hand.done:
            with self._sitting_out(hand):
                self.ack(*hand.done)
                hand.done.clear()
        return not hand.done

    @contextlib.contextmanager
    def _sitting_out(self, hand: Hand) -> Iterator[None]:
        """Let errors of a sidecar that is away pass by, until nothing came for `idle_s`."""
        try:
            yield
        except (httpx.TransportError, ClientError) as error:
            if not (self._reached and _is_away(error)) or hand.idle:
                raise
            log.warning("the sidecar is away, asking again soon: %s", error)

    @contextlib.contextmanager
    def _renewing(self, hand: Hand) -> Iterator[None]:
        """Renew what the hand holds on a thread of its own; in the end give back what was never handed out."""
        end = threading.Event()

        def renew() -> None:
            while not end.wait(hand.lease_s / 3):
                self._extend(hand, hand.leased(), hand.lease_s)

        thread = threading.Thread(target=renew, name="holdfast-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            self._extend(hand, hand.unseen(), hand.RELEASED_S)

    def _extend(self, hand: Hand, ids: list[str], lease_s: float) -> None:
        asked_at = _clock.monotonic()
        try:
            if ids:
                self._do(calls.extend(ids, lease_s))
                hand.extended(ids, asked_at)
        except (httpx.HTTPError, ClientError, RuntimeError) as error:  # the last: it was closed
            log.warning("leases were not changed: %s", error)

    def submit(self, source: str, path: str, method: str = "POST", **request: Any) -> httpx.Response:
        """Send a request to the provider through Holdfast, which records the job from the answer. `request` is what
        `httpx.request` takes (json, data, files, headers, timeout, …); the answer is the provider's own, whatever it
        says. An Authorization of your own goes to the provider; without one the source's key is used."""
        return self._http.request(method, calls.submit_path(source, path), **_with_token(self._token, request))


def _pause(seconds: float) -> None:
    threading.Event().wait(max(0.0, seconds))


class AsyncClient:
    """The asynchronous client: the same methods, awaited. An async context manager."""

    def __init__(self, base_url: str = "http://127.0.0.1:8081", token: str | None = None) -> None:
        """See `Client`."""
        url, socket = calls.address_of(base_url)
        transport = httpx.AsyncHTTPTransport(verify=_verified(url), uds=socket, retries=1, limits=_LIMITS)
        self._http = httpx.AsyncClient(base_url=url, headers=_bearer(token), timeout=30.0, transport=transport)
        self._token = token
        self._reached = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def _do(self, call: Call) -> Any:
        answer = await self._http.request(
            call.method, call.path, json=call.json, params=call.params, timeout=httpx.Timeout(call.timeout_s)
        )
        self._reached = True
        return _judged(answer)

    async def register(self, source: str, job_id: str, **facts: Unpack[Facts]) -> Job:
        """See `Client.register`."""
        job: Job = await self._do(calls.register(source, job_id, facts))
        return job

    async def job(self, source: str, job_id: str) -> Job:
        """See `Client.job`."""
        job: Job = await self._do(calls.show(source, job_id))
        return job

    async def wait(self, source: str, job_id: str, timeout_s: float = 30.0) -> Job:
        """See `Client.wait`."""
        end = _clock.monotonic() + timeout_s
        while True:
            try:
                job: Job = await self._do(calls.wait(source, job_id, end - _clock.monotonic()))
                if job["state"] != "pending" or _clock.monotonic() >= end:
                    return job
            except (httpx.TransportError, ClientError) as error:
                if not (self._reached and _is_away(error)) or _clock.monotonic() >= end:
                    raise
            await asyncio.sleep(min(PAUSE_S, end - _clock.monotonic()))

    async def claim(self, limit: int = 10, lease_s: float = 60.0) -> list[Message]:
        """See `Client.claim`."""
        return calls.messages_of(await self._do(calls.claim(limit, lease_s)))

    async def ack(self, *ids: str) -> int:
        """See `Client.ack`."""
        return int((await self._do(calls.ack(ids)))["acked"])

    async def messages(
        self, limit: int = 10, lease_s: float = 60.0, idle_s: float | None = None
    ) -> AsyncGenerator[Message, None]:
        """See `Client.messages`. A loop that is left early ends when its iterator is closed (`contextlib.aclosing`) or
        forgotten."""
        hand = Hand(lease_s, idle_s, _clock)
        async with self._renewing(hand):
            while not hand.idle:
                if await self._acknowledge(hand) and await self._take(hand, limit):
                    while (message := hand.next()) is not None:
                        yield message
                        hand.handled(message)
                        await self._acknowledge(hand)
                else:
                    await asyncio.sleep(PAUSE_S if idle_s is None else min(PAUSE_S, idle_s))
            if hand.done:
                await self.ack(*hand.done)

    async def _take(self, hand: Hand, limit: int) -> bool:
        asked_at = _clock.monotonic()
        async with self._sitting_out(hand):
            messages = await self.claim(limit, hand.lease_s)
            hand.take(messages, asked_at)
            return bool(messages)
        return False

    async def _acknowledge(self, hand: Hand) -> bool:
        if hand.done:
            async with self._sitting_out(hand):
                await self.ack(*hand.done)
                hand.done.clear()
        return not hand.done

    @contextlib.asynccontextmanager
    async def _sitting_out(self, hand: Hand) -> AsyncIterator[None]:
        try:
            yield
        except (httpx.TransportError, ClientError) as error:
            if not (self._reached and _is_away(error)) or hand.idle:
                raise
            log.warning("the sidecar is away, asking again soon: %s", error)

    @contextlib.asynccontextmanager
    async def _renewing(self, hand: Hand) -> AsyncIterator[None]:
        end = asyncio.Event()

        async def renew() -> None:
            while not end.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(end.wait(), hand.lease_s / 3)
                    return
                await self._extend(hand, hand.leased(), hand.lease_s)

        task = asyncio.create_task(renew(), name="holdfast-lease")
        try:
            yield
        finally:
            end.set()  # never cancelled: a request that is broken off can cost the pool a place
            await task
            await self._extend(hand, hand.unseen(), hand.RELEASED_S)

    async def _extend(self, hand: Hand, ids: list[str], lease_s: float) -> None:
        asked_at = _clock.monotonic()
        try:
            if ids:
                await self._do(calls.extend(ids, lease_s))
                hand.extended(ids, asked_at)
        except (httpx.HTTPError, ClientError, RuntimeError) as error:  # the last: it was closed
            log.warning("leases were not changed: %s", error)

    async def submit(self, source: str, path: str, method: str = "POST", **request: Any) -> httpx.Response:
        """See `Client.submit`."""
        return await self._http.request(method, calls.submit_path(source, path), **_with_token(self._token, request))
