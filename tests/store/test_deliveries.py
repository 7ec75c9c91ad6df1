"""What every store promises of deliveries: kept as they came, judged once, held until their job is there."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receiver.records import Delivery, DeliveryId
from receiver.states import Verdict
from receiver.store.base import Store, Tx
from receiver.store.sqlite import driver
from tests.store.rows import SOURCE, add_jobs, delivery, ended, job
from tests.support import START, ManualClock, aeventually


def put(store: Store, *deliveries: Delivery) -> int:
    return store.write_sync(lambda tx: tx.deliveries.add(deliveries))


def get(store: Store, one: Delivery) -> Delivery | None:
    return store.write_sync(lambda tx: tx.deliveries.get(one.id))


def claim(store: Store, key: str, one: Delivery, at: float = START, window_s: float | None = None) -> DeliveryId:
    return store.write_sync(lambda tx: tx.deliveries.claim_key(SOURCE, key, one.id, at, window_s))


def held(store: Store, job_id: str, **facts: Any) -> Delivery:
    one = delivery(store, verdict=Verdict.HELD, job_id=job_id, event_key=f"key:{job_id}", **facts)
    put(store, one)
    return one


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)), b"x" * 300_000, None])
def test_a_delivery_is_kept_as_it_came(store: Store, body: bytes | None) -> None:
    """The exact bytes, the headers in wire order, twice where twice; nothing is normalised."""
    one = delivery(store, body=body)
    put(store, one)

    assert get(store, one) == one
    row = store.read_sync(lambda view: view.delivery(one.id))
    assert row is not None
    assert (row["body"], row["headers"], row["id"]) == (body, [list(pair) for pair in one.headers], str(one.id))


async def test_a_recorded_delivery_is_there_for_the_next_life(store: Store, reopen: Callable[[], Store]) -> None:
    """When `record` returns it is durable."""
    one = delivery(store)
    await store.record(one)

    assert get(reopen(), one) == one


async def test_many_recorded_at_once_are_all_there(store: Store) -> None:
    """A burst becomes few commits, and nobody is answered for another's."""
    answered: list[DeliveryId] = []
    burst = [delivery(store, body=f'{{"n":{n}}}'.encode()) for n in range(700)]
    for one in burst:
        store.submit(one, lambda error, one=one: answered.append(one.id) if error is None else None)  # type: ignore[misc]
    await aeventually(lambda: len(answered) == len(burst))

    assert sorted(answered) == [one.id for one in burst]
    assert store.read_sync(lambda view: view.unread()) == len(burst)


def test_a_delivery_that_is_there_is_left_alone(store: Store) -> None:
    """A drained spill repeats itself: the answer counts the new ones only, and the first body stays."""
    one, other = delivery(store), delivery(store)
    assert put(store, one) == 1

    assert put(store, replace(one, body=b"changed"), other) == 1
    assert get(store, one) == one


def test_ids_grow_and_never_come_again(store: Store, reopen: Callable[[], Store], clock: ManualClock) -> None:
    """They sort by arrival, also when the clock steps back, also across restarts."""
    ids = [store.next_id() for _ in range(100)]
    clock.step(-3600)
    ids += [store.next_id() for _ in range(100)]
    put(store, delivery(store, id=ids[-1]))
    again = reopen()
    ids += [again.next_id() for _ in range(100)]

    assert all(one < following for one, following in itertools.pairwise(ids))


def test_an_unknown_delivery_is_none(store: Store) -> None:
    """Nothing is made up."""
    assert get(store, delivery(store)) is None
    assert store.read_sync(lambda view: view.delivery(DeliveryId(1))) is None


def test_a_key_belongs_to_the_first_who_claims_it(store: Store) -> None:
    """The answer is the owner; our own id means that we were first, also when we ask again."""
    first, second = delivery(store), delivery(store)

    assert claim(store, "k", first) == first.id
    assert claim(store, "k", second) == first.id
    assert claim(store, "k", first) == first.id
    assert claim(store, "K", second) == second.id


def test_a_claim_with_a_window_is_taken_over_after_it(store: Store) -> None:
    """Exactly the window still counts; one moment more does not."""
    first, second, third = delivery(store), delivery(store), delivery(store)
    claim(store, "k", first, START, 3600)

    assert claim(store, "k", second, START + 3600, 3600) == first.id
    assert claim(store, "k", second, START + 3600.001, 3600) == second.id
    assert claim(store, "k", third, START + 3601, 3600) == second.id


