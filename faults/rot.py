"""Files that rot: bits that flip while nobody looks, and files that are not what they were when the product starts."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from structlog.testing import capture_logs

from faults import Result
from faults.product import Product
from faults.senders import Senders
from receiver.records import Delivery
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.shapes import digest_holds
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from tests.support import eventually, run_holdfast

FIRST_S = 1.0
"""How long after a start the first acknowledgement may take, whatever lies there. Python's own start is not counted."""


def _poke(file: Path, at: int, data: bytes) -> None:
    with open(file, "r+b") as out:
        out.seek(at)
        out.write(data)


def _wal(db: Path) -> Path:
    return db.with_name(db.name + "-wal")


def _fold(db: Path) -> None:
    """Stop cleanly: the log is folded into the file."""
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _folded(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(db: Path) -> None:
        _fold(db)
        change(db)

    return both


def _become_a_folder(db: Path) -> None:
    db.unlink()
    db.mkdir()


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "database empty, log left": lambda db: os.truncate(db, 0),
    "database header zeroed": _folded(lambda db: _poke(db, 0, bytes(100))),
    "database random": _folded(lambda db: db.write_bytes(os.urandom(40960))),
    "schema page garbage": _folded(lambda db: _poke(db, 100, os.urandom(900))),
    "database cut in a page": _folded(lambda db: os.truncate(db, 700)),
    "database cut at a page": _folded(lambda db: os.truncate(db, 8192)),
    "database emptied": _folded(lambda db: os.truncate(db, 0)),
    "database gone, log left": Path.unlink,
    "log header zeroed": lambda db: _poke(_wal(db), 0, bytes(32)),
    "log random": lambda db: _wal(db).write_bytes(os.urandom(50000)),
    "log cut in half": lambda db: os.truncate(_wal(db), _wal(db).stat().st_size // 2),
    "a directory in its place": _folded(_become_a_folder),
}
"""What is done to the files of a killed receiver -> how."""


def bad_files(folder: Path, *, kinds: tuple[str, ...] = tuple(BAD_FILES), planted: str = "") -> Result:
    """Start the receiver on each kind of bad file: it takes deliveries within a second, and nothing is thrown away."""
    result = Result("a bad file at the start")
    with Product(folder / "before") as before:
        before.start()
        with Senders(before.port, 4) as senders:
            eventually(lambda: len(senders.ledger.acknowledged) > 60)
        before.kill()
        recorded = len(before.kept())
    slowest_s, saved = 0.0, {}
    for kind in kinds:
        with Product(folder / kind.replace(" ", "-").replace(",", "")) as product:
            for file in (folder / "before").glob("holdfast.db*"):
                if file.is_file() and not file.name.endswith("-shm"):
                    shutil.copy(file, product.folder)
            BAD_FILES[kind](product.database)
            evidence = _bytes(product.folder)
            took_s, logs = _start(product, planted)
            slowest_s = max(slowest_s, took_s)
            result.must(took_s <= FIRST_S, f"{kind}: the first acknowledgement took {took_s:.2f} s")
            result.must(evidence <= _bytes(product.folder), f"{kind}: evidence was thrown away")
            result.must("missing" in logs or "store.damaged" in logs, f"{kind}: the log says nothing")
            saved[kind] = len(product.kept())
            product.kill()
    figures = {"kinds": len(kinds), "slowest first acknowledgement s": round(slowest_s, 2), "recorded before": recorded}
    result.figures |= figures | {f"there afterwards: {kind}": rows for kind, rows in saved.items()}
    return result


def _start(product: Product, planted: str) -> tuple[float, str]:
    """Start it; answers how long the first acknowledgement took, counted from when the record was opened, and the
    log. Salvage has come to its end."""
    process = product.start(planted=planted, wait=False)
    process.wait_for_output(r"store\.opened|store\.damaged", 20.0)
    began = time.monotonic()
    with Senders(product.port, 1) as senders:
        eventually(lambda: senders.ledger.acknowledged, 20.0)
        took_s = time.monotonic() - began
    if "store.damaged" in process.output:
        process.wait_for_output(r"store\.salvaged", 20.0)
    return took_s, process.output


def _bytes(folder: Path) -> set[bytes]:
    """The contents of every database file and log below a folder, as far as they do not change by being used."""
    found = set()
    for file in folder.rglob("holdfast.db*"):
        if file.is_file() and file.name in ("holdfast.db", "holdfast.db-wal"):
            kept = file.read_bytes()
            if kept[:16] != b"SQLite format 3\0" or file.name.endswith("-wal"):
                found.add(kept)
    return {each for each in found if each}


# -- bits ------------------------------------------------------------------------

AT = 1776090600.0
ROWS = 200


def flips(folder: Path, count: int, *, seed: int = 1, digest: bool = True, mark: bool = True) -> Result:
    """Flip one bit at a time in the database or in its log, and see who notices. `digest` and `mark` off: the bugs."""
    result = Result("one bit flips")
    pristine = folder / "pristine"
    _fill(pristine)
    chance, seen = Random(seed), {"database": [0, 0, 0], "log": [0, 0, 0]}
    for number in range(count):
        where = "log" if number % 2 else "database"
        place = folder / "flipped"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(pristine / where, place)
        file = place / ("holdfast.db-wal" if where == "log" else "holdfast.db")
        at = chance.randrange(file.stat().st_size)
        _poke(file, at, bytes([file.read_bytes()[at] ^ (1 << chance.randrange(8))]))
        harmed, noticed, sqlite_noticed = _judge(place, digest=digest, mark=mark)
        seen[where][0] += harmed
        seen[where][1] += harmed and noticed
        seen[where][2] += harmed and sqlite_noticed
        result.must(noticed or not harmed, f"flip {number} in the {where} at byte {at} did harm and nobody noticed")
    for where, counts in seen.items():
        for what, counted in zip(("harmful", "noticed", "noticed by integrity_check"), counts, strict=True):
            result.figures[f"{where}: {what}"] = counted
    result.figures |= {"flips": count, "seed": seed}
    result.must(all(harmed > count // 20 for harmed, _, _ in seen.values()), "hardly a flip did harm: nothing shown")
    return result


def _fill(pristine: Path) -> None:
    """The same rows twice: once all in the database file, once all in the log of a killed process."""
    for where in ("database", "log"):
        place = pristine / where
        work = pristine / f"work-{where}"
        work.mkdir(parents=True)
        with capture_logs():
            store = SqliteStore(SqliteOptions(work / "holdfast.db"))
            for number in range(ROWS):
                body = hashlib.sha256(b"%d" % number).hexdigest().encode() * 8
                digest = hashlib.sha256(body).hexdigest()
                store.record_sync(Delivery(store.next_id(), "s", AT, "x", (), body, digest))
            if where == "log":
                shutil.copytree(work, place)
            store.close()
            if where == "database":
                shutil.copytree(work, place)


def _judge(place: Path, *, digest: bool, mark: bool) -> tuple[bool, bool, bool]:
    """(a delivery is gone or changed, the product notices, SQLite's own check notices)."""
    db = place / "holdfast.db"
    noticed = sqlite_noticed = False
    bodies = {hashlib.sha256(b"%d" % number).hexdigest().encode() * 8 for number in range(ROWS)}
    copy = place / "copy"
    copy.mkdir()
    for file in (db, _wal(db)):
        if file.exists():
            shutil.copy(file, copy)
    with capture_logs() as logs:
        connection = sqlite3.connect(copy / "holdfast.db")
        try:
            sqlite_noticed = connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok"
        except (sqlite3.Error, UnicodeDecodeError):  # what it says of a damaged schema need not be text
            sqlite_noticed = True
        connection.close()
        SqliteStore(SqliteOptions(db)).close()  # what it raises ends the run: it has to start on whatever lies there
    noticed |= mark and any(each["event"] in ("store.rows_missing", "store.damaged") for each in logs)
    connection = sqlite3.connect(db)
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    found = set()
    try:
        for id, body, sha256 in connection.execute("SELECT id, body, body_sha256 FROM deliveries"):
            sound = digest_holds({"id": id, "body": body, "body_sha256": sha256})
            noticed |= digest and not sound
            found.add(body)
    except sqlite3.Error:
        noticed = True
    finally:
        connection.close()
    return found != bodies, noticed, sqlite_noticed


def told(folder: Path, *, planted: str = "") -> Result:
    """Rows vanish from the log: the log says so, and so do `status` and `check`, with the word missing."""
    result = Result("vanished rows are told of")
    with Product(folder) as product:
        product.start(planted=planted)
        with Senders(product.port, 4) as senders:
            eventually(lambda: len(senders.ledger.acknowledged) > 60)
        product.kill()
        os.truncate(_wal(product.database), _wal(product.database).stat().st_size // 2)
        process = product.start("run")
        shown = {
            "the log": process.output,
            "status": run_holdfast("--config", str(product.config), "status").stdout,
            "check": run_holdfast("--config", str(product.config), "check").stdout,
        }
        ready = product.get("/readyz")
        result.figures["lost from the log file"] = len(senders.ledger.ids - product.kept())
        for where, text in shown.items():
            result.must("missing" in text, f"{where} does not say that rows are missing")
        result.must(ready is not None and ready[0] == 200, "readyz is not 200")
        product.stop()
    return result


LITTLE = 50
"""One in so many of what was acknowledged into the log of a destroyed file may be gone with it."""


def while_open(folder: Path, *, planted: str = "") -> Result:
    """The whole database file is overwritten under the running sidecar. SQLite goes on with what it has in memory and
    commits into its log, so intake goes on too; the next start moves the file aside and brings back what the log holds.
    What was in the file alone is lost with it: no promise is made of it."""
    result = Result("the database is damaged while it is open")
    with Product(folder, store="spill_after_s = 0.3") as product:
        process = product.start("run", planted=planted)
        with Senders(product.port, 4, rate=100) as before:
            eventually(lambda: len(before.ledger.acknowledged) > 100)
        _fold_softly(product.database)
        with Senders(product.port, 1) as begun:
            eventually(lambda: len(begun.ledger.acknowledged) > 5)
        size = product.database.stat().st_size
        _poke(product.database, 0, os.urandom(size))
        damaged_at = time.monotonic()
        with Senders(product.port, 4, rate=100) as after:
            eventually(lambda: "malformed" in process.output or "not a database" in process.output, 20.0)
            since = len(after.ledger.acknowledged)
            eventually(lambda: len(after.ledger.acknowledged) > since + 100, 20.0)
        ready = product.get("/readyz")
        says = ready is not None and ready[0] == 503 and "restart" in str(ready[1])
        result.must(says, f"readyz does not say what to do: {ready}")
        result.figures["noticed after s"] = round(time.monotonic() - damaged_at, 2)
        result.figures |= {"acknowledged after": len(after.ledger.ids), "in the journal": product.spilled()}
        refused = sum(after.ledger.refused.values())
        result.figures |= {"refused": refused, "slowest s": round(after.ledger.slowest_s(), 2)}
        result.must(not refused and not after.ledger.failed, f"refused: {dict(after.ledger.refused)}")
        product.kill()
        again = product.start("run")
        if "store.damaged" in again.output:
            again.wait_for_output(r"store\.salvaged", 30.0)
        product.drained()
        product.stop()
        gone = after.ledger.ids - product.kept()
        result.figures |= {"gone of those": len(gone), "gone of those before": len(before.ledger.ids - product.kept())}
        few = max(1, len(after.ledger.ids) // LITTLE)
        result.must(len(gone) <= few, f"{len(gone)} of {len(after.ledger.ids)} acknowledged after the damage are gone")
        result.must(list(product.folder.glob("holdfast.db.damaged-*")), "the damaged file was not kept")
    return result


def _fold_softly(db: Path) -> None:
    """Fold the log in, so that it is begun anew by the next commit."""
    connection = sqlite3.connect(db, timeout=5.0)
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    connection.close()
