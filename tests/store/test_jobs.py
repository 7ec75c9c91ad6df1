"""What every store promises of jobs: found by either id, changed only from what was read, due in order."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from receiver import clock as clocks
from receiver.records import Job
from receiver.states import By, Evidence, JobState, Reason
from receiver.store.base import Store, Tx
from tests.store.rows import SOURCE, add_jobs, delivery, ended, failed, history, job, message, poll
from tests.support import START

WHOLE = Job(
    source=SOURCE, job_id="whole", registered_at=START, alias="other", modality="video", state=JobState.FAILED,
    reason=Reason.STALE, decided_by=By.DEADLINE, provider_status="Processing", submitted_at=START - 1.5,
    next_poll_at=START + 1, deadline_at=START + 2, settled_at=START + 3, polls=4, last_error="why",
    result={"a": [1, None, "ü"]}, refs={"lead_id": "L"}, metadata=[True], poll_url="https://example.com/x",
    evidence=Evidence.DEADLINE, revision=2, registered_by="adopted", asked_at=START + 4, not_before=START + 5,
    wait_s=7.5, misses=1, first_miss_at=START + 6, late_polls=2, last_message_id="msg_1", remaining_s=8.25,
)  # fmt: skip


def find(store: Store, any_id: str, source: str = SOURCE) -> Job | None:
    return store.write_sync(lambda tx: tx.jobs.find(source, any_id))


def change(store: Store, old: Job, new: Job) -> bool:
    return store.write_sync(lambda tx: tx.jobs.change(old, new))


def ids(jobs: list[Job]) -> list[str]:
    return [each.job_id for each in jobs]


@pytest.mark.parametrize("one", [WHOLE, job(), job("plain", modality=None), job("../x\n?#%", metadata="text")])
def test_a_job_is_kept_as_it_is(store: Store, reopen: Callable[[], Store], one: Job) -> None:
    """Every field, to the millisecond, also for the next life."""
    add_jobs(store, one)

    assert find(reopen(), one.job_id) == one


def test_a_job_is_found_by_its_id_before_an_alias(store: Store) -> None:
    """Either id finds it; an id that is also another's alias means the job of that id."""
    add_jobs(store, job("a", alias="x"), job("x"))

    found = [find(store, "a"), find(store, "x"), find(store, "nobody"), find(store, "a", "elsewhere")]
    assert [each.job_id if each else None for each in found] == ["a", "x", None, None]
    row = store.read_sync(lambda view: view.job(SOURCE, "x"))
    assert row is not None
    assert row["job_id"] == "x"


def test_a_job_is_on_record_once(store: Store) -> None:
    """The same id, or the same alias, is refused; another source is another job."""
    add_jobs(store, job("a", alias="x"))

    def add(one: Job) -> bool:
        return store.write_sync(lambda tx: tx.jobs.add(one))

    assert add(job("a", modality="video")) is False
    assert add(job("b", alias="x")) is False
    assert add(job("a", source="elsewhere", alias="x")) is True
    found = find(store, "a")
    assert found is not None
    assert found.modality == "prompt"


def test_a_change_needs_the_state_it_was_read_in(store: Store) -> None:
    """Of two who read the same job one wins; the other hears False and has changed nothing."""
    add_jobs(store, job())
    read = find(store, "j1")
    assert read is not None

    assert change(store, read, ended(read)) is True
    assert change(store, read, failed(read)) is False
    assert find(store, "j1") == ended(read)
    corrected = ended(read).with_(result={"now": 1}, revision=2)
    assert change(store, ended(read), corrected) is True
    assert change(store, ended(read), failed(read)) is False


def test_a_change_of_what_never_was_is_false(store: Store) -> None:
    """Nothing is put on record by changing it."""
    assert change(store, job(), job(polls=1)) is False
    assert find(store, "j1") is None


def test_an_alias_that_is_taken_does_not_undo_the_rest(store: Store) -> None:
    """Another job holds it: the change stands without it."""
    add_jobs(store, job("a", alias="x"), job("b"))
    old = find(store, "b")
    assert old is not None

    assert change(store, old, old.with_(alias="x", polls=3)) is True
    found = find(store, "b")
    assert found is not None
    assert (found.alias, found.polls) == (None, 3)


