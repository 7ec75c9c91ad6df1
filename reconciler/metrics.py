"""What Prometheus is told: the names and labels of CONTRACT 10, from one consistent look at the record.

Labels come from the configuration, never from what was received; counts survive restarts because they are read from
the store. What only this process knows (spill, acknowledgement latency of its own door) is read from its counters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from receiver import __version__
from receiver.counters import ACK_BOUNDS_S
from receiver.settings import Settings
from receiver.store.base import StoreHealth
from receiver.store.views import View
from reconciler import overview
from reconciler.api.desk import Desk
from reconciler.overview import Overview

CONTENT_TYPE = CONTENT_TYPE_LATEST

Buckets = Sequence[tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Door:
    """What the public door counted."""

    refused: Mapping[tuple[str, str], int]
    """(source or "", reason) -> n."""
    acks: Mapping[str, tuple[Buckets, float]]
    """source -> ((upper bound, how many in this bucket alone), …), sum in seconds."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one scrape tells."""

    settings: Settings
    now: float
    seen: Overview
    door: Door
    health: StoreHealth
    pushes: Mapping[str, int]


async def render(desk: Desk) -> bytes:
    """The metrics as text. Raises StoreUnavailable."""
    now, counters = desk.clock.now(), desk.intake_counters

    def look(view: View) -> tuple[Overview, Door]:
        seen = overview.look(view, now)
        return seen, _kept(view) if counters is None else Door({}, {})

    seen, door = await desk.store.read(look)
    if counters is not None:
        histograms = counters.ack_histograms()
        door = Door(
            dict(counters.refused_totals()), {name: (one.buckets, one.total_s) for name, one in histograms.items()}
        )
    snapshot = Snapshot(desk.settings, now, seen, door, desk.store.health(), dict(desk.push_outcomes()))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families(snapshot))
    return generate_latest(registry)


def _kept(view: View) -> Door:
    """The door is another process: what it wrote down is what is known of it."""
    acks: dict[str, tuple[list[tuple[float, int]], float]] = {}
    for source, le_s, n, total_s in view.ack_histogram():
        buckets, total = acks.get(source, ([], 0.0))
        acks[source] = ([*buckets, (le_s, n)], total + total_s)
    return Door(view.refused(), acks)


