"""Every statement the store runs while it works finds its rows by an index: a record of years is as quick as a new one.

The hot queries are named by `View.plans()`; beyond them every statement of a whole working day is caught as it runs.
"""

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from receiver.records import DeliveryId, SourceState
from receiver.states import By, JobState, Verdict
from receiver.store.base import Retention, Tx
from receiver.store.sqlite import driver
from receiver.store.sqlite.driver import Connection
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from receiver.store.views import View
from tests.store.rows import SOURCE, delivery, ended, failed, history, job, message, poll
from tests.support import START, ManualClock

GROWING = ("deliveries", "event_keys", "jobs", "job_history", "polls", "outbox", "missed_deliveries")
"""Tables that grow with use; the others have a row a source, a fact or an hour."""
SMALL = (
    "deliveries_new", "deliveries_held", "deliveries_held_since", "deliveries_quarantined", "outbox_due",
    "outbox_pending", "jobs_unscheduled",
)  # fmt: skip
"""Partial indexes over what waits: walking all of them is walking over what waits."""


IN_ORDER = re.compile(r"SELECT [\w, ]+ FROM polls ORDER BY id (DESC )?LIMIT \d+")
"""Takes the first few rows of a table in its own order; it walks no farther than it has to."""


def full_scans(plan: list[str]) -> list[str]:
    """The steps of a plan that walk over a whole growing table."""
    found = []
    for step in plan:
        scan = re.match(r"SCAN (\w+)(?: AS \w+)?(?: USING (?:COVERING )?INDEX (\w+))?", step)
        if scan is not None and scan[1] in GROWING and scan[2] not in SMALL:
            found.append(step)
    return found


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every statement run on any connection from now on."""
    statements: set[str] = set()
    lock = threading.Lock()

    def catch(statement: str) -> None:
        with lock:
            statements.add(statement)

    for name in ("open_reader", "open_writer"):
        opener = getattr(driver, name)

        def traced(path: Path, opener: object = opener) -> Connection:
            connection: Connection = opener(path)  # type: ignore[operator]  # one of the two openers
            connection.set_trace_callback(catch)
            return connection

        monkeypatch.setattr(driver, name, traced)
    return statements


@pytest.fixture
def store(fast_folder: Path, caught: set[str]) -> Iterator[SqliteStore]:
    made = SqliteStore(SqliteOptions(fast_folder / "record.db"), ManualClock())
    yield made
    made.close()


def write_everything(store: SqliteStore, tx: Tx) -> None:
    """Each promise of a transaction, once."""
    one, other = delivery(store), delivery(store, verdict=Verdict.HELD, job_id="j9", event_key="k9")
    tx.deliveries.add([one, other])
    tx.deliveries.get(one.id)
    for window_s in (None, 60.0):
        tx.deliveries.claim_key(SOURCE, "k", one.id, START, window_s)
        tx.deliveries.claim_key(SOURCE, "k", other.id, START, window_s)
    tx.deliveries.release_key(SOURCE, "k", one.id)
    tx.deliveries.decide(replace(one, verdict=Verdict.ACCEPTED), Verdict.NEW)
    tx.deliveries.unhold(SOURCE, ["j1", "a1"])
    tx.deliveries.count_held(SOURCE)
    tx.deliveries.held_before(SOURCE, START + 9, 3)
    for each in (job("j1", alias="a1"), job("j2"), ended(job("j3")), failed(job("j4"))):
        tx.jobs.add(each)
        tx.jobs.note(history(each.job_id))
        tx.jobs.add_poll(poll(each.job_id))
        tx.outbox.add(message(f"m-{each.job_id}", each.job_id))
    tx.jobs.find(SOURCE, "j1")
    tx.jobs.find(SOURCE, "a1")
    tx.jobs.change(job("j2"), ended(job("j2"), decided_by=By.WEBHOOK))
    tx.jobs.look_ahead([(SOURCE, "j1"), (SOURCE, "j2"), (SOURCE, "j3")])
    ahead = tx.jobs.find(SOURCE, "j1")
    assert ahead is not None
    tx.jobs.change(ahead, ended(ahead))
    tx.deliveries.claim_ahead([(SOURCE, key, other.id, START) for key in ("k", "k8", "k9")])
    tx.deliveries.conclude(other, Verdict.ACCEPTED, None)
    tx.outbox.stage(message("m-staged"))
    tx.jobs.unscheduled(SOURCE, 10)
    tx.jobs.due(SOURCE, START + 999, 10)
    tx.jobs.open(SOURCE, 10)
    tx.jobs.count_open(SOURCE, 10)
    tx.jobs.make_due(SOURCE, START, START, None, 10)
    tx.jobs.overdue(SOURCE, START + 999, 10)
    tx.jobs.next_due_at(SOURCE)
    for sources in (None, [SOURCE]):
        for pull in (False, True):
            tx.outbox.claim(START, START + 1, 1, sources, pull=pull)
    tx.outbox.delivered(["m-j1"], START, pushed=True)
    tx.outbox.retry("m-j2", START, START + 5, "why")
    tx.outbox.extend(["m-j2"], START + 9)
    tx.outbox.bury("m-j3", START, "why")
    tx.outbox.revive("m-j3", START)
    tx.outbox.get("m-j4")
    tx.outbox.bring_forward(START)
    tx.outbox.bring_forward(START, [SOURCE])
    tx.outbox.next_attempt_at()
    tx.sources.put(SourceState(SOURCE))
    tx.sources.get(SOURCE)
    tx.sources.take_tokens(SOURCE, START, 12, 1)
    tx.sources.want_sweep([SOURCE], START)
    tx.sources.count_refusals([(START, SOURCE, "path", 1)])
    tx.sources.count_acks([(START, SOURCE, 0.01, 1, 0.005)])
    tx.meta.put("key", "value")
    tx.meta.get("key")
    later = START + 9e6
    tx.meta.prune(Retention(later, later, later, later, {SOURCE: later}, {SOURCE: later}), 10)


def look_at_everything(view: View) -> None:
    """Each question of a view, with and without its filters, once."""
    view.jobs()
    for source in (None, SOURCE):
        view.jobs(source=source, overdue_at=START)
        for state in JobState:
            view.jobs(source=source, state=state.value, before=99)
        view.jobs(source=source, state="failed", reason="stale")
        for verdict in (None, *(each.value for each in Verdict)):
            view.deliveries(source=source, verdict=verdict, start=START, end=START + 9)
        for message_state in (None, "pending", "delivered", "dead"):
            view.messages(source=source, state=message_state)
        view.stats(3600, START, START + 9, source)
        view.ack_latency(3600, START, START + 9, source)
    view.messages(job=(SOURCE, "j1"))
    view.job(SOURCE, "j1")
    view.job(SOURCE, "a1")
    view.job_states([(SOURCE, "j1"), (SOURCE, "j2")])
    view.delivery(DeliveryId(1))
    view.message("m-j1")
    for undelivered in (False, True):
        view.stream(0, 10, undelivered_only=undelivered)
    view.message_seq("m-j1")
    view.last_seq()
    view.polls(10)
    view.tallies()
    view.next_unread(10, 1000)
    view.unread()
    view.held()
    view.oldest_pending()
    view.overdue(START)
    view.oldest_message_at()
    view.oldest_unread_at()
    view.sources()
    view.settled_since(SOURCE, START)
    view.meta("key")


def test_every_hot_query_uses_its_index(store: SqliteStore) -> None:
    """The index is the one made for it, by name; none walks over a table."""
    plans = store.read_sync(lambda view: view.plans())
    used = {name: re.findall(r"INDEX (\w+)", " ".join(plan)) for name, plan in plans.items()}

    assert {name: full_scans(plan) for name, plan in plans.items() if full_scans(plan)} == {}
    assert {name: indexes[0] for name, indexes in used.items()} == {
        "deliveries.unread": "deliveries_new",
        "deliveries.held_before": "deliveries_held_since",
        "jobs.by_id": "sqlite_autoindex_jobs_1",
        "jobs.by_alias": "jobs_alias",
        "jobs.due": "jobs_due",
        "jobs.overdue": "jobs_deadline",
        "jobs.unscheduled": "jobs_unscheduled",
        "jobs.open": "jobs_open",
        "jobs.next_due": "jobs_due",
        "outbox.claim_push": "outbox_due",
        "outbox.claim_push_of": "outbox_due_of",
        "outbox.claim_pull": "outbox_due",
        "outbox.claim_pull_of": "outbox_due_of",
        "outbox.next_attempt": "outbox_due",
    }
    assert not [name for name, plan in plans.items() if "USE TEMP B-TREE" in " ".join(plan)], "rows come sorted"


def test_no_statement_of_a_working_day_walks_over_a_table(
    store: SqliteStore, caught: set[str], fast_folder: Path
) -> None:
    """Caught as they run, on the writer's connection and the readers'."""
    caught.clear()  # what a start looks at is not what a day is made of
    store.write_sync(lambda tx: write_everything(store, tx))
    store.read_sync(look_at_everything)
    connection = driver.open_writer(fast_folder / "record.db")
    walked, seen = {}, 0
    for statement in caught:
        if not re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", statement) or "sqlite_master" in statement:
            continue
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        seen += 1
        if full_scans(plan) and not IN_ORDER.search(statement):
            walked[statement] = full_scans(plan)
    connection.close()

    assert walked == {}
    assert seen > 80, "the statements were caught"


def test_a_walk_over_a_table_would_be_noticed(store: SqliteStore, fast_folder: Path) -> None:
    """The test tests: a query without an index is found out."""
    connection = driver.open_reader(fast_folder / "record.db")
    plans = {
        query: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
        for query in ("SELECT * FROM outbox WHERE last_error = 'x'", "SELECT * FROM jobs WHERE metadata = 'x'")
    }
    connection.close()

    assert all(full_scans(plan) for plan in plans.values())
