"""Statements over `outbox`."""

from collections.abc import Sequence
from functools import lru_cache

from receiver import clock
from receiver.records import Message
from receiver.store.sqlite.driver import Row
from receiver.store.sqlite.gathering import Gathering, values
from receiver.store.sqlite.jobrows import instant_or_none

COLUMNS = (
    "id, source, job_id, type, payload, created_at, supersedes, state, attempts, next_attempt_at, delivered_at,"
    " last_error, seq"
)

# No message goes out while an earlier one of its job is undelivered. SQLite has no SKIP LOCKED and needs none: the
# select and the lease happen in one transaction of the one writer.
_IN_ORDER = (
    " AND (job_id IS NULL OR NOT EXISTS (SELECT 1 FROM outbox AS earlier WHERE earlier.state = 'pending'"
    " AND earlier.source = outbox.source AND earlier.job_id = outbox.job_id AND earlier.seq < outbox.seq))"
)
_FREE = " AND (leased_until IS NULL OR leased_until <= ?)"
_MESSAGES = f"SELECT {COLUMNS}, leased_until FROM outbox"
_REST = f"{_FREE}{_IN_ORDER} ORDER BY next_attempt_at, seq LIMIT ?"
CLAIM_PUSH = f"{_MESSAGES} INDEXED BY outbox_due WHERE state = 'pending' AND next_attempt_at <= ?{_REST}"
CLAIM_PULL = f"{_MESSAGES} INDEXED BY outbox_due WHERE state = 'pending'{_REST}"
CLAIM_PUSH_OF = (
    f"{_MESSAGES} INDEXED BY outbox_due_of WHERE state = 'pending' AND source = ? AND next_attempt_at <= ?{_REST}"
)
CLAIM_PULL_OF = f"{_MESSAGES} INDEXED BY outbox_due_of WHERE state = 'pending' AND source = ?{_REST}"
NEXT_ATTEMPT = (
    "SELECT min(max(next_attempt_at, coalesce(leased_until, ''))) FROM (SELECT next_attempt_at, leased_until"
    " FROM outbox INDEXED BY outbox_due WHERE state = 'pending' ORDER BY next_attempt_at LIMIT 1000)"
)

BRING_FORWARD_OF = (
    "UPDATE outbox SET next_attempt_at = ?1 WHERE state = 'pending' AND source = ?2 AND next_attempt_at > ?3"
    " AND (?4 = '' OR substr(coalesce(last_error, ''), 1, length(?4)) <> ?4)"
    " AND coalesce(last_attempt_at, '') >= ?5"
)


def message_of(row: Row) -> Message:
    """A message from COLUMNS."""
    return Message(
        id=row[0],
        source=row[1],
        job_id=row[2],
        type=row[3],
        payload=row[4],
        created_at=instant_or_none(row[5]) or 0.0,
        supersedes=row[6],
        state=row[7],
        attempts=row[8],
        next_attempt_at=instant_or_none(row[9]),
        delivered_at=instant_or_none(row[10]),
        last_error=row[11],
        seq=row[12],
    )


@lru_cache
def add(rows: int) -> str:
    """Stage so many messages; one that is there stays as it is."""
    return (
        "INSERT INTO outbox (id, source, job_id, type, payload, supersedes, created_at, next_attempt_at)"
        f" {values(rows, 8)} ON CONFLICT (id) DO NOTHING"
    )


def row_of(message: Message) -> Row:
    """A message as the values of `add`."""
    at = clock.text(message.created_at)
    return (
        message.id, message.source, message.job_id, message.type, message.payload, message.supersedes, at, at,
    )  # fmt: skip


