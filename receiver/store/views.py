"""What can be looked at, without changing anything: the questions of the API, the command line and the metrics.

Lists are newest first and page by a cursor that is the last row's own position, so pages neither skip nor repeat while
rows arrive. Rows are plain JSON-ready dictionaries with the columns of CONTRACT 9; JSON columns are parsed.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from receiver.records import Delivery, DeliveryId, DeliveryRecord

Row = dict[str, Any]


class View(Protocol):
    """One consistent snapshot of the record."""

    def jobs(
        self,
        *,
        source: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        overdue_at: float | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[list[Row], int | None]:
        """A page of jobs and the cursor of the next (`before`), None at the end. `overdue_at`: only pending jobs whose
        deadline passed before that instant."""
        ...

    def job(self, source: str, any_id: str) -> Row | None:
        """One job by id or alias: its columns plus `history`, `deliveries` (without bodies), `polls`, `messages`."""
        ...

    def job_states(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The state of many jobs at once (the long poll looks for all of its waiters together)."""
        ...

    def deliveries(
        self,
        *,
        source: str | None = None,
        verdict: str | None = None,
        start: float | None = None,
        end: float | None = None,
        before: int | None = None,
        page: int = 1,
        limit: int = 50,
    ) -> tuple[list[Row], int | None]:
        """A page of deliveries without bodies; `before` is a delivery id, `page` counts from 1 below it."""
        ...

    def delivery(self, delivery_id: DeliveryId) -> Row | None:
        """One delivery with `body` as bytes and headers as a list of pairs."""
        ...

    def messages(
        self,
        *,
        source: str | None = None,
        state: str | None = None,
        job: tuple[str, str] | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[list[Row], int | None]:
        """A page of messages; `payload` parsed. `job`: (source, id or alias)."""
        ...

    def message(self, message_id: str) -> Row | None:
        """One message with its payload; None when there is none, or retention has taken it."""
        ...

    def stream(self, after_seq: int, limit: int, *, undelivered_only: bool = False) -> list[tuple[int, str, str]]:
        """Messages after a position in order of staging: (seq, id, payload text)."""
        ...

    def message_seq(self, message_id: str) -> int | None:
        """A message's position, for `Last-Event-ID`."""
        ...

    def last_seq(self) -> int:
        """The position of the newest message; 0 when there is none."""
        ...

    def stats(self, bucket_s: int, start: float, end: float, source: str | None = None) -> list[Row]:
        """Deliveries counted by bucket, source and verdict (refusals as verdict `refused`)."""
        ...

    def ack_latency(self, bucket_s: int, start: float, end: float, source: str | None = None) -> list[Row]:
        """Acknowledgement latency by bucket and source: `count`, `mean_ms`, `p50_ms`, `p99_ms` (from the histogram)."""
        ...

    def polls(self, limit: int) -> list[Row]:
        """The latest questions asked, newest first."""
        ...

    def refused(self) -> dict[tuple[str, str], int]:
        """(source or "", reason) -> how many refusals are on record."""
        ...

    def ack_histogram(self) -> list[tuple[str, float, int, float]]:
        """(source, bucket bound le_s, how many in this bucket alone, their sum in seconds) of all that is on record."""
        ...

    def tallies(self) -> dict[tuple[str, str, str], int]:
        """Kept counts: (kind, source, state) -> n; kinds `jobs`, `settled`, `outbox`, `deliveries`, `polls`."""
        ...

    def next_unread(self, limit: int, max_bytes: int) -> list[Delivery]:
        """The oldest deliveries with verdict `new`, in id order: at most `limit`, with at most `max_bytes` of bodies
        (but always one)."""
        ...

    def unread(self) -> int:
        """Deliveries not interpreted yet."""
        ...

    def held(self) -> dict[str, int]:
        """Held deliveries by source."""
        ...

    def oldest_pending(self) -> dict[str, float]:
        """source -> the instant its oldest pending job started."""
        ...

    def overdue(self, now: float) -> dict[str, int]:
        """source -> pending jobs past their deadline."""
        ...

    def oldest_message_at(self) -> float | None:
        """When the oldest undelivered message was staged; None when all are delivered or dead."""
        ...

    def oldest_unread_at(self) -> float | None:
        """When the oldest delivery that the interpreter has not read arrived; None when all are read."""
        ...

    def sources(self) -> dict[str, Row]:
        """The kept state of each source."""
        ...

    def missed(self) -> dict[str, int]:
        """source -> deliveries its provider tells of that never arrived."""
        ...

    def open_gaps(self, source: str, limit: int) -> list[tuple[DeliveryRecord, float]]:
        """Those deliveries of one source with when each was found missing, oldest first."""
        ...

    def claimed(self, source: str, keys: Collection[str]) -> set[str]:
        """Which of these event keys some delivery has claimed."""
        ...

    def arrivals(
        self, source: str, start: float, end: float, *, after: DeliveryId | None, limit: int
    ) -> list[Delivery]:
        """Deliveries that arrived in a window, in id order, from behind `after` on; with its body only where one has
        no event key, and a short one."""
        ...

    def settled_since(self, source: str, since: float) -> dict[str, int]:
        """Jobs settled since an instant, by `webhook|poll|deadline` (webhook loss); one whose webhook came and was
        verified by asking counts for `webhook`."""
        ...

    def meta(self, key: str) -> str | None:
        """A fact about the record by its name; None when it was never put."""
        ...

    def plans(self) -> dict[str, list[str]]:
        """The query plan of every hot query by name, for the test that pins them."""
        ...
