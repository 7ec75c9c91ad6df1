"""The wall clock is stepped under the running sidecar: nothing stalls, nothing storms, deadlines are kept."""

from pathlib import Path

import pytest

from faults import NotMeasured, clocks

pytestmark = pytest.mark.process


def test_a_stepped_wall_clock_stops_and_hurries_nothing(tmp_path: Path) -> None:
    """An hour back, then a day on: questions, pushes and deadlines keep their pace."""
    try:
        assert clocks.stepped(tmp_path, lasting_s=1.4, steps=(-clocks.HOUR_S, clocks.DAY_S)).faults == []
    except NotMeasured as why:
        pytest.skip(str(why))
