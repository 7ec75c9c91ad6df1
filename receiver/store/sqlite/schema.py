"""The tables and the way to them. The schema is a public interface (CONTRACT 9): columns are added, never changed.

The steps are in `steps.py`. sqlite-utils keeps the record of those applied; it computes what is pending outside any
lock, so `migrate` wraps it in BEGIN IMMEDIATE (two processes starting together would otherwise race).
"""

from receiver.errors import StoreUnavailable
from receiver.store.sqlite.driver import FOREIGN, Connection, is_foreign
from receiver.store.sqlite.schema_views import NOW

DELIVERIES = """
CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY,
  source TEXT NOT NULL,
  received_at TEXT NOT NULL,
  remote TEXT NOT NULL DEFAULT '',
  headers TEXT NOT NULL DEFAULT '[]',
  body BLOB,
  body_sha256 TEXT NOT NULL,
  event TEXT,
  event_key TEXT,
  job_id TEXT,
  verdict TEXT NOT NULL DEFAULT 'new' CHECK (verdict IN ('new', 'accepted', 'duplicate', 'held', 'quarantined')),
  reason TEXT,
  CHECK (verdict <> 'quarantined' OR reason IS NOT NULL)
) STRICT;
CREATE INDEX deliveries_new ON deliveries (id) WHERE verdict = 'new';
CREATE INDEX deliveries_held ON deliveries (source, job_id) WHERE verdict = 'held';
CREATE INDEX deliveries_held_since ON deliveries (source, id) WHERE verdict = 'held';
CREATE INDEX deliveries_quarantined ON deliveries (id) WHERE verdict = 'quarantined';
CREATE INDEX deliveries_job ON deliveries (source, job_id, id) WHERE job_id IS NOT NULL;
CREATE TABLE event_keys (
  source TEXT NOT NULL,
  event_key TEXT NOT NULL,
  delivery_id INTEGER NOT NULL,
  at TEXT NOT NULL,
  PRIMARY KEY (source, event_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_keys_age ON event_keys (source, at);
"""

JOBS = f"""
CREATE TABLE jobs (
  source TEXT NOT NULL,
  job_id TEXT NOT NULL CHECK (job_id <> ''),
  alias TEXT,
  modality TEXT,
  state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'completed', 'failed')),
  reason TEXT CHECK (reason IN ('provider', 'cancelled', 'stale', 'not_found', 'unreachable')),
  decided_by TEXT CHECK (decided_by IN ('webhook', 'poll', 'deadline')),
  provider_status TEXT,
  submitted_at TEXT,
  registered_at TEXT NOT NULL DEFAULT ({NOW}),
  next_poll_at TEXT,
  deadline_at TEXT,
  settled_at TEXT,
  polls INTEGER NOT NULL DEFAULT 0,
  last_error TEXT,
  result TEXT,
  refs TEXT CHECK (refs IS NULL OR json_valid(refs)),
  metadata TEXT CHECK (metadata IS NULL OR json_valid(metadata)),
  poll_url TEXT,
  evidence INTEGER NOT NULL DEFAULT 0,
  revision INTEGER NOT NULL DEFAULT 0,
  registered_by TEXT NOT NULL DEFAULT 'application'
    CHECK (registered_by IN ('application', 'operator', 'delivery', 'adopted', 'asked')),
  asked_at TEXT,
  not_before TEXT,
  wait_s REAL,
  misses INTEGER NOT NULL DEFAULT 0,
  first_miss_at TEXT,
  late_polls INTEGER NOT NULL DEFAULT 0,
  last_message_id TEXT,
  remaining_s REAL,
  scheduled INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (source, job_id),
  CHECK ((state = 'pending') = (settled_at IS NULL)),
  CHECK ((state = 'pending') = (decided_by IS NULL)),
  CHECK ((state = 'failed') = (reason IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX jobs_alias ON jobs (source, alias) WHERE alias IS NOT NULL;
CREATE INDEX jobs_due ON jobs (source, next_poll_at) WHERE next_poll_at IS NOT NULL;
CREATE INDEX jobs_unscheduled ON jobs (source) WHERE scheduled = 0;
CREATE INDEX jobs_deadline ON jobs (source, deadline_at) WHERE state = 'pending';
CREATE INDEX jobs_open ON jobs (source, registered_at) WHERE state = 'pending';
CREATE INDEX jobs_state ON jobs (source, state, reason);
CREATE INDEX jobs_settled ON jobs (settled_at) WHERE settled_at IS NOT NULL;
CREATE TABLE job_history (
  id INTEGER PRIMARY KEY,
  source TEXT NOT NULL,
  job_id TEXT NOT NULL,
  at TEXT NOT NULL,
  from_state TEXT,
  to_state TEXT NOT NULL,
  reason TEXT,
  by TEXT NOT NULL,
  delivery_id INTEGER,
  poll_id INTEGER,
  note TEXT
) STRICT;
CREATE INDEX job_history_job ON job_history (source, job_id, id);
CREATE TABLE polls (
  id INTEGER PRIMARY KEY,
  source TEXT NOT NULL,
  job_id TEXT,
  at TEXT NOT NULL,
  request TEXT NOT NULL,
  http_status INTEGER,
  outcome TEXT NOT NULL,
  latency_ms INTEGER,
  error TEXT
) STRICT;
CREATE INDEX polls_job ON polls (source, job_id, id);
"""

