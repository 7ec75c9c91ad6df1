"""Listening sockets: bound from an address, or handed down by the service manager. Nothing here reads a request.

A socket is bound before anything else is started, so that "address in use" is the first thing an operator reads.
Sockets handed down stay open when we go: the kernel keeps newcomers in their queue until the next of us accepts them.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass, field

from receiver.addresses import FIRST_PASSED_FD, Listen, parse_listen
from receiver.errors import HoldfastError, UsageError, sentence

BACKLOG = 4096
"""How many connections may wait in the kernel while nobody accepts; the kernel caps it at net.core.somaxconn."""
_UNAVAILABLE = 69
_API_NAME = "api"


@dataclass(slots=True)
class Listener:
    """One or more sockets that listen for the same thing."""

    sockets: list[socket.socket]
    address: str
    """As a client would write it."""
    inherited: bool = False
    path: str = ""
    """The unix socket we made, to be removed when we close it."""
    _inode: int = field(default=0, repr=False)

    @property
    def port(self) -> int:
        """The TCP port; 0 for a unix socket."""
        name = self.sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def close(self) -> None:
        """Close our sockets, and remove the unix socket if it is still ours. May be called twice."""
        for each in self.sockets:
            each.close()
        if self.path:
            with contextlib.suppress(OSError):
                if os.lstat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            self.path = ""


def open_listener(written: str) -> Listener:
    """Listen at `host:port`, `[v6]:port`, `unix:/path` or `fd:N`.

    Raises UsageError when that is no address, HoldfastError with exit code 69 when it cannot be listened on.
    """
    try:
        where = parse_listen(written)
    except ValueError as error:
        raise UsageError(sentence(f"listening on {written}", str(error), "put the address right")) from None
    try:
        if where.kind == "fd":
            return _inherited([where.fd])
        return _unix(where) if where.kind == "unix" else _tcp(where)
    except OSError as error:
        raise _readable(where, error) from None


def passed_listeners(environ: MutableMapping[str, str] | None = None) -> dict[str, Listener]:
    """What the service manager handed down (socket activation): `intake`, and `api` if a socket has that name.

    Empty when nothing was, or when it was meant for another process. The variables are removed, so that no child
    takes the sockets for its own. Raises HoldfastError (69) for a descriptor that is no listening socket.
    """
    environ = os.environ if environ is None else environ
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit() and int(count) > 0):
        return {}
    named = names.split(":")
    grouped: dict[str, list[int]] = {}
    for index in range(int(count)):
        name = named[index] if index < len(named) else ""
        grouped.setdefault(_API_NAME if name == _API_NAME else "intake", []).append(FIRST_PASSED_FD + index)
    try:
        return {name: _inherited(descriptors) for name, descriptors in grouped.items()}
    except OSError as error:
        raise _unavailable("taking the sockets handed down", error, "look at the .socket unit") from None


def _inherited(descriptors: list[int]) -> Listener:
    """Descriptors as they came: family and protocol are asked of the kernel, never assumed."""
    sockets = []
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        each = socket.socket(fileno=descriptor)
        if each.type != socket.SOCK_STREAM:
            each.detach()
            raise OSError(errno.EPROTOTYPE, f"descriptor {descriptor} is not a stream socket")
        if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            try:
                each.getpeername()
            except OSError:
                each.listen(BACKLOG)
            else:
                each.detach()
                raise OSError(errno.EINVAL, f"descriptor {descriptor} is a connection; the unit wants Accept=no")
        _prepare(each)
        sockets.append(each)
    return Listener(sockets, _written(sockets[0]), inherited=True)


def _tcp(where: Listen) -> Listener:
    """Every address the host has, all at one port."""
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)
    sockets: list[socket.socket] = []
    port = where.port
    try:
        for family, kind, protocol, _, name in dict.fromkeys(found):
            each = socket.socket(family, kind, protocol)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, where.host != "::")
            each.bind((name[0], port, *name[2:]))
            port = port or int(each.getsockname()[1])
            each.listen(BACKLOG)
            _prepare(each)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return Listener(sockets, _written(sockets[0]))


def _unix(where: Listen) -> Listener:
    _remove_stale(where.path)
    each = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        each.bind(where.path)
        each.listen(BACKLOG)
        each.setblocking(False)
        inode = os.lstat(where.path).st_ino
    except OSError:
        each.close()
        raise
    return Listener([each], f"unix:{where.path}", path=where.path, _inode=inode)


def _remove_stale(path: str) -> None:
    """Remove a socket that a process left behind when it was killed; one that answers is somebody's."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


def _prepare(each: socket.socket) -> None:
    """Set what every accepted connection inherits."""
    each.setblocking(False)
    if each.family in (socket.AF_INET, socket.AF_INET6):
        # asyncio sets it only where the protocol number is known; without it a kept connection waits 44 ms an answer.
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _written(each: socket.socket) -> str:
    name = each.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name if isinstance(name, str) else name.decode(errors='replace')}"
    return f"http://[{name[0]}]:{name[1]}" if each.family == socket.AF_INET6 else f"http://{name[0]}:{name[1]}"


def _readable(where: Listen, error: OSError) -> HoldfastError:
    todo = {
        errno.EADDRINUSE: "stop who listens there (`ss -ltnp` shows it), or choose another address",
        errno.EACCES: "ports below 1024 and foreign folders need rights; use a higher port or socket activation",
        errno.EADDRNOTAVAIL: "that address is not one of this machine's; 0.0.0.0 listens on every one",
        errno.ENOENT: "make the folder first",
        errno.EBADF: "nothing was handed down under that number; look at who starts us",
    }.get(error.errno or 0, "look at the listen address")
    return _unavailable(f"listening on {where}", error, todo)


def _unavailable(doing: str, error: OSError, todo: str) -> HoldfastError:
    met = (error.strerror or str(error)).lower()
    if error.errno == errno.EADDRINUSE:
        met = "address in use"
    return HoldfastError(sentence(doing, met, todo), exit_code=_UNAVAILABLE)
