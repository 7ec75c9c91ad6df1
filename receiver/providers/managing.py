"""What a provider offers beyond jobs: managing its webhooks (`holdfast source setup|rotate|test`), and reading its own
delivery log to find gaps. One interface for both, and the values it speaks in.

Managing is a *generator*, as asking is. It yields a `Question` for what only reads (always sent, also in a dry run)
and a `Change` for what writes (sent only with `--yes`; in a dry run it is shown and the generator is closed), is sent
the `Reply` to each whatever its status (None when there was none), and *returns* what came of it. Scanning works
alike. Pure: no I/O, no clock, no secrets on disk.

A provider offers it by having the methods of `Manager`; one that has no such API at all says `ByHand` how a person
does it there. Values that hold a new secret never show it in their `repr`.
"""

from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from receiver import jsontext
from receiver.providers.base import Question, Reply
from receiver.records import Delivery, DeliveryRecord

if TYPE_CHECKING:
    from receiver.settings import SourceSettings


@dataclass(frozen=True, slots=True)
class Change:
    """A request that changes something at the provider: sent only when the operator said `--yes`."""

    question: Question
    sentence: str
    """What it does, for the operator, without secrets and without the URL."""
    before: str | None = None
    """The webhook URL registered so far, where the provider tells; None when there is none or it cannot be read.
    It may hold a path token: show it through `shown_url`."""
    after: str | None = None
    """The URL that would be registered, likewise."""
    warnings: tuple[str, ...] = ()
    """What the operator should know first, such as an application that would lose its webhooks."""


@dataclass(frozen=True, slots=True)
class SetUp:
    """The webhook URL is registered (`changed`), or was already as wanted (nothing was sent)."""

    changed: bool
    url: str
    previous_url: str | None = None
    new_secret: str | None = field(default=None, repr=False)
    """A signing secret made on this occasion, told once: store it before anything else."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """The provider made a new signing secret and tells it once: store it before anything else."""

    new_secret: str = field(repr=False)
    version: str | None = None
    old_accepted_s: float = 0.0
    """How long deliveries signed with the old secret may still arrive: keep accepting it so long."""


@dataclass(frozen=True, slots=True)
class TestSent:
    """The provider sent a test delivery. Watch for a delivery with this event (and one of these ids, if they fit)."""

    __test__ = False  # its name begins with Test, and pytest looks at that

    event: str | None
    """The event name the test delivery carries, or None where it has none."""
    event_id: str | None = None
    delivery_id: str | None = None
    status: str | None = None
    """What the provider says of the delivery, as written."""
    attempts: int | None = None
    http_status: int | None = None
    """What we answered, as the provider saw it."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """The provider has no API for this: what a person has to do there, a step an entry."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotDone:
    """The provider did not do it, or did not say so in a way we understand."""

    problem: str
    http_status: int | None = None


Managed = SetUp | Rotated | TestSent | ByHand | NotDone
Managing = Generator[Question | Change, Reply | None, Managed]
"""Yield a Question or a Change and be sent its Reply; the return value is the outcome."""


@runtime_checkable
class Manager(Protocol):
    """A provider that knows how its webhooks are managed; look with `isinstance(provider, Manager)`."""

    def manage_setup(self, source: "SourceSettings", hook_url: str) -> Managing:
        """Register `hook_url` (whole: `{public_url}/in/{source}/{path_token}`). Ends in SetUp, ByHand or NotDone."""
        ...

    def manage_rotate(self, source: "SourceSettings") -> Managing:
        """Have the provider make a new signing secret. Ends in Rotated, ByHand or NotDone."""
        ...

    def manage_test(self, source: "SourceSettings") -> Managing:
        """Have the provider send a test delivery. Ends in TestSent, ByHand or NotDone."""
        ...


@dataclass(frozen=True, slots=True)
class StatsBucket:
    """Attempts in one stretch of time with one outcome, by the provider's count."""

    start: float | None
    status: str
    attempts: int


@dataclass(frozen=True, slots=True)
class GapScan:
    """What the provider's delivery log holds for a window."""

    records: tuple[DeliveryRecord, ...]
    pages: int = 0
    complete: bool = True
    """False: the log was not read to its end, so what is not here may still exist."""
    problem: str | None = None
    """Why it could not be read, or not to its end."""


Scanning = Generator[Question, Reply | None, GapScan]
"""Yield a Question and be sent its Reply; the return value is what was seen."""

Counting = Generator[Question, Reply | None, tuple[StatsBucket, ...] | None]
"""Likewise; None when the answer cannot be read."""


@runtime_checkable
class Scanner(Protocol):
    """A provider that keeps a log of its own deliveries; look with `isinstance(provider, Scanner)`."""

    def gap_scan(self, source: "SourceSettings", start: float, end: float) -> Scanning:
        """Read the log for a window of instants. Never raises on any reply."""
        ...

    def delivery_stats(self, source: "SourceSettings", start: float, end: float) -> Counting:
        """Read the provider's own counts for a window: one question; shown beside what the log says."""
        ...

    def keys_of(self, record: DeliveryRecord) -> Collection[str]:
        """The event keys that the delivery has here, if it arrived: a quick look before a whole search."""
        ...

    def ids_of(self, delivery: Delivery) -> Collection[str]:
        """The event and delivery ids that a delivery here tells of: by its headers, its key, and its body where it
        has no key. Never raises."""
        ...

    def gaps(self, scan: GapScan, arrived: Collection[str]) -> list[DeliveryRecord]:
        """The records that never arrived here. `arrived` holds the ids told by the headers and bodies of what did
        (event ids and delivery ids alike)."""
        ...


__all__ = [
    "ByHand", "Change", "Counting", "DeliveryRecord", "GapScan", "Managed", "Manager", "Managing", "NotDone", "Rotated",
    "Scanner", "Scanning", "SetUp", "StatsBucket", "TestSent", "by_hand", "not_done", "object_of", "shown_url",
]  # fmt: skip


def not_done(doing: str, reply: Reply | None) -> NotDone:
    """The outcome for an answer that is not the one hoped for; tells its status, never its body."""
    if reply is None:
        return NotDone(f"{doing}: no answer")
    if 200 <= reply.status < 300:
        return NotDone(f"{doing}: {reply.status}, but the answer cannot be understood", reply.status)
    return NotDone(f"{doing}: the provider answered {reply.status}", reply.status)


def by_hand(*steps: str) -> Managing:
    """Managing that asks nothing: the steps for a person."""
    yield from ()
    return ByHand(steps)


def shown_url(url: str) -> str:
    """A hook URL fit to print: a path token behind `/in/{source}/` is masked, and so is a query."""
    head, found, rest = url.partition("/in/")
    name, _, token = rest.partition("/")
    shown = f"{head}{found}{name}" + ("/********" if token else "")
    return shown.partition("?")[0] + ("?********" if "?" in shown else "")


def object_of(reply: Reply | None) -> dict[str, object] | None:
    """The JSON object of a 2xx answer, or None."""
    if reply is None or not 200 <= reply.status < 300:
        return None
    try:
        return jsontext.parse_object(reply.body)
    except jsontext.NotJson:
        return None
