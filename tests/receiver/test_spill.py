"""The spill journal: what `append` answered for is found again, whatever happened to the files."""

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver import spill
from receiver.records import Delivery, DeliveryId
from receiver.spill import SpillFailed, SpillFull, SpillJournal
from receiver.spillfile import HEAD_BYTES
from receiver.states import Verdict
from tests.support import eventually

ROOMY = 1 << 30

TEXT = st.text(max_size=20)
DELIVERIES = st.builds(
    Delivery,
    id=st.integers(min_value=1, max_value=2**63 - 1).map(DeliveryId),
    source=TEXT,
    received_at=st.floats(min_value=0, max_value=4e9),
    remote=TEXT,
    headers=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
    body=st.none() | st.binary(max_size=200) | st.just(b""),
    body_sha256=TEXT,
    verdict=st.sampled_from(Verdict),
    reason=st.none() | TEXT,
    event=st.none() | TEXT,
    event_key=st.none() | TEXT,
    job_id=st.none() | st.text(alphabet=st.characters(), max_size=9),
)


def delivery(id: int, body: bytes = b"{}") -> Delivery:
    sha = hashlib.sha256(body).hexdigest()
    return Delivery(DeliveryId(id), "s", 1776090600.25, "127.0.0.1", (("a", "b"), ("a", "c")), body, sha)


def deliveries(*ids: int) -> list[Delivery]:
    return [delivery(id, b'{"n":%d}' % id) for id in ids]


class Table:
    """What `insert` is in the product: durable when it returns, and one row an id."""

    def __init__(self) -> None:
        self.rows: dict[int, Delivery] = {}
        self.groups: list[list[int]] = []

    def insert(self, group: list[Delivery]) -> None:
        self.groups.append([d.id for d in group])
        for d in group:
            self.rows.setdefault(d.id, d)


def drained(folder: Path) -> Table:
    table = Table()
    SpillJournal(folder, ROOMY).drain(table.insert)
    return table


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("spill-*.journal"))


@contextlib.contextmanager
def failing(call: str, when: Callable[[int], bool], code: int = errno.EIO) -> Iterator[list[int]]:
    """Let `os.<call>` fail each time `when(nth)` says so; answers the list of calls made so far."""
    real: Callable[..., Any] = getattr(os, call)
    calls: list[int] = []

    def perhaps(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls))
        if when(len(calls)):
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, perhaps)
        yield calls


# -- what goes in comes out ------------------------------------------------------------------------------------------


