"""Brings back what can be read of a damaged database that `boot.inspect` moved aside.

It works on a copy, hands rows to a callback and never touches the live database itself; it runs off the acknowledgement
path and may take its time. Rows are read through SQLite as far as the tree holds, then looked for page by page
(`carve`). A delivery whose body does not match its digest is not handed on.

Everything may be handed over twice, and an older version of a row after a newer one, so the callback inserts and never
overwrites: `insert` below does.
"""

import contextlib
import json
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from receiver.store.sqlite.carve import Pages
from receiver.store.sqlite.driver import Connection, quoted, sqlite3
from receiver.store.sqlite.gathering import Runs
from receiver.store.sqlite.shapes import Row, Shape, digest_holds, shapes

InsertRows = Callable[[str, list[Row]], int]
"""Takes rows of one table, column by name, and answers how many of them were new. It commits before it returns."""

TABLES = ("event_keys", "jobs", "job_history", "outbox", "deliveries")
"""In this order: an unread delivery is interpreted as soon as it is back, and must find its job and its key."""

_OWN_NUMBER = {"job_history": "id", "outbox": "seq"}
"""Columns that only count rows within one file; another file has used the same numbers for other rows."""
_DONE = "salvaged.json"
_BATCH_ROWS = 200
_BATCH_BYTES = 8 * 1024 * 1024
_MOST_PROBES = 2000
_BLOCK_BYTES = 1024 * 1024
_SORTED_ROWS = 50_000
_IDS = (-(1 << 63), (1 << 63) - 1)


@dataclass(slots=True)
class SalvageReport:
    """What came back, and what did not."""

    folder: str
    rows: Counter[str] = field(default_factory=Counter)
    """Rows handed over, by table, each version counted."""
    new: Counter[str] = field(default_factory=Counter)
    """Those the callback called new."""
    damaged: set[int] = field(default_factory=set)
    """Ids of deliveries whose body does not match its digest. Their bytes stay in the folder."""
    complaints: list[str] = field(default_factory=list)
    """What could not be read, in SQLite's words; empty when everything was."""

    def facts(self) -> dict[str, object]:
        """All of it as JSON values."""
        counts = {"rows": dict(self.rows), "new": dict(self.new)}
        return {"folder": self.folder, **counts, "damaged": sorted(self.damaged), "complaints": self.complaints}

    @property
    def line(self) -> str:
        """One line for the operator."""
        back = ", ".join(f"{self.new[table]} {table}" for table in reversed(TABLES) if self.new[table]) or "nothing new"
        bad = f"; {len(self.damaged)} deliveries are damaged beyond repair" if self.damaged else ""
        rest = "" if self.complaints or self.damaged else "; every row could be read"
        return f"brought back from {self.folder}: {back}{bad}{rest}"


def waiting(database: Path) -> list[Path]:
    """The folders of damaged files beside this database that were not salvaged yet, oldest first."""
    real = Path(os.path.realpath(database))
    folders = real.parent.glob(f"{_literally(real.name)}.damaged-*")
    return sorted(folder for folder in folders if folder.is_dir() and not (folder / _DONE).exists())


def salvage(damaged_folder: Path, insert_rows: InsertRows) -> SalvageReport:
    """Hand over every row that can still be read from this folder, and note in it that this was done.

    What `insert_rows` raises passes through; the folder then counts as not salvaged and can be tried again. Raises
    OSError when there is no room for the working copy.
    """
    report = SalvageReport(str(damaged_folder))
    database = damaged_folder / damaged_folder.name.rpartition(".damaged-")[0]
    hand = _Hand(insert_rows, report)
    known = shapes()
    with tempfile.TemporaryDirectory(prefix=".salvage-", dir=damaged_folder) as scratch:
        copy = _copied(database, Path(scratch), report)
        wal = _copied(database.with_name(f"{database.name}-wal"), Path(scratch), report)
        pages = Pages(copy, wal)  # opened first: SQLite deletes a WAL whose database is empty
        try:
            whole = copy is not None and _read_tables(copy, known, hand, report)
            _carve(pages, known, hand, database=not whole)
        finally:
            pages.close()
    with open(damaged_folder / _DONE, "w", encoding="utf-8") as note:
        json.dump(report.facts(), note, indent=1)
    return report


def insert(connection: Runs, table: str, rows: list[Row]) -> int:
    """Insert salvaged rows that are not there yet, inside the caller's transaction; answers how many were new.

    A row that breaks a rule of its table is passed over.
    """
    new = 0
    for row in rows:
        columns = ", ".join(row)
        marks = ", ".join(f":{column}" for column in row)
        statement = f"INSERT OR IGNORE INTO {table} ({columns}) SELECT {marks}"
        if table == "job_history":
            same = " AND ".join(f"{column} IS :{column}" for column in row)
            statement += f" WHERE NOT EXISTS (SELECT 1 FROM job_history WHERE {same})"
        with contextlib.suppress(sqlite3.IntegrityError):
            new += connection.execute(statement, row).rowcount
    return new


