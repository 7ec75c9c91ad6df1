"""What the API answers, for `openapi.json`. Columns are those of the tables; more members may be added."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class Shape(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class ProblemShape(Shape):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


class JobShape(Shape):
    """A job: the columns of the table `jobs`."""

    source: str
    job_id: str
    alias: str | None
    modality: str | None
    state: str
    reason: str | None
    decided_by: str | None
    provider_status: str | None
    submitted_at: str | None
    registered_at: str
    next_poll_at: str | None
    deadline_at: str | None
    settled_at: str | None
    last_error: str | None
    result: Any
    refs: Any
    metadata: Any


class HistoryShape(Shape):
    """One entry of a job's story."""

    id: int
    at: str
    from_state: str | None
    to_state: str
    reason: str | None
    by: str
    delivery_id: str | None
    poll_id: int | None
    note: str | None


class DeliveryShape(Shape):
    """A delivery without its body: the columns of the table `deliveries`; the id is a string."""

    id: str
    source: str
    received_at: str
    remote: str
    headers: list[list[str]]
    body_sha256: str
    event: str | None
    event_key: str | None
    job_id: str | None
    verdict: str
    reason: str | None


class DeliveryBodyShape(DeliveryShape):
    """A delivery, whole."""

    body: str | None = None
    """The body as text; left out when it is not UTF-8."""
    body_base64: str | None
    """The exact bytes; null once retention has removed them."""


class PollShape(Shape):
    """One question that was asked."""

    id: int
    source: str
    job_id: str | None
    at: str
    request: str
    http_status: int | None
    outcome: str
    latency_ms: int | None
    error: str | None


class MessageShape(Shape):
    """A message: the columns of the table `outbox`, its payload as JSON."""

    id: str
    source: str
    job_id: str | None
    type: str
    payload: Any
    state: str
    supersedes: str | None
    created_at: str
    attempts: Count
    next_attempt_at: str | None
    delivered_at: str | None
    last_error: str | None


class JobStoryShape(JobShape):
    """A job with all that is known of it."""

    history: list[HistoryShape]
    deliveries: list[DeliveryShape]
    polls: list[PollShape]
    polls_made: Count
    """The column `polls`: how often it was asked about."""
    messages: list[MessageShape]


class JobListShape(Shape):
    """A page of jobs, newest first."""

    jobs: list[JobShape]
    next: str | None
    """The cursor of the next page; null at the end."""


class BatchItemShape(Shape):
    """What came of one item."""

    source: str | None
    job_id: str | None
    status: int
    """201 new, 200 known, 409 a given fact differs, 400 wrong (`detail` says why)."""


class BatchShape(Shape):
    """What came of a batch, in its order."""

    jobs: list[BatchItemShape]


class PollNowShape(Shape):
    """The job will be asked about."""

    source: str
    job_id: str
    state: str
    asked: bool
    """False: it cannot be asked about; `last_error` says why."""
    last_error: str | None


class DeliveryListShape(Shape):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryShape]
    page: int
    next: str | None


class MessageListShape(Shape):
    """A page of messages, newest first."""

    messages: list[MessageShape]
    next: str | None


class PayloadShape(Shape):
    """What the application is told."""

    id: str
    type: str
    timestamp: str
    data: dict[str, Any]


class ClaimShape(Shape):
    """Leased messages, oldest first."""

    messages: list[PayloadShape]


class AckShape(Shape):
    """How many were marked delivered."""

    acked: Count


class ExtendShape(Shape):
    """How many leases were renewed."""

    extended: Count


class StatShape(Shape):
    """Deliveries with one verdict in one bucket of time."""

    bucket_start: str
    source: str
    verdict: str
    count: Count


class LatencyShape(Shape):
    """How fast deliveries were acknowledged in one bucket of time."""

    bucket_start: str
    source: str
    count: Count
    mean_ms: float | None
    p50_ms: float | None
    p99_ms: float | None


class StatsShape(Shape):
    """Counts by bucket, source and verdict (`refused`: what was never recorded)."""

    bucket_minutes: int
    start_at: str
    end_at: str
    stats: list[StatShape]
    ack_latency: list[LatencyShape]


class SourceShape(Shape):
    """A source: how it is set up, and how it does."""

    name: str
    source: str
    """The same as `name`, as every other answer calls it."""
    provider: str
    base_url: str | None
    trust: str
    paused: bool
    circuit_open: bool
    circuit_open_until: str | None
    not_before: str | None
    budget_left: float
    polls_per_min: float
    jobs: dict[str, int]
    settled: dict[str, int]
    deliveries: dict[str, int]
    oldest_pending_at: str | None
    overdue: Count
    held: Count
    missed: Count
    """Deliveries that the provider's own log tells of and that never arrived."""
    gap_scan: dict[str, Any] | None
    """When that log was last read, and how far; null where the provider keeps none."""
    asked_at: str | None
    answered_at: str | None
    last_outcome: str | None
    last_error: str | None
    sweep_wanted_at: str | None
    actions: list[dict[str, Any]]
    """The latest things operators did: `at`, `who`, `action`."""


class SourceListShape(Shape):
    """All configured sources."""

    sources: list[SourceShape]


class AliveShape(Shape):
    """The process lives."""

    status: str


class ReadyShape(AliveShape):
    """The store takes writes."""

    missing: Count
    """Rows that were acknowledged and are missing from the database."""