@given(groups=st.lists(st.lists(DELIVERIES, max_size=4), max_size=4))
@settings(max_examples=40)
def test_every_field_comes_back(groups: list[list[Delivery]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A delivery that went through the journal is equal to the one that came in, quarantined ones and odd text too."""
    folder = tmp_path_factory.mktemp("spill") / "s"
    journal = SpillJournal(folder, ROOMY)
    expected: dict[int, Delivery] = {}
    for group in groups:
        journal.append(group)
        for d in sorted(group, key=lambda d: d.id):
            expected.setdefault(d.id, d)

    found = drained(folder)

    # Two with one id do not happen; where the test made such, any of them is a right answer.
    assert found.rows.keys() == expected.keys()
    everything = [d for group in groups for d in group]
    assert all(row in everything for row in found.rows.values())


def test_no_field_of_a_delivery_is_forgotten(tmp_path: Path) -> None:
    """A field added to Delivery later travels through the journal without a change here."""
    values: dict[str, Any] = {
        "id": 7, "source": "a", "received_at": 1.5, "remote": "r", "headers": (("n", "v"),), "body": b"\0\xff",
        "body_sha256": "x", "verdict": Verdict.QUARANTINED, "reason": "malformed", "event": "e", "event_key": "k",
        "job_id": "j",
    }  # fmt: skip
    assert values.keys() == {field.name for field in dataclasses.fields(Delivery)}
    SpillJournal(tmp_path / "s", ROOMY).append([Delivery(**values)])

    assert drained(tmp_path / "s").rows == {7: Delivery(**values)}


def test_looking_makes_nothing_and_the_first_append_makes_the_folder(tmp_path: Path) -> None:
    """A start that never spills leaves no folder; the one that is made is for owner and group alone."""
    old = os.umask(0)
    try:
        journal = SpillJournal(tmp_path / "deep" / "spill", ROOMY)
        assert (journal.records, journal.size_bytes, journal.last_id, journal.trouble) == (0, 0, 0, None)
        assert list(tmp_path.iterdir()) == []
        journal.append(deliveries(1))
    finally:
        os.umask(old)

    assert (tmp_path / "deep" / "spill").stat().st_mode & 0o777 == 0o770
    assert journals(tmp_path / "deep" / "spill")[0].stat().st_mode & 0o777 == 0o660


def test_the_counts_are_those_of_the_folder_after_any_number_of_lives(tmp_path: Path) -> None:
    """records, size_bytes and last_id say the same to the life that wrote and to the one that comes after."""
    journal = SpillJournal(tmp_path, ROOMY)
    journal.append(deliveries(3, 9, 5))
    journal.append(deliveries(7))
    again = SpillJournal(tmp_path, ROOMY)
    again.append(deliveries(8))
    third = SpillJournal(tmp_path, ROOMY)

    assert (journal.records, again.records, third.records) == (4, 5, 5)
    assert (journal.last_id, third.last_id) == (9, 9)
    assert third.size_bytes == sum(file.stat().st_size for file in journals(tmp_path)) == again.size_bytes
    assert len(journals(tmp_path)) == 2, "a file of an earlier life is never appended to"


def test_an_unreadable_folder_is_not_fatal(tmp_path: Path) -> None:
    """A path that is no folder is said at the start, and only an append that has nowhere to go fails."""
    (tmp_path / "s").write_text("a file")
    journal = SpillJournal(tmp_path / "s", ROOMY)

    assert journal.trouble is not None
    assert journal.drain(Table().insert).records == 0
    with pytest.raises(SpillFailed, match=r"spill_dir"):
        journal.append(deliveries(1))


def test_foreign_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    """Only files with our name are read or removed."""
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "spill-1.journal").write_text("x")
    SpillJournal(tmp_path, ROOMY).append(deliveries(1))

    assert drained(tmp_path).rows.keys() == {1}
    assert {file.name for file in tmp_path.iterdir()} == {"notes.txt", "spill-1.journal"}


# -- durable before it answers ---------------------------------------------------------------------------------------


def test_append_syncs_the_file_and_its_name_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: the folder's own name, the bytes, the file's name; later appends to the file sync bytes alone."""
    events: list[str] = []
    write, fdatasync, fsync = os.write, os.fdatasync, os.fsync

    def name(fd: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{fd}")).name

    def logged(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(fd: int, *args: Any) -> Any:
            answer = call(fd, *args)
            events.append(f"{what} {re.sub('spill-.*', 'journal', name(fd))}")
            return answer

        return run

    monkeypatch.setattr(os, "write", logged("write", write))
    monkeypatch.setattr(os, "fdatasync", logged("sync", fdatasync))
    monkeypatch.setattr(os, "fsync", logged("sync", fsync))
    journal = SpillJournal(tmp_path / "s", ROOMY)

    journal.append(deliveries(1, 2))
    assert events == ["write journal", "sync journal", "sync s", f"sync {tmp_path.name}"]
    events.clear()
    journal.append(deliveries(3))
    assert events == ["write journal", "sync journal"]
    journal.close()
    events.clear()
    journal.append(deliveries(4))
    assert events == ["write journal", "sync journal", "sync s"]


@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync", "open", "mkdir"])
@pytest.mark.parametrize("nth", range(1, 8))
@pytest.mark.parametrize("ever_after", [False, True])
def test_each_call_to_the_system_fails_in_turn(call: str, nth: int, ever_after: bool, tmp_path: Path) -> None:
    """Whichever call fails, once or for ever: what was answered for is found, and it goes on when the fault passes."""
    folder = tmp_path / "s"
    journal = SpillJournal(folder, ROOMY)
    kept: set[int] = set()
    with failing(call, lambda n: n >= nth if ever_after else n == nth):
        for id in range(1, 6):
            try:
                journal.append(deliveries(id))
                kept.add(id)
            except SpillFailed:
                assert ever_after, "one failure is made good in a new file"
    journal.append(deliveries(10))

    assert drained(folder).rows.keys() >= kept | {10}
    assert SpillJournal(folder, ROOMY).size_bytes == 0


def test_a_file_whose_sync_failed_is_never_written_again(tmp_path: Path) -> None:
    """After a failed sync a later one may succeed and mean nothing, so the records go into a new file."""
    journal = SpillJournal(tmp_path, ROOMY)
    journal.append(deliveries(1))
    first = journals(tmp_path)[0]
    with failing("fdatasync", lambda n: n == 1):
        journal.append(deliveries(2))
    size = first.stat().st_size
    journal.append(deliveries(3))

    assert first.stat().st_size == size
    assert len(journals(tmp_path)) == 2
    first.unlink()
    assert drained(tmp_path).rows.keys() == {2, 3}


def test_a_full_disk_is_not_filled_with_empty_files(tmp_path: Path) -> None:
    """Files in which nothing was ever acknowledged are removed at once, and no descriptor stays open."""
    journal = SpillJournal(tmp_path, ROOMY)
    before = len(os.listdir("/proc/self/fd"))
    with failing("write", lambda n: True, errno.ENOSPC):
        for id in range(20):
            with pytest.raises(SpillFailed, match="No space left"):
                journal.append(deliveries(id))

    assert journals(tmp_path) == []
    assert journal.size_bytes == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_short_write_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take any part of a write; the rest follows."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: max(1, len(data) // 2)]))

    SpillJournal(tmp_path, ROOMY).append(deliveries(1, 2, 3))

    assert drained(tmp_path).rows.keys() == {1, 2, 3}


def test_the_bound_holds_before_anything_is_written(tmp_path: Path) -> None:
    """Past max_bytes an append is refused whole; what a drain frees can be used again."""
    journal = SpillJournal(tmp_path, 2000)
    kept = 0
    while journal.size_bytes + 700 < 2000:
        kept += 1
        journal.append([delivery(kept, b"x" * 300)])
    with pytest.raises(SpillFull, match="spill_max_bytes"):
        journal.append([delivery(id, b"x" * 300) for id in range(90, 93)])
    assert 0 < sum(file.stat().st_size for file in journals(tmp_path)) <= 2000
    assert journal.records == kept > 1

    journal.drain(Table().insert)
    journal.append(deliveries(1000))
    with pytest.raises(SpillFull):
        journal.append([delivery(1001, b"x" * 3000)])


def test_files_are_closed_at_a_size_that_can_be_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither many appends nor one large one make a file much larger than a segment."""
    monkeypatch.setattr(spill, "SEGMENT_BYTES", 1000)
    journal = SpillJournal(tmp_path, ROOMY)
    for id in range(1, 10):
        journal.append([delivery(id, b"x" * 100)])
    journal.append([delivery(id, b"x" * 400) for id in range(10, 30)])

    assert len(journals(tmp_path)) > 5
    assert all(file.stat().st_size < 2000 for file in journals(tmp_path))
    table = Table()
    assert journal.drain(table.insert).records == 29
    assert [id for group in table.groups for id in group] == list(range(1, 30))
    assert len(table.groups) > 5, "a batch ends by size too"


# -- killed at any byte, and damaged at any bit ----------------------------------------------------------------------


def built(folder: Path, groups: Iterable[list[Delivery]]) -> tuple[bytes, list[int], str]:
    """A journal file, its length after each group, and its name."""
    journal = SpillJournal(folder, ROOMY)
    ends = []
    for group in groups:
        journal.append(group)
        ends.append(journal.size_bytes)
    journal.close()
    (file,) = journals(folder)
    return file.read_bytes(), ends, file.name


def test_killed_at_any_byte(tmp_path: Path) -> None:
    """Cut the file anywhere: every record before the cut is found, the torn one is cut off silently and counted."""
    groups = [deliveries(1), deliveries(2), [delivery(3, b"")], deliveries(4)]
    data, ends, name = built(tmp_path / "built", groups)
    folder = tmp_path / "cut"
    folder.mkdir()
    for cut in range(len(data) + 1):
        (folder / name).write_bytes(data[:cut])
        journal, table = SpillJournal(folder, ROOMY), Table()
        complete = [end for end in ends if end <= cut]

        report = journal.drain(table.insert)

        assert set(table.rows) == set(range(1, len(complete) + 1))
        assert report.torn_bytes == cut - max(complete, default=0)
        assert report.damaged == []
        assert list(folder.iterdir()) == []


def test_the_power_went_before_the_bytes_arrived(tmp_path: Path) -> None:
    """A file that had grown and reads as zeros from there on is a torn tail, not damage."""
    data, ends, name = built(tmp_path / "built", [deliveries(1), deliveries(2)])
    folder = tmp_path / "zeros"
    folder.mkdir()
    for cut in (ends[0], 0):
        (folder / name).write_bytes(data[:cut] + bytes(5000))
        report = SpillJournal(folder, ROOMY).drain(Table().insert)
        assert (report.records, report.torn_bytes, report.damaged) == (1 if cut else 0, 5000, [])


def test_any_flipped_bit_costs_at_most_the_record_it_is_in(tmp_path: Path) -> None:
    """No flip is an exception; every other record survives; the damaged bytes are set aside and reported."""
    data, ends, name = built(tmp_path / "built", [deliveries(1), deliveries(2), deliveries(3)])
    folder = tmp_path / "flip"
    starts = [0, *ends[:-1]]
    for at in range(len(data)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        hit = max(n for n, start in enumerate(starts) if start <= at)
        bad = bytearray(data)
        bad[at] ^= 1 << at % 8
        (folder / name).write_bytes(bad)
        journal, table = SpillJournal(folder, ROOMY), Table()

        report = journal.drain(table.insert)

        assert table.rows.keys() == {1, 2, 3} - {hit + 1}
        assert all(row == deliveries(id)[0] for id, row in table.rows.items())
        (damage,) = report.damaged
        assert damage.delivery_id == (hit + 1 if at - starts[hit] >= HEAD_BYTES else None)
        (aside,) = folder.iterdir()
        assert aside.read_bytes() == bytes(bad[damage.offset_bytes :][: damage.size_bytes])
        assert journal.damaged == SpillJournal(folder, ROOMY).damaged == 1


@given(
    bodies=st.lists(st.binary(max_size=300), min_size=1, max_size=6),
    holes=st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=60)), max_size=4),
    cut=st.integers(0, 5000) | st.none(),
)
@settings(max_examples=80)
def test_no_damage_is_an_exception_or_an_invention(
    bodies: list[bytes], holes: list[tuple[int, bytes]], cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Overwritten in several places and cut: what comes out is what went in, and untouched records all come out."""
    tmp = tmp_path_factory.mktemp("spill")
    made = [delivery(id + 1, body) for id, body in enumerate(bodies)]
    data, ends, name = built(tmp / "built", [[d] for d in made])
    bad = bytearray(data)
    for at, junk in holes:
        bad[at : at + len(junk)] = junk[: max(0, len(bad) - at)]
    del bad[len(data) if cut is None else cut :]
    (tmp / "bad").mkdir()
    (tmp / "bad" / name).write_bytes(bad)

    found = drained(tmp / "bad").rows

    starts = [0, *ends[:-1]]
    untouched = {d.id for d, a, b in zip(made, starts, ends, strict=True) if bytes(bad[a:b]) == data[a:b]}
    assert untouched == found.keys()
    assert all(made[id - 1] == row for id, row in found.items())


def test_a_record_inside_a_body_is_never_taken_for_one(tmp_path: Path) -> None:
    """A sender who puts a journal's bytes into a body gains nothing when the record around it is damaged."""
    inner, _, _ = built(tmp_path / "theirs", [[delivery(666, b'{"forged":true}')]])
    data, _, name = built(tmp_path / "ours", [[delivery(1, inner * 3)], deliveries(2)])
    bad = bytearray(data)
    bad[3] ^= 1
    (tmp_path / "ours" / name).write_bytes(bad)

    assert drained(tmp_path / "ours").rows.keys() == {2}


# -- draining --------------------------------------------------------------------------------------------------------


def test_a_drain_hands_over_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    """Oldest file first, by id within a file, in batches; afterwards the folder and the counts are empty."""
    journal = SpillJournal(tmp_path, ROOMY)
    journal.append(deliveries(5, 2))
    journal.append(deliveries(4))
    journal.close()
    journal.append(deliveries(3, 1))
    table = Table()

    report = journal.drain(table.insert, batch=2)

    assert table.groups == [[2, 4], [5], [1, 3]]
    assert (report.records, report.files, report.torn_bytes) == (5, 2, 0)
    assert (report.damaged, report.left, list(tmp_path.iterdir())) == ([], [], [])
    assert (journal.records, journal.size_bytes, journal.last_id) == (0, 0, 5)


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_an_interrupted_drain_loses_nothing(stop_at: int, tmp_path: Path) -> None:
    """`insert` fails at any batch, the process dies, it is drained again: every record arrives, once each by its id."""
    journal = SpillJournal(tmp_path, ROOMY)
    for start in (1, 5, 9):
        journal.append(deliveries(*range(start, start + 4)))
        journal.close()
    table = Table()

    def insert(group: list[Delivery]) -> None:
        if len(table.groups) + 1 == stop_at:
            raise TimeoutError("database is locked")
        table.insert(group)

    with pytest.raises(TimeoutError):
        journal.drain(insert, batch=2)

    assert journal.records == 12 - 4 * ((stop_at - 1) // 2)
    journal.append(deliveries(13))
    assert SpillJournal(tmp_path, ROOMY).drain(table.insert).files > 0
    assert table.rows.keys() == set(range(1, 14))
    assert list(tmp_path.iterdir()) == []


def test_what_arrives_during_a_drain_waits_in_a_new_file(tmp_path: Path) -> None:
    """Acknowledging goes on while the database is slow to take what was spilled before."""
    journal, table = SpillJournal(tmp_path, ROOMY), Table()
    journal.append(deliveries(1))

    def insert(group: list[Delivery]) -> None:
        journal.append(deliveries(2))
        table.insert(group)

    report = journal.drain(insert)

    assert (report.records, set(table.rows)) == (1, {1})
    assert (journal.records, len(journals(tmp_path))) == (1, 1)
    journal.drain(table.insert)
    assert table.rows.keys() == {1, 2}


def test_threads_that_append_and_drain_at_once_lose_nothing(tmp_path: Path) -> None:
    """Two threads append, one drains over and over: every delivery comes out."""
    journal, table = SpillJournal(tmp_path, ROOMY), Table()
    done = threading.Barrier(3)

    def spill_many(first: int) -> None:
        for id in range(first, first + 40):
            journal.append(deliveries(id))
        done.wait(30)

    threads = [threading.Thread(target=spill_many, args=(first,)) for first in (1, 1001)]
    for thread in threads:
        thread.start()
    while done.n_waiting < 2:
        journal.drain(table.insert)
    done.wait(30)
    for thread in threads:
        thread.join()
    journal.drain(table.insert)

    assert table.rows.keys() == {*range(1, 41), *range(1001, 1041)}
    assert eventually(lambda: list(tmp_path.iterdir()) == [])


def test_one_unreadable_file_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector under one file: the rest is drained, the file stays and is named."""
    journal, table = SpillJournal(tmp_path, ROOMY), Table()
    for id in (1, 2, 3):
        journal.append(deliveries(id))
        journal.close()
    bad = journals(tmp_path)[1]
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read)
        report = journal.drain(table.insert)
        assert SpillJournal(tmp_path, ROOMY).trouble == f"{bad}: Input/output error"

    assert table.rows.keys() == {1, 3}
    assert report.left == [f"{bad.name}: Input/output error"]
    journal.drain(table.insert)
    assert table.rows.keys() == {1, 2, 3}


def test_a_file_that_cannot_be_removed_is_not_handed_over_again(tmp_path: Path) -> None:
    """Its records are in the database: only the removing is tried again."""
    journal, table = SpillJournal(tmp_path, ROOMY), Table()
    journal.append(deliveries(1))
    with failing("unlink", lambda n: True, errno.EROFS):
        report = journal.drain(table.insert)
        journal.drain(table.insert)
    assert "Read-only" in report.left[0]
    assert (table.groups, journal.records) == ([[1]], 0)

    assert journal.drain(table.insert).files == 1
    assert list(tmp_path.iterdir()) == []


def test_damage_that_cannot_be_set_aside_keeps_its_file(tmp_path: Path) -> None:
    """No room for the evidence: the file with the damage stays until there is."""
    data, _, name = built(tmp_path, [deliveries(1), deliveries(2)])
    (tmp_path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    journal, table = SpillJournal(tmp_path, ROOMY), Table()
    with failing("fsync", lambda n: True, errno.ENOSPC):
        report = journal.drain(table.insert)
    assert "setting that aside failed" in report.left[0]
    assert (tmp_path / name).exists()

    assert len(journal.drain(table.insert).damaged) == 1
    assert [file.suffix for file in tmp_path.iterdir()] == [".bin"]
    assert table.rows.keys() == {1}


def test_a_journal_that_somebody_took_away_is_no_error(tmp_path: Path) -> None:
    """An operator who moved the files elsewhere does not stop the drain."""
    journal, table = SpillJournal(tmp_path, ROOMY), Table()
    journal.append(deliveries(1))
    journals(tmp_path)[0].unlink()
    journal.append(deliveries(2))
    journal.close()
    journal.append(deliveries(3))

    journal.drain(table.insert)

    assert table.rows.keys() == {3}
    assert journal.size_bytes == 0