def test_a_key_is_given_back_by_its_owner_only(store: Store) -> None:
    """A quarantined delivery claims none, and takes none from another."""
    first, second = delivery(store), delivery(store)
    claim(store, "k", first)
    store.write_sync(lambda tx: tx.deliveries.release_key(SOURCE, "k", second.id))
    assert claim(store, "k", second) == first.id
    store.write_sync(lambda tx: tx.deliveries.release_key(SOURCE, "k", first.id))

    assert claim(store, "k", second) == second.id


def test_a_verdict_is_given_once(store: Store) -> None:
    """With an expectation only the faster one decides; everything but the verdict's columns stays as it came."""
    one = delivery(store)
    put(store, one)
    told = replace(one, verdict=Verdict.ACCEPTED, event="e", event_key="k", job_id="j")
    late = replace(one, verdict=Verdict.QUARANTINED, reason="late")

    assert store.write_sync(lambda tx: tx.deliveries.decide(told, Verdict.NEW)) is True
    assert store.write_sync(lambda tx: tx.deliveries.decide(late, Verdict.NEW)) is False
    assert get(store, one) == told
    assert store.write_sync(lambda tx: tx.deliveries.decide(replace(late, body=b"no"))) is True
    assert get(store, one) == late


def test_unread_deliveries_come_in_order_of_arrival(store: Store) -> None:
    """Id order, at most so many, at most so many bytes, but always one."""
    sent = [delivery(store, body=b"x" * 100) for _ in range(5)]
    put(store, *reversed(sent))
    put(store, delivery(store, verdict=Verdict.ACCEPTED))

    def next_ids(limit: int, most_bytes: int) -> list[DeliveryId]:
        return store.read_sync(lambda view: [each.id for each in view.next_unread(limit, most_bytes)])

    assert next_ids(10, 10_000) == [one.id for one in sent]
    assert next_ids(2, 10_000) == [one.id for one in sent[:2]]
    assert next_ids(10, 250) == [one.id for one in sent[:2]]
    assert next_ids(10, 1) == [sent[0].id]
    assert store.read_sync(lambda view: view.unread()) == 5
    assert store.read_sync(lambda view: view.oldest_unread_at()) == START


def test_held_deliveries_are_let_go_by_job(store: Store) -> None:
    """`unhold` makes those of these jobs `new` again, of this source, and no other."""
    mine, alias, other = held(store, "j1"), held(store, "a1"), held(store, "j2")
    foreign = held(store, "j1", source="elsewhere")

    assert store.write_sync(lambda tx: tx.deliveries.unhold(SOURCE, ["j1", "a1"])) == 2
    verdicts = [found.verdict if (found := get(store, one)) else None for one in (mine, alias, other, foreign)]
    assert verdicts == [Verdict.NEW, Verdict.NEW, Verdict.HELD, Verdict.HELD]


def test_held_deliveries_are_counted_as_they_come_and_go(store: Store) -> None:
    """By source, whichever way they were decided."""
    one = held(store, "j1")
    held(store, "j2")
    held(store, "j1", source="elsewhere")

    def count() -> int:
        return store.write_sync(lambda tx: tx.deliveries.count_held(SOURCE))

    assert count() == 2
    store.write_sync(lambda tx: tx.deliveries.decide(replace(one, verdict=Verdict.QUARANTINED, reason="r")))
    assert count() == 1
    store.write_sync(lambda tx: tx.deliveries.unhold(SOURCE, ["j2"]))
    assert count() == 0
    assert store.read_sync(lambda view: view.held()) == {"elsewhere": 1}


def test_held_in_vain_means_past_its_time_and_still_unknown(store: Store) -> None:
    """Oldest first, without bodies; a job that is on record, by id or alias, pending or ended, is not unknown."""
    old = [held(store, f"j{n}", received_at=START - 1000 + n) for n in range(4)]
    held(store, "young", received_at=START - 10)
    held(store, "alias", received_at=START - 1000)
    add_jobs(store, job("j1"), ended(job("j2")), job("named", alias="alias"))

    def in_vain(limit: int = 10) -> list[Delivery]:
        return store.write_sync(lambda tx: tx.deliveries.held_before(SOURCE, START - 900, limit))

    assert [one.id for one in in_vain()] == [old[0].id, old[3].id]
    assert [one.id for one in in_vain(1)] == [old[0].id]
    assert in_vain()[0] == replace(old[0], body=None)


def test_a_page_of_deliveries_neither_skips_nor_repeats(store: Store) -> None:
    """Newest first, by cursor or by page, while others arrive."""
    sent = [delivery(store, received_at=START + n) for n in range(25)]
    put(store, *sent)
    seen: list[str] = []
    cursor: int | None = None
    while True:
        rows, cursor = store.read_sync(lambda view, cursor=cursor: view.deliveries(before=cursor, limit=10))  # type: ignore[misc]
        seen += [row["id"] for row in rows]
        put(store, delivery(store, received_at=START + 1000))
        if cursor is None:
            break

    assert seen == [str(one.id) for one in reversed(sent)]
    second, _ = store.read_sync(lambda view: view.deliveries(page=2, limit=10, end=START + 25))
    assert [row["id"] for row in second] == [str(one.id) for one in reversed(sent[5:15])]