class _Hand:
    """Gathers rows and hands them on in batches."""

    def __init__(self, insert_rows: InsertRows, report: SalvageReport) -> None:
        self._insert_rows = insert_rows
        self._report = report
        self._rows: dict[str, list[Row]] = {table: [] for table in TABLES}
        self._size_bytes = 0

    def take(self, table: str, row: Row) -> None:
        """One row that was read."""
        if table == "deliveries":
            if not digest_holds(row):
                self._report.damaged.add(int(str(row["id"])))
                return
            self._report.damaged.discard(int(str(row["id"])))  # another page had it whole
        row.pop(_OWN_NUMBER.get(table, ""), None)
        self._rows[table].append(row)
        self._size_bytes += sum(len(value) for value in row.values() if isinstance(value, str | bytes))
        if len(self._rows[table]) >= _BATCH_ROWS or self._size_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand over what was gathered."""
        for table, rows in self._rows.items():
            if rows:
                self._report.rows[table] += len(rows)
                self._report.new[table] += self._insert_rows(table, rows)
                self._rows[table] = []
        self._size_bytes = 0


def _read_tables(copy: Path, known: dict[str, Shape], hand: _Hand, report: SalvageReport) -> bool:
    """Read through SQLite. Answers whether everything could be read."""
    complaints = len(report.complaints)
    try:
        connection = sqlite3.connect(f"file:{quoted(copy)}?mode=ro", uri=True, timeout=0.1, isolation_level=None)
    except sqlite3.Error as error:
        report.complaints.append(str(error))
        return False
    try:
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        for table in TABLES:
            for row in _table(connection, known[table], report):
                if _is_text(row):
                    hand.take(table, row)
                else:
                    report.complaints.append(f"{table}: a row is not text")
            hand.flush()
    finally:
        connection.close()
    return len(report.complaints) == complaints


def _table(connection: Connection, shape: Shape, report: SalvageReport) -> Iterator[Row]:
    try:
        there = {str(line[1]) for line in connection.execute(f"PRAGMA table_info({shape.table})")}
    except sqlite3.Error as error:
        report.complaints.append(f"{shape.table}: {error}")
        return
    columns = [column.name for column in shape.columns if column.name in there]
    if not columns:
        report.complaints.append(f"{shape.table}: the table is not there")
        return
    reader = _by_key if shape.table == "event_keys" else _by_rowid
    yield from reader(connection, shape.table, columns, report)


def _by_rowid(connection: Connection, table: str, columns: list[str], report: SalvageReport) -> Iterator[Row]:
    """Read forwards up to what cannot be read, backwards down to it, and look for more in between by halves."""
    select = f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
    spans = deque([_IDS])
    for _ in range(_MOST_PROBES):
        if not spans:
            return
        low, high = spans.popleft()
        try:
            for rowid, *values in connection.execute(select, (low, high)):
                if rowid < low:
                    raise sqlite3.DatabaseError("rows out of order")
                low = rowid + 1
                yield dict(zip(columns, values, strict=True))
            continue
        except sqlite3.Error as error:
            _complain(report, table, error)
        with contextlib.suppress(sqlite3.Error):
            for rowid, *values in connection.execute(f"{select} DESC", (low, high)):
                if rowid > high:
                    raise sqlite3.DatabaseError("rows out of order")
                high = rowid - 1
                yield dict(zip(columns, values, strict=True))
            continue
        if low < high:
            middle = (low + high) // 2
            spans += [(low, middle), (middle + 1, high)]
    report.complaints.append(f"{table}: too much damage to look into every gap")


def _by_key(connection: Connection, table: str, columns: list[str], report: SalvageReport) -> Iterator[Row]:
    """A table without row numbers: forwards, and when that fails backwards."""
    for order in ("", " DESC"):
        try:
            rows = connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1{order}, 2{order}")
            for values in rows:
                yield dict(zip(columns, values, strict=True))
            return
        except sqlite3.Error as error:
            _complain(report, table, error)


def _complain(report: SalvageReport, table: str, error: sqlite3.Error) -> None:
    line = f"{table}: {error}"
    if line not in report.complaints:
        report.complaints.append(line)


def _carve(pages: Pages, known: dict[str, Shape], hand: _Hand, *, database: bool) -> None:
    """Look for rows page by page: in the WAL always (SQLite stops at its first flaw), else only if the tree failed."""
    later: list[tuple[int, str, Row]] = []
    for candidate in pages.candidates(database=database):
        for table in ("deliveries", "jobs", "outbox", "job_history"):
            row = known[table].row(candidate)
            if row is None:
                continue
            if table == "job_history" or (row.get("state") == "pending" and table == "outbox"):
                later.append((candidate.rowid, table, row))
            else:
                hand.take(table, row)
            break
        if len(later) >= _SORTED_ROWS:
            _in_order(later, hand)
    _in_order(later, hand)


def _in_order(later: list[tuple[int, str, Row]], hand: _Hand) -> None:
    """Messages go out, and a story is read, in the order of their numbers; the newest version of each comes first."""
    for _, table, row in sorted(later, key=lambda found: found[0]):
        hand.take(table, row)
    later.clear()
    hand.flush()


def _is_text(row: Row) -> bool:
    try:
        for value in row.values():
            if isinstance(value, str):
                value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _copied(file: Path, folder: Path, report: SalvageReport) -> Path | None:
    """A working copy; blocks the disk will not give become zeros."""
    if not file.is_file():
        return None
    copy = folder / file.name
    with open(file, "rb", buffering=0) as source, open(copy, "wb") as target:
        size_bytes = os.fstat(source.fileno()).st_size
        for at in range(0, size_bytes, _BLOCK_BYTES):
            try:
                data = os.pread(source.fileno(), min(_BLOCK_BYTES, size_bytes - at), at)
            except OSError as problem:
                report.complaints.append(f"{file.name}: {problem.strerror} at byte {at}")
                data = _piecewise(source.fileno(), at, min(_BLOCK_BYTES, size_bytes - at))
            target.write(data)
    return copy


def _piecewise(fd: int, at: int, size_bytes: int) -> bytes:
    data = bytearray(size_bytes)
    for offset in range(0, size_bytes, 4096):
        with contextlib.suppress(OSError):
            piece = os.pread(fd, min(4096, size_bytes - offset), at + offset)
            data[offset : offset + len(piece)] = piece
    return bytes(data)


def _literally(name: str) -> str:
    """A name as a glob pattern that means itself."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
