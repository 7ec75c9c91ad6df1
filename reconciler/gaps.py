"""Compares a provider's own delivery log with what arrived here, and keeps what never did.

Only for sources whose provider keeps such a log (`managing.Scanner`) and that have an api_key. It asks under the
source's poll budget as every other question does, and decides nothing about jobs: that a webhook is missing is a reason
to ask about the source's open jobs at once, no more. A gap is closed when its delivery arrives after all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from receiver import clock as clocks
from receiver.clock import Clock
from receiver.providers.managing import GapScan, Scanner, StatsBucket
from receiver.records import DeliveryId, DeliveryRecord
from receiver.settings import SourceSettings
from receiver.store.base import Store, Tx
from reconciler.asking import Asker

log = structlog.get_logger("holdfast.gaps")

EXTRA = "gap_scan"
"""Where a source's row remembers its last scan."""
WANTED = "gap_scan_wanted"
"""Set there by an operator who wants a scan now."""
MOST_GAPS = 5000
"""So many open gaps are looked for among what arrives late; the others follow as those are closed or forgotten."""
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Timing:
    """When a source's log is read, and how much of it."""

    first_s: float = 60.0
    """After a start, so that what was sent while we were down has been retried or is known to be lost."""
    every_s: float = 900.0
    again_s: float = 60.0
    """After a scan that could not be made."""
    overlap_s: float = 900.0
    """Each window begins so long before the end of the last one: a log may be written late."""
    longest_s: float = 3 * 86_400.0
    settle_s: float = 10.0
    """What was sent later than so long ago may still be on its way."""


@dataclass(slots=True)
class _Line:
    """What is remembered of a source in memory; losing it costs a look."""

    source: SourceSettings
    scanner: Scanner
    due: float
    """On the monotonic clock."""
    span_s: float
    """The window read at once; halved while a log is too long to be read to its end."""
    not_before: float = 0.0
    walked_to: float | None = None
    """Deliveries up to here were looked through for open gaps."""


@dataclass(frozen=True, slots=True)
class _Scanned:
    """A window that was read."""

    start: float
    end: float
    scan: GapScan
    missing: list[DeliveryRecord]
    stats: tuple[StatsBucket, ...] | None


