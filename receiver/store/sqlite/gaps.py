"""Statements over `delivery_gaps`: what a provider's own log says it delivered and what never arrived here."""

from collections.abc import Collection, Sequence

from receiver import clock, jsontext
from receiver.records import Delivery, DeliveryId, DeliveryRecord
from receiver.store.sqlite.deliveries import delivery_of
from receiver.store.sqlite.driver import Connection, Row
from receiver.store.sqlite.gathering import Runs
from receiver.store.sqlite.jobrows import instant_or_none

GAPS = """
CREATE TABLE delivery_gaps (
  source TEXT NOT NULL,
  gap_key TEXT NOT NULL CHECK (gap_key <> ''),
  event_id TEXT,
  delivery_id TEXT,
  event TEXT,
  status TEXT,
  attempts INTEGER,
  http_status INTEGER,
  tried_at TEXT,
  found_at TEXT NOT NULL,
  arrived_at TEXT,
  PRIMARY KEY (source, gap_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_gaps_open ON delivery_gaps (source, found_at) WHERE arrived_at IS NULL;
CREATE INDEX delivery_gaps_age ON delivery_gaps (found_at);
CREATE VIEW missed_deliveries AS
  SELECT source, event_id, delivery_id, event, status, attempts, http_status, tried_at, found_at
  FROM delivery_gaps WHERE arrived_at IS NULL;
"""
LONGEST_BODY_BYTES = 1 << 20
"""Longer bodies are not looked into for an id; those who send ids in headers lose nothing by it."""
_DAY_S = 86_400.0
_COLUMNS = "delivery_id, event_id, event, status, attempts, http_status, tried_at"
_ARRIVALS = (
    "SELECT id, source, received_at, remote, headers,"
    f" CASE WHEN event_key IS NULL AND length(body) <= {LONGEST_BODY_BYTES} THEN body END,"
    " body_sha256, verdict, reason, event, event_key, job_id FROM deliveries"
    " WHERE id > :after AND id < :to_id AND received_at >= :start AND received_at < :end AND source = :source"
    " ORDER BY id LIMIT :limit"
)


def key_of(record: DeliveryRecord) -> str | None:
    """What a gap is told by: one event is one gap, however many deliveries it had."""
    return record.event_id or record.delivery_id


def _record(row: Row) -> DeliveryRecord:
    delivery_id, event_id, event, status, attempts, http_status, tried_at = row[:7]
    return DeliveryRecord(delivery_id, event_id, event, status, attempts, http_status, instant_or_none(tried_at))


class GapRows:
    """The part of `base.Sources` that keeps gaps."""

    _c: Runs

    def add_gaps(self, source: str, records: Sequence[DeliveryRecord], at: float) -> int:
        new = 0
        for record in records:
            key = key_of(record)
            if key is None:
                continue
            tried_at = None if record.at is None else clock.text(record.at)
            facts = (record.status, record.attempts, record.http_status, tried_at)
            added = self._c.execute(
                "INSERT INTO delivery_gaps (source, gap_key, event_id, delivery_id, event, status, attempts,"
                " http_status, tried_at, found_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (source, key, record.event_id, record.delivery_id, record.event, *facts, clock.text(at)),
            ).rowcount
            new += added
            if not added:
                self._c.execute(
                    "UPDATE delivery_gaps SET status = ?1, attempts = ?2, http_status = ?3, tried_at = ?4"
                    " WHERE source = ?5 AND gap_key = ?6 AND arrived_at IS NULL"
                    " AND (status, attempts, http_status, tried_at) IS NOT (?1, ?2, ?3, ?4)",
                    (*facts, source, key),
                )
        return new

    def close_gaps(self, source: str, records: Sequence[DeliveryRecord], at: float) -> int:
        keys = [key for record in records if (key := key_of(record)) is not None]
        return self._c.executemany(
            "UPDATE delivery_gaps SET arrived_at = ? WHERE source = ? AND gap_key = ? AND arrived_at IS NULL",
            [(clock.text(at), source, key) for key in keys],
        ).rowcount

    def forget_gaps(self, before: float, limit: int) -> int:
        return self._c.execute(
            "DELETE FROM delivery_gaps WHERE (source, gap_key) IN (SELECT source, gap_key FROM delivery_gaps"
            " INDEXED BY delivery_gaps_age WHERE found_at < ? LIMIT ?)",
            (clock.text(before), limit),
        ).rowcount


class GapLooks:
    """The part of `views.View` that looks for gaps."""

    _c: Connection

    def missed(self) -> dict[str, int]:
        return dict(
            self._c.execute(
                "SELECT source, count(*) FROM delivery_gaps INDEXED BY delivery_gaps_open WHERE arrived_at IS NULL"
                " GROUP BY source"
            ).fetchall()
        )

    def open_gaps(self, source: str, limit: int) -> list[tuple[DeliveryRecord, float]]:
        rows = self._c.execute(
            f"SELECT {_COLUMNS}, found_at FROM delivery_gaps INDEXED BY delivery_gaps_open WHERE source = ?"
            " AND arrived_at IS NULL ORDER BY found_at LIMIT ?",
            (source, limit),
        )
        return [(_record(row), instant_or_none(row[7]) or 0.0) for row in rows.fetchall()]

    def claimed(self, source: str, keys: Collection[str]) -> set[str]:
        rows = self._c.execute(
            "SELECT event_key FROM json_each(?) AS wanted CROSS JOIN event_keys"
            " ON event_keys.source = ? AND event_keys.event_key = wanted.value",
            (jsontext.dump(list(keys)), source),
        )
        return {row[0] for row in rows}

    def arrivals(
        self, source: str, start: float, end: float, *, after: DeliveryId | None, limit: int
    ) -> list[Delivery]:
        rows = self._c.execute(
            _ARRIVALS,
            {
                "source": source,
                "after": after if after is not None else (int(max(0.0, start) * 1000) << 20) - 1,
                "to_id": min((1 << 63) - 1, int((max(0.0, end) + _DAY_S) * 1000) << 20),
                "start": clock.text(start),
                "end": clock.text(end),
                "limit": limit,
            },
        )
        return [delivery_of(row) for row in rows.fetchall()]
