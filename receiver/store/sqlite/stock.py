"""Taking stock at a start: where ids and counts go on from, and whether acknowledged rows are missing.

It waits for nobody: while somebody else holds the database, what it found is told now and written down at the next
start, which finds it again.
"""

import contextlib
from dataclasses import dataclass

import structlog

from receiver.marks import HighWaterMark, missing
from receiver.store.sqlite.boot import BootReport, recorded_ever
from receiver.store.sqlite.driver import Connection, sqlite3
from receiver.store.sqlite.transaction import SqliteMeta
from receiver.store.sqlite.writer import is_locked

log = structlog.get_logger("holdfast.store")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database holds."""

    last_id: int
    recorded: int
    """Deliveries ever committed to this file."""
    missing: int
    """Acknowledged deliveries that are not there, found now or at an earlier start."""


def take_stock(connection: Connection, mark: HighWaterMark, report: BootReport) -> Standing:
    """Compare the database with its mark, and with its own counts."""
    last_id = int(connection.execute("SELECT coalesce(max(id), 0) FROM deliveries").fetchone()[0])
    meta, recorded = SqliteMeta(connection), recorded_ever(connection)
    lost = missing(mark.read(), last_id, recorded) or 0
    if report.moved_to is not None:
        lost += report.mark.count if report.mark else 0  # until they are brought back from the damaged file
    before, noted = int(meta.get("deliveries.missing") or 0), False
    try:
        connection.execute("BEGIN IMMEDIATE")  # one look: the reconciler may prune meanwhile
        lost += meta.removed()
        if lost:
            meta.put("deliveries.missing", str(before + lost))
        connection.execute("COMMIT")
        noted = True
    except sqlite3.OperationalError as error:
        if not is_locked(error):
            raise
    if lost:
        log.error(
            "store.rows_missing",
            missing=lost,
            what="deliveries that were acknowledged are missing from the database; see docs/reliability.md",
        )
    if lost and noted:
        with contextlib.suppress(OSError):
            mark.reset(last_id, recorded)
    return Standing(last_id, recorded, before + lost)
