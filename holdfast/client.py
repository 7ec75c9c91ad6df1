"""The Python client of the private listener: register jobs, wait for them, take messages, submit through it.

    with Client("http://127.0.0.1:8081", token="…") as holdfast:
        holdfast.register("moderation", job_id, modality="image", metadata={"post": 7})
        job = holdfast.wait("moderation", job_id, timeout_s=60)
        for message in holdfast.messages():
            handle(message)          # acknowledged when the loop asks for the next one

`Client` and `AsyncClient` differ in how they send, not in what: every request is built and every answer judged by the
functions below. Errors are `ClientError` (with `.status`), `NotFound`, `Conflict`, or httpx's own when nobody answers.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from receiver.clock import SystemClock

log = logging.getLogger("holdfast.client")

Job = dict[str, Any]
"""One job as the API shows it: the columns of the table plus `history`, `deliveries`, `polls`, `messages`."""
LONGEST_WAIT_S = 300.0
_SLACK_S = 15.0
_clock = SystemClock()


class ClientError(Exception):
    """Holdfast refused the request. `status` is the HTTP status, the text is its own explanation."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


class NotFound(ClientError):  # noqa: N818 - the name says it
    """No such source, job or message."""


class Conflict(ClientError):  # noqa: N818 - the name says it
    """The job is on record with another fact than the one given."""


@dataclass(frozen=True, slots=True)
class Message:
    """What the application is told. The same `id` always means the same outcome: remember it to act exactly once."""

    id: str
    type: str
    """`job.completed`, `job.failed`, `event.…` or `alert.…`."""
    timestamp: str
    data: Mapping[str, Any]

    @property
    def source(self) -> str:
        """The source the message is about."""
        return str(self.data["source"])

    @property
    def job_id(self) -> str | None:
        """The job it is about; None for an event that belongs to no job."""
        value = self.data.get("job_id")
        return None if value is None else str(value)

    @property
    def result(self) -> Any:
        """The provider's result, where there is one."""
        return self.data.get("result")

    @property
    def supersedes(self) -> str | None:
        """The id of the message this one corrects."""
        value = self.data.get("supersedes")
        return None if value is None else str(value)


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    json: Any = None
    params: Mapping[str, Any] | None = None
    timeout_s: float | None = None


# -- what is asked ------------------------------------------------------------------------------------------------


def _job_path(source: str, job_id: str) -> str:
    escaped = quote(job_id, safe="")
    return f"/v1/jobs/{quote(source, safe='')}/{escaped.replace('.', '%2E') if set(job_id) <= {'.'} else escaped}"


def _register(source: str, job_id: str, facts: Mapping[str, Any]) -> _Call:
    return _Call("PUT", _job_path(source, job_id), {name: value for name, value in facts.items() if value is not None})


def _wait(source: str, job_id: str, timeout_s: float) -> _Call:
    asked = max(0.0, min(timeout_s, LONGEST_WAIT_S))
    return _Call("GET", _job_path(source, job_id) + "/wait", params={"timeout_s": asked}, timeout_s=asked + _SLACK_S)


def _claim(limit: int, lease_s: float) -> _Call:
    return _Call("POST", "/v1/outbox/claim", {"limit": limit, "lease_s": lease_s})


def _ack(ids: Sequence[str]) -> _Call:
    return _Call("POST", "/v1/outbox/ack", {"ids": list(ids)})


def _extend(ids: Sequence[str], lease_s: float) -> _Call:
    return _Call("POST", "/v1/outbox/extend", {"ids": list(ids), "lease_s": lease_s})


def _judged(answer: httpx.Response) -> Any:
    """The answer's document. Raises ClientError."""
    if answer.status_code < 400:
        return answer.json()
    try:
        problem = answer.json()
        detail = str(problem.get("detail") or problem.get("title"))
    except (ValueError, AttributeError):
        detail = answer.text[:200] or answer.reason_phrase
    kind = {404: NotFound, 409: Conflict}.get(answer.status_code, ClientError)
    raise kind(answer.status_code, detail)


def _messages(document: Any) -> list[Message]:
    return [Message(each["id"], each["type"], each["timestamp"], each["data"]) for each in document["messages"]]


def _transport_of(base_url: str) -> tuple[str, str | None]:
    """(base URL, path of a unix socket or None): `unix:/run/holdfast/api.sock` is taken too."""
    return ("http://localhost", base_url[5:]) if base_url.startswith("unix:") else (base_url, None)


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


# -- the two clients ----------------------------------------------------------------------------------------------


