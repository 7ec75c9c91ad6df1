"""Counts of deliveries by bucket of time and verdict, and how fast they were acknowledged."""

from starlette.types import ASGIApp

from receiver import clock
from receiver.store.views import Row, View
from reconciler.api import shapes
from reconciler.api.call import Call
from reconciler.api.models import StatsQuery
from reconciler.api.problem import bad_request, json_reply
from reconciler.api.routing import Answer, Route

DEFAULT_WINDOW_S = 86_400.0
MOST_BUCKETS = 50_000
_DAY_S = 86_400.0


async def show_stats(call: Call) -> ASGIApp:
    """Counts per bucket and verdict, plus latency."""
    asked = call.query(StatsQuery)
    bucket_s = asked.bucket_minutes * 60
    now = call.desk.clock.now()
    end = now + 0.001 if asked.end is None else asked.end  # the present millisecond belongs to the window
    start = end - DEFAULT_WINDOW_S if asked.start is None else asked.start
    if start > end:
        raise bad_request("start lies after end")
    if (end - max(start, now - _kept_s(call))) / bucket_s > MOST_BUCKETS:
        raise bad_request(f"that is more than {MOST_BUCKETS} buckets; take larger ones or a shorter window")

    def look(view: View) -> tuple[list[Row], list[Row]]:
        counts = view.stats(bucket_s, start, end, asked.source)
        return counts, view.ack_latency(bucket_s, start, end, asked.source)

    counts, latency = await call.desk.store.read(look)
    return json_reply(
        {
            "bucket_minutes": asked.bucket_minutes,
            "start_at": clock.text(start),
            "end_at": clock.text(end),
            "stats": counts,
            "ack_latency": latency,
        }
    )


def _kept_s(call: Call) -> float:
    """How far back there can be anything to count, generously."""
    retention = call.desk.settings.retention
    return (max(retention.deliveries_days, retention.polls_days) + 1.0) * _DAY_S


ROUTES = [
    Route(
        method="GET",
        path="/v1/stats",
        handler=show_stats,
        summary="Deliveries counted by bucket, source and verdict, with acknowledgement latency",
        query=StatsQuery,
        answers={200: Answer("The counts.", shapes.StatsShape)},
        tags=("deliveries",),
    ),
]
