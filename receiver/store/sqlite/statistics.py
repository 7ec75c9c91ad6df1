"""Counts by time: deliveries by bucket and verdict, refusals, acknowledgement latency."""

from typing import Any

from receiver import clock
from receiver.store.sqlite.driver import Connection

_DAY_S = 86_400.0

DELIVERIES = (
    "SELECT CAST(unixepoch(received_at) / :bucket AS INTEGER) * :bucket, source, verdict, count(*) FROM deliveries"
    " WHERE id >= :from_id AND id < :to_id AND received_at >= :start AND received_at < :end"
    " AND (:source IS NULL OR source = :source) GROUP BY 1, 2, 3"
)
REFUSALS = (
    "SELECT CAST(unixepoch(bucket_start) / :bucket AS INTEGER) * :bucket, source, 'refused', sum(n) FROM refusals"
    " WHERE bucket_start >= :start AND bucket_start < :end AND (:source IS NULL OR source = :source) GROUP BY 1, 2"
)
LATENCY = (
    "SELECT CAST(unixepoch(bucket_start) / :bucket AS INTEGER) * :bucket, source, le_s, sum(n), sum(total_s)"
    " FROM acknowledgements WHERE bucket_start >= :start AND bucket_start < :end"
    " AND (:source IS NULL OR source = :source) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
)


def first_id(start: float) -> int:
    """No delivery received at `start` or later has a lesser id. An id is cut to the millisecond and a time is rounded
    to it, hence a second of slack."""
    return int(max(0.0, start - 1.0) * 1000) << 20


def _values(bucket_s: int, start: float, end: float, source: str | None) -> dict[str, Any]:
    return {
        "bucket": bucket_s,
        "start": clock.text(start),
        "end": clock.text(end),
        "from_id": first_id(start),
        "to_id": min((1 << 63) - 1, int((max(0.0, end) + _DAY_S) * 1000) << 20),
        "source": source,
    }


def stats_rows(
    connection: Connection, bucket_s: int, start: float, end: float, source: str | None
) -> list[dict[str, Any]]:
    """Deliveries and refusals counted by bucket, source and verdict, oldest bucket first."""
    values = _values(bucket_s, start, end, source)
    rows = connection.execute(DELIVERIES, values).fetchall() + connection.execute(REFUSALS, values).fetchall()
    return [
        {"bucket_start": clock.text(row[0]), "source": row[1], "verdict": row[2], "count": row[3]}
        for row in sorted(rows)
    ]


def ack_latency_rows(
    connection: Connection, bucket_s: int, start: float, end: float, source: str | None
) -> list[dict[str, Any]]:
    """Latency by bucket and source from the kept histogram; a percentile is the bound of the bucket it falls in."""
    grouped: dict[tuple[int, str], list[tuple[float, int, float]]] = {}
    for at, name, le_s, n, total_s in connection.execute(LATENCY, _values(bucket_s, start, end, source)):
        grouped.setdefault((at, name), []).append((le_s, n, total_s))
    shown = []
    for (at, name), buckets in grouped.items():
        count = sum(n for _, n, _ in buckets)
        shown.append(
            {
                "bucket_start": clock.text(at),
                "source": name,
                "count": count,
                "mean_ms": round(1000 * sum(total for _, _, total in buckets) / count, 3) if count else None,
                "p50_ms": _percentile_ms(buckets, count, 0.50),
                "p99_ms": _percentile_ms(buckets, count, 0.99),
            }
        )
    return shown


def _percentile_ms(buckets: list[tuple[float, int, float]], count: int, share: float) -> float | None:
    seen = 0
    for le_s, n, _ in buckets:
        seen += n
        if count and seen >= share * count:
            return round(le_s * 1000, 3)
    return None
