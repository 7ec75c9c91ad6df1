"""What a store promises. SQLite's ways stay in `sqlite/`; a PostgreSQL store will keep the same promises beside it.

A store has three doors: `record` (a delivery, durable when it returns), `write` (one function, one transaction) and
`read` (one function, one consistent snapshot). Inside `write` the function gets a `Tx`, whose parts speak of
deliveries, jobs, messages, polls and sources; inside `read` it gets a `View`. Neither shows a word of SQL.
Instants are seconds since 1970 UTC and are always handed in; a store never looks at a clock to decide anything.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from receiver.errors import StoreUnavailable
from receiver.records import Delivery, DeliveryId, DeliveryRecord, HistoryEntry, Job, Message, Poll, SourceState
from receiver.states import JobState, Verdict
from receiver.store.facts import Retention, StoreHealth
from receiver.store.views import View

T = TypeVar("T")


class Deliveries(Protocol):
    """The rows of what came in. Bodies are never changed; only verdicts are given."""

    def add(self, deliveries: Sequence[Delivery]) -> int:
        """Keep deliveries as they are; answers how many were new. One whose id is there already is left alone (a
        drained spill repeats itself)."""
        ...

    def get(self, delivery_id: DeliveryId) -> Delivery | None:
        """One delivery, whole; None when there is none, or retention has taken it."""
        ...

    def claim_key(
        self, source: str, key: str, delivery_id: DeliveryId, at: float, window_s: float | None
    ) -> DeliveryId:
        """Claim an event key by its unique constraint; answers the id that holds it (our own: we were first).

        With a window, a claim older than that is taken over.
        """
        ...

    def claim_ahead(self, claims: Sequence[tuple[str, str, DeliveryId, float]]) -> None:
        """Claim all of these (source, key, delivery_id, at) that are free, in this order and at once: `claim_key`
        then answers as it would have, and sooner."""
        ...

    def release_key(self, source: str, key: str, delivery_id: DeliveryId) -> None:
        """Give a key back, if this delivery holds it (a quarantined delivery claims none)."""
        ...

    def decide(self, delivery: Delivery, expected: Verdict | None = None) -> bool:
        """Write the verdict, reason, event, event_key and job_id of a delivery. With `expected` only if that is its
        verdict still: False means somebody else was faster."""
        ...

    def conclude(self, delivery: Delivery, verdict: Verdict, reason: str | None) -> None:
        """`decide` for an unread delivery, by whoever need not know whether somebody else was faster."""
        ...

    def unhold(self, source: str, job_ids: Sequence[str]) -> int:
        """Make held deliveries of these job ids `new` again, to be read once more. Answers how many."""
        ...

    def welcome(self, source: str, job_ids: Sequence[str]) -> None:
        """`unhold` for whoever need not know how many, when their job has come on record."""
        ...

    def count_held(self, source: str) -> int:
        """How many deliveries of a source wait for the registration of their job."""
        ...

    def held_before(self, source: str, received_before: float, limit: int) -> list[Delivery]:
        """Held deliveries whose time is over and whose job is still not on record, oldest first, without bodies."""
        ...


class Jobs(Protocol):
    """The jobs and their story. State changes go through `change` alone, guarded by what was read."""

    def find(self, source: str, any_id: str) -> Job | None:
        """A job by its id, else by its alias."""
        ...

    def look_ahead(self, keys: Sequence[tuple[str, str]]) -> None:
        """Read the jobs of these (source, job_id) at once: `find` then answers as it would have, and sooner."""
        ...

    def add(self, job: Job) -> bool:
        """Put a job on record; False when the id (or its alias) is on record already."""
        ...

    def change(self, old: Job, new: Job, *, whole: bool = False) -> bool:
        """Write what differs between `old` and `new` if the job still has `old`'s state and revision; False means
        somebody was faster. `whole`: write every column, for a row that somebody else wrote in his own spelling."""
        ...

    def unscheduled(self, source: str, limit: int) -> list[Job]:
        """Jobs inserted from outside (SQL) that have no due time yet."""
        ...

    def due(self, source: str, now: float, limit: int, skip: int = 0) -> list[Job]:
        """Jobs whose next question is due, longest due first, without the first `skip`."""
        ...

    def open(self, source: str, limit: int) -> list[Job]:
        """Pending jobs, oldest registration first."""
        ...

    def count_open(self, source: str, at_most: int) -> int:
        """How many pending jobs there are; stops counting at `at_most`."""
        ...

    def make_due(self, source: str, at: float, wait_until: float, after: str | None, limit: int) -> str | None:
        """Bring the next question of pending jobs forward to `at`; never before their own Retry-After, as far as that
        lies before `wait_until` (one beyond it comes from a clock that was wrong). `limit` jobs a step, in
        registration order; answers where to go on, None at the end."""
        ...

    def overdue(self, source: str, now: float, limit: int) -> list[Job]:
        """Pending jobs past their deadline, oldest deadline first."""
        ...

    def next_due_at(self, source: str) -> float | None:
        """When the next job of a source is due; None when none is."""
        ...

    def note(self, entry: HistoryEntry) -> None:
        """Append to a job's history."""
        ...

    def add_poll(self, poll: Poll) -> int:
        """Keep a question asked; answers its id."""
        ...

    def delete(self, keys: Sequence[tuple[str, str]]) -> int:
        """Retention only: forget jobs with their history and polls."""
        ...


