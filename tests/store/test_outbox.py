"""What every store promises of messages: staged once, leased to one at a time, in order within a job."""

import threading
from typing import Any

import pytest

from receiver.records import Message
from receiver.store.base import Store
from tests.store.rows import SOURCE, add_jobs, add_messages, job, message
from tests.support import START

LEASE_S = 30.0


def claim(store: Store, at: float = START, limit: int = 100, **how: Any) -> list[str]:
    return [each.id for each in claimed(store, at, limit, **how)]


def claimed(store: Store, at: float = START, limit: int = 100, **how: Any) -> list[Message]:
    given = {"sources": [SOURCE], **how}
    return store.write_sync(lambda tx: tx.outbox.claim(at, at + LEASE_S, limit, **given))


def pull(store: Store, at: float = START, limit: int = 100) -> list[str]:
    return claim(store, at, limit, sources=None, pull=True)


def deliver(store: Store, *ids: str, at: float = START, pushed: bool = True) -> int:
    return store.write_sync(lambda tx: tx.outbox.delivered(ids, at, pushed=pushed))


def retry(store: Store, message_id: str, next_at: float, at: float = START) -> None:
    store.write_sync(lambda tx: tx.outbox.retry(message_id, at, next_at, "500"))


def get(store: Store, message_id: str) -> Message:
    found = store.write_sync(lambda tx: tx.outbox.get(message_id))
    assert found is not None
    return found


def test_a_message_is_staged_once(store: Store) -> None:
    """The second with its id is not told twice, and its payload never changes."""
    one = message("msg_1", supersedes="msg_0")
    add_messages(store, one)

    assert store.write_sync(lambda tx: tx.outbox.add(message("msg_1", payload="{}"))) is False
    kept = get(store, "msg_1")
    assert (kept.payload, kept.supersedes, kept.state, kept.attempts) == (one.payload, "msg_0", "pending", 0)
    assert kept.next_attempt_at == START
    assert store.write_sync(lambda tx: tx.outbox.get("nobody")) is None


def test_due_messages_are_claimed_oldest_first(store: Store) -> None:
    """At most so many, only what is due, each once while it is leased."""
    add_messages(store, *(message(f"m{n}", f"j{n}") for n in range(5)))
    retry(store, "m0", START + 60)

    assert claim(store, limit=2) == ["m1", "m2"]
    assert claim(store) == ["m3", "m4"]
    assert claim(store) == []
    assert claim(store, START + 60) == ["m1", "m2", "m3", "m4", "m0"]


def test_a_job_is_told_in_order(store: Store) -> None:
    """None while an earlier message of the same job is undelivered, wherever that stands in its schedule."""
    add_messages(store, message("a1", "a"), message("a2", "a"), message("b1", "b"), message("e1", None),
                 message("e2", None), message("far", "a", source="elsewhere"))  # fmt: skip

    assert claim(store) == ["a1", "b1", "e1", "e2"]
    retry(store, "a1", START + 600)
    assert claim(store, START + 1) == pull(store, START + 1)[2:] == []
    assert claim(store, START + 600) == ["b1", "e1", "e2", "a1"]
    deliver(store, "a1", at=START + 601)
    assert claim(store, START + 601) == ["a2"]


def test_a_dead_message_lets_the_next_one_go(store: Store) -> None:
    """One bad message holds up no other; redelivered, it stands in front again."""
    add_messages(store, message("a1", "a"), message("a2", "a"), message("a3", "a"))
    claim(store)
    store.write_sync(lambda tx: tx.outbox.bury("a1", START, "410"))
    assert (get(store, "a1").state, get(store, "a1").attempts, get(store, "a1").last_error) == ("dead", 1, "410")
    assert claim(store) == ["a2"]
    deliver(store, "a2")
    revived = store.write_sync(lambda tx: tx.outbox.revive("a1", START + 5))

    assert revived is not None
    assert (revived.state, revived.attempts, revived.next_attempt_at) == ("pending", 0, START + 5)
    assert claim(store, START + 5) == ["a1"]
    deliver(store, "a1", at=START + 6)
    assert claim(store, START + 6) == ["a3"]


def test_a_lease_that_ran_out_counts_as_an_attempt(store: Store) -> None:
    """A consumer that died had its try; the message is claimable again and says so (CONTRACT 10)."""
    add_messages(store, message("m"))
    assert [one.attempts for one in claimed(store)] == [0]
    assert claim(store, START + LEASE_S - 0.001) == []

    assert [one.attempts for one in claimed(store, START + LEASE_S)] == [1]
    assert [one.attempts for one in claimed(store, START + 2 * LEASE_S)] == [2]
    deliver(store, "m")
    assert get(store, "m").attempts == 3