@pytest.mark.parametrize(
    "broken",
    [
        {"state": JobState.COMPLETED, "decided_by": By.POLL, "settled_at": None},
        {"state": JobState.COMPLETED, "decided_by": None, "settled_at": START},
        {"state": JobState.FAILED, "decided_by": By.POLL, "settled_at": START, "reason": None},
        {"state": JobState.PENDING, "settled_at": START},
        {"state": JobState.PENDING, "decided_by": By.POLL},
        {"state": JobState.COMPLETED, "decided_by": By.POLL, "settled_at": START, "reason": Reason.STALE},
    ],
)
def test_a_half_finished_job_cannot_be_kept(store: Store, broken: dict[str, Any]) -> None:
    """The store itself ties finished states to finished times, witnesses and reasons."""
    add_jobs(store, job())
    old = find(store, "j1")
    assert old is not None

    with pytest.raises(Exception, match="CHECK"):
        change(store, old, old.with_(**broken))
    assert find(store, "j1") == old


def test_due_jobs_come_longest_due_first(store: Store) -> None:
    """What is due now, of this source, ended ones too when they are looked at again."""
    late = failed(job("late")).with_(next_poll_at=START + 5)
    add_jobs(
        store, job("c", next_poll_at=START + 30), job("a", next_poll_at=START + 10), job("b", next_poll_at=START + 20),
        job("d", next_poll_at=START + 30.001), job("never", next_poll_at=None), ended(job("done")), late,
        job("e", source="elsewhere", next_poll_at=START),
    )  # fmt: skip

    def due(at: float, limit: int = 10) -> list[str]:
        return store.write_sync(lambda tx: ids(tx.jobs.due(SOURCE, at, limit)))

    assert due(START + 30) == ["late", "a", "b", "c"]
    assert due(START + 30, limit=2) == ["late", "a"]
    assert due(START) == []
    assert store.write_sync(lambda tx: tx.jobs.next_due_at(SOURCE)) == START + 5
    assert store.write_sync(lambda tx: tx.jobs.next_due_at("nowhere")) is None


def test_overdue_jobs_are_pending_and_past_their_deadline(store: Store) -> None:
    """Oldest deadline first; one whose clock stands still is never overdue."""
    add_jobs(
        store, job("b", deadline_at=START + 2), job("a", deadline_at=START + 1), job("c", deadline_at=START + 3),
        job("frozen", deadline_at=None), failed(job("done", deadline_at=START)),
    )  # fmt: skip

    assert store.write_sync(lambda tx: ids(tx.jobs.overdue(SOURCE, START + 2, 10))) == ["a", "b"]
    assert store.write_sync(lambda tx: ids(tx.jobs.overdue(SOURCE, START + 9, 1))) == ["a"]
    assert store.read_sync(lambda view: view.overdue(START + 2.5)) == {SOURCE: 2}
    rows, _ = store.read_sync(lambda view: view.jobs(overdue_at=START + 2.5))
    assert {row["job_id"] for row in rows} == {"a", "b"}