class SqliteOutbox:
    """Keeps the promises of `base.Outbox`."""

    def __init__(self, connection: Gathering) -> None:
        self._c = connection

    def add(self, message: Message) -> bool:
        return bool(self._c.execute(add(1), row_of(message)).rowcount)

    def stage(self, message: Message) -> None:
        self._c.put(add, row_of(message))

    def claim(
        self, now: float, until: float, limit: int, sources: Sequence[str] | None = None, *, pull: bool = False
    ) -> list[Message]:
        at = clock.text(now)
        given: Row = (at, limit) if pull else (at, at, limit)
        if sources is None:
            rows = self._c.execute(CLAIM_PULL if pull else CLAIM_PUSH, given).fetchall()
        else:
            statement = CLAIM_PULL_OF if pull else CLAIM_PUSH_OF
            found = (row for source in sources for row in self._c.execute(statement, (source, *given)))
            rows = sorted(found, key=lambda row: (row[9], row[12]))[:limit]
        lease = clock.text(until)
        self._c.executemany(
            "UPDATE outbox SET leased_until = ?, last_attempt_at = ?,"
            " attempts = attempts + (leased_until IS NOT NULL) WHERE seq = ?",
            [(lease, at, row[12]) for row in rows],
        )
        return [message_of((*row[:8], row[8] + (row[13] is not None), *row[9:])) for row in rows]

    def delivered(self, ids: Sequence[str], now: float, *, pushed: bool) -> int:
        at = clock.text(now)
        return sum(
            self._c.execute(
                "UPDATE outbox SET state = 'delivered', delivered_at = ?, attempts = attempts + ?, leased_until = NULL,"
                " last_attempt_at = ?, last_error = NULL WHERE id = ? AND state = 'pending'",
                (at, int(pushed), at, message_id),
            ).rowcount
            for message_id in ids
        )

    def retry(self, message_id: str, now: float, next_attempt_at: float, error: str) -> None:
        self._c.execute(
            "UPDATE outbox SET attempts = attempts + 1, leased_until = NULL, last_attempt_at = ?, next_attempt_at = ?,"
            " last_error = ? WHERE id = ? AND state = 'pending'",
            (clock.text(now), clock.text(next_attempt_at), error, message_id),
        )

    def bury(self, message_id: str, now: float, error: str) -> None:
        self._c.execute(
            "UPDATE outbox SET state = 'dead', attempts = attempts + 1, leased_until = NULL, last_attempt_at = ?,"
            " last_error = ? WHERE id = ? AND state = 'pending'",
            (clock.text(now), error, message_id),
        )

    def revive(self, message_id: str, now: float) -> Message | None:
        self._c.execute(
            "UPDATE outbox SET state = 'pending', delivered_at = NULL, attempts = 0, next_attempt_at = ?,"
            " leased_until = NULL WHERE id = ?",
            (clock.text(now), message_id),
        )
        return self.get(message_id)

    def extend(self, ids: Sequence[str], until: float) -> int:
        return sum(
            self._c.execute(
                "UPDATE outbox SET leased_until = ? WHERE id = ? AND state = 'pending' AND leased_until IS NOT NULL",
                (clock.text(until), message_id),
            ).rowcount
            for message_id in ids
        )

    def get(self, message_id: str) -> Message | None:
        row = self._c.execute(f"SELECT {COLUMNS} FROM outbox WHERE id = ?", (message_id,)).fetchone()
        return message_of(row) if row else None

    def bring_forward(
        self, latest: float, sources: Sequence[str] | None = None, *, but: str = "", tried_since: float | None = None
    ) -> int:
        at = clock.text(latest)
        if sources is not None:
            since = "" if tried_since is None else clock.text(tried_since)
            return sum(self._c.execute(BRING_FORWARD_OF, (at, source, at, but, since)).rowcount for source in sources)
        return self._c.execute(
            "UPDATE outbox SET next_attempt_at = min(next_attempt_at, ?), leased_until = min(leased_until, ?)"
            " WHERE state = 'pending' AND (next_attempt_at > ? OR leased_until > ?)",
            (at, at, at, at),
        ).rowcount

    def next_attempt_at(self) -> float | None:
        return instant_or_none(self._c.execute(NEXT_ATTEMPT).fetchone()[0])
