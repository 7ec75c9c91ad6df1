"""An application in trouble: what it is owed waits, and nobody else waits for it."""

from pathlib import Path

import pytest

from faults import application

pytestmark = pytest.mark.process


@pytest.mark.parametrize("planted", [False, True])
def test_an_application_that_was_away_is_told_everything_without_a_stampede(planted: bool, tmp_path: Path) -> None:
    """Away, then back but for one message it never takes: all others arrive; one that never comes back is noticed."""
    assert bool(application.away(tmp_path, away_s=1.0, planted=planted).faults) == planted
