"""One transaction of the writing connection, in the words of `base.Tx`; and the small facts in `meta`."""

from collections.abc import Sequence
from typing import Any

from receiver import clock
from receiver.store.base import Retention
from receiver.store.sqlite.deliveries import SqliteDeliveries
from receiver.store.sqlite.driver import Connection, Row
from receiver.store.sqlite.gathering import Gathering, Runs
from receiver.store.sqlite.jobs import SqliteJobs, forget
from receiver.store.sqlite.outbox import SqliteOutbox
from receiver.store.sqlite.salvage import insert
from receiver.store.sqlite.sources import SqliteSources

PRUNED = "deliveries.pruned"
"""Deliveries that are gone and were meant to go, or were reported as missing."""
THERE = (
    "SELECT (SELECT coalesce(sum(n), 0) FROM tallies WHERE kind = 'deliveries')"
    " + (SELECT count(*) FROM deliveries WHERE verdict = 'new')"
)


class SqliteMeta:
    """Keeps the promises of `base.Meta`."""

    def __init__(self, runs: Runs) -> None:
        self._c = runs

    def get(self, key: str) -> str | None:
        row = self._c.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def put(self, key: str, value: str) -> None:
        self._c.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def removed(self) -> int:
        """How many deliveries somebody else than retention has removed since this was last asked. Rows are counted by
        the tallies and the index of unread ones, never one by one."""
        recorded, pruned = self.get("deliveries.recorded"), self.get(PRUNED)
        there = int(self._c.execute(THERE).fetchone()[0])
        gone = int(recorded or there) - int(pruned or 0) - there
        if gone or pruned is None:
            self.put(PRUNED, str(int(pruned or 0) + gone))
        return max(0, gone) if pruned is not None else 0

    def restore(self, table: str, rows: Sequence[dict[str, Any]]) -> int:
        new = insert(self._c, table, list(rows))
        if table == "deliveries" and new:
            missing = int(self.get("deliveries.missing") or 0)
            self.put("deliveries.missing", str(max(0, missing - new)))
        return new

    def prune(self, retention: Retention, limit: int) -> dict[str, int]:
        deliveries, goes_on = self._prune_deliveries(retention, limit)
        gone = {
            "deliveries": deliveries,
            "event_keys": self._prune_keys(retention, limit),
            "outbox": self._prune_outbox(retention, limit),
            "jobs": self._prune_jobs(retention, limit),
            "polls": self._prune_polls(retention, limit),
            "delivery_gaps": self._prune_gaps(retention, limit),
        }
        return {table: rows for table, rows in gone.items() if rows or (table == "deliveries" and goes_on)}

    def _prune_deliveries(self, retention: Retention, limit: int) -> tuple[int, bool]:
        """(rows gone, whether there are more to look at)."""
        if retention.deliveries_before is None:
            return 0, False
        # Ids are made from the time of arrival and never run behind it, so the id bounds the search; the cursor keeps
        # a step from walking again over rows that must stay (unread, held, of a pending job).
        newest = int(retention.deliveries_before * 1000) << 20
        start = int(self.get("prune.deliveries") or 0)
        rows = self._c.execute(
            "SELECT id, verdict, source, job_id, received_at FROM deliveries WHERE id > ? AND id < ?"
            " ORDER BY id LIMIT ?",
            (start, newest, limit),
        ).fetchall()
        if not rows:
            if start:
                self.put("prune.deliveries", "0")
            return 0, False
        before = clock.text(retention.deliveries_before)
        doomed = [row[0] for row in rows if row[4] < before and not self._protected(row, retention)]
        self._c.executemany("DELETE FROM deliveries WHERE id = ?", [(delivery_id,) for delivery_id in doomed])
        if doomed:
            self.put(PRUNED, str(int(self.get(PRUNED) or 0) + len(doomed)))
        goes_on = len(rows) == limit
        self.put("prune.deliveries", str(rows[-1][0]) if goes_on else "0")
        return len(doomed), goes_on

    def _protected(self, row: Row, retention: Retention) -> bool:
        _, verdict, source, job_id, received_at = row
        if verdict == "new":
            return True
        if verdict == "held" and received_at >= clock.text(retention.held_before.get(source, clock.LAST_INSTANT)):
            return True
        if job_id is None:
            return False
        states = self._c.execute(
            "SELECT state FROM jobs WHERE source = ? AND job_id = ? UNION ALL"
            " SELECT state FROM jobs WHERE source = ? AND alias = ?",
            (source, job_id, source, job_id),
        )
        return any(state == "pending" for (state,) in states)

    def _prune_keys(self, retention: Retention, limit: int) -> int:
        return sum(
            self._c.execute(
                "DELETE FROM event_keys WHERE (source, event_key) IN (SELECT source, event_key FROM event_keys"
                " INDEXED BY event_keys_age WHERE source = ? AND at < ? LIMIT ?)",
                (source, clock.text(before), limit),
            ).rowcount
            for source, before in retention.keys_before.items()
        )

    def _prune_outbox(self, retention: Retention, limit: int) -> int:
        if retention.messages_before is None:
            return 0
        before = clock.text(retention.messages_before)
        return sum(
            self._c.execute(
                "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox INDEXED BY outbox_done WHERE state = ?"
                " AND created_at < ? AND coalesce(last_attempt_at, created_at) < ? LIMIT ?)",
                (state, before, before, limit),
            ).rowcount
            for state in ("delivered", "dead")
        )

    def _prune_jobs(self, retention: Retention, limit: int) -> int:
        if retention.jobs_before is None:
            return 0
        keys = self._c.execute(
            "SELECT source, job_id FROM jobs WHERE settled_at < ? AND NOT EXISTS (SELECT 1 FROM outbox"
            " WHERE outbox.state = 'pending' AND outbox.source = jobs.source AND outbox.job_id = jobs.job_id) LIMIT ?",
            (clock.text(retention.jobs_before), limit),
        ).fetchall()
        return forget(self._c, keys)

    def _prune_polls(self, retention: Retention, limit: int) -> int:
        if retention.polls_before is None:
            return 0
        gone = self._c.execute(
            "DELETE FROM polls WHERE id IN (SELECT id FROM polls ORDER BY id LIMIT ?) AND at < ?",
            (limit, clock.text(retention.polls_before)),
        ).rowcount
        for table in ("refusals", "acknowledgements"):
            self._c.execute(
                f"DELETE FROM {table} WHERE bucket_start < ?",
                (clock.text(retention.polls_before),),
            )
        return gone

    def _prune_gaps(self, retention: Retention, limit: int) -> int:
        if retention.deliveries_before is None:
            return 0
        return SqliteSources(self._c).forget_gaps(retention.deliveries_before, limit)


class SqliteTx:
    """The parts of one transaction. It lives on the writer's thread and ends with the transaction."""

    def __init__(self, connection: Connection) -> None:
        gathering = Gathering(connection)
        self.flush = gathering.flush
        """Write what still waits: the last thing before the commit."""
        self.deliveries = SqliteDeliveries(gathering)
        self.jobs = SqliteJobs(gathering)
        self.outbox = SqliteOutbox(gathering)
        self.sources = SqliteSources(gathering)
        self.meta = SqliteMeta(gathering)
