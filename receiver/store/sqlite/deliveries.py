"""Statements over `deliveries` and `event_keys`."""

import json
from collections.abc import Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii

from receiver import clock
from receiver.records import Delivery, DeliveryId, Headers
from receiver.states import Verdict
from receiver.store.sqlite.driver import Connection, Row
from receiver.store.sqlite.jobs import instant_or_none

COLUMNS = "id, source, received_at, remote, headers, body, body_sha256, verdict, reason, event, event_key, job_id"

LARGEST_INSERT = 64
"""Rows put in by one statement at most. The driver keeps as many statements ready (its `cached_statements`)."""
# How many were ever committed, kept in the transaction that commits them: it rolls back with rows that are lost, and
# nobody has to count. The high-water mark is held against it at the next start.
RECORDED = (
    "INSERT INTO meta (key, value) VALUES ('deliveries.recorded', CAST(:n AS TEXT))"
    " ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + :n AS TEXT)"
)

UNREAD = f"SELECT {COLUMNS} FROM deliveries WHERE verdict = 'new' ORDER BY id LIMIT ?"
UNREAD_SIZES = "SELECT length(body) FROM deliveries WHERE verdict = 'new' ORDER BY id LIMIT ?"

HELD_BEFORE = (
    "SELECT id, source, received_at, remote, headers, NULL, body_sha256, verdict, reason, event, event_key, job_id"
    " FROM deliveries INDEXED BY deliveries_held_since WHERE verdict = 'held' AND source = ?"
    " AND received_at < ?"
    " AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.source = deliveries.source AND jobs.job_id = deliveries.job_id)"
    " AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.source = deliveries.source AND jobs.alias = deliveries.job_id)"
    " ORDER BY id LIMIT ?"
)


@lru_cache(maxsize=LARGEST_INSERT)
def insert(rows: int) -> str:
    """One statement for so many rows. Each statement lets go of the interpreter's lock once and has to win it back
    from the busy event loop: a statement for each row costs ten times what the row does."""
    row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    return f"INSERT INTO deliveries ({COLUMNS}) VALUES {', '.join([row] * rows)} ON CONFLICT (id) DO NOTHING"


def headers_text(headers: Headers) -> str:
    """Headers as they are kept: a JSON array of pairs, in ASCII."""
    pairs = [f"[{encode_basestring_ascii(name)},{encode_basestring_ascii(value)}]" for name, value in headers]
    return f"[{','.join(pairs)}]"


def row_of(delivery: Delivery) -> Row:
    """A delivery as the values of `insert`."""
    return (
        delivery.id,
        delivery.source,
        clock.text(delivery.received_at),
        delivery.remote,
        headers_text(delivery.headers),
        delivery.body,
        delivery.body_sha256,
        delivery.verdict.value,
        delivery.reason,
        delivery.event,
        delivery.event_key,
        delivery.job_id,
    )


def headers_of(written: str) -> Headers:
    """Headers as they were kept: pairs in wire order; none when the text was damaged (the body has its digest)."""
    try:
        return tuple((str(name), str(value)) for name, value in json.loads(written))
    except (ValueError, TypeError, RecursionError):
        return ()


def _bytes_of(body: object) -> bytes | None:
    """A body as bytes. A flipped bit in the row's header makes text or a number of it: its digest then decides, and
    whoever reads it never meets anything else than bytes."""
    return body if body is None or isinstance(body, bytes) else str(body).encode("utf-8", "surrogateescape")


def delivery_of(row: Row) -> Delivery:
    """A delivery from COLUMNS."""
    return Delivery(
        id=DeliveryId(row[0]),
        source=row[1],
        received_at=instant_or_none(row[2]) or 0.0,
        remote=row[3],
        headers=headers_of(row[4]),
        body=_bytes_of(row[5]),
        body_sha256=row[6],
        verdict=Verdict(row[7]),
        reason=row[8],
        event=row[9],
        event_key=row[10],
        job_id=row[11],
    )


class SqliteDeliveries:
    """Keeps the promises of `base.Deliveries`."""

    def __init__(self, connection: Connection) -> None:
        self._c = connection

    def add(self, deliveries: Sequence[Delivery]) -> int:
        added = at = 0
        while at < len(deliveries):
            rows = min(LARGEST_INSERT, len(deliveries) - at)
            values = [value for delivery in deliveries[at : at + rows] for value in row_of(delivery)]
            added += self._c.execute(insert(rows), values).rowcount
            at += rows
        self._c.execute(RECORDED, {"n": added})
        return added

    def get(self, delivery_id: DeliveryId) -> Delivery | None:
        row = self._c.execute(f"SELECT {COLUMNS} FROM deliveries WHERE id = ?", (delivery_id,)).fetchone()
        return delivery_of(row) if row else None

    def claim_key(
        self, source: str, key: str, delivery_id: DeliveryId, at: float, window_s: float | None
    ) -> DeliveryId:
        claimed = self._c.execute(
            "INSERT OR IGNORE INTO event_keys (source, event_key, delivery_id, at) VALUES (?, ?, ?, ?)",
            (source, key, delivery_id, clock.text(at)),
        ).rowcount
        if claimed:
            return delivery_id
        if window_s is not None:
            taken = self._c.execute(
                "UPDATE event_keys SET delivery_id = ?, at = ? WHERE source = ? AND event_key = ? AND at < ?",
                (delivery_id, clock.text(at), source, key, clock.text(at - window_s)),
            ).rowcount
            if taken:
                return delivery_id
        row = self._c.execute(
            "SELECT delivery_id FROM event_keys WHERE source = ? AND event_key = ?", (source, key)
        ).fetchone()
        return DeliveryId(row[0])

    def release_key(self, source: str, key: str, delivery_id: DeliveryId) -> None:
        self._c.execute(
            "DELETE FROM event_keys WHERE source = ? AND event_key = ? AND delivery_id = ?", (source, key, delivery_id)
        )

    def decide(self, delivery: Delivery, expected: Verdict | None = None) -> bool:
        decided = self._c.execute(
            "UPDATE deliveries SET verdict = ?, reason = ?, event = ?, event_key = ?, job_id = ?"
            " WHERE id = ? AND verdict = coalesce(?, verdict)",
            (
                delivery.verdict.value,
                delivery.reason,
                delivery.event,
                delivery.event_key,
                delivery.job_id,
                delivery.id,
                expected.value if expected else None,
            ),
        )
        return bool(decided.rowcount)

    def unhold(self, source: str, job_ids: Sequence[str]) -> int:
        return sum(
            self._c.execute(
                "UPDATE deliveries SET verdict = 'new', reason = NULL"
                " WHERE verdict = 'held' AND source = ? AND job_id = ?",
                (source, job_id),
            ).rowcount
            for job_id in job_ids
        )

    def count_held(self, source: str) -> int:
        row = self._c.execute(
            "SELECT n FROM tallies WHERE kind = 'deliveries' AND source = ? AND state = 'held'", (source,)
        ).fetchone()
        return int(row[0]) if row else 0

    def held_before(self, source: str, received_before: float, limit: int) -> list[Delivery]:
        rows = self._c.execute(HELD_BEFORE, (source, clock.text(received_before), limit))
        return [delivery_of(row) for row in rows]
