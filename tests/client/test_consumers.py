"""Several consumers never share a message and lose none, however many of them die (`faults.consumers`)."""

from pathlib import Path

import pytest

from faults import consumers
from faults.consumers import Grant


@pytest.mark.process
def test_consumers_that_die_lose_and_share_nothing(tmp_path: Path) -> None:
    """Twenty consumers take a thousand messages, dying at any moment, while the sidecar is killed."""
    result = consumers.run(tmp_path, 20, 1000, lease_s=0.5, crashes=1)
    assert result.faults == [], result.figures


def test_a_message_that_two_hold_is_found() -> None:
    """The check can fail: a second grant within the first one's lease is a fault, one after it is none."""
    first = Grant("m", 10.0, 10.1)
    assert consumers.shared([first, Grant("m", 10.5, 10.9)], 1.0) == ["m"]
    assert consumers.shared([Grant("m", 10.5, 10.9), first], 1.0) == ["m"]
    assert consumers.shared([first, Grant("m", 10.8, 11.05), Grant("n", 10.2, 10.3)], 1.0) == []
