"""Read-only questions, over one snapshot (`store.views.View`)."""

from collections.abc import Sequence
from typing import Any

from receiver import clock, jsontext
from receiver.records import Delivery, DeliveryId
from receiver.store.sqlite import deliveries, jobs, outbox
from receiver.store.sqlite.driver import Connection
from receiver.store.sqlite.gaps import GapLooks
from receiver.store.sqlite.jobrows import FIELDS, instant_or_none, json_or_none
from receiver.store.sqlite.pages import newest_jobs
from receiver.store.sqlite.statistics import ack_latency_rows, first_id, stats_rows

Row = dict[str, Any]

_DELIVERY = "id, source, received_at, remote, headers, body_sha256, event, event_key, job_id, verdict, reason"
_POLL = "id, source, job_id, at, request, http_status, outcome, latency_ms, error"
_HISTORY = "id, source, job_id, at, from_state, to_state, reason, by, delivery_id, poll_id, note"
_MESSAGE = (
    "seq, id, source, job_id, type, payload, state, supersedes, created_at, attempts, next_attempt_at, delivered_at,"
    " last_error, leased_until, last_attempt_at"
)
_MOST_PARTS = 500
"""How many rows of each kind one job's story shows; a job with more is shown by its newest."""
_HIDDEN = ("evidence", "wait_s", "remaining_s")
_DAY_S = 86_400.0

DELIVERIES = (
    f"SELECT {_DELIVERY} FROM deliveries WHERE id < :before AND id >= :from_id AND id < :to_id"
    " AND received_at >= :start AND received_at < :end AND (:source IS NULL OR source = :source)"
    " AND (:verdict IS NULL OR verdict = :verdict) ORDER BY id DESC LIMIT :limit OFFSET :skip"
)
_DELIVERIES_BY = {
    "held": DELIVERIES.replace("(:verdict IS NULL OR verdict = :verdict)", "verdict = 'held'"),
    "quarantined": DELIVERIES.replace("(:verdict IS NULL OR verdict = :verdict)", "verdict = 'quarantined'"),
    "new": DELIVERIES.replace("(:verdict IS NULL OR verdict = :verdict)", "verdict = 'new'"),
}
MESSAGES = f"SELECT {_MESSAGE} FROM outbox WHERE seq < :before"


def delivery_row(row: Sequence[Any]) -> Row:
    """A delivery as JSON shows it: the id is a string (it does not fit a JavaScript number)."""
    shown = dict(zip(_DELIVERY.split(", "), row, strict=True))
    shown["id"] = str(shown["id"])
    shown["headers"] = [list(pair) for pair in deliveries.headers_of(shown["headers"])]
    return shown


def job_row(row: Sequence[Any]) -> Row:
    """A job as JSON shows it."""
    shown = dict(zip(FIELDS, row, strict=True))
    for field in ("result", "refs", "metadata"):
        shown[field] = json_or_none(shown[field])
    for field in _HIDDEN:
        del shown[field]
    return shown


def message_row(row: Sequence[Any]) -> Row:
    """A message as JSON shows it."""
    shown = dict(zip(_MESSAGE.split(", "), row, strict=True))
    shown["payload"] = json_or_none(shown["payload"])
    del shown["seq"]
    return shown


