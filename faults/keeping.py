"""The record while it is being looked after: pruned, copied, read by somebody who forgets, wanted by two processes."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

from faults import Result
from faults.product import Product, pause
from faults.senders import Senders
from receiver import clock
from receiver.store.sqlite import driver, schema, walfile
from receiver.store.sqlite.driver import sqlite3
from tests.support import RunningProcess, clean_environment, eventually

LONGEST_S = 1.0
"""No acknowledgement takes longer while the record is being looked after."""


def _prefill(product: Product, rows: int) -> None:
    """Old deliveries by the thousand; every hundredth belongs to a job that is still pending."""
    connection = driver.open_writer(product.database)
    schema.migrate(connection)
    old = clock.text(1_700_000_000.0)
    body = b'{"job_id":"old"}' * 20
    digest = hashlib.sha256(body).hexdigest()
    connection.execute("BEGIN")
    connection.execute("INSERT INTO jobs (source, job_id, modality) VALUES ('plain', 'waits', 'video')")
    columns = "id, source, received_at, body, body_sha256, job_id, verdict"
    connection.executemany(
        f"INSERT INTO deliveries ({columns}) VALUES (?, 'plain', ?, ?, ?, ?, 'accepted')",
        (
            (number, old, body, digest, "waits" if number % 100 == 0 else f"old-{number}")
            for number in range(1, rows + 1)
        ),
    )
    connection.execute("COMMIT")
    connection.close()


def looked_after(folder: Path, rows: int, *, rate: float = 200.0, timeout_s: float = 600.0) -> Result:
    """Prune `rows` old deliveries and take a backup while deliveries come in at this rate."""
    result = Result(f"pruning {rows:,} rows and a backup under load")
    with Product(folder, more="[retention]\ndeliveries_days = 1\n") as product:
        _prefill(product, rows)
        product.start("run")
        began = time.monotonic()
        with Senders(product.port, 8, rate=rate) as senders:
            eventually(lambda: senders.ledger.acknowledged)
            copy = folder / "copy.db"
            backup = subprocess.run(
                [sys.executable, "-m", "holdfast", "--config", str(product.config), "backup", str(copy)],
                env=clean_environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
            )
            protected = rows // 100
            eventually(lambda: _old(product, rows) == protected, timeout_s)
        pruned_s = time.monotonic() - began
        product.stop()
        ledger = senders.ledger
        lost, refused = ledger.ids - product.kept(), sum(ledger.refused.values()) + len(ledger.failed)
        result.figures |= {"acknowledged": len(ledger.ids), "lost": len(lost), "refused": refused}
        result.figures |= {"slowest s": round(ledger.slowest_s(), 3), "all pruned after s": round(pruned_s, 1)}
        result.figures["protected rows kept"] = _old(product, rows)
        result.must(not lost, f"{len(lost)} acknowledged deliveries are gone")
        result.must(not refused, f"{refused} were refused")
        result.must(ledger.slowest_s() <= LONGEST_S, f"an acknowledgement took {ledger.slowest_s():.2f} s")
        result.must(backup.returncode == 0, f"the backup failed: {backup.stderr}")
        result.must(copy.exists() and _sound(copy) == "ok", "the backup is not sound")
        result.must(_old(product, rows) == protected, "something protected was pruned")
    return result


def _old(product: Product, rows: int) -> int:
    return int(product.rows("SELECT count(*) FROM deliveries WHERE id <= ?", rows)[0][0])


def _sound(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def forgotten_reader(folder: Path, *, planted: bool = False, size_bytes: int = 60_000) -> Result:
    """Somebody begins to read and forgets: the log grows past the alarm, the log and the metrics say so, nobody waits;
    when the reader ends it is folded in again. `planted`: nobody listens."""
    result = Result("a forgotten reader pins the log")
    with Product(folder) as product:
        process = product.start("run")
        with Senders(product.port, 1) as first:
            eventually(lambda: first.ledger.acknowledged)
        reader = sqlite3.connect(f"file:{product.database}?mode=ro", uri=True, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM deliveries").fetchone()
        wal = product.database.with_name("holdfast.db-wal")
        with Senders(product.port, 8, size_bytes=size_bytes) as senders:
            eventually(lambda: wal.stat().st_size > walfile.WAL_ALARM_BYTES, 60.0)
        said = "" if planted else process.wait_for_output(r"store\.wal_grows", 10.0)[0]
        largest, gauge = wal.stat().st_size, product.gauge("holdfast_wal_bytes")
        reader.close()
        with Senders(product.port, 4, size_bytes=size_bytes) as after:
            pause(0.5)
        slowest_s = max(senders.ledger.slowest_s(), after.ledger.slowest_s())
        result.figures |= {"log grew to bytes": largest, "slowest s": round(slowest_s, 2)}
        result.must(said, "the product's log says nothing")
        result.must(gauge >= walfile.WAL_ALARM_BYTES, f"holdfast_wal_bytes is {gauge}")
        result.must(slowest_s <= LONGEST_S, f"an acknowledgement took {slowest_s:.2f} s")
        grown = wal.stat().st_size - largest
        result.must(grown < largest // 4, f"the log went on growing by {grown} bytes after the reader had ended")
        product.stop()
        result.must(product.integrity() == "ok", "the database is damaged")
    return result


def two(folder: Path, *, planted: str = "") -> Result:
    """A second receiver on the record of a first: kept out with 75, and let in at once when the first is killed."""
    result = Result("two receivers on one record")
    with Product(folder) as product:
        first = product.start()
        arguments = ["-m", "faults.planted", planted] if planted else ["-m", "holdfast"]
        arguments += ["--config", str(product.config), "receive"]
        with RunningProcess(arguments, pass_fds=[product.socket.fileno()]) as second:
            try:
                code: int | None = second.wait(4.0)
            except AssertionError:
                code = None  # it runs beside the first
        result.figures["exit code of the second"] = code
        result.must(code == 75, f"the second receiver ended with {code}: {second.stderr[-300:]}")
        with Senders(product.port, 4) as senders:
            eventually(lambda: len(senders.ledger.acknowledged) > 20)
        assert first is product.process
        product.kill()
        began = time.monotonic()
        product.start()
        result.figures["takeover s"] = round(time.monotonic() - began, 2)
        product.stop()
        result.must(senders.ledger.ids <= product.kept(), "acknowledged deliveries are gone")
    return result
