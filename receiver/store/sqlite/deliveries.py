"""Statements over `deliveries` and `event_keys`."""

import contextlib
import json
from collections.abc import Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from receiver import clock
from receiver.records import Delivery, DeliveryId, Headers
from receiver.states import Verdict
from receiver.store.sqlite.driver import Connection, Row, sqlite3
from receiver.store.sqlite.gathering import Gathering, Runs, packed, sizes, values
from receiver.store.sqlite.jobrows import instant_or_none

COLUMNS = "id, source, received_at, remote, headers, body, body_sha256, verdict, reason, event, event_key, job_id"

LARGEST_INSERT = 512
"""Rows put in by one statement at most."""
_EXACT = 64
"""Up to here there is a statement for every number of rows, above for powers of two: the driver keeps so many ready."""

UNREAD = f"SELECT {COLUMNS} FROM deliveries WHERE verdict = 'new' ORDER BY id LIMIT ?"
_UNREAD_SIZES = "FROM (SELECT length(body) AS n FROM deliveries WHERE verdict = 'new' ORDER BY id LIMIT ?)"
_TOGETHER = (
    f"SELECT json_group_array(json_array({COLUMNS.replace(' body,', ' length(body),')})),"
    f" CAST(group_concat(body, '') AS BLOB) FROM ({UNREAD})"
)
"""Unread deliveries in one step: all as JSON, which cannot hold bytes, and their bodies one behind the other."""
PACKED_BYTES = 1 << 20
"""Bodies of so many bytes together are read in one step; larger ones a row a step, never all of them twice over."""

HELD_BEFORE = (
    "SELECT id, source, received_at, remote, headers, NULL, body_sha256, verdict, reason, event, event_key, job_id"
    " FROM deliveries INDEXED BY deliveries_held_since WHERE verdict = 'held' AND source = ?"
    " AND received_at < ?"
    " AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.source = deliveries.source AND jobs.job_id = deliveries.job_id)"
    " AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.source = deliveries.source AND jobs.alias = deliveries.job_id)"
    " ORDER BY id LIMIT ?"
)


def in_one(waiting: int) -> int:
    """How many of so many waiting deliveries one statement takes."""
    return waiting if waiting <= _EXACT else min(LARGEST_INSERT, 1 << (waiting.bit_length() - 1))


@lru_cache(maxsize=2 * _EXACT)
def insert(rows: int) -> str:
    """One statement for so many rows. Each statement lets go of the interpreter's lock once and has to win it back
    from the busy event loop: a statement for each row costs ten times what the row does."""
    return f"INSERT INTO deliveries ({COLUMNS}) {values(rows, 12)} ON CONFLICT (id) DO NOTHING"


@lru_cache
def claim(rows: int) -> str:
    """Claim so many event keys, each for whoever comes first."""
    return f"INSERT OR IGNORE INTO event_keys (source, event_key, delivery_id, at) {values(rows, 4)}"


@lru_cache
def conclude(rows: int) -> str:
    """Give so many unread deliveries their verdicts."""
    return (
        "UPDATE deliveries SET verdict = told.column2, reason = told.column3, event = told.column4,"
        " event_key = told.column5, job_id = told.column6"
        f" FROM ({values(rows, 6)}) AS told WHERE deliveries.id = told.column1 AND verdict = 'new'"
    )


@lru_cache
def unhold(rows: int) -> str:
    """Make the held deliveries of so many jobs unread again."""
    return (
        f"UPDATE deliveries SET verdict = 'new', reason = NULL FROM ({values(rows, 2)}) AS known"
        " WHERE deliveries.verdict = 'held' AND deliveries.source = known.column1"
        " AND deliveries.job_id = known.column2"
    )


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


def put_in(runs: Runs, deliveries: Sequence[Delivery]) -> int:
    """Insert deliveries (at most LARGEST_INSERT) by one statement, which also counts them (`deliveries_recorded`).
    Outside a transaction it is one by itself: begun, synced and ended in a single step, so that the writer has to win
    back the interpreter's lock once a group and not five times. Answers how many were new."""
    return runs.execute(insert(len(deliveries)), [value for each in deliveries for value in row_of(each)]).rowcount


@lru_cache(maxsize=64)  # one sender's requests mostly have the same
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


def delivery_of(row: Sequence[Any]) -> Delivery:
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


