"""Every I/O operation fails in turn, once and for ever: an acknowledgement is never wrong, and the store comes back.

A fixed piece of work (start, record, be locked out, spill, drain, record, stop) is done again and again in forked
children of a process that has the injector loaded; each time the next operation fails. What the child was told is kept
is then looked for by a store that starts in good health.
"""

import contextlib
import errno
import json
import mmap
import os
import shutil
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from faults import NotMeasured, Result, shims
from faults.planted import plant
from receiver.errors import StoreUnavailable
from receiver.records import Delivery
from receiver.store.sqlite import writer
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from tests.support import RunningProcess

ALL = shims.WRITE | shims.SYNC | shims.SIZE | shims.MAKE | shims.NAME | shims.READ
MANY = 1 << 30
_PATIENCE_S = 3.0


def every(folder: Path, *, step: int = 1, first: int = 0, planted: str = "") -> Result:
    """Try every `step`-th operation from the `first`, each failing once and for ever with EIO and with ENOSPC."""
    result = Result("every I/O operation fails in turn")
    disk = folder / "disk"
    disk.mkdir(parents=True)
    with shims.Injector(folder / "shim", disk) as injector:
        command = ["-m", "faults.each", str(disk), str(step), str(first), planted]
        with RunningProcess(command, env=injector.env) as process:
            code = process.wait(900.0)
            if code:
                raise NotMeasured(f"the run ended with {code}: {process.output[-800:]}")
            found = json.loads(process.stdout.splitlines()[-1])
    result.figures |= found["figures"]
    result.faults += found["faults"]
    result.must(found["figures"]["operations"] > 50, "hardly an operation was seen: nothing was shown")
    result.must(found["figures"]["acknowledged"] > 0, "nothing was acknowledged: nothing was shown")
    return result


# -- in the process that has the injector loaded -----------------------------------------------------------------------


class _Control:
    """The injector's shared file, from inside."""

    def __init__(self) -> None:
        with open(os.environ["INJECT_CONTROL"], "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 24)

    def hit(self, error: int, skip: int, left: int) -> None:
        self._map[4:24] = struct.pack("<5i", error, skip, left, 0, 0)
        self._map[0:4] = struct.pack("<i", ALL)

    def mend(self) -> None:
        self._map[0:4] = bytes(4)

    @property
    def skipped(self) -> int:
        return MANY - int(struct.unpack("<i", self._map[8:12])[0])

    @property
    def hits(self) -> int:
        return int(struct.unpack("<i", self._map[16:20])[0])


def _delivery(store: SqliteStore, number: int) -> Delivery:
    return Delivery(store.next_id(), "s", 1776090600.0 + number, "x", (), b'{"n":%d}' % number, "0" * 64)


def _record(store: SqliteStore, number: int, told: list[int]) -> bool:
    """Record one; note it when the store says it is kept."""
    delivery, ready, outcome = _delivery(store, number), threading.Event(), list[StoreUnavailable | None]()

    def done(error: StoreUnavailable | None) -> None:
        outcome.append(error)
        ready.set()

    try:
        store.submit(delivery, done)
    except StoreUnavailable:
        return False
    if ready.wait(_PATIENCE_S) and outcome[0] is None:
        told.append(int(delivery.id))
        return True
    return False


def _options(disk: Path) -> SqliteOptions:
    return SqliteOptions(disk / "holdfast.db", spill_dir=disk / "spill", spill_after_s=0.05)


def _work(disk: Path, control: _Control) -> dict[str, object]:
    """The piece of work; at its end the fault is mended and the same store must take deliveries again."""
    told: list[int] = []
    try:
        store = SqliteStore(_options(disk))
    except (StoreUnavailable, OSError) as error:
        return {"told": told, "started": False, "why": str(error), "again": True}
    for number in range(4):
        _record(store, number, told)
    _locked_out(disk, store, told)
    again = store.health().spill_records == 0 or _wait(lambda: store.health().spill_records == 0, 0.3)
    control.mend()
    again = _wait(lambda: _record(store, 99, told), _PATIENCE_S)
    store.close()
    return {"told": told, "started": True, "again": again}


def _locked_out(disk: Path, store: SqliteStore, told: list[int]) -> None:
    try:
        foreign = sqlite3.connect(disk / "holdfast.db", timeout=1.0, isolation_level=None)
        foreign.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error:
        return
    for number in range(10, 13):
        _record(store, number, told)
    with contextlib.suppress(sqlite3.Error):
        foreign.execute("ROLLBACK")
    with contextlib.suppress(sqlite3.Error):
        foreign.close()
    for number in range(20, 22):
        _record(store, number, told)


def _wait(fn: Callable[[], bool], timeout_s: float) -> bool:
    until = time.monotonic() + timeout_s
    while not fn():
        if time.monotonic() > until:
            return False
        threading.Event().wait(0.01)
    return True


def _look(disk: Path, _: _Control) -> dict[str, object]:
    """Start in good health, let the journal drain, and say what is there."""
    store = SqliteStore(_options(disk))
    drained = _wait(lambda: store.health().spill_records == 0, 10.0)
    store.close()
    connection = sqlite3.connect(disk / "holdfast.db")
    sound = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    kept = [int(row[0]) for row in connection.execute("SELECT id FROM deliveries")]
    connection.close()
    return {"kept": kept, "sound": sound, "drained": drained}


def _forked(work: Callable[[Path, _Control], dict[str, object]], disk: Path, control: _Control) -> dict[str, object]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writing, json.dumps(work(disk, control)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    answer: dict[str, object] = json.loads(said) if said else {}
    return answer


def main() -> None:
    """Try them all; the last line of output is what was found, as JSON."""
    disk, step, first, planted = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    writer.IDLE_S = 0.02  # the drain is looked for this often: time, not meaning
    plant(planted)
    control, faults, told, runs, silent = _Control(), list[str](), 0, 0, 0
    control.hit(0, MANY, 0)
    _forked(_work, disk, control)
    operations = control.skipped
    for number in range(first, operations, step):
        for left in (1, -1):
            error = errno.EIO if (number // step) % 2 else errno.ENOSPC
            shutil.rmtree(disk)
            disk.mkdir()
            control.hit(error, number, left)
            said = _forked(_work, disk, control)
            silent += control.hits == 0
            control.mend()
            runs += 1
            told += len(list(said.get("told", [])))  # type: ignore[call-overload]  # a list, by _work
            where = f"operation {number} failing {'once' if left == 1 else 'for ever'}"
            faults += [f"{where}: {why}" for why in _wrong(said, _forked(_look, disk, control))]
    figures = {"operations": operations, "runs": runs, "never reached": silent, "acknowledged": told}
    sys.stdout.write(json.dumps({"figures": figures | {"bad": len(faults)}, "faults": faults}) + "\n")


def _wrong(said: dict[str, object], found: dict[str, object]) -> list[str]:
    if "told" not in said:
        return ["the process died"]
    if "kept" not in found:
        return ["the store does not start afterwards"]
    told, kept = said["told"], found["kept"]
    assert isinstance(told, list)
    assert isinstance(kept, list)
    wrong = []
    if set(told) - set(kept):
        wrong.append(f"{len(set(told) - set(kept))} of {len(told)} acknowledged deliveries are gone")
    if found["sound"] != "ok":
        wrong.append(f"the database is damaged: {found['sound']}")
    if not found["drained"]:
        wrong.append("the journal is not drained after a start in good health")
    if not said["again"]:
        wrong.append("once the fault was mended the store took no deliveries without a restart")
    return wrong


if __name__ == "__main__":
    main()
