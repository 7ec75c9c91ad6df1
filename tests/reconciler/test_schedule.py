"""The ticker: late is not never, one run at a time, and a clock that steps stops nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.clock import SystemClock
from reconciler import schedule as scheduling
from reconciler.schedule import Every, Schedule
from tests.support import aeventually


class Steppable(SystemClock):
    """The machine's clocks, the wall clock set on or back."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def now(self) -> float:
        return super().now() + self.by_s


class Bench:
    """A schedule that ticks, and what it did."""

    def __init__(self) -> None:
        self.clock = Steppable()
        self.steps: list[float] = []
        self.ticks = 0
        self.schedule = Schedule(self.clock, self._stepped)

    async def _stepped(self, by_s: float) -> None:
        self.steps.append(by_s)

    async def tick(self) -> None:
        self.ticks += 1

    async def more(self, n: int = 3) -> None:
        """Wait for so many more ticks."""
        wanted = self.ticks + n
        await aeventually(lambda: self.ticks >= wanted)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(scheduling, "GUARD_S", 0.05)
    made = Bench()
    yield made
    made.schedule.stop()


async def test_a_duty_runs_at_once_and_then_again(bench: Bench) -> None:
    """The first run does not wait for an interval."""
    bench.schedule.every(0.02, "duty", bench.tick)
    bench.schedule.start()
    await bench.more(5)

    assert bench.clock.monotonic() - bench.schedule.ticked_at < 5


async def test_a_duty_that_fails_is_run_again(bench: Bench) -> None:
    """One bad run is one bad run."""

    async def bad() -> None:
        bench.ticks += 1
        raise RuntimeError("a bad run")

    bench.schedule.every(0.02, "bad", bad)
    bench.schedule.start()
    await bench.more(3)


async def test_a_late_tick_is_not_skipped(bench: Bench) -> None:
    """The loop was busy for longer than the library forgives by default: the run that was missed is run, once."""
    bench.schedule.every(0.05, "duty", bench.tick)
    bench.schedule.start()
    await bench.more(1)
    busy_until = bench.clock.monotonic() + 1.3
    while bench.clock.monotonic() < busy_until:
        pass
    before = bench.ticks
    await bench.more(1)

    assert bench.ticks <= before + 2


@pytest.mark.parametrize("by_s", [-3600.0, -30 * 86_400.0, 86_400.0, 365 * 86_400.0])
async def test_a_clock_that_steps_stops_no_duty(bench: Bench, monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    """Back: the next run does not lie an hour ahead. Ahead: the runs that seem missed are not made up for. Either way
    whoever must know is told, once."""
    seen: list[Any] = []

    def now(zone: Any = None) -> datetime:
        return datetime.fromtimestamp(bench.clock.now(), zone)

    patched = type("Moved", (datetime,), {"now": staticmethod(now)})
    for module in ("apscheduler.schedulers.base", "apscheduler.schedulers.asyncio", "apscheduler.executors.base"):
        found = __import__(module, fromlist=["datetime"])
        if hasattr(found, "datetime"):
            monkeypatch.setattr(found, "datetime", patched)
            seen.append(module)
    assert "apscheduler.schedulers.base" in seen, "the library takes the time from here"
    bench.schedule.every(0.05, "duty", bench.tick)
    bench.schedule.start()
    await bench.more(2)
    bench.clock.by_s = by_s
    await aeventually(lambda: bench.steps)
    before = bench.ticks
    await bench.more(3)

    assert bench.ticks <= before + 10
    assert len(bench.steps) == 1
    assert bench.steps[0] == pytest.approx(by_s, abs=1)


async def test_a_small_correction_is_no_step(bench: Bench) -> None:
    """A time server that slews, or sets the clock by a second, alarms nobody."""
    bench.schedule.every(0.02, "duty", bench.tick)
    bench.schedule.start()
    for by_s in (0.5, 1.5, 0.2, -1.0):
        bench.clock.by_s = by_s
        await bench.more(5)

    assert bench.steps == []


async def test_stopped_is_stopped(bench: Bench) -> None:
    """No run begins afterwards; stopping twice, or before the start, is nothing."""
    bench.schedule.stop()
    bench.schedule.every(0.02, "duty", bench.tick)
    bench.schedule.start()
    await bench.more(1)
    bench.schedule.stop()
    bench.schedule.stop()
    before = bench.ticks
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.2)

    assert bench.ticks <= before + 1


def test_the_next_run_counts_from_now() -> None:
    """Whatever the last one was: a leap of a year is one run, not thirty million."""
    every = Every(0.5)
    now = datetime(2026, 4, 13, tzinfo=UTC)

    assert every.get_next_fire_time(None, now) == now
    for last in (now - timedelta(days=365), now, now + timedelta(days=365)):
        assert every.get_next_fire_time(last, now) == now + timedelta(seconds=0.5)


def test_the_librarys_defaults_are_not_ours() -> None:
    """Late runs are run, missed ones become one, and never two at once."""
    made: Callable[..., Any] = Schedule(SystemClock(), None)._scheduler  # type: ignore[arg-type]  # nothing runs
    defaults = made._job_defaults  # type: ignore[attr-defined]  # where the library keeps them

    assert defaults == {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
