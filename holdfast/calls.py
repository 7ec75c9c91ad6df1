"""What the clients ask and what the answers mean; what one consumer holds. It sends nothing and waits for nothing."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import quote

from receiver.clock import Clock

Job = dict[str, Any]
"""One job as the API shows it: the columns of the table plus `history`, `deliveries`, `polls`, `messages`."""
LONGEST_WAIT_S = 300.0
SLACK_S = 15.0
"""An answer to a long poll may come this much later than was asked for."""
AWAY = (502, 503, 504)
"""Answers of a sidecar (or a proxy before it) that will take the same request later."""


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


class Facts(TypedDict, total=False):
    """What may be told of a job. None is the same as not telling."""

    modality: str | None
    submitted_at: str | None
    """UTC, as in 2026-04-13T14:30:00Z."""
    poll_url: str | None
    alias: str | None
    refs: Mapping[str, Any] | None
    metadata: Any


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
class Call:
    """One request to the private listener."""

    method: str
    path: str
    json: Any = None
    params: Mapping[str, Any] | None = None
    timeout_s: float = 30.0


def address_of(base_url: str) -> tuple[str, str | None]:
    """(base URL, path of a unix socket or None): `unix:/run/holdfast/api.sock` is taken too."""
    return ("http://localhost", base_url[5:]) if base_url.startswith("unix:") else (base_url, None)


def job_path(source: str, job_id: str) -> str:
    """Where a job lies: source and id are one escaped segment each, dots alone too."""
    escaped = quote(job_id, safe="")
    return f"/v1/jobs/{quote(source, safe='')}/{escaped.replace('.', '%2E') if set(job_id) <= {'.'} else escaped}"


def register(source: str, job_id: str, facts: Facts) -> Call:
    """Put a job on record."""
    return Call("PUT", job_path(source, job_id), {name: value for name, value in facts.items() if value is not None})


def show(source: str, job_id: str) -> Call:
    """One job."""
    return Call("GET", job_path(source, job_id))


def wait(source: str, job_id: str, left_s: float) -> Call:
    """One job, once it has ended or the time is up."""
    asked = max(0.0, min(left_s, LONGEST_WAIT_S))
    return Call("GET", job_path(source, job_id) + "/wait", params={"timeout_s": asked}, timeout_s=asked + SLACK_S)


def claim(limit: int, lease_s: float) -> Call:
    """Lease messages."""
    return Call("POST", "/v1/outbox/claim", {"limit": limit, "lease_s": lease_s})


def ack(ids: Sequence[str]) -> Call:
    """Messages were dealt with."""
    return Call("POST", "/v1/outbox/ack", {"ids": list(ids)})


def extend(ids: Sequence[str], lease_s: float) -> Call:
    """Messages are still worked on."""
    return Call("POST", "/v1/outbox/extend", {"ids": list(ids), "lease_s": lease_s}, timeout_s=max(1.0, lease_s))


def submit_path(source: str, path: str) -> str:
    """Where a request to the provider goes instead."""
    return f"/submit/{quote(source, safe='')}/{path.lstrip('/')}"


def refusal(status: int, document: Any, text: str) -> ClientError:
    """The error for an answer of 400 or more: its problem document, or whatever text came instead."""
    told = document if isinstance(document, dict) else {}
    detail = str(told.get("detail") or told.get("title") or text[:200])
    return {404: NotFound, 409: Conflict}.get(status, ClientError)(status, detail)


def messages_of(document: Any) -> list[Message]:
    """The messages of a claim."""
    return [Message(each["id"], each["type"], each["timestamp"], each["data"]) for each in document["messages"]]


class Hand:
    """What one consumer holds between claim and acknowledgement. Safe to look at from a second thread.

    A lease counts from before it was asked for, so that it is never believed to last longer than the sidecar grants it.
    """

    RELEASED_S = 0.05
    """The shortest lease there is: what is given back is free for others after it."""

    def __init__(self, lease_s: float, idle_s: float | None, clock: Clock) -> None:
        self.lease_s, self.idle_s = lease_s, idle_s
        self._clock = clock
        self._lock = threading.Lock()
        self._quiet_since = clock.monotonic()
        self._until: dict[str, float] = {}
        self._unseen: list[Message] = []
        self.done: list[str] = []
        """Handled, and not acknowledged yet."""

    def take(self, messages: Sequence[Message], asked_at: float) -> None:
        """A claim was answered."""
        with self._lock:
            self._unseen = list(messages)
            self._until.update((message.id, asked_at + self.lease_s) for message in messages)

    def next(self) -> Message | None:
        """The next message to hand out. One whose lease ran out meanwhile is left out: somebody else may have it."""
        with self._lock:
            while self._unseen:
                message = self._unseen.pop(0)
                if self._clock.monotonic() < self._until[message.id]:
                    return message
                del self._until[message.id]
        return None

    def handled(self, message: Message) -> None:
        """A message needs its lease no longer, but an acknowledgement."""
        with self._lock:
            self._until.pop(message.id, None)
        self.done.append(message.id)
        self._quiet_since = self._clock.monotonic()

    def leased(self) -> list[str]:
        """What is held, its lease still running."""
        with self._lock:
            now = self._clock.monotonic()
            return [message_id for message_id, until in self._until.items() if now < until]

    def extended(self, ids: Sequence[str], asked_at: float) -> None:
        """Leases were renewed."""
        with self._lock:
            self._until.update((message_id, asked_at + self.lease_s) for message_id in ids if message_id in self._until)

    def unseen(self) -> list[str]:
        """What was claimed and never handed out, its lease still running: one that ran out may be somebody else's by
        now, who would lose it. Nothing is handed out afterwards."""
        with self._lock:
            left, self._unseen = [message.id for message in self._unseen], []
            now = self._clock.monotonic()
            return [message_id for message_id in left if now < self._until.pop(message_id, now)]

    @property
    def idle(self) -> bool:
        """Nothing came for `idle_s`."""
        return self.idle_s is not None and self._clock.monotonic() - self._quiet_since >= self.idle_s
