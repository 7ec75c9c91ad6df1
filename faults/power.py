"""Power loss: every answer the product sent is checked against disks as they could be had the power gone just then.

One short run of the real process under load is recorded (`c/recorder.c`), with a while in which somebody else holds the
database so that the spill journal is part of it; then crash points are drawn and images built (`images.py`).
"""

import contextlib
import errno
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from structlog.testing import capture_logs

from faults import Result, images
from faults.product import Product, pause
from faults.senders import Senders
from faults.shims import SYNC, Injector, compiled
from receiver.spill import SpillJournal
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from tests.support import eventually

OPENED_EVERY = 10
"""So many images are judged by their bytes alone for one that the product itself is started on."""


def lose(
    folder: Path,
    *,
    seconds: float = 0.4,
    points: int = 60,
    subsets: int = 2,
    planted: str = "",
    seed: int = 1,
    models: tuple[str, ...] = ("posix", "ext4"),
    failing: int = 0,
) -> Result:
    """Record a run and judge `points` crash points, each with its floor and `subsets` random parts, in each model.
    `failing`: so many times during the run a few syncs fail, and what they should have kept is on no disk."""
    result = Result("power loss, replayed")
    record, root = folder / "record", folder / "disk"
    root.mkdir(parents=True)
    shim = compiled("recorder", folder)
    env = {"LD_PRELOAD": str(shim), "RECORD_ROOT": str(root), "RECORD_TO": str(record)}
    with contextlib.ExitStack() as stack, Product(root, store="spill_after_s = 0.05") as product:
        injector = stack.enter_context(Injector(folder / "injector", root)) if failing else None
        if injector is not None:
            env |= injector.env | {"LD_PRELOAD": f"{shim} {injector.env['LD_PRELOAD']}"}
        product.start(planted=planted, env=env)
        with Senders(product.port, 8, size_bytes=100) as senders:
            pause(seconds)
            with product.locked():
                pause(seconds)
                _fail(injector, failing)
            _fail(injector, failing)
            pause(seconds / 2)
        product.drained()
        with Senders(product.port, 8, size_bytes=100) as after:
            eventually(lambda: after.ledger.acknowledged)
        product.kill()
    entries = images.read(record)
    answered = [each for each in map(images.acknowledged, entries) if each is not None]
    result.figures |= {"operations": len(entries), "acknowledged": len(answered), "seed": seed}
    known = senders.ledger.ids | after.ledger.ids
    result.must(known <= set(answered), "the recorder missed an answer: its record shows nothing")
    result.must(any("-spill/" in each.path for each in entries), "nothing was spilled: the journal was not tried")
    failed = sum(each.kind == images.SYNC_FAILED for each in entries)
    result.figures |= {"failed syncs": failed} if failing else {}
    result.must(failed >= failing, "next to no sync failed: nothing was shown")
    result.must(_syncs(entries) > 3 or planted, "hardly a sync was recorded")
    seen: Counter[str] = Counter()
    for model in models:
        _replay(entries, root, model, Random(seed), (points, subsets), seen=seen, result=result)
    result.figures |= {"images": seen["images"], "bad": seen["bad"], "started on": seen["opened"]}
    return result


def _fail(injector: Injector | None, times: int) -> None:
    """Let a few syncs fail, again and again, with time to recover between."""
    if injector is not None:
        for turn in range(times):
            injector.hit(SYNC, errno.EIO, left=1 + turn % 4)
            eventually(lambda: injector.hits, 5.0)
            pause(0.05)
            injector.mend()
            pause(0.1)


def _syncs(entries: list[images.Entry]) -> int:
    return sum(each.kind == images.SYNC_ENDED for each in entries)


def _points(entries: list[images.Entry], count: int, chance: Random) -> set[int]:
    """Crash points: half of them right after an answer, half where the files change."""
    answers = [at for at, each in enumerate(entries) if images.acknowledged(each) is not None]
    kinds = (images.SYNC_BEGAN, images.SYNC_ENDED, images.CUT, images.REMOVED, images.RENAMED, images.MADE)
    changes = [at for at, each in enumerate(entries) if each.kind in kinds]
    rare = [at for at, each in enumerate(entries) if each.kind in kinds and "-spill" in each.path]
    drawn = [(answers, count // 2), (changes, count // 4), (rare, count // 4)]
    return {at for among, n in drawn for at in chance.sample(among, min(n, len(among)))} | {len(entries) - 1}


def _replay(
    entries: list[images.Entry],
    root: Path,
    model: str,
    chance: Random,
    sizes: tuple[int, int],
    *,
    seen: Counter[str],
    result: Result,
) -> None:
    disk, acked, wanted = images.Disk(model), set[int](), _points(entries, sizes[0], chance)
    with _memory() as place:
        for at, entry in enumerate(entries):
            delivery = images.acknowledged(entry)
            if delivery is not None:
                acked.add(delivery)
            disk.take(entry)
            if at not in wanted:
                continue
            for turn in range(1 + sizes[1]):
                disk.image(place / "image", str(root), chance if turn else None)
                why = judge(place / "image", acked)
                if seen["images"] % OPENED_EVERY == 0 and not why:
                    why = started(place / "image", acked)
                    seen["opened"] += 1
                seen["images"] += 1
                if why:
                    seen["bad"] += 1
                    what = "a random part" if turn else "nothing unsynced"
                    result.faults.append(f"{model}, {what} on the disk at operation {at}: {why}")


@contextmanager
def _memory() -> Iterator[Path]:
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="holdfast-power-", dir=memory if memory.is_dir() else None))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def judge(folder: Path, acked: set[int]) -> str:
    """What is wrong with an image: damage, or acknowledged deliveries in neither the database nor the journal."""
    kept: set[int] = set()
    database = folder / "holdfast.db"
    if database.exists():
        connection = sqlite3.connect(database)
        try:
            answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if answer != "ok":
                return f"integrity_check says {answer}"
            kept |= {int(row[0]) for row in connection.execute("SELECT id FROM deliveries")}
        except sqlite3.Error as error:
            if "no such table" not in str(error):
                return f"the database cannot be read: {error}"
        finally:
            connection.close()
    SpillJournal(folder / "holdfast.db-spill", 1 << 40).drain(lambda found: kept.update(each.id for each in found))
    lost = acked - kept
    return f"{len(lost)} of {len(acked)} acknowledged deliveries are gone" if lost else ""


def started(folder: Path, acked: set[int]) -> str:
    """What is wrong once the product itself was started on an image. The journal was emptied by `judge`: only what the
    database holds can be asked for."""
    database = folder / "holdfast.db"
    before = _ids(database) if database.exists() else set()
    with capture_logs():
        SqliteStore(SqliteOptions(database)).close()
    lost = (before & acked) - _ids(database)
    return f"a start lost {len(lost)} deliveries" if lost else ""


def _ids(database: Path) -> set[int]:
    connection = sqlite3.connect(database)
    try:
        return {int(row[0]) for row in connection.execute("SELECT id FROM deliveries")}
    except sqlite3.Error:
        return set()
    finally:
        connection.close()