def test_deliveries_are_found_by_source_verdict_and_time(store: Store, clock: ManualClock) -> None:
    """`start` is in the window, `end` is not."""
    sent = []
    for n in range(10):
        sent.append(delivery(store, received_at=clock.now(), source="ab"[n % 2], verdict=Verdict.HELD))
        clock.advance(1)
    put(store, *sent)

    def found(**which: Any) -> list[str]:
        return store.read_sync(lambda view: [row["id"] for row in view.deliveries(**which)[0]])

    assert found(start=START + 2, end=START + 4) == [str(sent[3].id), str(sent[2].id)]
    assert found(source="a") == [str(sent[n].id) for n in (8, 6, 4, 2, 0)]
    assert len(found(verdict="held")) == 10
    assert found(verdict="accepted") == found(verdict="new") == found(verdict="quarantined") == []


def test_a_window_holds_what_arrived_at_its_very_beginning(store: Store, clock: ManualClock) -> None:
    """An id is cut to the millisecond, a time is rounded to it: the edge between the two loses nobody."""
    clock.advance(0.9996)
    put(store, delivery(store, received_at=clock.now(), verdict=Verdict.ACCEPTED))

    assert len(store.read_sync(lambda view: view.deliveries(start=START + 1)[0])) == 1
    assert [row["count"] for row in store.read_sync(lambda view: view.stats(60, START + 1, START + 60))] == [1]


def test_deliveries_are_counted_by_bucket_and_verdict(store: Store) -> None:
    """Refusals stand beside them as `refused`; a window that is empty is empty."""
    put(store, *(delivery(store, received_at=START + n * 1800, verdict=Verdict.ACCEPTED) for n in range(4)))
    refusals = [(START, SOURCE, "secret", 3), (START, SOURCE, "path", 2), (START + 7200, SOURCE, "secret", 1)]
    store.write_sync(lambda tx: tx.sources.count_refusals(refusals))
    store.write_sync(lambda tx: tx.sources.count_refusals([(START, SOURCE, "secret", 1)]))

    rows = store.read_sync(lambda view: view.stats(3600, START, START + 7200))
    shown = [(row["bucket_start"][11:16], row["verdict"], row["count"]) for row in rows]
    assert shown == [
        ("14:00", "accepted", 1), ("14:00", "refused", 6), ("15:00", "accepted", 2), ("16:00", "accepted", 1),
    ]  # fmt: skip
    assert store.read_sync(lambda view: view.refused()) == {(SOURCE, "secret"): 5, (SOURCE, "path"): 2}
    assert store.read_sync(lambda view: view.stats(3600, START, START + 7200, "elsewhere")) == []


def test_acknowledgements_are_counted_by_bucket_and_bound(store: Store) -> None:
    """The histogram adds up; a percentile is the bound of the bucket it falls in."""
    for _ in range(2):
        store.write_sync(
            lambda tx: tx.sources.count_acks([(START, SOURCE, 0.01, 49, 0.2), (START, SOURCE, 0.5, 1, 0.4)])
        )

    (row,) = store.read_sync(lambda view: view.ack_latency(3600, START - 3600, START + 3600))
    assert (row["count"], row["mean_ms"], row["p50_ms"], row["p99_ms"]) == (100, 12.0, 10.0, 500.0)
    histogram = store.read_sync(lambda view: view.ack_histogram())
    assert [each[:3] for each in histogram] == [(SOURCE, 0.01, 98), (SOURCE, 0.5, 2)]
    assert [each[3] for each in histogram] == pytest.approx([0.4, 0.8])


def test_a_transaction_that_raises_keeps_nothing(store: Store) -> None:
    """What the function raises is raised, and nothing it did is kept; the next one finds a sound store."""
    one = delivery(store)

    def work(tx: Tx) -> None:
        tx.deliveries.add([one])
        tx.deliveries.claim_key(SOURCE, "k", one.id, START, None)
        tx.meta.put("seen", "1")
        raise LookupError("half way")

    with pytest.raises(LookupError, match="half way"):
        store.write_sync(work)
    assert get(store, one) is None
    assert store.write_sync(lambda tx: tx.meta.get("seen")) is None
    assert claim(store, "k", delivery(store)) != one.id


