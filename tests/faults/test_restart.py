"""Planned restarts: with the socket in somebody else's hands no sender notices."""

import signal
from pathlib import Path

import pytest

from faults import NotMeasured, restart

pytestmark = pytest.mark.process


def test_restarts_under_load_fail_nobody(tmp_path: Path) -> None:
    """SIGTERM and a new start, again and again: every request of every sender is answered 200 and kept."""
    assert restart.restarts(tmp_path, 3).faults == []


def test_a_restart_that_cuts_off_is_caught(tmp_path: Path) -> None:
    """The check can fail: killed instead of stopped, requests under way get no answer."""
    assert restart.restarts(tmp_path, 3, how=signal.SIGKILL).faults


def test_a_service_manager_starts_the_receiver_by_the_first_connection(tmp_path: Path) -> None:
    """The real socket activation of systemd: the connection that starts the receiver is answered by it."""
    try:
        assert restart.by_systemd(tmp_path).faults == []
    except NotMeasured as why:
        pytest.skip(str(why))
