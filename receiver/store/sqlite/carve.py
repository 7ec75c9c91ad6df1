"""Finds rows in the pages of a damaged database or WAL, without the tree that should lead to them.

A table's leaf page carries whole rows: www.sqlite.org/fileformat2.html, sections 1.6 and 2. Everything read here may be
nonsense or out of date, so what is found is only a candidate: the caller recognises a table by the shape of the row,
and trusts a delivery by the digest of its body.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from receiver.store.sqlite.walfile import FRAME_HEADER_BYTES, HEADER_BYTES, MAGIC, page_bytes_of, wal_page_bytes

Value = int | float | str | bytes | None
_LEAF = 0x0D
_LARGEST_ROW_BYTES = 256 * 1024 * 1024
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_FIXED = {0: None, 8: 0, 9: 1}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be a row."""

    rowid: int
    values: list[Value]


class _Nonsense(Exception):  # noqa: N818 - a finding, not an error
    """These bytes are no row."""


class Pages:
    """The pages of one database and its WAL, newest version first. Either file may be missing or rubbish."""

    def __init__(self, database: Path | None, wal: Path | None) -> None:
        self._database = _opened(database)
        self._wal = _opened(wal)
        head = _read(self._database, 0, 100)
        told = page_bytes_of(head) if head.startswith(MAGIC) else None
        self.page_bytes = told or wal_page_bytes(_read(self._wal, 0, HEADER_BYTES)) or page_bytes_of(head) or 4096
        self._frames = self._order_of_frames()
        self._newest = dict(reversed(self._frames))

    def close(self) -> None:
        """Close the files."""
        for file in (self._database, self._wal):
            if file is not None:
                file.close()

    def candidates(self, *, database: bool) -> Iterator[Candidate]:
        """Every possible row: from the WAL, newest frame first, and with `database` from the database file too."""
        for number, offset in self._frames:
            yield from self._rows(_read(self._wal, offset, self.page_bytes), number == 1)
        number = 0
        while database and (page := _read(self._database, number * self.page_bytes, self.page_bytes)):
            number += 1
            if number not in self._newest:
                yield from self._rows(page, number == 1)

    def _order_of_frames(self) -> list[tuple[int, int]]:
        """(page number, offset of the page) of every frame; those of the present generation before left-over ones."""
        head = _read(self._wal, 0, HEADER_BYTES)
        first = _read(self._wal, HEADER_BYTES, FRAME_HEADER_BYTES)
        salts = {head[16:24], first[8:16]} - {b"", bytes(8)}
        present: list[tuple[int, int]] = []
        older: list[tuple[int, int]] = []
        offset = HEADER_BYTES
        while len(frame := _read(self._wal, offset, FRAME_HEADER_BYTES)) == FRAME_HEADER_BYTES:
            number = int.from_bytes(frame[:4], "big")
            (present if frame[8:16] in salts else older).append((number, offset + FRAME_HEADER_BYTES))
            offset += FRAME_HEADER_BYTES + self.page_bytes
        return present[::-1] + older[::-1]

    def _page(self, number: int) -> bytes:
        offset = self._newest.get(number)
        if offset is not None:
            return _read(self._wal, offset, self.page_bytes)
        return _read(self._database, (number - 1) * self.page_bytes, self.page_bytes)

    def _rows(self, page: bytes, is_first: bool) -> Iterator[Candidate]:
        start = 100 if is_first else 0
        if len(page) < start + 8 or page[start] != _LEAF:
            return
        cells = int.from_bytes(page[start + 3 : start + 5], "big")
        for cell in range(min(cells, self.page_bytes // 4)):
            pointer = start + 8 + 2 * cell
            try:
                yield self._row(page, int.from_bytes(page[pointer : pointer + 2], "big"))
            except (_Nonsense, IndexError, UnicodeDecodeError, struct.error):
                continue

    def _row(self, page: bytes, at: int) -> Candidate:
        size_bytes, at = _varint(page, at)
        rowid, at = _varint(page, at)
        if not 2 <= size_bytes <= _LARGEST_ROW_BYTES:
            raise _Nonsense
        room = self.page_bytes - 35
        local = size_bytes
        if size_bytes > room:
            least = (self.page_bytes - 12) * 32 // 255 - 23
            local = least + (size_bytes - least) % (self.page_bytes - 4)
            local = local if local <= room else least
        payload = page[at : at + local]
        if len(payload) < local:
            raise _Nonsense
        if local < size_bytes:
            payload += self._overflow(int.from_bytes(page[at + local : at + local + 4], "big"), size_bytes - local)
        return Candidate(rowid - (1 << 64) if rowid >= 1 << 63 else rowid, _values(payload))

    def _overflow(self, number: int, size_bytes: int) -> bytes:
        parts = []
        while size_bytes > 0:
            page = self._page(number) if number else b""
            if len(page) < self.page_bytes:
                raise _Nonsense
            part = page[4 : 4 + size_bytes]
            parts.append(part)
            size_bytes -= len(part)
            number = int.from_bytes(page[:4], "big")
        return b"".join(parts)


def _values(payload: bytes) -> list[Value]:
    """The columns of a record."""
    head_bytes, at = _varint(payload, 0)
    if not at <= head_bytes <= len(payload):
        raise _Nonsense
    values: list[Value] = []
    body = head_bytes
    while at < head_bytes:
        kind, at = _varint(payload, at)
        value, size_bytes = _value(payload, kind, body)
        values.append(value)
        body += size_bytes
    if body != len(payload):
        raise _Nonsense
    return values


def _value(payload: bytes, kind: int, at: int) -> tuple[Value, int]:
    if kind in _FIXED:
        return _FIXED[kind], 0
    if kind in _INTEGER_BYTES:
        size_bytes = _INTEGER_BYTES[kind]
        return int.from_bytes(payload[at : at + size_bytes], "big", signed=True), size_bytes
    if kind == 7:
        return float(struct.unpack_from(">d", payload, at)[0]), 8
    if kind < 12:
        raise _Nonsense
    size_bytes = (kind - 12) // 2
    data = payload[at : at + size_bytes]
    if len(data) < size_bytes:
        raise _Nonsense
    return (data.decode("utf-8") if kind & 1 else data), size_bytes


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1


def _opened(path: Path | None) -> BinaryIO | None:
    if path is None or not path.is_file():
        return None
    return open(path, "rb")


def _read(file: BinaryIO | None, offset: int, size_bytes: int) -> bytes:
    if file is None:
        return b""
    file.seek(offset)
    return file.read(size_bytes)
