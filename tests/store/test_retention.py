"""What every store promises of pruning: small steps, true counts, and nothing that anybody is still owed."""

from dataclasses import replace
from typing import Any

import pytest

from receiver.records import Delivery
from receiver.states import Verdict
from receiver.store.base import Retention, Store, Tx
from tests.store.rows import SOURCE, add_jobs, add_messages, delivery, ended, failed, history, job, message, poll
from tests.support import START, ManualClock

DAY_S = 86_400.0
OLD = START + 10 * DAY_S
"""Everything from before this instant may go."""
ALL = Retention(OLD, OLD, OLD, OLD, {SOURCE: OLD}, {SOURCE: OLD})


def step(store: Store, retention: Retention = ALL, limit: int = 100) -> dict[str, int]:
    return store.write_sync(lambda tx: tx.meta.prune(retention, limit))


def prune(store: Store, retention: Retention = ALL, limit: int = 100) -> dict[str, int]:
    """All steps; the sum of what they say is gone."""
    total: dict[str, int] = {}
    for _ in range(1000):
        gone = step(store, retention, limit)
        if not gone:
            return {table: rows for table, rows in total.items() if rows}
        assert all(rows <= limit * 2 for rows in gone.values())
        for table, rows in gone.items():
            total[table] = total.get(table, 0) + rows
    raise AssertionError("pruning does not end")


def put(store: Store, *deliveries: Delivery) -> None:
    store.write_sync(lambda tx: tx.deliveries.add(deliveries))


def ids(store: Store) -> set[str]:
    return store.read_sync(lambda view: {row["id"] for row in view.deliveries(limit=500)[0]})


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_steps_take_what_may_go_and_say_how_much(store: Store, limit: int) -> None:
    """Whatever the step: the same rows go, the same rows stay, and the counts are those of the rows."""
    add_jobs(store, job("open"), ended(job("done")))
    stays: list[Delivery] = []
    goes: list[Delivery] = []
    for n in range(30):
        verdict = (Verdict.ACCEPTED, Verdict.NEW, Verdict.DUPLICATE, Verdict.HELD)[n % 4]
        belongs = {0: "open", 2: "done"}.get(n % 4 if n % 8 < 4 else 9)
        one = delivery(store, verdict=verdict, job_id=belongs, received_at=OLD if verdict is Verdict.HELD else START)
        (stays if verdict in (Verdict.NEW, Verdict.HELD) or belongs == "open" else goes).append(one)
    put(store, *stays, *goes)

    assert prune(store, limit=limit) == {"deliveries": len(goes), "jobs": 1}
    assert ids(store) == {str(one.id) for one in stays}
    assert prune(store, limit=limit) == {}


def test_nothing_young_goes(store: Store) -> None:
    """Exactly at the limit is young enough."""
    put(store, delivery(store, verdict=Verdict.ACCEPTED, received_at=OLD))
    add_jobs(store, ended(job("j1"), settled_at=OLD), ended(job("j2"), settled_at=OLD - 1))
    add_messages(store, message("m", created_at=OLD), message("n", "x", created_at=OLD - 1))
    store.write_sync(lambda tx: tx.outbox.delivered(["m", "n"], OLD - 1, pushed=True))

    assert prune(store) == {"jobs": 1, "outbox": 1}


def test_a_pending_job_keeps_all_that_is_its_own(store: Store) -> None:
    """However old: the job, and deliveries under either of its ids."""
    add_jobs(store, job("open", alias="x"), failed(job("done"), settled_at=START))
    kept = [delivery(store, verdict=Verdict.ACCEPTED, job_id=one) for one in ("open", "x")]
    put(store, *kept, delivery(store, verdict=Verdict.ACCEPTED, job_id="done"))
    for each in ("open", "done"):
        store.write_sync(lambda tx, each=each: tx.jobs.note(history(each)))  # type: ignore[misc]  # at once

    assert prune(store) == {"deliveries": 1, "jobs": 1}
    assert ids(store) == {str(one.id) for one in kept}
    found = store.read_sync(lambda view: view.job(SOURCE, "open"))
    assert found is not None
    assert len(found["history"]) == 1


def test_an_alias_of_a_pending_job_protects_beside_an_ended_namesake(store: Store) -> None:
    """Two jobs share the id, one as its alias: as long as one of them is pending nothing of it goes."""
    add_jobs(store, ended(job("x"), settled_at=OLD), job("open", alias="x"))
    put(store, delivery(store, verdict=Verdict.ACCEPTED, job_id="x"))

    assert prune(store) == {}