def test_open_jobs_are_listed_and_counted(store: Store) -> None:
    """Oldest registration first; counting stops where it is told to."""
    add_jobs(store, *(job(f"j{n}", registered_at=START - n) for n in range(5)), ended(job("done")))

    assert store.write_sync(lambda tx: ids(tx.jobs.open(SOURCE, 3))) == ["j4", "j3", "j2"]
    assert store.write_sync(lambda tx: tx.jobs.count_open(SOURCE, 100)) == 5
    assert store.write_sync(lambda tx: tx.jobs.count_open(SOURCE, 2)) == 2
    assert store.read_sync(lambda view: view.oldest_pending()) == {SOURCE: START - 4}


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_all_open_jobs_become_due_in_steps(store: Store, limit: int) -> None:
    """However small the steps: every pending job once, never before its own wait, as far as that can be believed."""
    add_jobs(
        store, *(job(f"j{n}", registered_at=START + n // 3, next_poll_at=START + 500) for n in range(8)),
        job("waits", next_poll_at=START + 500, not_before=START + 100),
        job("waits-too-long", next_poll_at=START + 9999, not_before=START + 9999),
        job("due", next_poll_at=START + 1), ended(job("done")),
    )  # fmt: skip
    at, steps = START + 10, 0
    after: str | None = None
    while True:
        after = store.write_sync(lambda tx, after=after: tx.jobs.make_due(SOURCE, at, at + 300, after, limit))  # type: ignore[misc]
        steps += 1
        if after is None:
            break

    due = {each.job_id: each.next_poll_at for each in store.write_sync(lambda tx: tx.jobs.open(SOURCE, 100))}
    expected = {f"j{n}": at for n in range(8)} | {"waits": START + 100, "waits-too-long": at + 300, "due": START + 1}
    assert due == expected
    assert steps == 11 // limit + 1
    found = find(store, "done")
    assert found is not None
    assert found.next_poll_at is None


def test_steps_end_whatever_stands_in_the_table(store: Store) -> None:
    """Anybody may insert rows with times that are none: the walk over them ends."""

    def insert(tx: Tx) -> None:
        for n in range(6):
            tx.jobs._c.execute(  # type: ignore[attr-defined]  # another program's connection would do the same
                "INSERT INTO jobs (source, job_id, registered_at, next_poll_at) VALUES (?, ?, 'whenever', '9999')",
                (SOURCE, f"j{n}"),
            )

    store.write_sync(insert)
    after: str | None = None
    for _ in range(10):
        after = store.write_sync(lambda tx, after=after: tx.jobs.make_due(SOURCE, START, START, after, 2))  # type: ignore[misc]
        if after is None:
            break

    assert after is None
    assert len(store.write_sync(lambda tx: tx.jobs.due(SOURCE, START, 10))) == 6


def test_inserted_jobs_are_handed_over_once(store: Store) -> None:
    """A row from SQL alone has no times yet; after its first change it is like any other."""

    def insert(tx: Tx) -> None:
        tx.jobs._c.execute(  # type: ignore[attr-defined]  # another program's connection would do the same
            "INSERT INTO jobs (source, job_id, modality) VALUES (?, 'inserted', 'video')", (SOURCE,)
        )

    add_jobs(store, job())
    store.write_sync(insert)
    (new,) = store.write_sync(lambda tx: tx.jobs.unscheduled(SOURCE, 10))

    assert (new.job_id, new.state, new.modality, new.vouched) == ("inserted", JobState.PENDING, "video", True)
    assert new.registered_at > 0
    assert change(store, new, new.with_(next_poll_at=START)) is True
    assert store.write_sync(lambda tx: tx.jobs.unscheduled(SOURCE, 10)) == []


def test_a_jobs_story_is_whole_and_in_order(store: Store) -> None:
    """Columns, history, deliveries by either id, polls, messages; results as JSON values."""
    add_jobs(store, job(alias="x", result=None))
    first, second = delivery(store, job_id="x"), delivery(store, job_id="j1")

    def work(tx: Tx) -> int:
        tx.deliveries.add([second, first, delivery(store, job_id="j1", source="elsewhere")])
        poll_id = tx.jobs.add_poll(poll(http_status=None, outcome="unreachable", error="why"))
        tx.jobs.note(history())
        tx.jobs.note(history(from_state=JobState.PENDING, to_state=JobState.COMPLETED, poll_id=poll_id, delivery_id=7))
        tx.jobs.note(history("another"))
        tx.outbox.add(message())
        return poll_id

    poll_id = store.write_sync(work)
    by_id, by_alias = (store.read_sync(lambda view, one=one: view.job(SOURCE, one)) for one in ("j1", "x"))  # type: ignore[misc]
    assert by_id == by_alias
    assert by_id is not None
    assert [row["id"] for row in by_id["deliveries"]] == [str(first.id), str(second.id)]
    assert [(row["id"], row["outcome"], row["error"]) for row in by_id["polls"]] == [(poll_id, "unreachable", "why")]
    assert [(row["to_state"], row["poll_id"], row["delivery_id"]) for row in by_id["history"]] == [
        ("pending", None, None), ("completed", poll_id, "7"),
    ]  # fmt: skip
    assert [row["id"] for row in by_id["history"]] == [1, 2]
    assert [row["id"] for row in by_id["messages"]] == ["msg_1"]
    assert "body" not in by_id["deliveries"][0]
    assert [row["outcome"] for row in store.read_sync(lambda view: view.polls(10))] == ["unreachable"]


def test_a_page_of_jobs_neither_skips_nor_repeats(store: Store) -> None:
    """Newest first, by cursor, with each filter, while others are registered."""
    jobs = [job(f"j{n:02}", source="ab"[n % 2]) for n in range(30)]
    add_jobs(store, *(failed(each) if n % 3 == 0 else each for n, each in enumerate(jobs)))

    def walk(**which: Any) -> list[str]:
        seen: list[str] = []
        cursor: int | None = None
        for page in itertools.count():
            rows, cursor = store.read_sync(lambda view, at=cursor: view.jobs(before=at, limit=4, **which))  # type: ignore[misc]
            seen += [row["job_id"] for row in rows]
            store.write_sync(lambda tx, page=page: tx.jobs.add(job(f"new{page}{sorted(which)}", source="c")))  # type: ignore[misc]
            if cursor is None:
                return seen
        raise AssertionError

    names = [each.job_id for each in reversed(jobs)]
    assert walk() == names
    assert walk(source="a") == [name for name in names if int(name[1:]) % 2 == 0]
    assert walk(state="failed") == [name for name in names if int(name[1:]) % 3 == 0]
    assert walk(source="b", reason="stale") == [name for name in names if int(name[1:]) % 6 == 3]
    assert walk(source="nowhere") == []


def test_states_are_told_of_many_at_once(store: Store) -> None:
    """Unknown ids are left out."""
    add_jobs(store, job("a"), ended(job("b\"'\n")), failed(job("c", source="elsewhere")))
    keys = [(SOURCE, "a"), (SOURCE, "b\"'\n"), ("elsewhere", "c"), (SOURCE, "nobody")]

    assert store.read_sync(lambda view: view.job_states(keys)) == {
        keys[0]: "pending", keys[1]: "completed", keys[2]: "failed",
    }  # fmt: skip


def test_kept_counts_follow_every_change(store: Store) -> None:
    """Jobs by state, settled by witness (the first one counts), without counting rows."""
    add_jobs(store, *(job(f"j{n}") for n in range(4)))
    one = find(store, "j0")
    two = find(store, "j1")
    assert one is not None
    assert two is not None
    change(store, one, ended(one))
    change(store, two, failed(two))
    change(store, failed(two), ended(failed(two)))
    store.write_sync(lambda tx: tx.jobs.delete([(SOURCE, "j0")]))
    store.write_sync(lambda tx: tx.jobs.add_poll(poll()))

    tallies = {key: n for key, n in store.read_sync(lambda view: view.tallies()).items() if n}
    assert tallies == {
        ("jobs", SOURCE, "pending"): 2, ("jobs", SOURCE, "completed"): 1, ("settled", SOURCE, "poll"): 1,
        ("settled", SOURCE, "deadline"): 1, ("polls", SOURCE, "running"): 1,
    }  # fmt: skip


def test_what_was_settled_lately_is_counted_by_its_witness(store: Store) -> None:
    """For the loss of webhooks: only since the instant, only this source."""
    by = {"a": By.WEBHOOK, "b": By.WEBHOOK, "c": By.POLL, "d": By.DEADLINE}
    add_jobs(store, *(ended(job(each), decided_by=witness) for each, witness in by.items()))
    add_jobs(store, ended(job("old"), settled_at=START - 5), ended(job("far", source="elsewhere")), job("open"))

    assert store.read_sync(lambda view: view.settled_since(SOURCE, START)) == {"webhook": 2, "poll": 1, "deadline": 1}
    assert store.read_sync(lambda view: view.settled_since(SOURCE, START + 10.001)) == {}


def test_a_pending_job_cannot_be_deleted(store: Store) -> None:
    """Retention's own door refuses it too; what is deleted takes its story with it."""
    add_jobs(store, job("open"), ended(job("done")))
    for name in ("open", "done"):
        store.write_sync(lambda tx, name=name: (tx.jobs.note(history(name)), tx.jobs.add_poll(poll(name))))  # type: ignore[misc]

    assert store.write_sync(lambda tx: tx.jobs.delete([(SOURCE, "open"), (SOURCE, "done"), (SOURCE, "nobody")])) == 1
    assert find(store, "done") is None
    assert find(store, "open") is not None
    assert [row["job_id"] for row in store.read_sync(lambda view: view.polls(10))] == ["open"]


def test_times_are_text_that_sorts(store: Store) -> None:
    """`2026-04-13T14:30:00.000Z`, in every column of a job."""
    add_jobs(store, WHOLE)
    row = store.read_sync(lambda view: view.job(SOURCE, "whole"))
    assert row is not None

    times = {name for name in row if name.endswith("_at")} | {"not_before"}
    assert all(clocks.is_text(row[name]) for name in times)
    assert len(times) >= 8