class Client:
    """The synchronous client. Thread-safe; a context manager."""

    def __init__(self, base_url: str = "http://127.0.0.1:8081", token: str | None = None) -> None:
        url, socket = _transport_of(base_url)
        transport = httpx.HTTPTransport(uds=socket, retries=1)
        self._http = httpx.Client(
            base_url=url, headers=_headers(token), timeout=30.0, transport=transport, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def _do(self, call: _Call) -> Any:
        timeout = httpx.USE_CLIENT_DEFAULT if call.timeout_s is None else httpx.Timeout(call.timeout_s)
        return _judged(self._http.request(call.method, call.path, json=call.json, params=call.params, timeout=timeout))

    def register(self, source: str, job_id: str, **facts: Any) -> Job:
        """Put a job on record: modality, submitted_at (text), poll_url, alias, refs, metadata. Saying the same again
        does no harm; another fact raises Conflict."""
        job: Job = self._do(_register(source, job_id, facts))
        return job

    def job(self, source: str, job_id: str) -> Job:
        """One job with its whole story. Raises NotFound."""
        job: Job = self._do(_Call("GET", _job_path(source, job_id)))
        return job

    def wait(self, source: str, job_id: str, timeout_s: float = 30.0) -> Job:
        """The job as soon as it has ended, or as it is when the time is up (`job["state"] == "pending"`)."""
        end = _clock.monotonic() + timeout_s
        while True:
            left = end - _clock.monotonic()
            job: Job = self._do(_wait(source, job_id, left))
            if job["state"] != "pending" or left <= LONGEST_WAIT_S:
                return job

    def claim(self, limit: int = 10, lease_s: float = 60.0) -> list[Message]:
        """Take messages for a while; nobody else gets them until the lease runs out."""
        return _messages(self._do(_claim(limit, lease_s)))

    def ack(self, *ids: str) -> int:
        """Say that messages were handled; answers how many were still waiting for that."""
        return int(self._do(_ack(ids))["acked"])

    def messages(self, limit: int = 10, lease_s: float = 60.0, idle_s: float | None = None) -> Iterator[Message]:
        """Messages one by one, for ever (or until none came for `idle_s`). Each is acknowledged when the next one is
        asked for; one whose handling raised is not, and comes again. Leases are renewed while you work."""
        quiet_since = _clock.monotonic()
        pause = threading.Event()
        while True:
            batch = self.claim(limit, lease_s)
            with _Renewal(self, [message.id for message in batch], lease_s) as renewal:
                for message in batch:
                    yield message
                    self.ack(message.id)
                    renewal.done(message.id)
                    quiet_since = _clock.monotonic()
            if not batch:
                if idle_s is not None and _clock.monotonic() - quiet_since >= idle_s:
                    return
                pause.wait(min(0.5, idle_s or 0.5))

    def submit(self, source: str, path: str, method: str = "POST", **request: Any) -> httpx.Response:
        """Send a request to the provider through Holdfast, which records the job from the answer. `request` is what
        `httpx.request` takes (json, data, files, headers, …); the answer is the provider's own, whatever it says."""
        return self._http.request(method, f"/submit/{quote(source, safe='')}/{path.lstrip('/')}", **request)


class _Renewal:
    """Renews the leases of a batch on a thread of its own while the batch is worked on."""

    def __init__(self, client: Client, ids: list[str], lease_s: float) -> None:
        self._client, self._ids, self._lease_s = client, set(ids), lease_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holdfast-lease", daemon=True)

    def __enter__(self) -> Self:
        if self._ids:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    def done(self, message_id: str) -> None:
        """This message needs its lease no longer."""
        self._ids.discard(message_id)

    def _run(self) -> None:
        while not self._end.wait(self._lease_s / 3):
            try:
                self._client._do(_extend(sorted(self._ids), self._lease_s))
            except (httpx.HTTPError, ClientError) as error:
                log.warning("a lease was not renewed: %s", error)


class AsyncClient:
    """The asynchronous client: the same methods, awaited. An async context manager."""

    def __init__(self, base_url: str = "http://127.0.0.1:8081", token: str | None = None) -> None:
        url, socket = _transport_of(base_url)
        transport = httpx.AsyncHTTPTransport(uds=socket, retries=1)
        self._http = httpx.AsyncClient(
            base_url=url, headers=_headers(token), timeout=30.0, transport=transport, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def _do(self, call: _Call) -> Any:
        timeout = httpx.USE_CLIENT_DEFAULT if call.timeout_s is None else httpx.Timeout(call.timeout_s)
        return _judged(
            await self._http.request(call.method, call.path, json=call.json, params=call.params, timeout=timeout)
        )

    async def register(self, source: str, job_id: str, **facts: Any) -> Job:
        """See `Client.register`."""
        job: Job = await self._do(_register(source, job_id, facts))
        return job

    async def job(self, source: str, job_id: str) -> Job:
        """See `Client.job`."""
        job: Job = await self._do(_Call("GET", _job_path(source, job_id)))
        return job

    async def wait(self, source: str, job_id: str, timeout_s: float = 30.0) -> Job:
        """See `Client.wait`."""
        end = _clock.monotonic() + timeout_s
        while True:
            left = end - _clock.monotonic()
            job: Job = await self._do(_wait(source, job_id, left))
            if job["state"] != "pending" or left <= LONGEST_WAIT_S:
                return job

    async def claim(self, limit: int = 10, lease_s: float = 60.0) -> list[Message]:
        """See `Client.claim`."""
        return _messages(await self._do(_claim(limit, lease_s)))

    async def ack(self, *ids: str) -> int:
        """See `Client.ack`."""
        return int((await self._do(_ack(ids)))["acked"])

    async def messages(
        self, limit: int = 10, lease_s: float = 60.0, idle_s: float | None = None
    ) -> AsyncIterator[Message]:
        """See `Client.messages`."""
        quiet_since = _clock.monotonic()
        while True:
            batch = await self.claim(limit, lease_s)
            waiting = {message.id for message in batch}
            renewal = asyncio.create_task(self._renew(waiting, lease_s))
            try:
                for message in batch:
                    yield message
                    await self.ack(message.id)
                    waiting.discard(message.id)
                    quiet_since = _clock.monotonic()
            finally:
                renewal.cancel()
            if not batch:
                if idle_s is not None and _clock.monotonic() - quiet_since >= idle_s:
                    return
                await asyncio.sleep(min(0.5, idle_s or 0.5))

    async def _renew(self, ids: set[str], lease_s: float) -> None:
        while ids:
            await asyncio.sleep(lease_s / 3)
            try:
                await self._do(_extend(sorted(ids), lease_s))
            except (httpx.HTTPError, ClientError) as error:
                log.warning("a lease was not renewed: %s", error)

    async def submit(self, source: str, path: str, method: str = "POST", **request: Any) -> httpx.Response:
        """See `Client.submit`."""
        return await self._http.request(method, f"/submit/{quote(source, safe='')}/{path.lstrip('/')}", **request)
