"""What is known of each source and of the outbox at one moment: for the API, the metrics and the operator's page."""

import json
from dataclasses import dataclass
from typing import Any

from receiver import clock
from receiver.settings import Settings, SourceSettings
from receiver.store.views import Row, View

BURST = 10.0
"""A bucket holds at most this many tokens (CONTRACT 10)."""
JOB_STATES = ("pending", "completed", "failed")
DECIDED_BY = ("webhook", "poll", "deadline")
VERDICTS = ("accepted", "duplicate", "held", "quarantined")
MESSAGE_STATES = ("pending", "delivered", "dead")


@dataclass(frozen=True, slots=True)
class Overview:
    """One consistent look at the record."""

    tallies: dict[tuple[str, str, str], int]
    unread: int
    held: dict[str, int]
    missed: dict[str, int]
    oldest_pending: dict[str, float]
    overdue: dict[str, int]
    oldest_message_at: float | None
    sources: dict[str, Row]

    def counts(self, kind: str, source: str, states: tuple[str, ...]) -> dict[str, int]:
        """The kept counts of one source, with zeros for what never happened."""
        return {state: self.tallies.get((kind, source, state), 0) for state in states}

    def messages(self) -> dict[str, int]:
        """Messages by state, of all sources together."""
        total = dict.fromkeys(MESSAGE_STATES, 0)
        for (kind, _, state), n in self.tallies.items():
            if kind == "outbox":
                total[state] = total.get(state, 0) + n
        return total


def look(view: View, now: float) -> Overview:
    """Look at everything in one snapshot."""
    return Overview(
        tallies=view.tallies(),
        unread=view.unread(),
        held=view.held(),
        missed=view.missed(),
        oldest_pending=view.oldest_pending(),
        overdue=view.overdue(now),
        oldest_message_at=view.oldest_message_at(),
        sources=view.sources(),
    )


def source_rows(settings: Settings, seen: Overview, now: float) -> list[Row]:
    """All configured sources, as the API shows them."""
    return [source_row(source, seen, now) for source in settings.sources.values()]


def source_row(source: SourceSettings, seen: Overview, now: float) -> Row:
    """One source: how it is set up, and how it does."""
    name = source.name
    state = seen.sources.get(name, {})
    oldest = seen.oldest_pending.get(name)
    return {
        "name": name,
        "source": name,
        "provider": source.provider,
        "base_url": source.effective_base_url,
        "trust": source.effective_trust(),
        "paused": bool(state.get("paused")),
        "circuit_open": circuit_open(state, now),
        "circuit_open_until": state.get("open_until"),
        "not_before": state.get("not_before"),
        "budget_left": round(budget_left(state, source.effective_polls_per_min, now), 3),
        "polls_per_min": source.effective_polls_per_min,
        "jobs": seen.counts("jobs", name, JOB_STATES),
        "settled": seen.counts("settled", name, DECIDED_BY),
        "deliveries": seen.counts("deliveries", name, VERDICTS),
        "oldest_pending_at": None if oldest is None else clock.text(oldest),
        "overdue": seen.overdue.get(name, 0),
        "held": seen.held.get(name, 0),
        "missed": seen.missed.get(name, 0),
        "gap_scan": _extra(state).get("gap_scan"),
        "asked_at": state.get("asked_at"),
        "answered_at": state.get("answered_at"),
        "last_outcome": state.get("last_outcome"),
        "last_error": state.get("last_error"),
        "sweep_wanted_at": state.get("sweep_wanted_at"),
        "actions": _extra(state).get("actions") or [],
    }


def circuit_open(state: Row, now: float) -> bool:
    """Whether the source is left alone because of trouble at the provider."""
    until = _instant(state.get("open_until"))
    return until is not None and until > now


def budget_left(state: Row, per_min: float, now: float) -> float:
    """Tokens in the source's bucket now; one that was never used is full."""
    capacity = max(1.0, min(per_min, BURST))
    left, at = state.get("budget"), _instant(state.get("budget_at"))
    if left is None or at is None:
        return capacity
    return min(capacity, float(left) + max(0.0, now - at) * per_min / 60.0)


def _instant(written: Any) -> float | None:
    try:
        return clock.instant(written) if isinstance(written, str) else None
    except (ValueError, OverflowError):
        return None


def _extra(state: Row) -> dict[str, Any]:
    extra = state.get("extra")
    try:
        parsed = json.loads(extra) if isinstance(extra, str) else extra
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
