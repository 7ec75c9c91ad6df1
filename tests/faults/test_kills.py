"""kill -9 at any moment: what was acknowledged is kept, and what was decided is told under one id."""

from pathlib import Path

import pytest

from faults import kills

pytestmark = pytest.mark.process


def test_what_was_acknowledged_survives_kill_minus_nine(tmp_path: Path) -> None:
    """Killed under load again and again, the receiver keeps every delivery it answered with 200."""
    assert kills.receive(tmp_path, 4).faults == []


def test_every_outcome_is_told_under_one_id_however_often_the_sidecar_is_killed(tmp_path: Path) -> None:
    """Killed between keeping, reading, deciding and telling: the application hears each outcome, repeats by id."""
    assert kills.run(tmp_path, 2).faults == []


def test_an_acknowledgement_before_the_commit_is_caught(tmp_path: Path) -> None:
    """The check can fail: answering first loses deliveries, and it says so."""
    assert kills.receive(tmp_path, 3, planted="acknowledge-first").faults