OUTBOX = """
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  source TEXT NOT NULL,
  job_id TEXT,
  type TEXT NOT NULL,
  payload TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
  supersedes TEXT,
  created_at TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  next_attempt_at TEXT,
  delivered_at TEXT,
  last_error TEXT,
  leased_until TEXT,
  last_attempt_at TEXT,
  CHECK ((state = 'delivered') = (delivered_at IS NOT NULL))
) STRICT;
CREATE INDEX outbox_due ON outbox (next_attempt_at, seq) WHERE state = 'pending';
CREATE INDEX outbox_pending ON outbox (source, job_id, seq) WHERE state = 'pending';
CREATE INDEX outbox_job ON outbox (source, job_id, seq) WHERE job_id IS NOT NULL;
CREATE INDEX outbox_done ON outbox (state, created_at);
CREATE TABLE source_state (
  name TEXT PRIMARY KEY,
  paused INTEGER NOT NULL DEFAULT 0,
  fail_streak INTEGER NOT NULL DEFAULT 0,
  open_until TEXT,
  not_before TEXT,
  budget REAL,
  budget_at TEXT,
  asked_at TEXT,
  answered_at TEXT,
  last_outcome TEXT,
  last_error TEXT,
  sweep_wanted_at TEXT,
  adopted_at TEXT,
  extra TEXT NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;
CREATE TABLE tallies (
  kind TEXT NOT NULL,
  source TEXT NOT NULL,
  state TEXT NOT NULL,
  n INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (kind, source, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE refusals (
  bucket_start TEXT NOT NULL,
  source TEXT NOT NULL,
  reason TEXT NOT NULL,
  n INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (bucket_start, source, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE acknowledgements (
  bucket_start TEXT NOT NULL,
  source TEXT NOT NULL,
  le_s REAL NOT NULL,
  n INTEGER NOT NULL DEFAULT 0,
  total_s REAL NOT NULL DEFAULT 0,
  PRIMARY KEY (bucket_start, source, le_s)
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

# Counting a million rows takes longer than an operator waits, so the counts are kept as rows change hands. Deliveries
# are counted when their verdict is given (off the acknowledgement path); unread ones are few and counted by index.
TALLIES = """
CREATE TRIGGER jobs_tally_insert AFTER INSERT ON jobs BEGIN
  INSERT INTO tallies (kind, source, state, n) VALUES ('jobs', NEW.source, NEW.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER jobs_tally_update AFTER UPDATE OF state, decided_by ON jobs
  WHEN OLD.state IS NOT NEW.state OR OLD.decided_by IS NOT NEW.decided_by BEGIN
  UPDATE tallies SET n = n - 1 WHERE kind = 'jobs' AND source = OLD.source AND state = OLD.state;
  INSERT INTO tallies (kind, source, state, n) VALUES ('jobs', NEW.source, NEW.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
  INSERT INTO tallies (kind, source, state, n) SELECT 'settled', NEW.source, NEW.decided_by, 1
    WHERE OLD.state = 'pending' AND NEW.decided_by IS NOT NULL
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER jobs_tally_delete AFTER DELETE ON jobs BEGIN
  UPDATE tallies SET n = n - 1 WHERE kind = 'jobs' AND source = OLD.source AND state = OLD.state;
END;
CREATE TRIGGER outbox_tally_insert AFTER INSERT ON outbox BEGIN
  INSERT INTO tallies (kind, source, state, n) VALUES ('outbox', NEW.source, NEW.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER outbox_tally_update AFTER UPDATE OF state ON outbox WHEN OLD.state IS NOT NEW.state BEGIN
  UPDATE tallies SET n = n - 1 WHERE kind = 'outbox' AND source = OLD.source AND state = OLD.state;
  INSERT INTO tallies (kind, source, state, n) VALUES ('outbox', NEW.source, NEW.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER outbox_tally_delete AFTER DELETE ON outbox BEGIN
  UPDATE tallies SET n = n - 1 WHERE kind = 'outbox' AND source = OLD.source AND state = OLD.state;
END;
CREATE TRIGGER deliveries_tally_insert AFTER INSERT ON deliveries WHEN NEW.verdict <> 'new' BEGIN
  INSERT INTO tallies (kind, source, state, n) VALUES ('deliveries', NEW.source, NEW.verdict, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER deliveries_tally_update AFTER UPDATE OF verdict ON deliveries WHEN OLD.verdict IS NOT NEW.verdict BEGIN
  UPDATE tallies SET n = n - 1 WHERE kind = 'deliveries' AND source = OLD.source AND state = OLD.verdict
    AND OLD.verdict <> 'new';
  INSERT INTO tallies (kind, source, state, n) SELECT 'deliveries', NEW.source, NEW.verdict, 1
    WHERE NEW.verdict <> 'new'
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER deliveries_tally_delete AFTER DELETE ON deliveries WHEN OLD.verdict <> 'new' BEGIN
  UPDATE tallies SET n = n - 1 WHERE kind = 'deliveries' AND source = OLD.source AND state = OLD.verdict;
END;
CREATE TRIGGER polls_tally_insert AFTER INSERT ON polls BEGIN
  INSERT INTO tallies (kind, source, state, n) VALUES ('polls', NEW.source, NEW.outcome, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
"""

# How many deliveries were ever committed, kept by the statement that puts them in: it rolls back with rows that are
# lost, and nobody has to count. The high-water mark is held against it at the next start.
RECORDED = """
INSERT OR IGNORE INTO meta (key, value) SELECT 'deliveries.recorded', CAST(count(*) AS TEXT) FROM deliveries;
CREATE TRIGGER deliveries_recorded AFTER INSERT ON deliveries BEGIN
  UPDATE meta SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE key = 'deliveries.recorded';
END;
"""


KNOWN = [
    "m0001_the_record",
    "m0002_plainer_views",
    "m0003_missed_deliveries",
    "m0004_due_by_source",
    "m0005_counted_as_they_come",
]
"""The names of the steps in `steps.py`, oldest first: a start that finds them all applied need not load the library."""


def _is_up(connection: Connection) -> bool:
    """Whether exactly the steps known here have been applied."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
        return False
    rows = connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'holdfast'").fetchall()
    return {name for (name,) in rows} == set(KNOWN)


def newer_step(connection: Connection) -> str | None:
    """A step in the file that this version does not know; None when there is none."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
        return None
    rows = connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'holdfast' ORDER BY name")
    return next((name for (name,) in reversed(rows.fetchall()) if name not in KNOWN), None)


def migrate(connection: Connection) -> list[str]:
    """Bring the schema up, all pending steps in one transaction. Returns their names; raises StoreUnavailable when
    the file was written by a newer version."""
    if _is_up(connection):
        return []  # nobody is waited for: a start must not depend on whoever holds the database now
    from receiver.store.sqlite.steps import Database, migrations

    database = Database(connection, execute_plugins=False)
    connection.execute("BEGIN IMMEDIATE")
    try:
        newer = newer_step(connection)
        if newer is not None:
            raise StoreUnavailable(
                f"opening the database: it was written by a newer version of Holdfast (step {newer}); "
                "install that version, or point store.url at another file"
            )
        if is_foreign(connection):
            raise StoreUnavailable(f"opening the database: {FOREIGN}")
        pending = [migration.name for migration in migrations.pending(database)]
        if pending:
            migrations.apply(database)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return pending
