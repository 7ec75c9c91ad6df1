"""What the service manager is told."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's end of the line, and its name as the environment has it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@holdfast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
        line.settimeout(2.0)
        yield line, name


def test_the_manager_hears_every_state(manager: tuple[socket.socket, str]) -> None:
    """One datagram each, by path or by abstract name; a status stays on its line."""
    line, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("listening")
    notifier.status("two\nlines")
    notifier.alive()
    notifier.stopping()

    heard = [line.recv(1000) for _ in range(4)]
    assert heard == [b"READY=1\nSTATUS=listening", b"STATUS=two lines", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere"}, {"NOTIFY_SOCKET": "x"}])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    """No variable, nobody there, or a name of another kind: telling is best effort."""
    notifier = Notifier(environ)
    notifier.ready()
    notifier.alive()

    assert notifier.watchdog_s is None


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(variables: dict[str, str], watchdog_s: float | None) -> None:
    """Half the manager's patience, and only if it watches this process."""
    assert Notifier({"NOTIFY_SOCKET": "/run/notify", **variables}).watchdog_s == watchdog_s


def test_a_manager_that_does_not_listen_never_holds_us_up(manager: tuple[socket.socket, str]) -> None:
    """A full queue drops what we say; it does not block."""
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    for _ in range(2000):
        notifier.alive()

    assert manager[0].recv(1000) == b"WATCHDOG=1"
