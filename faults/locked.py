"""Somebody holds the database, or rebuilds it, or its disk stands still: nobody is refused and nobody waits long."""

import time
from pathlib import Path

from faults import Result
from faults.product import Product, pause
from faults.senders import Senders
from faults.shims import SYNC, Injector
from receiver.store.sqlite.driver import sqlite3

FIRST_S = 1.0
"""The longest anybody may wait while the product has not yet noticed: `spill_after_s`, and it looks before that."""
THEN_S = 0.5


def locked(folder: Path, held_s: float, *, planted: str = "") -> Result:
    """A foreign BEGIN EXCLUSIVE for so long, a VACUUM after it, all under load."""
    result = Result(f"database locked for {held_s:g} s")
    with Product(folder) as product:
        product.start(planted=planted)
        with Senders(product.port, 8, rate=400) as senders:
            pause(0.3)
            with product.locked():
                since = time.monotonic()
                pause(held_s)
                until = time.monotonic()
            pause(0.3)
            vacuums = _vacuum(product, 3)
            pause(0.3)
        ledger = senders.ledger
        product.drained()
        product.stop()
        _whole(result, product, senders)
        first, then = ledger.slowest_s(since - 0.2, since + 1.5), ledger.slowest_s(since + 1.5, until)
        result.figures |= {"slowest at first s": round(first, 2), "slowest then s": round(then, 2)}
        result.figures["slowest in VACUUM and drain s"] = round(ledger.slowest_s(until), 2)
        result.figures["vacuums"] = vacuums
        during = [each for each in ledger.acknowledged if since < each.at < until]
        result.must(len(during) > 20, "next to nothing was acknowledged while the database was locked")
        result.must(first <= FIRST_S, f"the first waited {first:.2f} s")
        result.must(then <= THEN_S, f"once the lock was known, somebody waited {then:.2f} s")
        result.must(ledger.slowest_s(until) <= FIRST_S, "somebody waited long for the drain or the VACUUM")
    return result


def _vacuum(product: Product, times: int) -> int:
    """Rebuild the file over a connection of somebody else; how often it went through."""
    connection = sqlite3.connect(product.database, timeout=2.0, isolation_level=None)
    done = 0
    for _ in range(times):
        try:
            connection.execute("VACUUM")
            done += 1
        except sqlite3.OperationalError:
            pause(0.05)
    connection.close()
    return done


def _whole(result: Result, product: Product, senders: Senders) -> None:
    """Nobody was refused, everything acknowledged is there once, the file is sound."""
    ledger, kept = senders.ledger, product.kept()
    lost = ledger.ids - kept
    refused = sum(ledger.refused.values()) + len(ledger.failed)
    twice = len(ledger.acknowledged) - len(ledger.ids)
    result.figures |= {"acknowledged": len(ledger.ids), "lost": len(lost), "refused": refused}
    result.must(not lost, f"{len(lost)} of {len(ledger.ids)} acknowledged deliveries are gone")
    result.must(not refused, f"{refused} were refused: {dict(ledger.refused)} {ledger.failed[:2]}")
    result.must(not twice, f"{twice} deliveries share an id")
    result.must(product.integrity() == "ok", "the database is damaged")


def stalled(folder: Path, *, elsewhere: bool, lasting_s: float = 4.0, wait_ms: int = 2000, planted: str = "") -> Result:
    """Every sync of the database's disk takes two seconds; the journal is on another disk, or on the same."""
    result = Result(f"every sync takes {wait_ms / 1000:g} s, the journal {'elsewhere' if elsewhere else 'too'}")
    disk = folder / "disk"
    spill = folder / "other" if elsewhere else disk / "spill"
    with Injector(folder / "shim", disk) as injector, Product(disk, spill=spill) as product:
        product.start(planted=planted, env=injector.env)
        with Senders(product.port, 8, rate=200) as senders:
            pause(0.3)
            injector.hit(SYNC, wait_ms=wait_ms)
            pause(lasting_s)
            hits = injector.mend()
            pause(0.5)
        product.drained()
        product.stop()
        ledger = senders.ledger
        slowest, limit = ledger.slowest_s(), FIRST_S if elsewhere else 4.5
        lost, refused = ledger.ids - product.kept(), sum(ledger.refused.values()) + len(ledger.failed)
        result.figures |= {"acknowledged": len(ledger.ids), "lost": len(lost), "refused": refused, "stalls": hits}
        result.figures |= {"slowest s": round(slowest, 2), "slowest refusal s": round(ledger.slowest_refusal_s, 2)}
        result.must(hits, "no sync was held up: nothing was shown")
        result.must(slowest <= limit, f"an acknowledgement took {slowest:.2f} s")
        result.must(ledger.slowest_refusal_s <= 4.5, f"a refusal took {ledger.slowest_refusal_s:.2f} s")
        result.must(not lost, f"{len(lost)} acknowledged deliveries are gone")
        result.must(not (elsewhere and refused), f"{refused} were refused though the journal's disk was well")
        result.must(product.integrity() == "ok", "the database is damaged")
    return result
