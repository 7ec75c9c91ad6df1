"""A full disk, a quota, I/O errors of every kind: nothing acknowledged is lost, and no restart is needed."""

import contextlib
import errno
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from faults import NotMeasured, Result
from faults.product import Product, pause
from faults.senders import Senders
from faults.shims import FOR_EVER, HALF, MAKE, NAME, READ, SIZE, SYNC, WRITE, Injector
from tests.support import eventually

BACK_S = 1.0
"""How long after the fault is gone the first acknowledgement may take."""

FAULTS: dict[str, tuple[int, int, int]] = {
    "write ENOSPC for ever": (WRITE, errno.ENOSPC, FOR_EVER),
    "write EIO once": (WRITE, errno.EIO, 1),
    "write EDQUOT for ever": (WRITE, errno.EDQUOT, FOR_EVER),
    "sync EIO once": (SYNC, errno.EIO, 1),
    "sync EIO for ever": (SYNC, errno.EIO, FOR_EVER),
    "sync ENOSPC five times": (SYNC, errno.ENOSPC, 5),
    "short writes": (HALF, 0, FOR_EVER),
    "truncate ENOSPC": (SIZE, errno.ENOSPC, FOR_EVER),
    "open EMFILE": (MAKE, errno.EMFILE, FOR_EVER),
    "read EIO": (READ, errno.EIO, FOR_EVER),
    "unlink and rename EPERM": (NAME, errno.EPERM, FOR_EVER),
    "everything EROFS": (WRITE | SYNC | MAKE | NAME | SIZE, errno.EROFS, FOR_EVER),
}
"""What fails -> (which calls, with which error, how often)."""


def errors(folder: Path, *, elsewhere: bool, lasting_s: float = 0.3, planted: str = "") -> Result:
    """Each fault in turn on one running receiver; the journal lies on a healthy disk, or on the same bad one."""
    result = Result(f"I/O errors, the journal {'elsewhere' if elsewhere else 'on the same disk'}")
    disk = folder / "disk"
    spill = folder / "other" if elsewhere else disk / "spill"
    worst_s, unhit = 0.0, []
    with (
        Injector(folder / "shim", disk) as injector,
        Product(disk, spill=spill, store="spill_after_s = 0.2") as product,
    ):
        process = product.start(env=injector.env, planted=planted)
        with Senders(product.port, 8, rate=400) as senders:
            pause(0.2)
            for name, (mask, error, left) in FAULTS.items():
                injector.hit(mask, error, left=left)
                pause(lasting_s)
                if not injector.mend():
                    unhit.append(name)
                worst_s = max(worst_s, _first_after(senders))
            pause(0.2)
        if not planted:  # what is broken on purpose may well be unable to
            product.drained()
        result.must(process.returncode is None, "the receiver ended")
        product.stop()
        result.figures |= {"faults": len(FAULTS), "never hit": ", ".join(unhit), "first after repair s": worst_s}
        result.must(worst_s <= BACK_S, f"the first acknowledgement after a repair took {worst_s:.2f} s")
        result.must(len(unhit) <= 4, f"most faults hit nothing: {unhit}")  # a quiet moment opens and cuts no file
        _kept(result, product, senders, refuses=not elsewhere)
    return result


def _first_after(senders: Senders) -> float:
    """How long from now until something is acknowledged that was sent from now on."""
    now = time.monotonic()
    eventually(lambda: any(each.at - each.took_s >= now for each in senders.ledger.acknowledged[-50:]), 10.0)
    return round(time.monotonic() - now, 2)


def _kept(result: Result, product: Product, senders: Senders, *, refuses: bool) -> None:
    ledger = senders.ledger
    lost, refused = ledger.ids - product.kept(), sum(ledger.refused.values())
    result.figures |= {"acknowledged": len(ledger.ids), "lost": len(lost), "refused": refused}
    result.figures["slowest s"] = round(ledger.slowest_s(), 2)
    result.must(len(ledger.ids) > 100, "next to nothing was acknowledged: nothing was shown")
    result.must(not lost, f"{len(lost)} of {len(ledger.ids)} acknowledged deliveries are gone")
    result.must(refuses or not refused, f"{refused} were refused though the journal's disk was well")
    result.must(not ledger.failed, f"requests without an answer: {ledger.failed[:2]}")
    result.must(product.integrity() == "ok", "the database is damaged")


@contextlib.contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own that is really full when it is full; needs root."""
    folder.mkdir(parents=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        raise NotMeasured(f"no file system can be mounted here (root is needed): {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def full(folder: Path, *, elsewhere: bool, lasting_s: float = 0.6, planted: str = "") -> Result:
    """The database's file system is full for a while; so is the journal's, or not."""
    result = Result(f"disk full, the journal {'elsewhere' if elsewhere else 'on it too'}")
    with _small_disk(folder / "disk", "16m") as disk:
        spill = folder / "other" if elsewhere else disk / "spill"
        with Product(disk, spill=spill, store="spill_after_s = 0.2") as product:
            process = product.start(planted=planted)
            with Senders(product.port, 8, rate=400, size_bytes=2000) as senders:
                pause(0.2)
                began = time.monotonic()
                filler = disk / "filler"
                _fill(filler)
                pause(lasting_s)
                during = sum(each.at > began + 0.2 for each in senders.ledger.acknowledged)
                filler.unlink()
                back_s = _first_after(senders)
                pause(0.2)
            product.drained()
            result.must(process.returncode is None, "the receiver ended")
            product.stop()
            result.figures |= {"acknowledged while full": during, "first after room s": back_s}
            result.must(back_s <= BACK_S, f"the first acknowledgement after there was room took {back_s:.2f} s")
            result.must(during or not elsewhere, "nothing was acknowledged while the disk was full")
            _kept(result, product, senders, refuses=not elsewhere)
    return result


def _fill(filler: Path) -> None:
    """Take every byte that is left."""
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(fd, bytes(65536))
    with contextlib.suppress(OSError):
        while True:
            os.write(fd, bytes(512))
    os.close(fd)


def quota(folder: Path, *, lasting_s: float = 0.6, planted: str = "") -> Result:
    """No file may grow past what it is now (RLIMIT_FSIZE): what a quota does, without root."""
    result = Result("no file may grow (RLIMIT_FSIZE)")
    with Product(folder, store="spill_after_s = 0.2") as product:
        process = product.start(planted=planted)
        with Senders(product.port, 8, rate=400, size_bytes=2000) as senders:
            pause(0.3)
            size = product.database.with_name("holdfast.db-wal").stat().st_size
            before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            pause(lasting_s)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
            back_s = _first_after(senders)
            pause(0.2)
        product.drained()
        result.must(process.returncode is None, "the receiver ended")
        product.stop()
        result.figures["first after repair s"] = back_s
        result.must(back_s <= BACK_S, f"the first acknowledgement afterwards took {back_s:.2f} s")
        _kept(result, product, senders, refuses=True)
    return result