def test_an_undelivered_message_keeps_its_job(store: Store) -> None:
    """A message not yet delivered is never touched, nor is the job it is about; a dead one does not keep the job."""
    add_jobs(store, *(ended(job(each), settled_at=START) for each in ("a", "b", "c")))
    add_messages(store, *(message(f"m-{each}", each) for each in ("a", "b", "c")))
    store.write_sync(lambda tx: tx.outbox.delivered(["m-b"], OLD + 5, pushed=True))
    store.write_sync(lambda tx: tx.outbox.bury("m-c", OLD + 5, "410"))

    assert prune(store) == {"jobs": 2}
    messages, _ = store.read_sync(lambda view: view.messages())
    assert {row["id"] for row in messages} == {"m-a", "m-b", "m-c"}


def test_a_dead_message_is_kept_from_its_last_attempt(store: Store) -> None:
    """Not from when it was staged: an operator has that long to find it (CONTRACT 10)."""
    add_messages(store, message("m"))
    store.write_sync(lambda tx: tx.outbox.bury("m", OLD - 1, "410"))
    later = replace(ALL, messages_before=OLD - 2)

    assert prune(store, later) == {}
    assert prune(store) == {"outbox": 1}


@pytest.mark.parametrize(("held_before", "gone"), [({SOURCE: START - 1}, 0), ({SOURCE: START + 1}, 1), ({}, 1)])
def test_a_held_delivery_goes_when_its_time_is_over_too(store: Store, held_before: dict[str, float], gone: int) -> None:
    """In its time it stays however old; a source that is no longer configured waits for nobody."""
    put(store, delivery(store, verdict=Verdict.HELD, job_id="j9"))

    assert prune(store, replace(ALL, held_before=held_before)) == ({"deliveries": gone} if gone else {})


def test_a_key_outlives_its_body(store: Store) -> None:
    """The delivery goes, the key stays: a late repeat is still a repeat."""
    first, repeat = delivery(store, verdict=Verdict.ACCEPTED), delivery(store)
    put(store, first)
    store.write_sync(lambda tx: tx.deliveries.claim_key(SOURCE, "k", first.id, START, None))
    store.write_sync(lambda tx: tx.deliveries.claim_key("elsewhere", "k", first.id, START, None))
    assert prune(store, replace(ALL, keys_before={SOURCE: START})) == {"deliveries": 1}

    def owner(source: str) -> int:
        return store.write_sync(lambda tx: tx.deliveries.claim_key(source, "k", repeat.id, START, None))

    assert owner(SOURCE) == first.id
    assert prune(store) == {"event_keys": 1}
    assert owner(SOURCE) == repeat.id
    assert owner("elsewhere") == first.id


def test_what_is_not_to_be_pruned_is_kept(store: Store) -> None:
    """None means keep."""
    put(store, delivery(store, verdict=Verdict.ACCEPTED))
    add_jobs(store, ended(job("j1")))
    store.write_sync(lambda tx: tx.jobs.add_poll(poll()))

    assert step(store, Retention(None, None, None, None)) == {}
    assert prune(store, replace(ALL, jobs_before=None)) == {"deliveries": 1, "polls": 1}


def test_questions_and_counts_go_with_their_age(store: Store) -> None:
    """Polls, refusals and latencies are kept `polls_days`."""

    def work(tx: Tx) -> None:
        for at in (START, OLD):
            tx.jobs.add_poll(poll(at=at))
            tx.sources.count_refusals([(at, SOURCE, "path", 1)])
            tx.sources.count_acks([(at, SOURCE, 0.01, 1, 0.001)])

    store.write_sync(work)

    assert prune(store)["polls"] == 1
    assert store.read_sync(lambda view: view.refused()) == {(SOURCE, "path"): 1}
    assert store.read_sync(lambda view: [each[2] for each in view.ack_histogram()]) == [1]


def test_pruning_goes_on_where_the_last_life_stopped(store: Store, reopen: Any, clock: ManualClock) -> None:
    """A step is committed by itself; a restart in the middle loses no place and skips no row."""
    clock.advance(1)
    put(store, *(delivery(store, verdict=(Verdict.ACCEPTED, Verdict.NEW)[n % 2]) for n in range(20)))
    gone = 0
    for _ in range(40):
        gone += step(store, limit=3).get("deliveries", 0)
        store = reopen()

    assert gone == 10
    assert len(ids(store)) == 10