class GapWatch:
    """Watches the delivery logs. `asker` makes the one that asks a source."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, SourceSettings],
        asker: Callable[[str], Asker],
        clock: Clock,
        timing: Timing | None = None,
    ) -> None:
        self._store = store
        self._asker = asker
        self._clock = clock
        self._timing = timing or Timing()
        first = clock.monotonic() + self._timing.first_s
        self._lines = {
            name: _Line(source, source.facts, first, self._timing.longest_s)
            for name, source in sources.items()
            if source.api_key is not None and source.api_key.is_held and isinstance(source.facts, Scanner)
        }

    @property
    def sources(self) -> list[str]:
        """The sources that can be watched."""
        return list(self._lines)

    async def look(self, name: str, *, now: bool = False) -> int:
        """Close the gaps of what arrived late, and read the log if it is time (`now`: in any case). Answers how many
        deliveries were newly found missing; the sweep is told in the same transaction. Raises StoreUnavailable."""
        line = self._lines[name]
        await self._close_late(line)
        if not now and not await self._is_due(line):
            return 0
        scanned, why = await self._read_log(line)
        at, timing = self._clock.monotonic(), self._timing
        if scanned is None:
            line.due, line.not_before = at + timing.again_s, at + timing.again_s
            log.info("gaps.not_scanned", source=name, why=why)
            return 0
        new = await self._keep(line, scanned)
        if not scanned.scan.complete and scanned.scan.pages:
            line.span_s = max(60.0, (scanned.end - scanned.start) / 2)
            line.due = line.not_before = at + timing.again_s
        else:
            caught_up = self._clock.now() - scanned.end <= timing.settle_s + timing.every_s
            line.span_s = timing.longest_s
            line.due = at + (timing.every_s if caught_up else timing.again_s)
        return new

    async def _is_due(self, line: _Line) -> bool:
        at = self._clock.monotonic()
        if at < line.not_before:
            return False
        state = await self._store.write(lambda tx: self._begun(tx, line))
        return at >= line.due or WANTED in state

    def _begun(self, tx: Tx, line: _Line) -> dict[str, Any]:
        """The source's extra facts. What was sent before we knew the source is not missed by us: that instant is put
        down at the first look."""
        state = tx.sources.get(line.source.name)
        if not isinstance(state.extra.get(EXTRA), dict):
            state = replace(state, extra={**state.extra, EXTRA: {"since": clocks.text(self._clock.now())}})
            tx.sources.put(state)
        return state.extra

    # -- reading the log ----------------------------------------------------------------------------------------

    async def _read_log(self, line: _Line) -> tuple[_Scanned | None, str | None]:
        """The window that was due and what is missing in it, or why it could not be read."""
        kept = (await self._store.write(lambda tx: self._begun(tx, line)))[EXTRA]
        start, end = self._window(line, kept)
        if end <= start:
            return _Scanned(start, end, GapScan(()), [], None), None
        asker = self._asker(line.source.name)
        # Shown beside the log, never taken in its place: what window is counted is not documented, and whole hours
        # with nothing in them may hide what was sent in this one.
        stats, _ = await asker.converse(line.scanner.delivery_stats(line.source, start, end))
        scan, why = await asker.converse(line.scanner.gap_scan(line.source, start, end))
        if scan is None or (not scan.complete and not scan.pages):
            return None, why or (scan.problem if scan is not None else None)
        return _Scanned(start, end, scan, await self._never_arrived(line, scan.records, start), stats), None

    def _window(self, line: _Line, kept: dict[str, Any]) -> tuple[float, float]:
        now, timing = self._clock.now(), self._timing
        since, until = _instant(kept.get("since")), _instant(kept.get("until"))
        start = max(now - timing.longest_s, since or 0.0)
        if until is not None and until <= now:
            start = max(start, until - timing.overlap_s)
        return start, min(now - timing.settle_s, start + line.span_s)

    async def _never_arrived(
        self, line: _Line, records: tuple[DeliveryRecord, ...] | list[DeliveryRecord], start: float
    ) -> list[DeliveryRecord]:
        """Those of the records that no delivery here fits: by event key first, then through what arrived since."""
        name, scanner = line.source.name, line.scanner
        keys = {key for record in records for key in scanner.keys_of(record)}
        claimed = await self._store.read(lambda view: view.claimed(name, keys))
        left = scanner.gaps(GapScan(tuple(records)), claimed)
        after: DeliveryId | None = None
        end = self._clock.now() + 1.0
        start -= self._timing.overlap_s
        while left:
            at = after
            page = await self._store.read(
                lambda view, at=at: view.arrivals(name, start, end, after=at, limit=_PAGE)  # type: ignore[misc]
            )
            ids = {each for delivery in page for each in scanner.ids_of(delivery)}
            left = scanner.gaps(GapScan(tuple(left)), ids)
            if len(page) < _PAGE:
                break
            after = page[-1].id
        return left

    # -- keeping what was found ---------------------------------------------------------------------------------

    async def _keep(self, line: _Line, scanned: _Scanned) -> int:
        name, now, scan = line.source.name, self._clock.now(), scanned.scan
        attempts: dict[str, int] = {}
        for bucket in scanned.stats or ():
            attempts[bucket.status] = attempts.get(bucket.status, 0) + bucket.attempts

        def keep(tx: Tx) -> int:
            new = tx.sources.add_gaps(name, scanned.missing, now)
            state = tx.sources.get(name)
            last = state.extra.get(EXTRA) or {}
            done = {
                "since": last.get("since"),
                "until": clocks.text(scanned.end) if scan.complete else last.get("until"),
                "at": clocks.text(now),
                "records": len(scan.records),
                "missing": len(scanned.missing),
                "attempts": attempts,
                "problem": scan.problem,
            }
            extra = {key: value for key, value in state.extra.items() if key != WANTED}
            tx.sources.put(replace(state, extra={**extra, EXTRA: done}))
            if new:
                tx.sources.want_sweep([name], now)
            return new

        new = await self._store.write(keep)
        if new:
            log.warning("gaps.found", source=name, missing=new)
        return new

    async def _close_late(self, line: _Line) -> None:
        """Open gaps whose delivery has arrived meanwhile are none."""
        name = line.source.name
        found = await self._store.read(lambda view: view.open_gaps(name, MOST_GAPS))
        if not found:
            line.walked_to = None
            return
        records, now = [record for record, _ in found], self._clock.now()
        first = min(at for _, at in found) - self._timing.settle_s
        since = first if line.walked_to is None else max(first, line.walked_to)
        left = await self._never_arrived(line, records, since)
        line.walked_to = now
        arrived = [record for record in records if record not in left]
        if arrived:
            closed = await self._store.write(lambda tx: tx.sources.close_gaps(name, arrived, now))
            log.info("gaps.closed", source=name, arrived=closed)


def want_scan(tx: Tx, name: str, at: float) -> None:
    """Have a source's log read at the next look."""
    state = tx.sources.get(name)
    tx.sources.put(replace(state, extra={**state.extra, WANTED: clocks.text(at)}))


def _instant(written: Any) -> float | None:
    try:
        return clocks.instant(written) if isinstance(written, str) else None
    except (ValueError, OverflowError):
        return None
