"""What is asked of the API: queries and bodies. The same models validate and write `openapi.json`.

Strict: an unknown name is an error with its place, because a fact that is dropped silently is lost.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel, WithJsonSchema
from pydantic_core import PydanticCustomError

from receiver import addresses, clock, jsontext
from receiver.providers.base import same_origin
from receiver.records import Registration
from receiver.settings import SourceSettings

LARGEST_PAGE = 500
LONGEST_ID = 65_536
MODALITY_LENGTH = 64
LATEST = 7_258_118_400.0
"""The year 2200. Later instants are taken as this one (ids made from times end some decades after it), and those before
1970 as its beginning."""


class Asked(BaseModel):
    """A query or a body."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("holdfast", "{message}", {"message": message})


def storable(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _wrong("holds half of a surrogate pair, which is no text") from None
    if "\0" in value:
        raise _wrong("holds a NUL character")
    return value


def _identifier(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return jsontext.identifier(value)
    return value


def _instant(value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong("wants a time as text, as in 2026-04-13T14:30:00.000Z")
    try:
        moment = clock.instant(value.strip().replace(" ", "+"))  # a bare + in a query arrives as a blank
    except (ValueError, OverflowError):
        raise _wrong("is not a time, as in 2026-04-13T14:30:00.000Z") from None
    return min(max(moment, 0.0), LATEST)


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is the whole number 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _position(value: Any) -> Any:
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19):
        raise _wrong("is not a cursor that was handed out here as `next`")
    return min(int(value), (1 << 63) - 1)


def _modality(value: str) -> str:
    if not value.isprintable():
        raise _wrong("is not the name of a modality, as in video")
    return value


def _url(value: str) -> str:
    try:
        addresses.check_url(value, query=True)
    except ValueError as error:
        raise _wrong(str(error)) from None
    return value


Text = Annotated[str, Field(strict=True), AfterValidator(storable)]
Identifier = Annotated[
    str,
    BeforeValidator(_identifier),
    Field(strict=True, min_length=1, max_length=LONGEST_ID),
    AfterValidator(storable),
    WithJsonSchema({"type": ["string", "number"], "minLength": 1, "maxLength": LONGEST_ID}),
]
"""An id, compared as it is written; a JSON number is its text."""
Instant = Annotated[float, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Cursor = Annotated[int, BeforeValidator(_position), WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,19}$"})]
Limit = Annotated[int, Field(ge=1, le=LARGEST_PAGE)]
Modality = Annotated[Text, Field(min_length=1, max_length=MODALITY_LENGTH), AfterValidator(_modality)]
State = Literal["pending", "completed", "failed"]
MessageState = Literal["pending", "delivered", "dead"]
Reasons = Literal["provider", "cancelled", "stale", "not_found", "unreachable"]
Verdicts = Literal["new", "accepted", "duplicate", "held", "quarantined"]


class JobFacts(Asked):
    """What is told of a job. A fact left out (or null) is not told; it may be told later, but not told differently."""

    modality: Modality | None = None
    """The kind of job, which sets its timeouts; any name is taken."""
    submitted_at: Instant | None = None
    """When it was submitted; timeouts count from here, else from the registration."""
    poll_url: (
        Annotated[Text, Field(max_length=8192, json_schema_extra={"format": "uri"}), AfterValidator(_url)] | None
    ) = None
    """Where to ask about it; must lie on the source's configured origin."""
    alias: Identifier | None = None
    """Another id of the same job; either finds it everywhere."""
    refs: Annotated[dict[str, Any], Field(strict=True)] | None = None
    """What the provider needs to be asked, such as `lead_id`."""
    metadata: Any = None
    """Whatever the application wants back with the outcome."""

    def registration(self, source: SourceSettings, job_id: str) -> Registration:
        """As the registrar takes it. Raises ValueError for a poll URL that lies elsewhere."""
        base = source.effective_base_url
        if self.poll_url is not None and (base is None or not same_origin(self.poll_url, base)):
            raise ValueError("poll_url does not lie on the source's configured origin")
        return Registration(
            source=source.name,
            job_id=job_id,
            modality=self.modality,
            submitted_at=self.submitted_at,
            poll_url=self.poll_url,
            alias=self.alias if self.alias != job_id else None,
            refs=self.refs or None,
            metadata=self.metadata,
        )


class NamedJob(JobFacts):
    """One item of a batch: a job with its source and id."""

    source: Text
    job_id: Identifier


class JobBatch(RootModel[list[NamedJob]]):
    """Jobs to register; each is judged by itself."""


class Paged(Asked):
    """A page of a list."""

    limit: Limit = 50
    """How many."""
    size: Limit | None = None
    """Another name of `limit`."""

    @property
    def rows(self) -> int:
        """How many rows are wanted, by whichever name."""
        return self.limit if self.size is None else self.size


class ListJobs(Paged):
    """Filters of `GET /v1/jobs`."""

    source: str | None = None
    state: State | None = None
    reason: Reasons | None = None
    overdue: bool | None = None
    """Only pending jobs past their deadline."""
    cursor: Cursor | None = None
    """`next` of the page before."""


class WaitQuery(Asked):
    """How long to wait."""

    timeout_s: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = 30.0


class Window(Asked):
    """A stretch of time: from `start` up to, not including, `end`."""

    start: Instant | None = None
    end: Instant | None = None


class ListDeliveries(Window, Paged):
    """Filters of `GET /v1/deliveries`."""

    source: str | None = None
    verdict: Verdicts | None = None
    page: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Counts from 1; pages shift while deliveries arrive, a cursor does not."""
    cursor: Cursor | None = None
    """`next` of the page before: neither skips nor repeats."""


class ListMessages(Paged):
    """Filters of `GET /v1/messages`."""

    source: str | None = None
    state: MessageState | None = None
    job_id: Annotated[str, Field(min_length=1)] | None = None
    """Together with `source`."""
    cursor: Cursor | None = None


class StatsQuery(Window):
    """What `GET /v1/stats` counts. Without `start` the last day."""

    bucket_minutes: Annotated[int, Field(ge=1, le=10_080)] = 60
    source: str | None = None


LeaseSeconds = Annotated[float, Field(strict=True, ge=0.05, le=86_400, allow_inf_nan=False)]
MessageIds = Annotated[list[Annotated[str, Field(strict=True)]], Field(max_length=10_000)]


class ClaimBody(Asked):
    """How many messages to lease, and for how long nobody else gets them."""

    limit: Annotated[int, Field(strict=True, ge=1, le=1000), BeforeValidator(_whole)] = 100
    lease_s: LeaseSeconds = 60.0


class AckBody(Asked):
    """Messages that were dealt with. Ids unknown here are ignored."""

    ids: MessageIds

    @property
    def wanted(self) -> list[str]:
        """Each id once, without those that no message can have (half a surrogate pair is no text)."""
        return [each for each in dict.fromkeys(self.ids) if jsontext.identifier(each) is not None]


class ExtendBody(AckBody):
    """Leases to renew: from now on for so long."""

    lease_s: LeaseSeconds = 60.0


class Nothing(Asked):
    """No members: `{}`, or no body at all."""

    @classmethod
    def expected(cls) -> Self:
        """The only value."""
        return cls()
