"""Listening sockets: bound, inherited or handed down, and readable when they cannot be had."""

import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from receiver.errors import HoldfastError, UsageError
from receiver.listeners import open_listener, passed_listeners


def accepts(listener_address: tuple[str, int] | str) -> bool:
    family = socket.AF_UNIX if isinstance(listener_address, str) else socket.AF_INET
    if isinstance(listener_address, tuple) and ":" in listener_address[0]:
        family = socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(2.0)
        caller.connect(listener_address)
        return True


@pytest.mark.parametrize(("written", "host"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")])
def test_a_host_and_port_is_listened_on(written: str, host: str) -> None:
    """Port 0 lets the system choose, and the address says what it chose."""
    listener = open_listener(written)
    try:
        assert listener.port > 0
        assert listener.address == f"http://{f'[{host}]' if ':' in host else host}:{listener.port}"
        assert accepts((host, listener.port))
    finally:
        listener.close()


def test_a_name_is_listened_on_at_every_address_it_has() -> None:
    """`localhost` means the same port for IPv4 and, where there is one, IPv6."""
    listener = open_listener("localhost:0")
    try:
        assert {each.getsockname()[1] for each in listener.sockets} == {listener.port}
        assert accepts(("127.0.0.1", listener.port))
    finally:
        listener.close()


def test_what_is_accepted_sends_without_delay() -> None:
    """TCP_NODELAY is on the listening socket, and inherited from it."""
    listener = open_listener("127.0.0.1:0")
    try:
        with socket.create_connection(("127.0.0.1", listener.port)):
            listener.sockets[0].setblocking(True)
            accepted, _ = listener.sockets[0].accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        listener.close()


def test_an_address_in_use_says_so_and_what_to_do() -> None:
    """Exit code 69, one line, no traceback needed."""
    listener = open_listener("127.0.0.1:0")
    try:
        with pytest.raises(HoldfastError, match=r"listening on 127\.0\.0\.1:\d+: address in use; .*ss -ltnp") as caught:
            open_listener(f"127.0.0.1:{listener.port}")
        assert caught.value.exit_code == 69
    finally:
        listener.close()


@pytest.mark.parametrize("written", ["203.0.113.7:8080", "no.such.host.invalid:80", "fd:99"])
def test_what_cannot_be_listened_on_is_readable(written: str) -> None:
    """A foreign address, a name nobody knows, a descriptor nobody handed down."""
    with pytest.raises(HoldfastError, match=f"listening on {written}: .+; .+") as caught:
        open_listener(written)
    assert caught.value.exit_code == 69


@pytest.mark.parametrize("written", ["8080", "unix:", "fd:1", "fd:x", "host:99999"])
def test_what_is_no_address_is_wrong_usage(written: str) -> None:
    """Exit code 2."""
    with pytest.raises(UsageError) as caught:
        open_listener(written)
    assert caught.value.exit_code == 2


def test_a_unix_socket_is_made_and_removed(tmp_path: Path) -> None:
    """It is there while it is listened on, and gone afterwards."""
    path = tmp_path / "door.sock"
    listener = open_listener(f"unix:{path}")

    assert listener.address == f"unix:{path}"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert accepts(str(path))
    listener.close()
    listener.close()
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    """What a killed process left behind is removed; what answers is somebody's."""
    path = tmp_path / "door.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))

    listener = open_listener(f"unix:{path}")
    try:
        with pytest.raises(HoldfastError, match="address in use"):
            open_listener(f"unix:{path}")
        assert accepts(str(path))
    finally:
        listener.close()


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    """A wrong path costs nobody his file."""
    path = tmp_path / "precious"
    path.write_text("data")

    with pytest.raises(HoldfastError, match="address in use"):
        open_listener(f"unix:{path}")
    assert path.read_text() == "data"


def test_a_unix_socket_that_another_took_over_is_left_alone(tmp_path: Path) -> None:
    """Closing removes what is ours, not what now has our name."""
    path = tmp_path / "door.sock"
    first = open_listener(f"unix:{path}")
    path.unlink()
    second = open_listener(f"unix:{path}")
    first.close()

    assert accepts(str(path))
    second.close()


def test_a_descriptor_is_taken_for_what_it_is() -> None:
    """Family and protocol come from the kernel, the socket listens, and children do not inherit it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
        bound.bind(("127.0.0.1", 0))
        number = os.dup(bound.fileno())
        os.set_inheritable(number, True)
        listener = open_listener(f"fd:{number}")
        try:
            only = listener.sockets[0]
            assert (only.family, only.proto) == (socket.AF_INET, socket.IPPROTO_TCP)
            assert listener.inherited
            assert not os.get_inheritable(number)
            assert accepts(("127.0.0.1", listener.port))
        finally:
            listener.close()


def test_a_descriptor_that_is_no_listening_socket_is_refused_and_left_open(tmp_path: Path) -> None:
    """A file, a datagram socket, a connection: each is named for what it is."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with near, far, datagram, (tmp_path / "file").open("w") as file:
        for number, met in ((near.fileno(), "connection"), (datagram.fileno(), "stream"), (file.fileno(), "socket")):
            with pytest.raises(HoldfastError, match=met) as caught:
                open_listener(f"fd:{number}")
            assert caught.value.exit_code == 69
            os.fstat(number)


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two listening sockets as a service manager would hand them down, at the descriptors it would use."""
    numbers: list[int] = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as each:  # far above what is open: one must follow the other
            numbers.append(fcntl.fcntl(each.fileno(), fcntl.F_DUPFD, 700 if not numbers else numbers[0] + 1))
    monkeypatch.setattr("receiver.listeners.FIRST_PASSED_FD", min(numbers))
    assert sorted(numbers) == list(range(min(numbers), min(numbers) + 2))
    return numbers


def test_sockets_handed_down_are_taken_by_name(handed: list[int]) -> None:
    """`api` is the private one, any other name the public one; the variables are used up."""
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "api:receiver.socket", "X": "y"}
    found = passed_listeners(environ)
    try:
        assert sorted(found) == ["api", "intake"]
        assert found["api"].sockets[0].fileno() == handed[0]
        assert found["intake"].sockets[0].fileno() == handed[1]
        assert found["intake"].inherited
        assert environ == {"X": "y"}
    finally:
        for listener in found.values():
            listener.close()


def test_sockets_without_names_are_all_for_the_public_listener(handed: list[int]) -> None:
    """Two ListenStream lines in one unit are one listener with two sockets."""
    found = passed_listeners({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})
    try:
        assert [each.fileno() for each in found["intake"].sockets] == handed
        assert sorted(found) == ["intake"]
    finally:
        found["intake"].close()


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())},
     {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}],
)  # fmt: skip
def test_what_was_meant_for_another_is_not_taken(environ: dict[str, str]) -> None:
    """Without our own process id there is nothing for us."""
    assert passed_listeners(dict(environ)) == {}


def test_a_descriptor_handed_down_that_is_none_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 69, and where to look."""
    monkeypatch.setattr("receiver.listeners.FIRST_PASSED_FD", 900)
    with pytest.raises(HoldfastError, match=r"handed down: .+\.socket unit") as caught:
        passed_listeners({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    assert caught.value.exit_code == 69
