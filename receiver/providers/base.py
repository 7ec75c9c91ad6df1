"""What a provider adapter is: a description and a few pure functions. No I/O, no clock, no database.

One file a provider in this folder, found by scanning it (`receiver.providers`). An adapter knows both directions:
how to judge and read what the provider sends, and how to ask it about jobs. Asking is a *generator*: it yields
questions and findings and is handed replies, so one body serves a single GET and a paged listing alike, and no test
of it needs a network.

    authenticate(request, source, now)  raw bytes -> Accepted | Refused | Parked
    read(delivery, document, source)    what a delivery says -> Reading
    cannot_ask(job, source)             why nobody can be asked about this job, or None
    ask(jobs, source, now)              -> yields Question / Finding, is sent Reply (for a Question) or None
    submitted(...)                      the jobs an answer to a submission tells of (pass-through)
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict

from receiver import jsontext
from receiver.records import Headers, Job
from receiver.states import Claim, Reason

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

LONGEST_WORD = 200
"""Characters kept of a provider's word (event name, status): they end in columns, logs and message types."""


class NoExtras(BaseModel):
    """The `Settings` of a provider that understands no keys of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(slots=True)  # not frozen: made for every delivery, and that costs three times as much
class RawRequest:
    """A delivery as it stands at the door: nothing masked yet. `headers` names are lower case, in wire order."""

    headers: Headers
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header, by lower-case name. Two where one is expected is a refusal, not a choice."""
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The sender proved itself, or the source has nothing to prove it with."""

    proven: bool
    """True when a secret or a signature was really checked."""


@dataclass(frozen=True, slots=True)
class Refused:
    """401. `reason` is for metrics and logs (`signature`, `secret`, `stale_signature`); the sender never hears it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Parked:
    """200, kept, quarantined with this reason and not acted on (a valid but stale signature)."""

    reason: str


Authentication = Accepted | Refused | Parked


class Said(NamedTuple):
    """What a delivery claims of one job."""

    job_id: str
    claim: Claim
    reason: Reason | None = None
    """Why it failed: PROVIDER or CANCELLED; None unless the claim is FAILED."""
    status: str | None = None
    """The provider's own word, as written."""
    result: Any = None
    has_result: bool = True
    """False when the outcome is named but the result must be fetched (Omnia without `data.results`)."""
    modality: str | None = None
    alias: str | None = None
    refs: dict[str, Any] | None = None
    metadata: Any = None


class Reading(NamedTuple):
    """A delivery, understood."""

    event: str | None = None
    """The provider's event name, or None where it has none."""
    event_key: str | None = None
    """Identifies the *sending*: a second delivery with this key is a duplicate. None: use a digest of the body."""
    key_window_s: float | None = None
    """The key counts only this long (OmniAI lead.updated); None: as long as keys are kept."""
    said: Said | None = None
    passes_on: bool = False
    """It belongs to no job and goes to the application as an `event.…` message."""
    problem: str | None = None
    """Why it cannot be acted on: quarantined with this reason (an id its provider promises is missing)."""


@dataclass(frozen=True, slots=True)
class Question:
    """One HTTP request to the provider. `path` begins with a slash, is put behind the source's base_url as it is and is
    already escaped; `url` is an absolute one (a poll URL), taken only when it lies on the configured origin. Give one
    of the two."""

    path: str | None = None
    url: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    job_id: str | None = None
    """The job asked about; None for a listing."""
    about: Sequence[str] = ()
    """For a listing that can tell of certain jobs only (those of one lead): them. Its trouble is theirs, and the other
    jobs are asked about all the same."""
    method: str = "GET"
    json: Any = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The provider's answer to a question. Only answers arrive here (2xx, 404, 400 and other 4xx that `classify` does
    not take for trouble); a provider in trouble ends the generator instead."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    now: float

    def document(self) -> Any:
        """The body as JSON, or None when it is not JSON."""
        try:
            return jsontext.parse(self.body)
        except jsontext.NotJson:
            return None


@dataclass(frozen=True, slots=True)
class Finding:
    """What an answer says of one job. `claim` None with `missing`: the provider does not know the job (404).
    Neither: the answer could not be read, `problem` says why; nothing is decided by it."""

    job_id: str
    claim: Claim | None = None
    reason: Reason | None = None
    status: str | None = None
    result: Any = None
    missing: bool = False
    problem: str | None = None
    partial: bool = False
    """Told from a list row: fields of the single answer are missing (`bulk_results = "list"`)."""
    modality: str | None = None
    alias: str | None = None
    submitted_at: float | None = None
    refs: dict[str, Any] | None = None
    retry_after_s: float | None = None
    """The provider asked to be left alone about this job for so long."""
    freezes: bool = False
    """It waits for a person: the deadline clock stands still."""
    unlisted: bool = False
    """A job found in a list that is not among the jobs asked about: a candidate for adoption. Its `claim` is what the
    row says, for that decision alone; it settles nothing."""


