"""Addresses in the configuration: where we listen, whom we call, where the database lies.

Pure text work: nothing here opens a socket, resolves a name or touches a file. What cannot be read raises ValueError
with a message fit for a person.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

UNIX_PATH_BYTES = 107
"""sockaddr_un.sun_path on Linux, less its closing zero."""
FIRST_PASSED_FD = 3
"""Descriptors 0 to 2 are the standard streams; systemd passes sockets from 3 on."""

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
_ANY = ("0.0.0.0", "::")  # noqa: S104 - recognised here, bound nowhere


@dataclass(frozen=True, slots=True)
class Listen:
    """One listening address, taken apart."""

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    """For tcp: a name or an address, without brackets."""
    port: int = 0
    """For tcp; 0 lets the system choose."""
    path: str = ""
    """For unix: the path of the socket."""
    fd: int = -1
    """For fd: a descriptor handed down by who started us."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it over the network."""
        return self.kind == "tcp" and is_loopback_host(self.host)

    @property
    def is_private(self) -> bool:
        """Loopback or a unix socket. An inherited descriptor may be anything, so it is not."""
        return self.kind == "unix" or self.is_loopback

    def clashes(self, other: "Listen") -> bool:
        """Whether the two cannot both be listened on."""
        if self.kind != other.kind or self.kind != "tcp":
            return self == other
        if self.port != other.port or self.port == 0:
            return False
        return _same_host(self.host, other.host) or self.host in _ANY or other.host in _ANY

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd:{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str, folder: Path | None = None) -> Listen:
    """Read `host:port`, `[v6]:port`, `unix:/path` (a relative one lies in `folder`) or `fd:N`. Raises ValueError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or not path.isprintable():
            raise ValueError("unix: is not followed by a path")
        if folder is not None:
            path = os.path.normpath(folder / path)
        if len(path.encode("utf-8", "replace")) > UNIX_PATH_BYTES:
            raise ValueError(f"the path of a unix socket cannot be longer than {UNIX_PATH_BYTES} bytes")
        return Listen("unix", path=path)
    if text.startswith("fd:"):
        number = text.removeprefix("fd:")
        if not (number.isascii() and number.isdigit() and len(number) < 8) or int(number) < FIRST_PASSED_FD:
            raise ValueError(f"fd: wants the number of an inherited descriptor, {FIRST_PASSED_FD} or above")
        return Listen("fd", fd=int(number))
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise ValueError("wants host:port, unix:/path or fd:N")
    return Listen("tcp", host=_listen_host(host), port=int(port))


def is_loopback_host(host: str) -> bool:
    """Whether a host, name or address without brackets, is this machine itself."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_url(url: str, *, query: bool) -> None:
    """Refuse what is no plain http(s) URL with a host. Raises ValueError, never repeating the URL.

    Credentials in a URL end up in logs; a fragment is never sent; `query` says whether a `?…` makes sense.
    """
    if any(letter <= " " or letter == "\\" or letter > "~" for letter in url):
        raise ValueError("holds a blank or a character that a URL must escape")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not url.lower().startswith(("http://", "https://")):
        raise ValueError("wants a URL that begins with https:// or http://")
    if not host or port == 0 or not (_HOST.fullmatch(host) or _is_ip(host)):
        raise ValueError("has no host that can be called")
    if "@" in parts.netloc:
        raise ValueError("carries credentials; a secret has a key of its own")
    if "#" in url:
        raise ValueError("carries a fragment, which is never sent")
    if "?" in url and not query:
        raise ValueError("carries a query; paths are put behind this URL")


def is_plain_http_off_loopback(url: str) -> bool:
    """Whether a secret sent to this URL could be read on the way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback_host(parts.hostname or "")


def absolute_store_url(url: str, folder: Path | None) -> str:
    """The URL with its path made absolute: a relative one lies in `folder`. Raises ValueError.

    `sqlite:///holdfast.db` is relative, `sqlite:////var/lib/holdfast/holdfast.db` absolute.
    """
    if url.startswith(("postgresql://", "postgres://")):
        raise ValueError("PostgreSQL is not available in this version; use sqlite:///holdfast.db")
    path = url.removeprefix("sqlite:///")
    if path == url:
        raise ValueError("wants sqlite:///holdfast.db (beside this file) or sqlite:////var/lib/holdfast/holdfast.db")
    if path.startswith(":memory:") or not path or path.endswith(("/", "/.", "/..")) or path in (".", ".."):
        raise ValueError("names no file; what must survive a crash lies in one")
    if not path.isprintable() or "?" in path or "#" in path:
        raise ValueError("holds a character that cannot be part of the database's path")
    return "sqlite:///" + (os.path.normpath(folder / path) if folder is not None else path)


def store_path(url: str) -> Path:
    """The database file of a store URL that was checked."""
    return Path(url.removeprefix("sqlite:///"))


def _listen_host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        if not _is_ip(inner) or ":" not in inner:
            raise ValueError("brackets hold an IPv6 address, as in [::1]:8080")
        return inner.lower()
    if ":" in host:
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:8080")
    if not _HOST.fullmatch(host):
        raise ValueError("wants host:port; 0.0.0.0 listens on every address")
    return host.lower()


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _same_host(one: str, other: str) -> bool:
    return one == other or {one, other} <= {"localhost", "127.0.0.1", "::1"}
