"""The numbered steps from an empty file to the present schema. A step that has been released never changes."""

from sqlite_utils import Database, Migrations

from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.gaps import GAPS
from receiver.store.sqlite.schema import DELIVERIES, JOBS, OUTBOX, RECORDED, TALLIES
from receiver.store.sqlite.schema_views import PLAINER_VIEWS, VIEWS

__all__ = ["Database", "migrations", "statements"]

migrations = Migrations("holdfast")


@migrations()
def m0001_the_record(db: Database) -> None:
    """The first schema."""
    for script in (DELIVERIES, JOBS, OUTBOX, TALLIES, VIEWS):
        for statement in statements(script):
            db.conn.execute(statement)


@migrations()
def m0002_plainer_views(db: Database) -> None:
    """Every row of every view can be read by everybody; rescued means that no webhook came."""
    for statement in statements(PLAINER_VIEWS):
        db.conn.execute(statement)


@migrations()
def m0003_missed_deliveries(db: Database) -> None:
    """What a provider's own log tells of and what never arrived."""
    for statement in statements(GAPS):
        db.conn.execute(statement)


@migrations()
def m0004_due_by_source(db: Database) -> None:
    """The backlog of an application that is down is not walked over for another's messages."""
    db.conn.execute("CREATE INDEX outbox_due_of ON outbox (source, next_attempt_at, seq) WHERE state = 'pending'")


@migrations()
def m0005_counted_as_they_come(db: Database) -> None:
    """Deliveries are counted by the statement that puts them in."""
    for statement in statements(RECORDED):
        db.conn.execute(statement)


def statements(script: str) -> list[str]:
    """Split a script; `executescript` would commit the transaction that a migration runs in."""
    found, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current.strip())
            current = ""
    return found