class Families(Collector):
    """A snapshot as metric families."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._s = snapshot

    def collect(self) -> Iterable[Metric]:
        """All families, in the order of the contract."""
        yield _gauge("build_info", "The version that runs.", ["version"], [((__version__,), 1)])
        yield from self._deliveries()
        yield from self._jobs()
        yield from self._asking()
        yield from self._outbox()
        health = self._s.health
        yield _gauge("unread_deliveries", "Deliveries not interpreted yet.", [], [((), self._s.seen.unread)])
        yield _gauge("store_bytes", "Size of the database file.", [], [((), health.file_bytes)])
        yield _gauge("wal_bytes", "Size of the write-ahead log.", [], [((), health.wal_bytes)])
        yield _gauge("missing_deliveries", "Acknowledged rows missing from the database.", [], [((), health.missing)])

    def _names(self) -> list[str]:
        return list(self._s.settings.sources)

    def _tallied(self, kind: str, states: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, str], int]]:
        """(source, state) -> n, with zeros for what is expected to happen and has not."""
        found = {
            (source, state): n
            for (each, source, state), n in self._s.seen.tallies.items()
            if each == kind and source in self._s.settings.sources
        }
        zeros = {(name, state): 0 for name in self._names() for state in states}
        yield from sorted((zeros | found).items())

    def _deliveries(self) -> Iterator[Metric]:
        yield _counter(
            "deliveries",
            "Deliveries by what became of them.",
            ["source", "verdict"],
            self._tallied("deliveries", overview.VERDICTS),
        )
        known = {*self._names(), ""}
        refused = [(labels, n) for labels, n in sorted(self._s.door.refused.items()) if labels[0] in known]
        yield _counter("refused", "Requests that were refused.", ["source", "reason"], refused)
        acks = HistogramMetricFamily(
            "holdfast_ack_seconds", "From the last byte of a delivery to its answer 200.", labels=["source"]
        )
        for name in self._names():
            buckets, total = self._s.door.acks.get(name, ([], 0.0))
            acks.add_metric([name], _cumulative(buckets), total)
        yield acks
        health = self._s.health
        yield _gauge("spill_bytes", "Size of the spill journal.", [], [((), health.spill_bytes)])
        yield _gauge("spill_records", "Deliveries in the spill journal.", [], [((), health.spill_records)])

    def _jobs(self) -> Iterator[Metric]:
        seen, now = self._s.seen, self._s.now
        yield _gauge("jobs", "Jobs by state.", ["source", "state"], self._tallied("jobs", overview.JOB_STATES))
        ages = [
            ((name,), max(0.0, now - seen.oldest_pending[name]) if name in seen.oldest_pending else 0.0)
            for name in self._names()
        ]
        yield _gauge("oldest_pending_job_seconds", "Age of the oldest pending job.", ["source"], ages)
        overdue = [((name,), seen.overdue.get(name, 0)) for name in self._names()]
        yield _gauge("overdue_jobs", "Pending jobs past their deadline.", ["source"], overdue)
        settled = self._tallied("settled", overview.DECIDED_BY)
        yield _counter("settled", "Jobs settled, by which witness.", ["source", "by"], settled)
        held = [((name,), seen.held.get(name, 0)) for name in self._names()]
        missed = [((name,), seen.missed.get(name, 0)) for name in self._names()]
        yield _gauge(
            "missed_deliveries", "Deliveries the provider's log tells of that never arrived.", ["source"], missed
        )
        yield _gauge("held_deliveries", "Deliveries whose job is not known yet.", ["source"], held)

    def _asking(self) -> Iterator[Metric]:
        yield _counter("polls", "Questions asked.", ["source", "outcome"], self._tallied("polls"))
        left, open_now = [], []
        for name, source in self._s.settings.sources.items():
            state = self._s.seen.sources.get(name, {})
            left.append(((name,), overview.budget_left(state, source.effective_polls_per_min, self._s.now)))
            open_now.append(((name,), float(overview.circuit_open(state, self._s.now))))
        yield _gauge("poll_budget_remaining", "Questions that may be asked at once.", ["source"], left)
        yield _gauge("circuit_open", "1 while a provider in trouble is left alone.", ["source"], open_now)

    def _outbox(self) -> Iterator[Metric]:
        states = [((state,), n) for state, n in self._s.seen.messages().items()]
        yield _gauge("outbox_messages", "Messages by state.", ["state"], states)
        oldest = self._s.seen.oldest_message_at
        age_s = 0.0 if oldest is None else max(0.0, self._s.now - oldest)
        yield _gauge("oldest_message_seconds", "Age of the oldest undelivered message.", [], [((), age_s)])
        pushes = [((outcome,), n) for outcome, n in sorted(self._s.pushes.items())]
        yield _counter("pushes", "Attempts to push a message.", ["outcome"], pushes)


Samples = Iterable[tuple[tuple[str, ...], float]]


def _gauge(name: str, what: str, labels: list[str], samples: Samples) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"holdfast_{name}", what, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, what: str, labels: list[str], samples: Samples) -> CounterMetricFamily:
    family = CounterMetricFamily(f"holdfast_{name}", what, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _cumulative(buckets: Buckets) -> list[tuple[str, float]]:
    """As Prometheus wants them: each bucket counts what is in the ones before it too, and the last is infinite."""
    shown = [(f"{bound:g}", float(sum(n for le_s, n in buckets if le_s <= bound))) for bound in ACK_BOUNDS_S]
    return [*shown, ("+Inf", float(sum(n for _, n in buckets)))]
