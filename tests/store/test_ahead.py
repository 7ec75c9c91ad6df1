"""What every store promises of work done many rows at a time: it answers and writes what row by row would have."""

from dataclasses import replace

import pytest

from receiver.records import Delivery, Job
from receiver.states import JobState, Verdict
from receiver.store.base import Store, Tx
from tests.store.rows import SOURCE, add_jobs, delivery, ended, history, job, message
from tests.store.test_jobs import WHOLE, find
from tests.support import START

MANY = (1, 2, 3, 63, 64, 65, 130)


def jobs(count: int) -> list[Job]:
    return [job(f"j{n}", metadata={"n": n, "text": "a\u0000ü\U0001f600'\"\\"}) for n in range(count)]


@pytest.mark.parametrize(
    "one", [WHOLE, job(wait_s=0.1 + 0.2, registered_at=START + 0.001), job("\x01'\"\\ü\U0001f600")]
)
def test_a_job_read_ahead_is_the_job(store: Store, one: Job) -> None:
    """Every field, exactly."""
    add_jobs(store, one, job("another"))

    def ahead(tx: Tx) -> Job | None:
        tx.jobs.look_ahead([(SOURCE, one.job_id), (SOURCE, "another"), (SOURCE, "nobody"), ("elsewhere", one.job_id)])
        return tx.jobs.find(SOURCE, one.job_id)

    assert store.write_sync(ahead) == find(store, one.job_id) == one


@pytest.mark.parametrize("count", MANY)
def test_many_jobs_read_ahead_are_changed_like_one(store: Store, count: int) -> None:
    """However many: each ends as itself, with its own story and its own message."""
    before = jobs(count)
    add_jobs(store, *before, job("left alone"))

    def end_all(tx: Tx) -> list[bool]:
        tx.jobs.look_ahead([(SOURCE, each.job_id) for each in before])
        changed = []
        for n, each in enumerate(before):
            old = tx.jobs.find(SOURCE, each.job_id)
            assert old is not None
            changed.append(tx.jobs.change(old, ended(old, result={"n": n}, provider_status=f"s{n}")))
            tx.jobs.note(history(each.job_id, from_state=JobState.PENDING, to_state=JobState.COMPLETED, note=f"n{n}"))
            tx.outbox.stage(message(f"msg_{n}", each.job_id))
        return changed

    assert store.write_sync(end_all) == [True] * count
    found = [find(store, each.job_id) for each in before]
    assert found == [ended(each, result={"n": n}, provider_status=f"s{n}") for n, each in enumerate(before)]
    assert find(store, "left alone") == job("left alone")
    shown = [store.read_sync(lambda view, n=n: view.job(SOURCE, f"j{n}")) for n in range(count)]  # type: ignore[misc]
    assert [[part["note"] for part in each["history"]] for each in shown if each] == [[f"n{n}"] for n in range(count)]
    told, _ = store.read_sync(lambda view: view.messages(limit=200))
    assert [each["id"] for each in reversed(told)] == [f"msg_{n}" for n in range(count)]


def test_a_job_changed_after_it_was_read_ahead_is_found_as_it_is_now(store: Store) -> None:
    """Whatever changed it, and however often: nobody is handed what was."""
    add_jobs(store, *jobs(6))

    def work(tx: Tx) -> list[Job | None]:
        tx.jobs.look_ahead([(SOURCE, f"j{n}") for n in range(6)])
        first = tx.jobs.find(SOURCE, "j0")
        assert first is not None
        noted = first.with_(provider_status="running")
        tx.jobs.change(first, noted)  # waits for others of its kind
        again = tx.jobs.find(SOURCE, "j0")
        assert again == noted
        tx.jobs.change(noted, ended(noted))
        tx.jobs.change(jobs(6)[1], jobs(6)[1].with_(alias="x1"))
        tx.jobs.make_due(SOURCE, START, START, None, 100)
        done = tx.jobs.find(SOURCE, "j5")
        assert done is not None
        tx.jobs.change(done, ended(done))
        tx.jobs.delete([(SOURCE, "j5")])
        return [tx.jobs.find(SOURCE, each) for each in ("j0", "x1", "j2", "j5")]

    assert store.write_sync(work) == [
        ended(jobs(1)[0].with_(provider_status="running")),
        jobs(2)[1].with_(alias="x1", next_poll_at=START),
        jobs(3)[2].with_(next_poll_at=START),
        None,
    ]