class SqliteView(GapLooks):
    """Keeps the promises of `views.View`."""

    def __init__(self, connection: Connection) -> None:
        self._c = connection

    def _one(self, statement: str, *values: Any) -> Any:
        row = self._c.execute(statement, values).fetchone()
        return row[0] if row else None

    def jobs(
        self,
        *,
        source: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        overdue_at: float | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[list[Row], int | None]:
        filters = {"source": source, "state": state, "reason": reason}
        rows = newest_jobs(self._c, filters, overdue_at, before if before is not None else 1 << 62, limit + 1)
        page = rows[:limit]
        return [job_row(row[1:]) for row in page], page[-1][0] if len(rows) > limit else None

    def job(self, source: str, any_id: str) -> Row | None:
        row = (
            self._c.execute(jobs.BY_ID, (source, any_id)).fetchone()
            or self._c.execute(jobs.BY_ALIAS, (source, any_id)).fetchone()
        )
        if row is None:
            return None
        shown = job_row(row)
        key = (source, shown["job_id"])
        ids = [shown["job_id"]] + ([shown["alias"]] if shown["alias"] else [])
        told = [
            delivery_row(found)
            for one in ids
            for found in self._c.execute(
                f"SELECT {_DELIVERY} FROM deliveries WHERE source = ? AND job_id = ? ORDER BY id DESC LIMIT ?",
                (source, one, _MOST_PARTS),
            )
        ]
        shown["deliveries"] = sorted(told, key=lambda each: int(each["id"]))
        shown["history"] = self._parts(_HISTORY, "job_history", key)
        for entry in shown["history"]:
            entry["delivery_id"] = str(entry["delivery_id"]) if entry["delivery_id"] is not None else None
        shown["polls_made"] = shown["polls"]
        shown["polls"] = self._parts(_POLL, "polls", key)
        rows = self._c.execute(
            f"SELECT {_MESSAGE} FROM outbox WHERE source = ? AND job_id = ? ORDER BY seq LIMIT ?",
            (*key, _MOST_PARTS),
        )
        shown["messages"] = [message_row(found) for found in rows]
        return shown

    def _parts(self, columns: str, table: str, key: tuple[str, str]) -> list[Row]:
        rows = self._c.execute(
            f"SELECT {columns} FROM {table} WHERE source = ? AND job_id = ? ORDER BY id DESC LIMIT ?",
            (*key, _MOST_PARTS),
        ).fetchall()
        return [dict(zip(columns.split(", "), row, strict=True)) for row in reversed(rows)]

    def job_states(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        rows = self._c.execute(
            "SELECT wanted.value ->> 0, wanted.value ->> 1, jobs.state FROM json_each(?) AS wanted CROSS JOIN jobs"
            " ON jobs.source = wanted.value ->> 0 AND jobs.job_id = wanted.value ->> 1",
            (jsontext.dump([list(key) for key in keys]),),
        )
        return {(row[0], row[1]): row[2] for row in rows}

    def deliveries(
        self,
        *,
        source: str | None = None,
        verdict: str | None = None,
        start: float | None = None,
        end: float | None = None,
        before: int | None = None,
        page: int = 1,
        limit: int = 50,
    ) -> tuple[list[Row], int | None]:
        # An id is never older than its row's time (and at most as far ahead of it as the clock ever stepped back), so
        # the window bounds the ids that are looked at; a day is left for steps.
        last = clock.LAST_INSTANT
        rows = self._c.execute(
            _DELIVERIES_BY.get(verdict or "", DELIVERIES),
            {
                "before": before if before is not None else (1 << 63) - 1,
                "from_id": first_id(start or 0.0),
                "to_id": (1 << 63) - 1 if end is None else min((1 << 63) - 1, int((end + _DAY_S) * 1000) << 20),
                "start": clock.text(start or 0.0),
                "end": clock.text(last if end is None else end),
                "source": source,
                "verdict": verdict,
                "limit": limit + 1,
                "skip": (page - 1) * limit,
            },
        ).fetchall()
        shown = [delivery_row(row) for row in rows[:limit]]
        return shown, rows[limit - 1][0] if len(rows) > limit else None

    def delivery(self, delivery_id: DeliveryId) -> Row | None:
        row = self._c.execute(
            f"SELECT {_DELIVERY}, body FROM deliveries WHERE id = ?",
            (delivery_id,),
        ).fetchone()
        return None if row is None else delivery_row(row[:-1]) | {"body": row[-1]}

    def messages(
        self,
        *,
        source: str | None = None,
        state: str | None = None,
        job: tuple[str, str] | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[list[Row], int | None]:
        statement = MESSAGES
        own_id = self._own_id(*job) if job else None
        given: dict[str, Any] = {"source": job[0] if job else source, "state": state, "job_id": own_id}
        for name, value in given.items():
            if value is not None:
                statement += f" AND {name} = :{name}"
        rows = self._c.execute(
            statement + " ORDER BY seq DESC LIMIT :limit",
            given | {"before": before if before is not None else 1 << 62, "limit": limit + 1},
        ).fetchall()
        page = rows[:limit]
        return [message_row(row) for row in page], page[-1][0] if len(rows) > limit else None

    def _own_id(self, source: str, any_id: str) -> str:
        """The id that a job has on record, given either; messages are kept under that one."""
        own = self._one("SELECT job_id FROM jobs WHERE source = ? AND alias = ?", source, any_id)
        known = self._one("SELECT job_id FROM jobs WHERE source = ? AND job_id = ?", source, any_id)
        return str(known or own or any_id)

    def message(self, message_id: str) -> Row | None:
        row = self._c.execute(f"SELECT {_MESSAGE} FROM outbox WHERE id = ?", (message_id,)).fetchone()
        return message_row(row) if row else None

    def stream(self, after_seq: int, limit: int, *, undelivered_only: bool = False) -> list[tuple[int, str, str]]:
        only = " AND state = 'pending'" if undelivered_only else ""
        return self._c.execute(
            f"SELECT seq, id, payload FROM outbox WHERE seq > ?{only} ORDER BY seq LIMIT ?",
            (after_seq, limit),
        ).fetchall()

    def message_seq(self, message_id: str) -> int | None:
        seq = self._one("SELECT seq FROM outbox WHERE id = ?", message_id)
        return None if seq is None else int(seq)

    def last_seq(self) -> int:
        return int(self._one("SELECT max(seq) FROM outbox") or 0)

    def stats(self, bucket_s: int, start: float, end: float, source: str | None = None) -> list[Row]:
        return stats_rows(self._c, bucket_s, start, end, source)

    def ack_latency(self, bucket_s: int, start: float, end: float, source: str | None = None) -> list[Row]:
        return ack_latency_rows(self._c, bucket_s, start, end, source)

    def polls(self, limit: int) -> list[Row]:
        rows = self._c.execute(f"SELECT {_POLL} FROM polls ORDER BY id DESC LIMIT ?", (limit,))
        return [dict(zip(_POLL.split(", "), row, strict=True)) for row in rows]

    def refused(self) -> dict[tuple[str, str], int]:
        rows = self._c.execute("SELECT source, reason, sum(n) FROM refusals GROUP BY source, reason")
        return {(row[0], row[1]): row[2] for row in rows}

    def ack_histogram(self) -> list[tuple[str, float, int, float]]:
        return self._c.execute(
            "SELECT source, le_s, sum(n), sum(total_s) FROM acknowledgements GROUP BY source, le_s ORDER BY 1, 2"
        ).fetchall()

    def tallies(self) -> dict[tuple[str, str, str], int]:
        return {
            (row[0], row[1], row[2]): row[3] for row in self._c.execute("SELECT kind, source, state, n FROM tallies")
        }

    def next_unread(self, limit: int, max_bytes: int) -> list[Delivery]:
        return deliveries.unread(self._c, limit, max_bytes)

    def unread(self) -> int:
        return int(self._one("SELECT count(*) FROM deliveries WHERE verdict = 'new'"))

    def held(self) -> dict[str, int]:
        rows = self._c.execute("SELECT source, count(*) FROM deliveries WHERE verdict = 'held' GROUP BY source")
        return dict(rows.fetchall())

    def _known_sources(self) -> list[str]:
        return [row[0] for row in self._c.execute("SELECT DISTINCT source FROM tallies WHERE kind = 'jobs'")]

    def oldest_pending(self) -> dict[str, float]:
        oldest = {
            source: instant_or_none(
                self._one("SELECT min(registered_at) FROM jobs WHERE source = ? AND state = 'pending'", source)
            )
            for source in self._known_sources()
        }
        return {source: at for source, at in oldest.items() if at is not None}

    def overdue(self, now: float) -> dict[str, int]:
        return {
            source: int(
                self._one(
                    "SELECT count(*) FROM jobs WHERE source = ? AND state = 'pending' AND deadline_at < ?",
                    source,
                    clock.text(now),
                )
            )
            for source in self._known_sources()
        }

    def oldest_message_at(self) -> float | None:
        return instant_or_none(
            self._one("SELECT created_at FROM outbox WHERE state = 'pending' ORDER BY created_at LIMIT 1")
        )

    def oldest_unread_at(self) -> float | None:
        return instant_or_none(
            self._one("SELECT received_at FROM deliveries WHERE verdict = 'new' ORDER BY id LIMIT 1")
        )

    def sources(self) -> dict[str, Row]:
        rows = self._c.execute("SELECT * FROM source_state")
        names = [column[0] for column in rows.description]
        return {row[0]: dict(zip(names, row, strict=True)) for row in rows}

    def settled_since(self, source: str, since: float) -> dict[str, int]:
        rows = self._c.execute(
            "SELECT CASE WHEN decided_by = 'poll' AND EXISTS (SELECT 1 FROM deliveries AS heard"
            " WHERE heard.source = jobs.source AND heard.job_id IN (jobs.job_id, jobs.alias)"
            " AND heard.verdict = 'accepted' AND heard.received_at <= jobs.settled_at) THEN 'webhook' ELSE decided_by"
            " END, count(*) FROM jobs INDEXED BY jobs_settled WHERE settled_at >= ? AND source = ? GROUP BY 1",
            (clock.text(since), source),
        )
        return dict(rows.fetchall())

    def meta(self, key: str) -> str | None:
        value = self._one("SELECT value FROM meta WHERE key = ?", key)
        return None if value is None else str(value)

    def plans(self) -> dict[str, list[str]]:
        hot = {
            "deliveries.unread": (deliveries.UNREAD, (1,)),
            "deliveries.held_before": (deliveries.HELD_BEFORE, ("s", "t", 1)),
            "jobs.by_id": (jobs.BY_ID, ("s", "j")),
            "jobs.by_alias": (jobs.BY_ALIAS, ("s", "a")),
            "jobs.due": (jobs.DUE, ("s", "t", 1, 0)),
            "jobs.overdue": (jobs.OVERDUE, ("s", "t", 1)),
            "jobs.unscheduled": (jobs.UNSCHEDULED, ("s", 1)),
            "jobs.open": (jobs.OPEN, ("s", 1)),
            "jobs.next_due": (jobs.NEXT_DUE, ("s",)),
            "outbox.claim_push": (outbox.CLAIM_PUSH, ("t", "t", 1)),
            "outbox.claim_push_of": (outbox.CLAIM_PUSH_OF, ("s", "t", "t", 1)),
            "outbox.claim_pull": (outbox.CLAIM_PULL, ("t", 1)),
            "outbox.claim_pull_of": (outbox.CLAIM_PULL_OF, ("s", "t", 1)),
            "outbox.next_attempt": (outbox.NEXT_ATTEMPT, ()),
        }
        return {
            name: [row[3] for row in self._c.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            for name, (statement, values) in hot.items()
        }