class Outbox(Protocol):
    """What the application is told. A message's payload never changes."""

    def add(self, message: Message) -> bool:
        """Stage a message; False when one with this id was staged before (it is not told twice)."""
        ...

    def stage(self, message: Message) -> None:
        """`add` for whoever need not know whether it was staged before."""
        ...

    def claim(
        self, now: float, until: float, limit: int, sources: Sequence[str] | None = None, *, pull: bool = False
    ) -> list[Message]:
        """Lease due messages until `until`, oldest first, at most one of each job: none while an earlier message of
        the same job is undelivered. A lease that ran out counts as an attempt when it is claimed again.
        `sources` limits to those; `pull` ignores the retry schedule (a consumer asked for it)."""
        ...

    def delivered(self, ids: Sequence[str], now: float, *, pushed: bool) -> int:
        """Mark pending messages delivered; unknown or finished ids are ignored. `pushed` counts an attempt."""
        ...

    def retry(self, message_id: str, now: float, next_attempt_at: float, error: str) -> None:
        """An attempt failed; try again at that time."""
        ...

    def bury(self, message_id: str, now: float, error: str) -> None:
        """The schedule is used up, or the application said 410: dead, kept, redeliverable."""
        ...

    def revive(self, message_id: str, now: float) -> Message | None:
        """Redeliver: pending again, due now, with its attempts from zero; None when there is no such message."""
        ...

    def extend(self, ids: Sequence[str], until: float) -> int:
        """Renew the lease of messages that are still leased."""
        ...

    def get(self, message_id: str) -> Message | None:
        """One message, whatever has become of it; None when there is none, or retention has taken it."""
        ...

    def bring_forward(
        self, latest: float, sources: Sequence[str] | None = None, *, but: str = "", tried_since: float | None = None
    ) -> int:
        """The wall clock stepped back: no pending message waits, or is leased, beyond `latest`. With `sources`: their
        application is back, none of theirs waits beyond it, but where `last_error` begins with `but`, and of those
        only what was tried at `tried_since` or later; leases stay."""
        ...

    def next_attempt_at(self) -> float | None:
        """When the next message is due; None when none is pending."""
        ...


class Sources(Protocol):
    """What must survive a restart about each source."""

    def get(self, name: str) -> SourceState:
        """The state of a source; a fresh one when nothing is kept yet."""
        ...

    def put(self, state: SourceState) -> None:
        """Keep the state of a source, whole, in place of the one before: read it in the same transaction."""
        ...

    def take_tokens(self, name: str, now: float, per_min: float, wanted: int) -> tuple[int, float]:
        """Take up to `wanted` tokens from the bucket (filled at per_min a minute, at most min(per_min, 10) in store).
        Answers (tokens taken, seconds until the next one)."""
        ...

    def want_sweep(self, names: Sequence[str], at: float) -> None:
        """Ask for every open job of these sources to be asked about at once."""
        ...

    def add_gaps(self, source: str, records: Sequence[DeliveryRecord], at: float) -> int:
        """Keep deliveries that a provider tells of and that never arrived; answers how many were not known to be."""
        ...

    def close_gaps(self, source: str, records: Sequence[DeliveryRecord], at: float) -> int:
        """They arrived after all; answers how many were open."""
        ...

    def count_refusals(self, counts: Sequence[tuple[float, str, str, int]]) -> None:
        """Add refusals: (minute it happened in, source or '', reason, how many)."""
        ...

    def count_acks(self, counts: Sequence[tuple[float, str, float, int, float]]) -> None:
        """Add acknowledgement latencies: (minute, source, bucket bound le_s, how many, their sum in seconds)."""
        ...


