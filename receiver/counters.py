"""What the public door counts: refusals by source and reason, and how long acknowledging took.

Labels come from the configuration alone, never from a request: whoever knocks at an unknown source is counted under
the source "". Totals live as long as the process and feed the metrics; the same counts by minute are taken away by
whoever writes them to the store. Touched on the event loop only; no clock, no I/O.
"""

from bisect import bisect_left

ACK_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets; what took longer is in one more bucket behind them."""
BEYOND_S = 3600.0
"""Stands for "longer than ten seconds" where a bucket needs a number of its own."""

_MINUTE_S = 60.0
_MOST_MINUTES = 20_000

Refusals = list[tuple[float, str, str, int]]
"""(minute it happened in, source or "", reason, how many)."""
Acks = list[tuple[float, str, float, int, float]]
"""(minute, source, bucket bound in seconds, how many, their sum in seconds)."""


class AckHistogram:
    """Latencies of one source. `counts` is one longer than ACK_BOUNDS_S and not cumulative."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(ACK_BOUNDS_S) + 1)
        self.total_s = 0.0

    @property
    def buckets(self) -> list[tuple[float, int]]:
        """(upper bound in seconds, how many between the bound before and this one), the last bound infinite."""
        return list(zip((*ACK_BOUNDS_S, float("inf")), self.counts, strict=True))


class IntakeCounters:
    """All counts of one listener."""

    def __init__(self) -> None:
        self.refused: dict[tuple[str, str], int] = {}
        """(source or "", reason) -> how many."""
        self.acks: dict[str, AckHistogram] = {}
        """source -> how long its deliveries took from the last byte to the answer 200."""
        self._refusals: dict[tuple[float, str, str], int] = {}
        self._acks: dict[tuple[float, str, int], list[float]] = {}

    def refused_totals(self) -> dict[tuple[str, str], int]:
        """(source or "", reason) -> how many were refused since the process started."""
        return self.refused

    def ack_histograms(self) -> dict[str, AckHistogram]:
        """source -> how long acknowledging took since the process started."""
        return self.acks

    def refuse(self, source: str, reason: str, at: float) -> None:
        """Count a refusal at an instant."""
        self.refused[source, reason] = self.refused.get((source, reason), 0) + 1
        key = (at // _MINUTE_S * _MINUTE_S, source, reason)
        self._refusals[key] = self._refusals.get(key, 0) + 1
        if len(self._refusals) > _MOST_MINUTES:  # nobody takes them away: the oldest minute goes
            del self._refusals[next(iter(self._refusals))]

    def acknowledge(self, source: str, took_s: float, at: float) -> None:
        """Count an answer 200 and how long it took."""
        bucket = bisect_left(ACK_BOUNDS_S, took_s)
        histogram = self.acks.get(source)
        if histogram is None:
            histogram = self.acks[source] = AckHistogram()
        histogram.counts[bucket] += 1
        histogram.total_s += took_s
        key = (at // _MINUTE_S * _MINUTE_S, source, bucket)
        entry = self._acks.get(key)
        if entry is None:
            if len(self._acks) >= _MOST_MINUTES:
                del self._acks[next(iter(self._acks))]
            self._acks[key] = [1, took_s]
        else:
            entry[0] += 1
            entry[1] += took_s

    def take_refusals(self) -> Refusals:
        """The refusals by minute since the last call, oldest first; they are the caller's now."""
        taken, self._refusals = self._refusals, {}
        return [(minute, source, reason, count) for (minute, source, reason), count in taken.items()]

    def take_acks(self) -> Acks:
        """The latencies by minute since the last call, oldest first; they are the caller's now."""
        taken, self._acks = self._acks, {}
        bounds = (*ACK_BOUNDS_S, BEYOND_S)
        return [(minute, source, bounds[i], int(count), total) for (minute, source, i), (count, total) in taken.items()]
