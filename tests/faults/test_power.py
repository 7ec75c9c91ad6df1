"""Power loss: at the instant a 200 leaves, the delivery is on the disk, whatever part of the rest is."""

from pathlib import Path

import pytest

from faults import NotMeasured, Result, power

pytestmark = pytest.mark.process


def lose(folder: Path, **ways: object) -> Result:
    try:
        return power.lose(folder, **ways)  # type: ignore[arg-type]  # the cases below are typed there
    except NotMeasured as why:
        pytest.skip(str(why))


def test_what_was_acknowledged_survives_the_power_going(tmp_path: Path) -> None:
    """In every image of the disk, by two models of a file system: database sound, every acknowledged delivery there."""
    result = lose(tmp_path)

    assert result.faults == []
    assert int(str(result.figures["images"])) > 200


@pytest.mark.parametrize(
    "planted", ["synchronous-off", "synchronous-normal", "acknowledge-first", "no-spill-sync", "no-folder-sync"]
)
def test_less_than_a_sync_before_the_answer_is_caught(planted: str, tmp_path: Path) -> None:
    """The check can fail: weaker settings, answering before the commit, a journal that is not synced or not named."""
    assert lose(tmp_path, planted=planted, points=12, subsets=0, seconds=0.25, models=("posix",)).faults


def test_what_is_acknowledged_after_a_failed_sync_survives_a_power_cut(tmp_path: Path) -> None:
    """The kernel forgets what a failed sync should have kept; nothing acknowledged later hangs on it."""
    assert lose(tmp_path, seconds=0.1, points=12, subsets=0, failing=2, models=("ext4",)).faults == []
