"""The spill journal: where deliveries are kept, durably, while the database does not take them.

It owns a folder of files that are appended to and then removed whole. It never reads the database, never logs, and
never throws away a record it cannot read: what is damaged is set aside. Every method may be called from any thread.
"""

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from receiver.errors import HoldfastError, sentence
from receiver.records import Delivery, DeliveryId
from receiver.spillfile import NONCE_BYTES, Encoded, Found, Gap, decode, encode, frame, scan

SEGMENT_BYTES = 8 * 1024 * 1024
"""A file is closed when it has grown past this, so that draining holds no more than this and one record."""

_T = TypeVar("_T")
_NAME = re.compile(r"spill-(\d{12,})-([0-9a-f]{24})\.journal")


class SpillFailed(HoldfastError):  # noqa: N818 - named for what happened, as all of the error tree
    """The journal could not be written: the records are not safe and must not be acknowledged."""


class SpillFull(SpillFailed):
    """The journal would grow past its bound; nothing was written."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a journal file that is no readable record, now a `damaged-*.bin` in the folder."""

    file: str
    offset_bytes: int
    size_bytes: int
    delivery_id: DeliveryId | None
    """The delivery that was there, when its header is still readable."""


@dataclass(slots=True)
class DrainReport:
    """What one drain did."""

    records: int = 0
    """Records that `insert` took."""
    files: int = 0
    """Files emptied and removed."""
    torn_bytes: int = 0
    """Bytes cut off at the ends of files: they were being written when the process or the power went."""
    damaged: list[Damage] = field(default_factory=list)
    """What was set aside."""
    left: list[str] = field(default_factory=list)
    """Files that could not be read, or not removed, with the reason; the next drain tries them again."""


@dataclass(slots=True, eq=False)
class _File:
    path: Path
    number: int
    nonce: bytes
    size_bytes: int = 0
    records: int = 0
    emptied: bool = False


