"""The values Holdfast passes between its parts. Plain, unchangeable, no I/O; instants are seconds since 1970 UTC.

What is made for every delivery and never copied with changes is a named tuple: a frozen dataclass takes four times as
long to make, one guarded field after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, NewType, TypeVar

from receiver.states import By, Claim, Evidence, JobState, Reason, Verdict

DeliveryId = NewType("DeliveryId", int)
T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]
"""Names as sent (lower-cased by the server) and values, in wire order; secrets are masked before they get here."""


def assembler(kind: type[T], names: Sequence[str]) -> Callable[[Sequence[Any]], T]:
    """What makes values of a frozen dataclass from all of its fields in this order. Its own constructor sets one field
    after the other, each past the guard against changes, which is much of what settling a job costs."""
    if sorted(names) != sorted(each.name for each in fields(kind)):  # type: ignore[arg-type] # a dataclass it is
        raise TypeError(f"not the fields of {kind.__name__}: {names}")

    def assemble(values: Sequence[Any]) -> T:
        made = object.__new__(kind)
        vars(made).update(zip(names, values, strict=True))
        return made

    return assemble


def _changed(value: T, changes: dict[str, Any]) -> T:
    """A copy of a value of a frozen dataclass with some of its fields changed."""
    made, before = object.__new__(type(value)), vars(value)
    after = vars(made)
    after.update(before)
    after.update(changes)
    if len(after) != len(before):
        raise ValueError(f"no fields of {type(value).__name__}: {sorted(changes.keys() - before.keys())}")
    return made


@dataclass(frozen=True)  # no slots: copied all at once
class Delivery:
    """One HTTP request that came in, kept raw."""

    id: DeliveryId
    source: str
    received_at: float
    remote: str
    headers: Headers
    body: bytes | None
    body_sha256: str
    verdict: Verdict = Verdict.NEW
    reason: str | None = None
    event: str | None = None
    event_key: str | None = None
    job_id: str | None = None

    def header(self, name: str) -> str | None:
        """The first value of a header, by lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    def with_(self, **changes: Any) -> "Delivery":
        """A copy with some fields changed. Raises ValueError for a name that is no field's."""
        return _changed(self, changes)


@dataclass(frozen=True)  # no slots: copied all at once
class Job:
    """One asynchronous operation at a provider, from submission to its end. Field meanings: CONTRACT 9 and 10."""

    source: str
    job_id: str
    registered_at: float
    alias: str | None = None
    modality: str | None = None
    state: JobState = JobState.PENDING
    reason: Reason | None = None
    decided_by: By | None = None
    provider_status: str | None = None
    submitted_at: float | None = None
    next_poll_at: float | None = None
    deadline_at: float | None = None
    settled_at: float | None = None
    polls: int = 0
    last_error: str | None = None
    result: Any = None
    refs: dict[str, Any] | None = None
    metadata: Any = None
    poll_url: str | None = None
    evidence: Evidence = Evidence.NONE
    """The strongest evidence behind the present state."""
    revision: int = 0
    """How many outcomes were decided so far; part of the message id."""
    registered_by: str = "application"
    """`application`, `operator` (both vouch for the job), `delivery`, `adopted` or `asked` (they do not)."""
    asked_at: float | None = None
    """When the provider last *answered* about this job."""
    not_before: float | None = None
    """The provider's own Retry-After for this job."""
    wait_s: float | None = None
    """The present widening interval between polls."""
    misses: int = 0
    """404 answers counted so far."""
    first_miss_at: float | None = None
    late_polls: int = 0
    """Polls made after the job was called stale."""
    last_message_id: str | None = None
    remaining_s: float | None = None
    """The provider waits for a person (OmniAI AWAITING_APPROVAL): the deadline clock stands still, with so much left
    on it; None while it runs."""

    @property
    def started_at(self) -> float:
        """What `fail_after_s` counts from: the submission, else the registration."""
        return self.submitted_at if self.submitted_at is not None else self.registered_at

    @property
    def vouched(self) -> bool:
        """Whether the application or an operator put this job on record."""
        return self.registered_by in ("application", "operator")

    def with_(self, **changes: Any) -> "Job":
        """A copy with some fields changed. Raises ValueError for a name that is no field's."""
        return _changed(self, changes)


@dataclass(frozen=True, slots=True)
class Registration:
    """What somebody tells us of a job. None means: not told."""

    source: str
    job_id: str
    modality: str | None = None
    submitted_at: float | None = None
    poll_url: str | None = None
    alias: str | None = None
    refs: dict[str, Any] | None = None
    metadata: Any = None
    by: str = "application"


class Observation(NamedTuple):
    """One claim about a job's status: from a delivery, from a poll, or from the deadline passing."""

    source: str
    job_id: str
    claim: Claim
    by: By
    evidence: Evidence
    reason: Reason | None = None
    provider_status: str | None = None
    result: Any = None
    delivery_id: DeliveryId | None = None
    poll_id: int | None = None
    note: str | None = None


class HistoryEntry(NamedTuple):
    """One row of a job's story."""

    source: str
    job_id: str
    at: float
    from_state: JobState | None
    to_state: JobState
    reason: str | None
    by: str
    delivery_id: DeliveryId | None = None
    poll_id: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """One question the reconciler asked a provider, and what came of it."""

    source: str
    job_id: str | None
    at: float
    request: str
    http_status: int | None
    outcome: str
    latency_ms: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One delivery as the provider's own log tells of it, all its attempts together."""

    delivery_id: str | None
    event_id: str | None
    event: str | None
    status: str | None
    """The provider's word, as written."""
    attempts: int | None
    http_status: int | None
    """What we answered last, as the provider saw it."""
    at: float | None = None
    """When it was last tried or made, where a field says so; an instant."""


class Message(NamedTuple):
    """What the application is told, once per outcome. `payload` is the JSON text that goes out unchanged."""

    id: str
    source: str
    job_id: str | None
    type: str
    payload: str
    created_at: float
    supersedes: str | None = None
    state: str = "pending"
    attempts: int = 0
    next_attempt_at: float | None = None
    delivered_at: float | None = None
    last_error: str | None = None
    seq: int = 0
    first_attempt_at: float | None = None


@dataclass(frozen=True, slots=True)
class SourceState:
    """What must survive a restart about a source: circuit, budget, pause, sweep marks."""

    name: str
    paused: bool = False
    fail_streak: int = 0
    open_until: float | None = None
    """Circuit open: nothing is asked before this instant."""
    not_before: float | None = None
    """The provider's own Retry-After for the whole source."""
    budget: float | None = None
    """Tokens left in the bucket at `budget_at`; None means never used, hence full."""
    budget_at: float | None = None
    asked_at: float | None = None
    answered_at: float | None = None
    last_outcome: str | None = None
    last_error: str | None = None
    sweep_wanted_at: float | None = None
    """Somebody (intake that had to refuse, an operator) wants every open job asked about."""
    adopted_at: float | None = None
    """When the list was last read for jobs nobody registered."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What one provider alone keeps here (Omnist's gap scan)."""
