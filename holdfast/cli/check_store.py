"""The store's half of `holdfast check`: the file, its library, its disk, and whether rows are missing."""

from collections.abc import Iterator

from holdfast.cli.check import Remark
from receiver.errors import StoreUnavailable
from receiver.settings import Settings
from receiver.store import look
from receiver.store.sqlite import driver
from receiver.store.sqlite.filesystem import file_system
from receiver.store.sqlite.maintenance import check_file

_UNAVAILABLE = 69


def check_store(settings: Settings) -> Iterator[Remark]:
    """The database can be read, is of a version we know, and passes SQLite's own quick check."""
    path = settings.store.path
    if not path.exists():
        yield Remark("store", "ok", f"{path} does not exist yet; it is made at the first start")
        if not path.parent.is_dir():
            yield Remark("store", "problem", f"{path.parent} is no folder; make it", _UNAVAILABLE)
        return
    complaint = check_file(path)
    if complaint is not None:
        yield Remark("store", "problem", complaint, _UNAVAILABLE)
        return
    yield Remark("store", "ok", f"{path}: {path.stat().st_size} bytes, sound as far as a quick check tells")
    try:
        missing = int(look(settings, lambda view: view.meta("deliveries.missing")) or 0)
    except StoreUnavailable as error:
        yield Remark("store", "problem", error.message, _UNAVAILABLE)
        return
    if missing:
        todo = "what the journal and the damaged file hold is put back; see docs/reliability.md"
        yield Remark("store", "warning", f"{missing} acknowledged deliveries are missing from the database; {todo}")


def check_library(settings: Settings) -> Iterator[Remark]:
    """Which SQLite this is, and whether two processes may write with it."""
    if driver.two_writers_are_safe():
        yield Remark("sqlite", "ok", f"SQLite {driver.version()}, safe for receive and reconcile side by side")
    else:
        todo = "use `holdfast run` (one process), or install SQLite 3.51.3 or newer (pip install pysqlite3)"
        yield Remark("sqlite", "warning", f"SQLite {driver.version()} can corrupt a file with two writers; {todo}")


def check_disk(settings: Settings) -> Iterator[Remark]:
    """What durable means here; leftovers of trouble beside the database."""
    path = settings.store.path
    kind, remote = file_system(path)
    level: str = "warning" if remote else "ok"
    text = f"{kind} file system" + (
        ": a network one, where WAL is not safe; move the database to a local disk" if remote else ""
    )
    yield Remark("disk", "warning" if level == "warning" else "ok", text)
    for damaged in sorted(path.parent.glob(f"{path.name}.damaged-*")):
        yield Remark(
            "disk", "warning", f"{damaged} holds a damaged database moved aside; remove it when it is no longer needed"
        )
    spill = settings.store.spill_path
    if spill.is_dir() and (left := [each for each in spill.iterdir() if each.name.startswith("damaged-")]):
        yield Remark("disk", "warning", f"{len(left)} damaged records of the spill journal were set aside in {spill}")


STORE_CHECKS = [check_store, check_library, check_disk]
