"""The high-water mark: never ahead of the truth, whatever happens to its file."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.marks import HighWaterMark, Mark, beside, missing

IDS = st.integers(min_value=-(2**63), max_value=2**63 - 1)
COUNTS = st.integers(min_value=0, max_value=2**64 - 1)


def written(path: Path, upto: int) -> HighWaterMark:
    mark = HighWaterMark(path)
    for n in range(1, upto + 1):
        mark.note(n * 10, n)
    return mark


def test_nothing_noted_is_no_mark(tmp_path: Path) -> None:
    """Without a file there is nothing to compare with, and asking makes none."""
    assert HighWaterMark(tmp_path / "m").read() is None
    assert list(tmp_path.iterdir()) == []


def test_the_mark_lies_beside_the_database() -> None:
    """One fixed name, so that whoever looks for it finds it."""
    assert beside(Path("/var/lib/h/holdfast.db")) == Path("/var/lib/h/holdfast.db.mark")


@given(notes=st.lists(st.tuples(IDS, COUNTS), min_size=1, max_size=8))
def test_the_last_note_is_read_back_also_by_a_later_life(
    notes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What was noted last is what is read, with nothing synced and after any number of new beginnings."""
    path = tmp_path_factory.mktemp("mark") / "m"
    for last_id, count in notes:
        HighWaterMark(path).note(last_id, count)
        assert HighWaterMark(path).read() == Mark(last_id, count)


def test_a_flipped_bit_leaves_this_note_or_the_one_before(tmp_path: Path) -> None:
    """Damage to the mark can only make it older: never an exception, never a number nobody wrote."""
    path = tmp_path / "m"
    written(path, 7).close()
    whole = path.read_bytes()
    allowed = {Mark(70, 7), Mark(60, 6)}
    seen = set()
    for byte in [*range(64), *range(4094, 4160)]:
        for bit in (0, 3, 7):
            data = bytearray(whole)
            data[byte] ^= 1 << bit
            path.write_bytes(data)
            seen.add(HighWaterMark(path).read())

    assert seen == allowed


def test_every_torn_write_leaves_the_note_before(tmp_path: Path) -> None:
    """The two slots lie in blocks of their own, so a write cut at any byte costs one note."""
    path = tmp_path / "m"
    written(path, 6).close()
    before = path.read_bytes()
    mark = HighWaterMark(path)
    mark.note(70, 7)
    mark.close()
    after = path.read_bytes()
    for cut in [*range(64), *range(4094, 4160), len(after)]:
        path.write_bytes(after[:cut] + before[cut:])
        assert HighWaterMark(path).read() in (Mark(60, 6), Mark(70, 7))


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 8192, b"somebody's notes\n" * 1000])
def test_a_file_of_another_kind_is_no_mark(content: bytes, tmp_path: Path) -> None:
    """Whatever lies there is not taken for numbers; the next note begins anew."""
    (tmp_path / "m").write_bytes(content)
    mark = HighWaterMark(tmp_path / "m")

    assert mark.read() is None
    mark.note(5, 1)
    assert mark.read() == Mark(5, 1)


def test_after_a_reset_no_older_mark_can_come_back(tmp_path: Path) -> None:
    """A loss that was reported is not reported again, even when the newest slot is lost with the power."""
    path = tmp_path / "m"
    mark = written(path, 9)
    mark.reset(30, 3)
    mark.close()
    data = bytearray(path.read_bytes())
    for at in (0, 4096):
        torn = bytearray(data)
        torn[at : at + 60] = bytes(60)
        path.write_bytes(torn)
        assert HighWaterMark(path).read() == Mark(30, 3)


@pytest.mark.parametrize("call", ["pwrite", "open", "ftruncate"])
def test_a_note_that_fails_says_so_and_the_next_one_works(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing disk costs the mark its newest number and nothing else; it goes on by itself afterwards."""
    mark = HighWaterMark(tmp_path / "m")
    if call == "pwrite":
        mark.note(1, 1)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space"):
            mark.note(2, 2)
    mark.note(3, 3)

    assert mark.read() == Mark(3, 3)


def test_after_a_failed_sync_nothing_is_synced_as_if_it_had_worked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pages are not synced a second time; the next note is written and synced through a new descriptor."""
    mark = written(tmp_path / "m", 2)
    synced: list[int] = []

    def refuse(fd: int) -> None:
        synced.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        mark.sync()
    monkeypatch.setattr(os, "fdatasync", synced.append)
    mark.sync()
    assert len(synced) == 1

    mark.note(30, 3)
    mark.sync()
    assert len(synced) == 2
    assert mark.read() == Mark(30, 3)


def test_sync_without_news_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle receiver does not wake the disk."""
    mark = written(tmp_path / "m", 1)
    mark.sync()
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)

    mark.sync()

    assert calls == []


@pytest.mark.parametrize(
    ("mark", "last_id", "total", "answer"),
    [
        (None, 10, 5, None),
        (Mark(10, 5), 10, 5, 0),
        (Mark(10, 5), 8, 3, 2),
        (Mark(10, 5), 0, 0, 5),
        (Mark(10, 5), 30, 12, 0),
        (Mark(10, 5), 0, 5, 0),
        (Mark(10, 5), 10, None, 0),
        (Mark(10, 5), 9, None, None),
    ],
)
def test_what_is_missing(mark: Mark | None, last_id: int, total: int | None, answer: int | None) -> None:
    """The difference against the mark; pruned rows count as kept; a stale mark reports nothing; no mark, no answer."""
    assert missing(mark, last_id, total) == answer


@given(commits=st.lists(st.integers(1, 50), min_size=1), noted=st.integers(0), pruned=st.integers(0))
def test_no_order_of_commits_notes_and_pruning_is_a_false_alarm(commits: list[int], noted: int, pruned: int) -> None:
    """The mark may be older than the database, and any number of old rows may be gone: nothing is missing."""
    stale = commits[: noted % len(commits) + 1]
    mark = Mark(sum(stale), sum(stale))
    total = sum(commits)
    gone = pruned % (total + 1)
    newest = total if gone < total else 0

    assert missing(mark, newest, (total - gone) + gone) == 0