def unread(connection: Connection, limit: int, max_bytes: int) -> list[Delivery]:
    """The oldest unread deliveries, up to so many and so many bytes, at least one. Most are small: those are read in
    one step, for each step has to win back the interpreter's lock."""
    sizes = packed(connection, "n", _UNREAD_SIZES, (limit,))
    count, room = 0, max_bytes
    for (size,) in sizes:
        room -= size or 0
        if room < 0 and count:
            break
        count += 1
    if max_bytes - room <= PACKED_BYTES:
        with contextlib.suppress(sqlite3.Error, ValueError):  # a damaged row: each is then read as it is
            return _together(connection, count)
    return [delivery_of(row) for row in connection.execute(UNREAD, (count,))] if count else []


def _together(connection: Connection, count: int) -> list[Delivery]:
    """So many unread deliveries in one step. Raises sqlite3.Error or ValueError where a row is not as it should be."""
    written, bodies = connection.execute(_TOGETHER, (count,)).fetchone()
    bodies, at, found = bodies or b"", 0, []
    for row in json.loads(written):
        if row[5] is not None:
            end = at + row[5]
            row[5], at = bodies[at:end], end
        found.append(delivery_of(row))
    if at != len(bodies):
        raise ValueError("a body is not of the length it says")
    return found


class SqliteDeliveries:
    """Keeps the promises of `base.Deliveries`."""

    def __init__(self, connection: Gathering) -> None:
        self._c = connection
        self._claimed: set[tuple[str, str, DeliveryId]] = set()

    def add(self, deliveries: Sequence[Delivery]) -> int:
        added = at = 0
        while at < len(deliveries):
            rows = in_one(len(deliveries) - at)
            added += put_in(self._c, deliveries[at : at + rows])
            at += rows
        return added

    def get(self, delivery_id: DeliveryId) -> Delivery | None:
        row = self._c.execute(f"SELECT {COLUMNS} FROM deliveries WHERE id = ?", (delivery_id,)).fetchone()
        return delivery_of(row) if row else None

    def claim_key(
        self, source: str, key: str, delivery_id: DeliveryId, at: float, window_s: float | None
    ) -> DeliveryId:
        ahead = (source, key, delivery_id)
        if ahead in self._claimed:
            self._claimed.remove(ahead)
            return delivery_id
        if self._c.execute(claim(1), (*ahead, clock.text(at))).rowcount:
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

    def claim_ahead(self, claims: Sequence[tuple[str, str, DeliveryId, float]]) -> None:
        at = 0
        for size in sizes(len(claims)):
            part = claims[at : at + size]
            rows = [(*each[:3], clock.text(each[3])) for each in part]
            new = self._c.execute(claim(size), [value for row in rows for value in row]).rowcount
            ours = {each[:3] for each in part}
            if new < size:  # some were taken before: by whom is asked for all of them at once
                keys = [value for each in part for value in each[:2]]
                asked = f"FROM ({values(size, 2)}) AS asked CROSS JOIN event_keys AS k"
                same = "k.source = asked.column1 AND k.event_key = asked.column2"
                held = packed(self._c, "k.source, k.event_key, k.delivery_id", f"{asked} ON {same}", keys)
                ours &= {(row[0], row[1], DeliveryId(row[2])) for row in held}
            self._claimed |= ours
            at += size

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

    def conclude(self, delivery: Delivery, verdict: Verdict, reason: str | None) -> None:
        self._c.put(
            conclude,
            (
                delivery.id,
                verdict.value,
                reason,
                delivery.event,
                delivery.event_key,
                delivery.job_id,
            ),
            ("delivery", delivery.id),
        )

    def unhold(self, source: str, job_ids: Sequence[str]) -> int:
        return sum(self._c.execute(unhold(1), (source, job_id)).rowcount for job_id in job_ids)

    def welcome(self, source: str, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            self._c.put(unhold, (source, job_id), last=True)

    def count_held(self, source: str) -> int:
        row = self._c.execute(
            "SELECT n FROM tallies WHERE kind = 'deliveries' AND source = ? AND state = 'held'", (source,)
        ).fetchone()
        return int(row[0]) if row else 0

    def held_before(self, source: str, received_before: float, limit: int) -> list[Delivery]:
        rows = self._c.execute(HELD_BEFORE, (source, clock.text(received_before), limit))
        return [delivery_of(row) for row in rows]
