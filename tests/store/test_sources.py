"""What every store promises of sources: circuit, budget and wishes survive a restart."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.records import SourceState
from receiver.store.base import Store
from tests.store.rows import SOURCE
from tests.support import START

WHOLE = SourceState(
    name=SOURCE,
    paused=True,
    fail_streak=3,
    open_until=START + 1,
    not_before=START + 2,
    budget=1.5,
    budget_at=START + 3,
    asked_at=START + 4,
    answered_at=START + 5,
    last_outcome="unavailable",
    last_error="503",
    sweep_wanted_at=START + 6,
    adopted_at=START + 7,
    extra={"cursor": [1, "x"]},
)


def take(store: Store, at: float, per_min: float, wanted: int = 1, name: str = SOURCE) -> tuple[int, float]:
    return store.write_sync(lambda tx: tx.sources.take_tokens(name, at, per_min, wanted))


def get(store: Store, name: str = SOURCE) -> SourceState:
    return store.write_sync(lambda tx: tx.sources.get(name))


def test_a_sources_state_survives_whole(store: Store, reopen: Callable[[], Store]) -> None:
    """Every field, for the next life; a source nobody knows is fresh."""
    store.write_sync(lambda tx: tx.sources.put(WHOLE))
    again = reopen()

    assert get(again) == WHOLE
    assert get(again, "new") == SourceState("new")
    shown = again.read_sync(lambda view: view.sources())
    assert set(shown) == {SOURCE}
    assert (shown[SOURCE]["paused"], shown[SOURCE]["fail_streak"]) == (1, 3)


def test_a_bucket_is_full_at_first_and_fills_by_the_minute(store: Store) -> None:
    """A burst of min(per_min, 10), then one every 60/per_min seconds."""
    assert take(store, START, 12, wanted=100) == (10, 5.0)
    assert take(store, START + 4.99, 12)[0] == 0
    taken, wait_s = take(store, START + 5, 12)
    assert taken == 1
    assert wait_s == pytest.approx(5.0)
    assert take(store, START + 3600, 12, wanted=100)[0] == 10


def test_a_small_budget_has_a_small_burst(store: Store) -> None:
    """Never more at once than a minute's worth; less than one a minute still lets one through."""
    assert take(store, START, 3, wanted=10, name="a")[0] == 3
    assert take(store, START, 0.5, wanted=10, name="b") == (1, 120.0)
    assert take(store, START + 119, 0.5, name="b")[0] == 0
    assert take(store, START + 121, 0.5, name="b")[0] == 1


def test_a_restart_gives_no_fresh_bucket(store: Store, reopen: Callable[[], Store]) -> None:
    """A process that dies again and again asks no more than one that lives."""
    take(store, START, 12, wanted=10)

    assert take(reopen(), START + 1, 12)[0] == 0


def test_a_clock_that_steps_gives_and_takes_nothing(store: Store) -> None:
    """Back: no tokens for time that was lived already. Ahead: a full bucket, no more."""
    take(store, START, 12, wanted=10)

    assert take(store, START - 7200, 12)[0] == 0
    assert take(store, START - 7200 + 5, 12)[0] == 1
    assert take(store, START + 31_536_000, 12, wanted=100)[0] == 10


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), min_size=1, max_size=60),
    st.floats(1, 600),
    st.integers(0, 1_000_000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_no_way_of_asking_gets_more_than_the_budget(
    store: Store, asks: list[tuple[float, int]], per_min: float, number: int
) -> None:
    """Over any stretch of time: at most the burst and what has filled since."""
    at, name = START, f"s{number}"
    store.write_sync(lambda tx: tx.sources.put(SourceState(name)))
    taken: list[tuple[float, int]] = []
    for wait_s, wanted in asks:
        at += wait_s
        taken.append((at, take(store, at, per_min, wanted, name)[0]))
    for index, (begin, _) in enumerate(taken):
        for end, _ in taken[index:]:
            got = sum(n for when, n in taken if begin <= when <= end)
            assert got <= max(1.0, min(per_min, 10)) + (end - begin + 0.001 * len(asks)) * per_min / 60 + 1e-6


def test_taking_tokens_touches_nothing_else(store: Store) -> None:
    """The circuit and the wishes are in the same row."""
    store.write_sync(lambda tx: tx.sources.put(WHOLE))
    take(store, START + 60, 12)

    state = get(store)
    assert (state.paused, state.open_until, state.extra) == (True, WHOLE.open_until, WHOLE.extra)
    store.write_sync(lambda tx: tx.sources.want_sweep([SOURCE, "other"], START + 9))
    assert get(store).sweep_wanted_at == START + 9
    assert get(store).fail_streak == 3
    assert get(store, "other").sweep_wanted_at == START + 9
