"""Statements over `source_state`, `refusals`, `acknowledgements`: what must survive a restart about each source."""

import json
from collections.abc import Sequence

from receiver import clock, jsontext
from receiver.records import SourceState
from receiver.store.sqlite.gaps import GapRows
from receiver.store.sqlite.gathering import Runs
from receiver.store.sqlite.jobrows import instant_or_none

FIELDS = (
    "name", "paused", "fail_streak", "open_until", "not_before", "budget", "budget_at", "asked_at", "answered_at",
    "last_outcome", "last_error", "sweep_wanted_at", "adopted_at", "extra",
)  # fmt: skip
COLUMNS = ", ".join(FIELDS)
BURST = 10.0
"""A bucket holds at most this many tokens (CONTRACT 10)."""


def _text(instant: float | None) -> str | None:
    return None if instant is None else clock.text(instant)


class SqliteSources(GapRows):
    """Keeps the promises of `base.Sources`."""

    def __init__(self, runs: Runs) -> None:
        self._c = runs

    def get(self, name: str) -> SourceState:
        row = self._c.execute(f"SELECT {COLUMNS} FROM source_state WHERE name = ?", (name,)).fetchone()
        if row is None:
            return SourceState(name)
        return SourceState(
            name=row[0],
            paused=bool(row[1]),
            fail_streak=row[2],
            open_until=instant_or_none(row[3]),
            not_before=instant_or_none(row[4]),
            budget=row[5],
            budget_at=instant_or_none(row[6]),
            asked_at=instant_or_none(row[7]),
            answered_at=instant_or_none(row[8]),
            last_outcome=row[9],
            last_error=row[10],
            sweep_wanted_at=instant_or_none(row[11]),
            adopted_at=instant_or_none(row[12]),
            extra=json.loads(row[13]),
        )

    def put(self, state: SourceState) -> None:
        self._c.execute(
            f"INSERT INTO source_state ({COLUMNS}) VALUES ({', '.join('?' * len(FIELDS))}) ON CONFLICT (name) DO UPDATE"
            " SET " + ", ".join(f"{field} = excluded.{field}" for field in FIELDS[1:]),
            (
                state.name,
                int(state.paused),
                state.fail_streak,
                _text(state.open_until),
                _text(state.not_before),
                state.budget,
                _text(state.budget_at),
                _text(state.asked_at),
                _text(state.answered_at),
                state.last_outcome,
                state.last_error,
                _text(state.sweep_wanted_at),
                _text(state.adopted_at),
                jsontext.dump(state.extra),
            ),
        )

    def take_tokens(self, name: str, now: float, per_min: float, wanted: int) -> tuple[int, float]:
        capacity = max(1.0, min(per_min, BURST))
        state = self.get(name)
        tokens, since = state.budget, state.budget_at
        if tokens is None or since is None:
            tokens, since = capacity, now
        # A wall clock that stepped back gives no tokens and takes none; one that leapt fills the bucket, no more.
        tokens = min(capacity, tokens + max(0.0, now - since) * per_min / 60.0)
        taken = min(wanted, int(tokens + 1e-9))
        left = tokens - taken
        self._c.execute(
            "INSERT INTO source_state (name, budget, budget_at) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET budget = excluded.budget, budget_at = excluded.budget_at",
            (name, left, clock.text(now)),
        )
        return taken, 0.0 if left >= 1.0 else (1.0 - left) * 60.0 / per_min

    def want_sweep(self, names: Sequence[str], at: float) -> None:
        self._c.executemany(
            "INSERT INTO source_state (name, sweep_wanted_at) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET sweep_wanted_at = excluded.sweep_wanted_at",
            [(name, clock.text(at)) for name in names],
        )

    def count_refusals(self, counts: Sequence[tuple[float, str, str, int]]) -> None:
        self._c.executemany(
            "INSERT INTO refusals (bucket_start, source, reason, n) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET n = n + excluded.n",
            [(clock.text(at), source, reason, n) for at, source, reason, n in counts],
        )

    def count_acks(self, counts: Sequence[tuple[float, str, float, int, float]]) -> None:
        self._c.executemany(
            "INSERT INTO acknowledgements (bucket_start, source, le_s, n, total_s) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET n = n + excluded.n, total_s = total_s + excluded.total_s",
            [(clock.text(at), source, le_s, n, total_s) for at, source, le_s, n, total_s in counts],
        )
