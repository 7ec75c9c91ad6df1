"""Disks as a power cut could leave them, built from a record of what a process did to its files (c/recorder.c).

A write is durable once a sync of its file began after it and ended before the cut; a name is durable once its folder
was synced so (`posix`), or with any later sync at all (`ext4`, whose journal commits names together). Everything else
may be on the disk or not, in any part: an image is either the floor (nothing that was not synced) or the floor and a
random part of the rest, writes torn at sectors.
"""

import os
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

_HEAD = struct.Struct("<IIQqII")
_MAGIC = 0x48464C4F
MADE, WRITTEN, CUT, SYNC_BEGAN, SYNC_ENDED, RENAMED, REMOVED, FOLDER, SENT, SYNC_FAILED = range(1, 11)
SECTOR_BYTES = 512
_ACKNOWLEDGED = re.compile(rb'HTTP/1\.1 200 .*\{"delivery": "(\d+)"\}', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing the process did."""

    number: int
    kind: int
    path: str
    offset: int
    data: bytes


def read(record: Path) -> list[Entry]:
    """A record, in order."""
    raw, at, entries = record.read_bytes(), 0, []
    while at + _HEAD.size <= len(raw):
        magic, kind, number, offset, path_bytes, data_bytes = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        assert magic == _MAGIC, f"not a record at byte {at}"
        path, data = raw[at : at + path_bytes].decode(), raw[at + path_bytes : at + path_bytes + data_bytes]
        at += path_bytes + data_bytes
        entries.append(Entry(number, kind, path, offset, data))
    return sorted(entries, key=lambda entry: entry.number)


def acknowledged(entry: Entry) -> int | None:
    """The delivery whose 200 was on its way with this entry."""
    found = _ACKNOWLEDGED.search(entry.data) if entry.kind == SENT else None
    return int(found[1]) if found else None


@dataclass(slots=True)
class _Change:
    """Something not durable yet."""

    number: int
    kind: int
    path: str
    file: int
    offset: int = 0
    data: bytes = b""
    to: str = ""

    @property
    def of_a_name(self) -> bool:
        return self.kind in (MADE, RENAMED, REMOVED)


@dataclass(slots=True)
class Disk:
    """What is durable, and what is pending. Files and their names are apart, as on a disk."""

    model: str
    files: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    """The durable names."""
    _live: dict[str, int] = field(default_factory=dict)
    _pending: list[_Change] = field(default_factory=list)

    def take(self, entry: Entry) -> None:
        """One more thing happened."""
        if entry.kind == MADE:
            file = len(self.files) + 1
            self.files[file] = bytearray()
            self._live[entry.path] = file
            self._pending.append(_Change(entry.number, MADE, entry.path, file))
        elif entry.kind in (WRITTEN, CUT) and entry.path in self._live:
            file = self._live[entry.path]
            self._pending.append(_Change(entry.number, entry.kind, entry.path, file, entry.offset, entry.data))
        elif entry.kind == RENAMED and entry.path in self._live:
            file, to = self._live.pop(entry.path), entry.data.decode()
            self._live[to] = file
            self._pending.append(_Change(entry.number, RENAMED, entry.path, file, to=to))
        elif entry.kind == REMOVED:
            file = self._live.pop(entry.path, 0)
            self._pending.append(_Change(entry.number, REMOVED, entry.path, file))
        elif entry.kind == SYNC_ENDED:
            self._synced(entry.path, entry.offset)
        elif entry.kind == SYNC_FAILED:
            self._forget(entry.path, entry.offset)

    def _forget(self, path: str, began: int) -> None:
        """A sync failed: what was written before it counts as clean in memory and is on no disk, unless it is written
        again. Later syncs do not bring it back (that is what file systems do)."""
        file = self._live.get(path)
        self._pending = [
            change
            for change in self._pending
            if not (change.kind == WRITTEN and change.file == file and change.number < began)
        ]

    def _synced(self, path: str, began: int) -> None:
        """Everything of this file (or these names of this folder) up to the beginning of the sync is durable now."""
        file, left = self._live.get(path), []
        for change in self._pending:
            if change.number >= began:
                left.append(change)
            elif change.of_a_name and (self.model == "ext4" or (file is None and os.path.dirname(change.path) == path)):
                _rename(self.names, change)
            elif not change.of_a_name and file is not None and change.file == file:
                _write(self.files[file], change, None)
            else:
                left.append(change)
        self._pending = left

    def image(self, folder: Path, root: str, chance: Random | None) -> None:
        """Put the files into a folder as they could be: the floor, or with a random part of what is pending."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        names, files = dict(self.names), self.files
        if chance is not None:
            touched = {change.file for change in self._pending}
            files = {number: bytearray(data) if number in touched else data for number, data in files.items()}
            for change in self._pending:
                if chance.random() < 0.5:
                    continue
                if change.of_a_name:
                    _rename(names, change)
                else:
                    _write(files[change.file], change, chance if chance.random() < 0.5 else None)
        for path, number in names.items():
            if path.endswith("-shm"):  # the index of the log is made anew at every start
                continue
            target = folder / os.path.relpath(path, root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files[number])


def _rename(names: dict[str, int], change: _Change) -> None:
    names.pop(change.path, None)
    if change.kind == MADE:
        names[change.path] = change.file
    elif change.kind == RENAMED:
        names[change.to] = change.file


def _write(data: bytearray, change: _Change, torn: Random | None) -> None:
    if change.kind == CUT:
        del data[change.offset :]
        data.extend(bytes(change.offset - len(data)))
        return
    for at, part in _sectors(change.data, torn):
        begin = change.offset + at
        if len(data) < begin + len(part):
            data.extend(bytes(begin + len(part) - len(data)))
        if torn is None or torn.random() >= 0.3:
            data[begin : begin + len(part)] = part


def _sectors(data: bytes, torn: Random | None) -> Iterator[tuple[int, bytes]]:
    if torn is None:
        yield 0, data
        return
    for at in range(0, len(data), SECTOR_BYTES):
        yield at, data[at : at + SECTOR_BYTES]
