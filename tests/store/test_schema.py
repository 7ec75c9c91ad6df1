"""The tables are a public interface: what CONTRACT 9 lists is there, readable by anybody, and cannot be half true."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receiver import clock as clocks
from receiver.errors import StoreUnavailable
from receiver.states import Verdict
from receiver.store.base import Store, Tx
from receiver.store.sqlite import driver, schema, steps
from receiver.store.sqlite.driver import Connection
from tests.store.rows import SOURCE, add_jobs, add_messages, delivery, ended, failed, job, message
from tests.support import START, run_python

CONTRACT = {
    "deliveries": "id, source, received_at, remote, headers, body, body_sha256, event, event_key, job_id, verdict,"
    " reason",
    "jobs": "source, job_id, alias, modality, state, reason, decided_by, provider_status, submitted_at, registered_at,"
    " next_poll_at, deadline_at, settled_at, polls, last_error, result, refs, metadata",
    "job_history": "id, source, job_id, at, from_state, to_state, reason, by, delivery_id, poll_id, note",
    "polls": "id, source, job_id, at, request, http_status, outcome, latency_ms, error",
    "outbox": "id, source, job_id, type, payload, state, supersedes, created_at, attempts, next_attempt_at,"
    " delivered_at, last_error",
}
VIEWS = (
    "overdue_jobs", "rescued_jobs", "held_deliveries", "quarantined_deliveries", "dead_messages", "hourly_stats",
    "source_health",
)  # fmt: skip


@pytest.fixture
def connection(store: Store, fast_folder: Path) -> Iterator[Connection]:
    """Another program's connection to the file in use."""
    opened = driver.sqlite3.connect(fast_folder / "record.db", isolation_level=None, timeout=5)
    yield opened
    opened.close()


@pytest.mark.parametrize("table", CONTRACT)
def test_every_column_of_the_contract_is_there(connection: Connection, table: str) -> None:
    """By name; more may be added."""
    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}

    assert set(CONTRACT[table].split(", ")) <= columns


def test_every_table_is_strict(connection: Connection) -> None:
    """A text in a number's place is refused by the database itself."""
    tables = connection.execute(
        "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE"
        " 'sqlite_%' AND name NOT LIKE '_sqlite_%'"
    ).fetchall()

    assert {name for name, strict in tables if not strict} == set()
    assert set(CONTRACT) <= {name for name, _ in tables}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_the_contract_can_be_read(store: Store, connection: Connection, view: str) -> None:
    """Empty or not, by anybody, with bodies of any bytes."""
    bad = delivery(store, body=b"\xff\x00", verdict=Verdict.QUARANTINED, reason="bad UTF-8")
    store.write_sync(lambda tx: tx.deliveries.add([bad, delivery(store, verdict=Verdict.HELD)]))
    rows = connection.execute(f"SELECT * FROM {view}").fetchall()

    assert len(rows) == {"held_deliveries": 1, "quarantined_deliveries": 1, "hourly_stats": 2, "source_health": 1}.get(
        view, 0
    )


def test_the_views_say_what_their_names_say(store: Store, connection: Connection) -> None:
    """One row of each kind finds its way into its view and no other."""
    far = clocks.instant("2000-01-01T00:00:00.000Z")
    add_jobs(store, job("overdue", deadline_at=far), job("open", deadline_at=clocks.LAST_INSTANT),
             ended(job("rescued")), failed(job("stale")))  # fmt: skip
    add_messages(store, message("dead"), message("alive", "j2"))

    def work(tx: Tx) -> None:
        held = delivery(store, verdict=Verdict.HELD, job_id="j9")
        tx.deliveries.add([held, delivery(store, verdict=Verdict.QUARANTINED, reason="why")])
        tx.outbox.bury("dead", START, "410")
        tx.sources.count_refusals([(START, SOURCE, "path", 3)])

    store.write_sync(work)

    def column(view: str, name: str) -> list[Any]:
        return [row[0] for row in connection.execute(f"SELECT {name} FROM {view} ORDER BY 1")]

    assert column("overdue_jobs", "job_id") == ["overdue"]
    assert column("rescued_jobs", "job_id") == ["rescued"]
    assert column("dead_messages", "id") == ["dead"]
    assert column("held_deliveries", "job_id") == ["j9"]
    assert column("quarantined_deliveries", "reason") == ["why"]
    assert column("hourly_stats", "verdict") == ["held", "quarantined", "refused"]
    assert column("source_health", "pending") == [2]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO jobs (source, job_id, state) VALUES ('s', 'a', 'completed')",
        "INSERT INTO jobs (source, job_id, state) VALUES ('s', 'a', 'done')",
        "INSERT INTO jobs (source, job_id) VALUES ('s', '')",
        "INSERT INTO jobs (source, job_id, refs) VALUES ('s', 'a', 'not json')",
        "INSERT INTO jobs (source, job_id, polls) VALUES ('s', 'a', 'many')",
        "INSERT INTO jobs (source, job_id, registered_by) VALUES ('s', 'a', 'me')",
        "INSERT INTO outbox (id, source, type, payload, created_at, state) VALUES ('a', '', 't', '', '', 'delivered')",
        "INSERT INTO outbox (id, source, type, payload, created_at, state) VALUES ('a', 's', 't', '{}', 'x', 'sent')",
        "INSERT INTO deliveries (id, source, received_at, body_sha256, verdict) VALUES (1, 's', '', '', 'quarantined')",
        "INSERT INTO deliveries (id, source, received_at, body_sha256, verdict) VALUES (1, 's', 'x', 'x', 'seen')",
    ],
)
def test_a_row_that_cannot_be_is_refused(connection: Connection, statement: str) -> None:
    """Whoever writes: the table itself knows what belongs together."""
    with pytest.raises(driver.sqlite3.IntegrityError):
        connection.execute(statement)


