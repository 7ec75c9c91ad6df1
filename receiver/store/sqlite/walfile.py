"""The outline of SQLite's files, as far as we look at them ourselves: www.sqlite.org/fileformat2.html.

It reads and never writes, and trusts nothing it reads: these are the files of which something is known to be wrong.
"""

import struct
from pathlib import Path

import structlog

log = structlog.get_logger("holdfast.store")

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
WAL_ALARM_BYTES = 64 * 1024 * 1024
"""Eight times what the log grows to between two checkpoints: somebody keeps it from being folded in."""
WAL_AGAIN_S = 300.0
_MAGICS = (0x377F0682, 0x377F0683)
_PAGE_BYTES = frozenset(1 << power for power in range(9, 17))


def page_bytes_of(head: bytes) -> int | None:
    """The page size a database's first bytes name, or None when there is no such size."""
    written = int.from_bytes(head[16:18], "big")
    size = 65536 if written == 1 else written
    return size if size in _PAGE_BYTES else None


def wal_page_bytes(head: bytes) -> int | None:
    """The page size a WAL's first bytes name, or None when there is no such size."""
    size = int.from_bytes(head[8:12], "big")
    return size if size in _PAGE_BYTES else None


def header_is_sound(wal: Path) -> bool:
    """Whether SQLite will take this WAL for one. A missing one, or one too short to hold anything, is no damage."""
    try:
        with open(wal, "rb") as file:
            head = file.read(HEADER_BYTES)
    except FileNotFoundError:
        return True
    if len(head) < HEADER_BYTES:
        return True
    magic = int.from_bytes(head[:4], "big")
    if magic not in _MAGICS:
        return False
    words = struct.unpack(">6I" if magic & 1 else "<6I", head[:24])
    return _checksum(words) == struct.unpack(">2I", head[24:32])


def _checksum(words: tuple[int, ...]) -> tuple[int, int]:
    first = second = 0
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second


class WalWatch:
    """Says so when the log grows past all measure. A reader that forgot its transaction pins it, and nothing but that
    reader's end helps: a truncating checkpoint would hold up the writer instead (sqlite.org/wal.html, section 6)."""

    def __init__(self, database: Path) -> None:
        self._wal = database.with_name(database.name + "-wal")
        self._again_at = 0.0

    def look(self, now: float) -> None:
        """Look at its size; `now` is monotonic. One warning in five minutes."""
        try:
            size_bytes = self._wal.stat().st_size
        except OSError:
            return
        if size_bytes < WAL_ALARM_BYTES or now < self._again_at:
            return
        self._again_at = now + WAL_AGAIN_S
        todo = "end whoever holds a read transaction on the database open (`fuser` shows who has it open)"
        log.warning("store.wal_grows", wal_bytes=size_bytes, todo=todo)