class SpillJournal:
    """The journal in one folder. One process at a time writes to a folder; opening it changes nothing on disk."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Look at what an earlier life left. A folder that is missing or unreadable counts as empty (`trouble`)."""
        self.folder = folder
        self.max_bytes = max_bytes
        self.trouble: str | None = None
        """Why what was there could not be read at the start, if so."""
        self.damaged = 0
        """Damaged stretches lying aside in the folder, from this life and earlier ones."""
        self.last_id = 0
        """The greatest id ever seen in the journal, for ids that go on growing; 0 when there was none."""
        self._files: list[_File] = []
        self._fd = -1
        """The present file, always the last of `_files`; -1 when the next append begins a new one."""
        self._number = 0
        self._unsynced = {folder.parent}
        """Folders in which the name of the journal's own folder may not be durable yet."""
        self._lock = threading.Lock()
        self._draining = threading.Lock()
        self._look()

    @property
    def size_bytes(self) -> int:
        """Bytes in journal files, whatever they hold."""
        with self._lock:
            return sum(file.size_bytes for file in self._files)

    @property
    def records(self) -> int:
        """Records waiting to be drained."""
        with self._lock:
            return sum(file.records for file in self._files if not file.emptied)

    def append(self, deliveries: Sequence[Delivery]) -> None:
        """Keep these deliveries: when this returns they survive `kill -9` and power loss.

        One call is one sync, so hand in many at once. Raises SpillFull before anything is written, SpillFailed when
        neither the present file nor a new one took them; some of them may then be found later all the same.
        """
        if not deliveries:
            return
        parts = [encode(delivery) for delivery in deliveries]
        coming = sum(part.size_bytes for part in parts)
        with self._lock:
            held = sum(file.size_bytes for file in self._files)
            if held + coming > self.max_bytes:
                met = f"{held} bytes are held and {coming} more would pass the bound of {self.max_bytes}"
                todo = "get the database to take writes again, or raise store.spill_max_bytes"
                raise SpillFull(sentence(f"writing to the spill journal {self.folder}", met, todo))
            for chunk in _cut(parts, lambda part: part.size_bytes, len(parts)):
                self._keep(chunk)
            self.last_id = max(self.last_id, *(part.id for part in parts))

    def drain(self, insert: Callable[[list[Delivery]], None], batch: int = 200) -> DrainReport:
        """Hand what is in the journal to `insert`, oldest file first and by id within a file, and remove the files.

        `insert` must have committed durably when it returns, and skip ids it already has: after an interrupted drain
        a file is handed over again from its beginning. What `insert` raises passes through and nothing is removed
        that it did not take. Deliveries appended meanwhile go to a new file and wait for the next drain.
        """
        report = DrainReport()
        with self._draining:
            with self._lock:
                self._close()
                files = list(self._files)
            for file in files:
                trouble = None if file.emptied else self._empty(file, insert, batch, report)
                trouble = trouble or self._remove(file)
                if trouble:
                    report.left.append(f"{file.path.name}: {trouble}")
                else:
                    report.files += 1
        return report

    def close(self) -> None:
        """Close the present file. The journal may be used again; it goes on in a new file."""
        with self._lock:
            self._close()

    def _look(self) -> None:
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return
        except OSError as problem:
            self.trouble = f"{self.folder}: {problem.strerror}"
            return
        self.damaged = sum(name.startswith("damaged-") and name.endswith(".bin") for name in names)
        for match in filter(None, map(_NAME.fullmatch, names)):
            file = _File(self.folder / match[0], int(match[1]), bytes.fromhex(match[2]))
            self._number = max(self._number, file.number)
            self._files.append(file)
            try:
                file.size_bytes = file.path.stat().st_size
                data = file.path.read_bytes()
            except OSError as problem:
                self.trouble = f"{file.path}: {problem.strerror}"
                continue
            ids = [found.id for found in scan(data, file.nonce) if isinstance(found, Found)]
            file.records = len(ids)
            self.last_id = max(self.last_id, *ids, 0)
        self._files.sort(key=lambda file: file.number)

    def _keep(self, chunk: list[Encoded]) -> None:
        """Write one file's worth: into the present file, and if that fails once more into a new one."""
        try:
            self._write(chunk)
        except OSError:
            self._abandon()
            try:
                self._write(chunk)
            except OSError as problem:
                self._abandon()
                doing = f"writing to the spill journal {self.folder}"
                todo = "make room or repair the disk, or point store.spill_dir at another one"
                raise SpillFailed(sentence(doing, problem.strerror or str(problem), todo)) from problem

    def _write(self, chunk: list[Encoded]) -> None:
        if self._fd >= 0 and self._files[-1].size_bytes >= SEGMENT_BYTES:
            self._close()
        fresh = self._fd < 0
        if fresh:
            self._begin()
        file = self._files[-1]
        left = memoryview(b"".join(frame(part, file.nonce) for part in chunk))
        while left:
            written = os.write(self._fd, left)
            file.size_bytes += written
            left = left[written:]
        os.fdatasync(self._fd)
        if fresh:
            self._make_names_durable()
        file.records += len(chunk)

    def _begin(self) -> None:
        """Open a new file; the folder is made the first time one is needed."""
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        for folder in reversed(missing):
            os.mkdir(folder, 0o770)
            self._unsynced.add(folder.parent)
        nonce = secrets.token_bytes(NONCE_BYTES)
        number = self._number + 1
        path = self.folder / f"spill-{number:012d}-{nonce.hex()}.journal"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o660)
        self._number = number
        self._files.append(_File(path, number, nonce))

    def _make_names_durable(self) -> None:
        _sync_folder(self.folder)
        for folder in list(self._unsynced):
            # Where we may not even look, we did not make the folder just now: its name is as old as the machine's.
            with contextlib.suppress(PermissionError):
                _sync_folder(folder)
            self._unsynced.discard(folder)

    def _close(self) -> None:
        """Close without a word on errors: every byte that counts was synced before it was acknowledged."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _abandon(self) -> None:
        """Never touch the present file again: after a failed sync a later one may succeed and still mean nothing.

        A file in which nothing was ever acknowledged is removed, or a full disk would fill with empty files.
        """
        if self._fd < 0:
            return
        self._close()
        if self._files[-1].records == 0:
            with contextlib.suppress(OSError):
                os.unlink(self._files[-1].path)
                self._files.pop()

    def _empty(
        self, file: _File, insert: Callable[[list[Delivery]], None], batch: int, report: DrainReport
    ) -> str | None:
        """Hand over one file's records and set its damaged stretches aside. Answers what went wrong with the file."""
        try:
            data = file.path.read_bytes()
        except FileNotFoundError:
            file.emptied = True  # somebody took it away: there is nothing left to hand over
            return None
        except OSError as problem:
            return problem.strerror or str(problem)
        gaps = [gap for gap in scan(data, file.nonce) if isinstance(gap, Gap)]
        damaged = [Damage(file.path.name, gap.start, gap.end - gap.start, None) for gap in gaps if not gap.torn]
        records = sorted((found for found in scan(data, file.nonce) if isinstance(found, Found)), key=lambda r: r.id)
        for group in _cut(records, lambda record: record.end - record.start, batch):
            deliveries = []
            for record in group:
                delivery = decode(record, data, file.nonce)
                if delivery is not None:
                    deliveries.append(delivery)
                    continue
                size_bytes = record.end - record.start
                damaged.append(Damage(file.path.name, record.start, size_bytes, DeliveryId(record.id)))
            if deliveries:
                insert(deliveries)
                report.records += len(deliveries)
        trouble = self._set_aside(file, data, damaged)
        if trouble is None:
            report.damaged += damaged
            report.torn_bytes += sum(gap.end - gap.start for gap in gaps if gap.torn)
            file.emptied = True
        return trouble

    def _set_aside(self, file: _File, data: bytes, damaged: list[Damage]) -> str | None:
        try:
            for piece in damaged:
                path = self.folder / f"damaged-{file.number:012d}-{file.nonce.hex()}-{piece.offset_bytes}.bin"
                known = path.exists()
                with open(path, "wb", opener=_group_readable) as out:
                    out.write(data[piece.offset_bytes : piece.offset_bytes + piece.size_bytes])
                    out.flush()
                    os.fsync(out.fileno())
                self.damaged += not known
            if damaged:
                _sync_folder(self.folder)  # the evidence must have its name before the file loses its own
        except OSError as problem:
            return f"damaged, and setting that aside failed: {problem.strerror}"
        return None

    def _remove(self, file: _File) -> str | None:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.path)
                _sync_folder(self.folder)
        except OSError as problem:
            return f"emptied, but not removed: {problem.strerror}"
        with self._lock:
            self._files.remove(file)
        return None


def _cut(items: Sequence[_T], size_bytes: Callable[[_T], int], count: int) -> Iterator[list[_T]]:
    """Groups of at most `count` items that end once they pass SEGMENT_BYTES."""
    group: list[_T] = []
    held = 0
    for item in items:
        group.append(item)
        held += size_bytes(item)
        if len(group) >= count or held >= SEGMENT_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _group_readable(path: str, flags: int) -> int:
    return os.open(path, flags, 0o660)


def _sync_folder(folder: Path) -> None:
    """Make new and removed names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