def test_a_reader_sees_one_moment(store: Store) -> None:
    """A snapshot does not change while it is looked at, whatever is committed meanwhile."""
    put(store, delivery(store))

    def look(view: Any) -> tuple[int, int]:
        before = view.unread()
        put(store, delivery(store))
        return before, view.unread()

    assert store.read_sync(look) == (1, 1)
    assert store.read_sync(lambda view: view.unread()) == 2


def test_a_backup_of_a_store_in_use_can_be_read(store: Store, fast_folder: Path) -> None:
    """The copy is whole and passes its checks."""
    sent = [delivery(store) for _ in range(50)]
    put(store, *sent)
    steps: list[tuple[int, int]] = []
    store.backup(str(fast_folder / "copy.db"), lambda done, total: steps.append((done, total)))

    from receiver.store.sqlite.maintenance import check_file, look_at

    assert check_file(fast_folder / "copy.db") is None
    assert look_at(fast_folder / "copy.db", lambda view: view.unread()) == 50
    assert steps[-1][0] == steps[-1][1]


def test_a_backup_comes_to_its_end_however_much_is_written_meanwhile(store: Store, fast_folder: Path) -> None:
    """A commit after every step of the copy does not make it begin anew; the copy is the record as it was."""
    put(store, *(delivery(store, body=b"x" * 60_000) for _ in range(400)))
    steps: list[int] = []

    def step(done: int, total: int) -> None:
        steps.append(done)
        assert len(steps) < 100, "it begins again and again"
        put(store, delivery(store))

    store.backup(str(fast_folder / "copy.db"), step)

    assert len(steps) > 2
    assert steps == sorted(steps)
    copy = driver.open_reader(fast_folder / "copy.db")
    assert copy.execute("SELECT count(*) FROM deliveries").fetchone() == (400,)
    copy.close()


@pytest.mark.parametrize("count", [1, 3, 64, 65, 200, 700])
def test_every_delivery_is_counted_once_by_the_statement_that_keeps_it(store: Store, count: int) -> None:
    """However many come together, and however often the same are put in again; a count that was rolled back with its
    rows is as if it had never been."""
    some = [delivery(store) for _ in range(count)]
    put(store, *some)
    put(store, *some, delivery(store))

    def undone(tx: Tx) -> None:
        tx.deliveries.add([delivery(store)])
        raise KeyError

    with pytest.raises(KeyError):
        store.write_sync(undone)

    assert store.write_sync(lambda tx: tx.meta.get("deliveries.recorded")) == str(count + 1)


@pytest.mark.parametrize(
    "bodies",
    [
        [b"a", None, b"", b"\x00\xff\x00", "é".encode(), b"z"],
        [None, None],
        [b""],
        [b"x" * 100_000, b"y", b"x" * 200_000],
    ],
)
def test_unread_deliveries_are_read_together_with_the_bytes_of_each(store: Store, bodies: list[bytes | None]) -> None:
    """One step reads them all: no byte of one is another's, whatever the bytes are, also where there are none."""
    some = [delivery(store, body=body) for body in bodies]
    put(store, *some)

    assert store.read_sync(lambda view: list(view.next_unread(100, 1 << 20))) == some


def test_a_body_whose_kind_a_flipped_bit_changed_costs_itself_alone(store: Store, fast_folder: Path) -> None:
    """A text of other characters than bytes does not shift the bodies behind it."""
    some = [delivery(store, body=f'{{"n":"é{n}"}}'.encode()) for n in range(4)]
    put(store, *some)
    other = driver.open_writer(fast_folder / "record.db")
    other.execute("PRAGMA ignore_check_constraints=ON")
    other.execute("PRAGMA writable_schema=ON")
    other.execute("UPDATE sqlite_master SET sql = replace(sql, 'body BLOB', 'body ANY') WHERE name = 'deliveries'")
    other.close()
    other = driver.open_writer(fast_folder / "record.db")
    other.execute("UPDATE deliveries SET body = CAST(body AS TEXT) WHERE id = ?", (some[1].id,))
    kinds = [row[0] for row in other.execute("SELECT typeof(body) FROM deliveries ORDER BY id")]
    other.close()

    assert [one.body for one in store.read_sync(lambda view: list(view.next_unread(9, 1 << 20)))] == [
        one.body for one in some
    ]
    assert kinds == ["blob", "text", "blob", "blob"]


@pytest.mark.parametrize("value", [None, b"", b"\x00\xff", True, False, 7, 1.5, "text"])
def test_the_driver_hands_values_over_as_they_are(value: Any) -> None:
    """The short cuts for values that need no adapting change none of them."""
    connection = driver.sqlite3.connect(":memory:")

    assert connection.execute("SELECT ?", (value,)).fetchone() == (value,)
    connection.close()