class Meta(Protocol):
    """Small facts about the record itself."""

    def get(self, key: str) -> str | None:
        """A fact by its name; None when it was never put."""
        ...

    def put(self, key: str, value: str) -> None:
        """Keep a fact in place of the one before."""
        ...

    def restore(self, table: str, rows: Sequence[dict[str, Any]]) -> int:
        """Put back rows salvaged from a damaged file, as far as they are not there; answers how many were new."""
        ...

    def prune(self, retention: Retention, limit: int) -> dict[str, int]:
        """One small step of retention: at most `limit` rows a table. Answers rows gone by table (0: none in this step,
        but there are more to look at); empty: done.

        Never touches a pending job or its deliveries, an undelivered message, an unread delivery, a held one in its
        time.
        """
        ...


class Tx(Protocol):
    """One transaction. Everything done through it commits together or not at all."""

    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def sources(self) -> Sources: ...
    @property
    def meta(self) -> Meta: ...


class Store(Protocol):
    """The record. Thread-safe; the async methods must be called on a running event loop."""

    def next_id(self) -> DeliveryId:
        """A fresh delivery id: greater than all before it, also across restarts; sorts by arrival."""
        ...

    def submit(self, delivery: Delivery, done: Callable[[StoreUnavailable | None], object]) -> None:
        """`record` for the door: queue a delivery; `done` is called once, from another thread, with None when it is
        durable or with why it is not. Raises StoreUnavailable when it cannot even be queued."""
        ...

    def waiting(self) -> int:
        """How many deliveries are on their way to the disk now."""
        ...

    async def record(self, delivery: Delivery) -> None:
        """Keep a delivery. When this returns it survives kill -9, and power loss as far as the disk keeps its word.
        Raises StoreUnavailable when neither the database nor the spill journal took it."""
        ...

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in one transaction of the one writer; its value is returned after the commit.

        `work` must be quick and pure of other effects: it may be run again after a rollback. What it raises is raised
        here, and nothing it did is kept. Raises StoreUnavailable when the database takes no writes now.
        """
        ...

    def write_sync(self, work: Callable[[Tx], T]) -> T:
        """`write` for a caller without an event loop (the command line)."""
        ...

    async def read(self, look: Callable[[View], T]) -> T:
        """Run `look` on a consistent snapshot, off the event loop; it never waits for the writer."""
        ...

    def read_sync(self, look: Callable[[View], T]) -> T:
        """`read` for a caller without an event loop (the command line)."""
        ...

    def on_commit(self, hook: Callable[[frozenset[str]], None]) -> None:
        """Call `hook` (from the writer's thread) after a commit, with the names of what changed: `deliveries`, `jobs`,
        `outbox`. A hint to look, never a promise: whoever waits must also look from time to time."""
        ...

    def salvage(self) -> list[str]:
        """Bring back what can be read of database files that were found damaged and moved aside; a line each for the
        operator. Long work: run it on a thread, off the acknowledgement path. Raises OSError without room for it."""
        ...

    def health(self) -> StoreHealth:
        """How the store is now; waits for no transaction."""
        ...

    def backup(self, path: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy the database while it is in use; the copy passes its checks. Raises StoreUnavailable."""
        ...

    def close(self) -> None:
        """Finish what is queued, close every connection."""
        ...


__all__ = [
    "Deliveries", "Job", "JobState", "Jobs", "Message", "Meta", "Outbox", "Retention", "Sources",
    "Store", "StoreHealth", "Tx", "Verdict", "View",
]  # fmt: skip