@pytest.mark.parametrize(("pushed", "attempts"), [(True, 1), (False, 0)])
def test_delivered_is_delivered_once(store: Store, pushed: bool, attempts: int) -> None:
    """Unknown and finished ids are ignored; a push counts as an attempt, an acknowledgement does not."""
    add_messages(store, message("m"))
    claim(store)

    assert deliver(store, "m", "nobody", at=START + 1, pushed=pushed) == 1
    assert deliver(store, "m", at=START + 2, pushed=pushed) == 0
    kept = get(store, "m")
    assert (kept.state, kept.delivered_at, kept.attempts) == ("delivered", START + 1, attempts)
    assert claim(store, START + 9999) == pull(store, START + 9999) == []


def test_a_message_whose_lease_ran_out_can_still_be_acknowledged(store: Store) -> None:
    """As long as it is undelivered (CONTRACT 10)."""
    add_messages(store, message("m"))
    pull(store)

    assert deliver(store, "m", at=START + 500, pushed=False) == 1


def test_a_retry_waits_its_time_for_a_push_only(store: Store) -> None:
    """Whoever pulls asked for it now; a leased message is not pushed, a pushed one not pulled."""
    add_messages(store, message("m"))
    claim(store)
    assert pull(store) == []
    retry(store, "m", START + 600)
    kept = get(store, "m")
    assert (kept.attempts, kept.last_error, kept.next_attempt_at) == (1, "500", START + 600)

    assert claim(store, START + 599) == []
    assert pull(store, START + 1) == ["m"]
    assert claim(store, START + 20) == []


def test_a_late_outcome_changes_nothing_that_is_finished(store: Store) -> None:
    """An answer to a push whose message was acknowledged meanwhile is no news."""
    add_messages(store, message("m"))
    deliver(store, "m", pushed=False)
    retry(store, "m", START + 9)
    store.write_sync(lambda tx: tx.outbox.bury("m", START, "late"))

    assert get(store, "m").state == "delivered"


def test_sources_are_claimed_apart(store: Store) -> None:
    """Only what an application may be sent; whoever pulls gets all, unless it says which."""
    add_messages(store, message("a"), message("b", source="elsewhere"), message("c", None, source='o"dd'))

    assert claim(store, sources=['o"dd']) == ["c"]
    assert claim(store, sources=[]) == []
    assert claim(store, sources=["elsewhere"], pull=True) == ["b"]
    assert pull(store) == ["a"]


def test_a_lease_is_renewed_while_it_is_held(store: Store) -> None:
    """What is not leased is not renewed."""
    add_messages(store, message("m"), message("free", "j2"))
    claim(store, limit=1)

    assert store.write_sync(lambda tx: tx.outbox.extend(["m", "free", "nobody"], START + 500)) == 1
    assert pull(store, START + 100) == ["free"]
    assert sorted(pull(store, START + 499)) == ["free"]
    assert sorted(pull(store, START + 529)) == ["free", "m"]