Asking = Generator[Question | Finding, Reply | None, None]
"""Yield a Question and be sent its Reply; yield a Finding and be sent None."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that an answer to a submission tells of."""

    job_id: str
    modality: str | None = None
    alias: str | None = None
    poll_url: str | None = None
    refs: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """An answer that proves nothing about any job. `outcome` is the word in `polls.outcome`:
    `rate_limited`, `unavailable` (5xx), `auth_blocked` (401/402/403), `redirected` (3xx), `refused` (other 4xx)."""

    outcome: str
    detail: str
    retry_after_s: float | None = None


@runtime_checkable
class Provider(Protocol):
    """One provider, whole. A module in this folder has exactly one instance of it, named PROVIDER."""

    name: str
    Settings: type[BaseModel]
    """Extra keys of `[sources.NAME]` this provider alone understands; `NoExtras` when there are none."""
    default_base_url: str | None
    signed: bool
    """Whether the provider can sign or send a secret at all."""
    retries: bool
    """Whether it sends again when we do not answer 200. False: what we refuse is lost until we ask."""
    ack_budget_s: float
    polls_per_min: float
    default_timeouts: Mapping[str, tuple[float, float]]
    """modality -> (poll_after_s, fail_after_s)."""
    key_horizon_s: float
    """How long after the first sending a repeat may still arrive; a key is kept at least so long."""
    lists: bool
    """Whether a listing can tell of jobs nobody registered (adoption)."""

    def authenticate(self, request: RawRequest, source: "SourceSettings", now: float) -> Authentication:
        """Judge the sender on the raw bytes, in constant time. Never raises, whatever the bytes."""
        ...

    def read(self, request: RawRequest, document: dict[str, Any], source: "SourceSettings") -> Reading:
        """Understand a delivery. Never raises: unknown events, words and types are kept and told, not refused."""
        ...

    def auth_headers(self, source: "SourceSettings") -> dict[str, str]:
        """The credentials for a request to the configured origin; empty without an api_key."""
        ...

    def cannot_ask(self, job: Job, source: "SourceSettings") -> str | None:
        """Why this job cannot be asked about (no api_key, no lead id), or None when it can."""
        ...

    def ask(self, jobs: Sequence[Job], source: "SourceSettings", now: float) -> Asking:
        """Ask about these jobs, in as few questions as the provider allows. Never raises on any reply."""
        ...

    def classify(self, reply: Reply) -> Trouble | None:
        """Whether an answer is trouble at the provider rather than an answer. `ordinary_trouble` is the usual body."""
        ...

    def submitted(self, method: str, path: str, document: Any, source: "SourceSettings") -> list[Submitted]:
        """The jobs told of by a 2xx answer to a submission at `path`; empty when it was none."""
        ...


def ordinary_trouble(reply: Reply) -> Trouble | None:
    """The usual reading of HTTP status codes: 2xx and 404 are answers, the rest is trouble (RFC 9110, 15)."""
    from receiver.clock import retry_after_s

    status = reply.status
    if 200 <= status < 300 or status == 404:
        return None
    wait = reply.headers.get("retry-after")
    after = retry_after_s(wait, reply.now) if wait is not None else None
    if status == 429:
        return Trouble("rate_limited", "429 too many requests", after)
    if status in (401, 402, 403):
        return Trouble("auth_blocked", f"{status}: the provider does not take our key", after)
    if status >= 500:
        return Trouble("unavailable", f"{status} from the provider", after)
    if 300 <= status < 400:
        return Trouble("redirected", f"{status}: a redirect is never followed", after)
    return Trouble("refused", f"{status}: the provider refuses the question", after)


def word(value: Any) -> str | None:
    """A provider's word as it is written, fit to be stored: text alone, not empty, without lone surrogates, and cut
    at LONGEST_WORD. Words are compared through `word(value).lower()`; ids go through `jsontext.identifier` instead."""
    if not isinstance(value, str) or not value:
        return None
    if len(value) <= LONGEST_WORD and value.isascii():
        return value
    return value[:LONGEST_WORD].encode("utf-8", "backslashreplace").decode("utf-8")[:LONGEST_WORD]


def event_key(*parts: str) -> str:
    """The parts of a sending's identity as one text. Different parts never make the same key: `:` divides them, and is
    escaped in all but the last (an id may hold one, and whoever can write ids must not be able to fake a repeat)."""
    head = [part.replace("%", "%25").replace(":", "%3A") for part in parts[:-1]]
    return ":".join([*head, *parts[-1:]])


def segment(identifier: str) -> str:
    """An id as exactly one escaped path segment. Dots alone are escaped too, so `..` climbs nowhere."""
    escaped = quote(identifier, safe="", errors="replace")
    return escaped.replace(".", "%2E") if set(identifier) <= {"."} else escaped


def origin(url: str) -> tuple[str, str, int] | None:
    """(scheme, host, port) of an http(s) URL without credentials, or None."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        return None
    if "\\" in url or " " in url or not url.isprintable():
        return None  # parsers differ in what they make of these, and the one that sends is not the one that judged
    return parts.scheme, parts.hostname.lower(), port or (443 if parts.scheme == "https" else 80)


def same_origin(url: str, base_url: str) -> bool:
    """Whether credentials for base_url may go to url: same scheme, host and port, nothing fancy."""
    mine = origin(base_url)
    return mine is not None and origin(url) == mine