def test_three_columns_register_a_job(connection: Connection) -> None:
    """`INSERT INTO jobs (source, job_id, modality)`: the defaults fill the rest (CONTRACT 6)."""
    connection.execute("INSERT INTO jobs (source, job_id, modality) VALUES ('moderation', 'j1', 'video')")
    state, registered_at = connection.execute("SELECT state, registered_at FROM jobs").fetchone()

    assert state == "pending"
    assert clocks.is_text(registered_at)


async def test_a_reader_disturbs_nobody(store: Store, connection: Connection) -> None:
    """Somebody looks at the file for as long as they like; deliveries are taken meanwhile."""
    connection.execute("BEGIN")
    before = connection.execute("SELECT count(*) FROM deliveries").fetchone()
    for _ in range(20):
        await store.record(delivery(store))

    assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == before
    connection.execute("COMMIT")
    assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == (20,)


def test_the_standard_library_reads_the_file(store: Store, fast_folder: Path) -> None:
    """Also with the SQLite that comes with Python, in a process of its own."""
    add_jobs(store, job("j1"))
    look = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT job_id FROM jobs').fetchall())"
    done = run_python("-c", look, str(fast_folder / "record.db"))

    assert (done.stdout.strip(), done.stderr) == ("[('j1',)]", "")


def test_migrating_again_changes_nothing(fast_folder: Path) -> None:
    """Steps are applied once; the catalogue is the same after a second start."""
    path = fast_folder / "record.db"
    catalogues, applied = [], []
    for _ in range(2):
        connection = driver.open_writer(path)
        applied.append(schema.migrate(connection))
        catalogues.append(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall())
        connection.close()

    assert applied == [schema.KNOWN, []]
    assert [each.name for each in steps.migrations.pending(steps.Database(memory=True))] == schema.KNOWN
    assert catalogues[0] == catalogues[1]


def test_a_step_that_fails_leaves_nothing(fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pending steps are one transaction: a start that dies half way finds what it began with."""
    connection = driver.open_writer(fast_folder / "record.db")

    def broken(database: object) -> None:
        connection.execute("CREATE TABLE half (a)")
        raise RuntimeError("the power goes")

    with monkeypatch.context() as patch:
        patch.setattr(steps.migrations, "apply", broken)
        with pytest.raises(RuntimeError, match="the power goes"):
            schema.migrate(connection)
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []
    assert schema.migrate(connection) == schema.KNOWN
    connection.close()


@pytest.mark.parametrize(("make", "says"), [("newer", "newer version"), ("foreign", "another program")])
def test_a_file_that_is_not_ours_is_left_alone(fast_folder: Path, make: str, says: str) -> None:
    """One sentence says what it is and what to do; not a byte of it changes."""
    path = fast_folder / "record.db"
    connection = driver.open_writer(path)
    if make == "newer":
        schema.migrate(connection)
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('holdfast', 'm9999_later', 'x')"
        )
    else:
        connection.execute("CREATE TABLE theirs (a)")
    before = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()

    with pytest.raises(StoreUnavailable, match=says):
        schema.migrate(connection)
    assert connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall() == before
    connection.close()


def test_secrets_have_no_column(connection: Connection) -> None:
    """No table has a place for a key, a token or a secret."""
    names = {
        row[0]
        for row in connection.execute(
            "SELECT p.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS p WHERE m.type = 'table'"
        )
    }

    assert [name for name in names if re.search(r"secret|token|password|api_key|authorization", name)] == []


def test_a_verdict_changes_the_row_and_not_the_bytes(store: Store, connection: Connection) -> None:
    """What came in is never changed; the digest is that of the body."""
    one = delivery(store, body=b'{"a": 1}')
    store.write_sync(lambda tx: tx.deliveries.add([one]))
    store.write_sync(lambda tx: tx.deliveries.decide(replace(one, verdict=Verdict.ACCEPTED, body=b"no"), Verdict.NEW))

    row = connection.execute("SELECT body, body_sha256, received_at, verdict FROM deliveries").fetchone()
    assert row == (b'{"a": 1}', one.body_sha256, clocks.text(START), "accepted")