def test_many_consumers_never_share_a_message(store: Store) -> None:
    """Eight of them at once, until nothing is left: each message was claimed once."""
    add_messages(store, *(message(f"m{n}", f"j{n % 50}" if n % 2 else None) for n in range(300)))
    got: list[str] = []
    lock = threading.Lock()

    def consume() -> None:
        while ids := claim(store, limit=7, sources=None, pull=True):
            with lock:
                got.extend(ids)
            deliver(store, *ids, pushed=False)

    threads = [threading.Thread(target=consume) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while ids := pull(store):  # a consumer leaves when all that is left waits for another's
        got.extend(ids)
        deliver(store, *ids, pushed=False)

    assert sorted(got) == sorted(f"m{n}" for n in range(300))


def test_the_next_message_is_known(store: Store) -> None:
    """The earliest instant at which anything may be sent; none without pending ones."""
    assert store.write_sync(lambda tx: tx.outbox.next_attempt_at()) is None
    add_messages(store, message("a"), message("b", "j2"))
    claim(store, limit=1)
    retry(store, "b", START + 600)

    assert store.write_sync(lambda tx: tx.outbox.next_attempt_at()) == START + LEASE_S
    deliver(store, "a", "b")
    assert store.write_sync(lambda tx: tx.outbox.next_attempt_at()) is None


def test_a_clock_that_stepped_back_strands_nothing(store: Store) -> None:
    """No pending message waits, or is leased, beyond the given instant."""
    add_messages(store, *(message(name, name) for name in ("leased", "waiting", "soon", "done")))
    deliver(store, "done")
    retry(store, "waiting", START + 40_000)
    claim(store, START + 30_000, limit=1)

    assert store.write_sync(lambda tx: tx.outbox.bring_forward(START + 10)) == 2
    assert sorted(claim(store, START + 10)) == ["leased", "soon", "waiting"]


def test_what_waits_for_an_application_that_is_back_is_due_at_once(store: Store) -> None:
    """The messages of its sources alone, and no lease is touched."""
    add_messages(store, *(message(name, name) for name in ("leased", "waiting", "soon")))
    retry(store, "waiting", START + 40_000)
    claim(store, START + 30_000, limit=1)

    assert store.write_sync(lambda tx: tx.outbox.bring_forward(START, ["another"])) == 0
    assert store.write_sync(lambda tx: tx.outbox.bring_forward(START, [SOURCE])) == 1
    assert sorted(claim(store, START + 1)) == ["soon", "waiting"]


def test_only_what_was_tried_meanwhile_is_due_at_once(store: Store) -> None:
    """An application that failed everybody for a while and is well again: what failed before keeps its schedule."""
    add_messages(store, *(message(name, name) for name in ("before", "meanwhile", "asked")))
    retry(store, "before", START + 40_000, at=START)
    retry(store, "meanwhile", START + 40_000, at=START + 10)
    store.write_sync(lambda tx: tx.outbox.retry("asked", START + 10, START + 40_000, "asked: 503"))

    brought = store.write_sync(
        lambda tx: tx.outbox.bring_forward(START + 20, [SOURCE], but="asked", tried_since=START + 10)
    )
    assert brought == 1
    assert claim(store, START + 20) == ["meanwhile"]


def test_a_page_of_messages_neither_skips_nor_repeats(store: Store) -> None:
    """Newest first, by cursor and filter; payloads parsed."""
    add_messages(store, *(message(f"m{n:02}", f"j{n % 2}") for n in range(20)))
    deliver(store, "m03", "m07")
    seen: list[str] = []
    cursor: int | None = None
    while True:
        rows, cursor = store.read_sync(lambda view, at=cursor: view.messages(state="pending", before=at, limit=5))  # type: ignore[misc]
        seen += [row["payload"]["id"] for row in rows]
        if cursor is None:
            break

    assert seen == [f"m{n:02}" for n in reversed(range(20)) if n not in (3, 7)]
    add_jobs(store, job("j1", alias="other"))
    for either in ("j1", "other"):
        rows, _ = store.read_sync(lambda view, one=either: view.messages(job=(SOURCE, one), limit=3))  # type: ignore[misc]
        assert [row["id"] for row in rows] == ["m19", "m17", "m15"]
    row = store.read_sync(lambda view: view.message("m03"))
    assert row is not None
    assert row["state"] == "delivered"


def test_the_stream_goes_on_from_a_position(store: Store) -> None:
    """In order of staging, with the payload's own text; undelivered ones alone if that is wanted."""
    assert store.read_sync(lambda view: view.last_seq()) == 0
    add_messages(store, *(message(f"m{n}", None) for n in range(6)))
    deliver(store, "m4")
    at = store.read_sync(lambda view: view.message_seq("m2"))
    assert at is not None

    assert [row[1] for row in store.read_sync(lambda view: view.stream(at, 2))] == ["m3", "m4"]
    rest = store.read_sync(lambda view: view.stream(at, 9, undelivered_only=True))
    assert [(row[1], row[2]) for row in rest] == [("m3", '{"id":"m3"}'), ("m5", '{"id":"m5"}')]
    assert store.read_sync(lambda view: view.last_seq()) == rest[-1][0]
    assert store.read_sync(lambda view: view.message_seq("nobody")) is None


def test_the_oldest_undelivered_message_is_known(store: Store) -> None:
    """By when it was staged, whatever its schedule."""
    add_messages(store, message("a", "a", created_at=START - 100), message("b", "b"))
    retry(store, "a", START + 9000)

    assert store.read_sync(lambda view: view.oldest_message_at()) == START - 100
    deliver(store, "a")
    assert store.read_sync(lambda view: view.oldest_message_at()) == START
    tallies = store.read_sync(lambda view: view.tallies())
    assert (tallies["outbox", SOURCE, "pending"], tallies["outbox", SOURCE, "delivered"]) == (1, 1)