@pytest.mark.parametrize("count", MANY)
def test_many_jobs_found_absent_are_put_on_record_and_changed_like_one(store: Store, count: int) -> None:
    """New jobs and known ones, mixed: each stands as itself, and a second one of the same id or alias is refused."""
    known = jobs(count)[::2]
    add_jobs(store, *known, job("other", alias="x1"))

    def work(tx: Tx) -> tuple[list[bool], bool, bool, Job | None]:
        tx.jobs.look_ahead([(SOURCE, each.job_id) for each in jobs(count)] + [(SOURCE, "x1"), (SOURCE, "new alias")])
        added = []
        for each in jobs(count):
            found = tx.jobs.find(SOURCE, each.job_id)
            if found is None:
                added.append(tx.jobs.add(each))
                found = each
            tx.jobs.change(found, ended(found))
        again = tx.jobs.add(jobs(count)[-1])
        taken = tx.jobs.add(job("late", alias="x1"))
        tx.jobs.add(job("fresh", alias="new alias"))
        return added, again, taken, tx.jobs.find(SOURCE, "new alias")

    assert store.write_sync(work) == ([True] * (count // 2), False, False, job("fresh", alias="new alias"))
    assert [find(store, each.job_id) for each in jobs(count)] == [ended(each) for each in jobs(count)]
    tallies = store.read_sync(lambda view: view.tallies())
    assert (tallies["jobs", SOURCE, "completed"], tallies["jobs", SOURCE, "pending"]) == (count, 2)


def test_an_id_found_absent_is_found_once_it_is_there(store: Store) -> None:
    """Under its id and under an alias learned later."""
    add_jobs(store, job("a"))

    def work(tx: Tx) -> list[str | None]:
        tx.jobs.look_ahead([(SOURCE, "b"), (SOURCE, "y"), (SOURCE, "z")])
        before = [tx.jobs.find(SOURCE, each) for each in ("b", "y", "z")]
        assert before == [None, None, None]
        tx.jobs.add(job("b"))
        tx.jobs.change(job("a"), job("a", alias="y"))
        found = [tx.jobs.find(SOURCE, each) for each in ("b", "y", "z")]
        return [each.job_id if each else None for each in found]

    assert store.write_sync(work) == ["b", "a", None]


def test_held_deliveries_are_welcomed_after_they_were_held(store: Store) -> None:
    """Whatever waits for its statement: the verdict first, then the job that undoes it."""
    one, other = delivery(store), delivery(store)
    store.write_sync(lambda tx: tx.deliveries.add([one, other]))

    def work(tx: Tx) -> None:
        tx.deliveries.welcome(SOURCE, ["j9"])
        tx.deliveries.conclude(replace(one, job_id="j1"), Verdict.HELD, None)
        tx.deliveries.conclude(replace(other, job_id="j2"), Verdict.HELD, None)
        tx.deliveries.welcome(SOURCE, ["j1", "a1"])

    store.write_sync(work)
    assert [store.write_sync(lambda tx, each=each: tx.deliveries.get(each.id)) for each in (one, other)] == [  # type: ignore[misc]
        replace(one, job_id="j1"), replace(other, job_id="j2", verdict=Verdict.HELD),
    ]  # fmt: skip


def test_an_alias_that_another_job_holds_spoils_no_other_change(store: Store) -> None:
    """The rest of that change still stands, and so do the others."""
    add_jobs(store, job("a", alias="x"), job("b"), job("c"))

    def learn(tx: Tx) -> None:
        tx.jobs.look_ahead([(SOURCE, "b"), (SOURCE, "c")])
        for each, alias in (("b", "x"), ("c", "y")):
            old = tx.jobs.find(SOURCE, each)
            assert old is not None
            tx.jobs.change(old, old.with_(alias=alias, modality="video"))

    store.write_sync(learn)
    assert [find(store, each) for each in ("a", "b", "c")] == [
        job("a", alias="x"), job("b", modality="video"), job("c", alias="y", modality="video"),
    ]  # fmt: skip


@pytest.mark.parametrize("count", MANY)
def test_keys_claimed_ahead_belong_to_whom_they_would_have(store: Store, count: int) -> None:
    """To the first of them, or to whoever held them before; a claim of one's own stands."""
    ones = [delivery(store) for _ in range(count)]
    earlier = delivery(store)
    store.write_sync(lambda tx: tx.deliveries.claim_key(SOURCE, "k0", earlier.id, START, None))
    keys = [f"k{n // 2}" for n in range(count)]

    def ahead(tx: Tx) -> list[int]:
        tx.deliveries.claim_ahead([(SOURCE, key, one.id, START) for key, one in zip(keys, ones, strict=True)])
        return [tx.deliveries.claim_key(SOURCE, key, one.id, START, None) for key, one in zip(keys, ones, strict=True)]

    owners = [earlier.id if n < 2 else ones[n - n % 2].id for n in range(count)]
    assert store.write_sync(ahead) == owners
    assert store.write_sync(ahead) == owners, "interpreted once more"


def test_a_key_given_back_goes_to_the_next_who_claimed_it_ahead(store: Store) -> None:
    """A repeat in the same batch is judged anew when the first sending was quarantined."""
    first, second = delivery(store), delivery(store)

    def work(tx: Tx) -> tuple[int, int]:
        tx.deliveries.claim_ahead([(SOURCE, "k", first.id, START), (SOURCE, "k", second.id, START)])
        held = tx.deliveries.claim_key(SOURCE, "k", first.id, START, None)
        tx.deliveries.release_key(SOURCE, "k", first.id)
        return held, tx.deliveries.claim_key(SOURCE, "k", second.id, START, None)

    assert store.write_sync(work) == (first.id, second.id)


def test_a_key_claimed_ahead_is_taken_over_after_its_window(store: Store) -> None:
    """The window counts all the same."""
    first, late = delivery(store), delivery(store)

    def claim(tx: Tx, one: Delivery, at: float) -> int:
        tx.deliveries.claim_ahead([(SOURCE, "k", one.id, at)])
        return tx.deliveries.claim_key(SOURCE, "k", one.id, at, 60.0)

    assert store.write_sync(lambda tx: claim(tx, first, START)) == first.id
    assert store.write_sync(lambda tx: claim(tx, late, START + 60)) == first.id
    assert store.write_sync(lambda tx: claim(tx, late, START + 61)) == late.id


@pytest.mark.parametrize("count", MANY)
def test_many_verdicts_are_given_like_one(store: Store, count: int) -> None:
    """Each to its own delivery, only while it is unread; what is counted is counted."""
    ones = [delivery(store) for _ in range(count)]
    decided = delivery(store, verdict=Verdict.ACCEPTED)
    store.write_sync(lambda tx: tx.deliveries.add([*ones, decided]))

    def conclude(tx: Tx) -> int:
        for n, one in enumerate(ones):
            told = replace(one, event=f"e{n}", event_key=f"k{n}", job_id=f"j{n}")
            tx.deliveries.conclude(told, Verdict.HELD, f"r{n}")
            tx.deliveries.conclude(told, Verdict.QUARANTINED, "too late")
        tx.deliveries.conclude(decided, Verdict.HELD, None)
        return tx.deliveries.count_held(SOURCE)

    assert store.write_sync(conclude) == count
    for n, one in enumerate(ones):
        kept = replace(one, verdict=Verdict.HELD, reason=f"r{n}", event=f"e{n}", event_key=f"k{n}", job_id=f"j{n}")
        assert store.write_sync(lambda tx, one=one: tx.deliveries.get(one.id)) == kept  # type: ignore[misc]
    assert store.write_sync(lambda tx: tx.deliveries.get(decided.id)) == decided


def test_a_message_staged_twice_is_told_once(store: Store) -> None:
    """Also when both wait for the same statement; the first stands, and order is the order of staging."""
    told = [message("msg_b", payload='{"first":1}'), message("msg_a"), message("msg_b", payload='{"second":1}')]
    store.write_sync(lambda tx: [tx.outbox.stage(each) for each in told])  # type: ignore[func-returns-value]

    kept, _ = store.read_sync(lambda view: view.messages())
    assert [(each["id"], each["payload"]) for each in reversed(kept)] == [
        ("msg_b", {"first": 1}), ("msg_a", {"id": "msg_a"}),
    ]  # fmt: skip


def test_what_still_waited_goes_with_the_transaction(store: Store) -> None:
    """A failure after it leaves no trace, and the next transaction writes nothing of it."""
    one = delivery(store)
    store.write_sync(lambda tx: tx.deliveries.add([one]))

    def fail(tx: Tx) -> None:
        tx.deliveries.conclude(one, Verdict.ACCEPTED, None)
        tx.outbox.stage(message())
        tx.jobs.note(history())
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        store.write_sync(fail)
    store.write_sync(lambda tx: tx.meta.put("key", "value"))

    assert store.read_sync(lambda view: (view.messages(), view.unread())) == (([], None), 1)


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)), b"x" * 5000, None])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_unread_deliveries_are_read_as_they_came(store: Store, body: bytes | None, count: int) -> None:
    """The exact bytes, however many are read at once."""
    ones = [delivery(store, body=body, reason=None, event="ü\x00") for _ in range(count)]
    store.write_sync(lambda tx: tx.deliveries.add(ones))

    assert store.read_sync(lambda view: view.next_unread(count, 4 << 20)) == ones
