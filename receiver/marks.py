"""The high-water mark: how many deliveries the database had committed, remembered in a small file beside it.

SQLite's own checks do not notice when committed transactions vanish (a flipped bit in the WAL ends it there, silently);
a number kept elsewhere does. The mark is written after each commit without a sync, so after a power cut it may be older
than the database: it then under-reports. It never runs ahead of the database, so it never cries wolf.

The file holds two slots in separate blocks, written in turn, each with its own check: a torn write costs one of them.
"""

import contextlib
import hashlib
import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"HFmark1\0"
_FACTS = struct.Struct("<8sQqQ")  # magic, how many-eth writing, greatest id, deliveries committed
_CHECK_BYTES = 16
_SLOT_BYTES = _FACTS.size + _CHECK_BYTES
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Mark:
    """What the database was known to hold."""

    last_id: int
    """The greatest delivery id committed so far."""
    count: int
    """Deliveries ever committed, those pruned since included."""


def beside(database: Path) -> Path:
    """Where the mark of a database lies."""
    return database.with_name(database.name + ".mark")


def missing(mark: Mark | None, db_last_id: int, db_total_committed: int | None) -> int | None:
    """How many deliveries the mark knows of and the database does not; None when nothing can be said.

    `db_total_committed` counts what was ever committed: rows there now and rows pruned, the latter counted in the
    transaction that removed them. It may be None when counting took too long; the greatest id then clears the
    database or leaves the question open (the row with the mark's id may have been pruned).
    """
    if mark is None:
        return None
    if db_total_committed is None:
        return 0 if db_last_id >= mark.last_id else None
    return max(0, mark.count - db_total_committed)


class HighWaterMark:
    """The mark in one file. Nothing here is needed for an acknowledgement: callers go on when it raises OSError."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened or made before the first `note`."""
        self.path = path
        self._fd = -1
        self._turn = 0
        self._unsynced = False
        self._lock = threading.Lock()

    def read(self) -> Mark | None:
        """The newest mark whose check holds; None without one, also when the file cannot be read."""
        newest = self._newest()
        return newest[1] if newest else None

    def note(self, last_id: int, count: int) -> None:
        """Remember what was just committed: one small write, no sync. Raises OSError."""
        with self._lock:
            self._note(last_id, count)

    def sync(self) -> None:
        """Make what was noted survive a power cut; call it at most once a second. Raises OSError.

        After a failed sync the file is opened anew for the next note: a second sync of the same pages would prove
        nothing.
        """
        with self._lock:
            self._sync()

    def reset(self, last_id: int, count: int) -> None:
        """Begin again from what the database holds, after rows were found missing and reported. Raises OSError.

        Both slots are written and synced, so that no older mark can come back after a power cut and report the same
        loss again.
        """
        with self._lock:
            self._note(last_id, count)
            self._note(last_id, count)
            self._sync()

    def close(self) -> None:
        """Sync and close; errors are of no interest any more."""
        with self._lock, contextlib.suppress(OSError):
            try:
                self._sync()
            finally:
                self._close()

    def _newest(self) -> tuple[int, Mark] | None:
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        slots = (data[at : at + _SLOT_BYTES] for at in (0, _BLOCK_BYTES))
        return max(filter(None, map(_read_slot, slots)), key=lambda turn_and_mark: turn_and_mark[0], default=None)

    def _note(self, last_id: int, count: int) -> None:
        if self._fd < 0:
            self._open()
        self._turn += 1
        facts = _FACTS.pack(_MAGIC, self._turn, last_id, count)
        try:
            written = os.pwrite(self._fd, facts + _check(facts), self._turn % 2 * _BLOCK_BYTES)
            if written != _SLOT_BYTES:
                raise OSError(f"only {written} bytes of the mark {self.path} were written")
        except OSError:
            self._close()
            raise
        self._unsynced = True

    def _open(self) -> None:
        newest = self._newest()
        new = not self.path.exists()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            os.ftruncate(fd, 2 * _BLOCK_BYTES)
            if new:
                _sync_folder(self.path.parent)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._turn = newest[0] if newest else 0

    def _sync(self) -> None:
        if self._fd < 0 or not self._unsynced:
            return
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._close()
            raise
        self._unsynced = False

    def _close(self) -> None:
        fd, self._fd, self._unsynced = self._fd, -1, False
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _read_slot(slot: bytes) -> tuple[int, Mark] | None:
    facts = slot[: _FACTS.size]
    if len(slot) != _SLOT_BYTES or slot[_FACTS.size :] != _check(facts):
        return None
    magic, turn, last_id, count = _FACTS.unpack(facts)
    return (turn, Mark(last_id, count)) if magic == _MAGIC else None


def _check(facts: bytes) -> bytes:
    return hashlib.blake2b(facts, digest_size=_CHECK_BYTES).digest()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
