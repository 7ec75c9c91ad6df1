"""Tells the service manager how we are: sd_notify by hand, a datagram to `$NOTIFY_SOCKET`.

Everything here is best effort: without a manager nothing happens, and one that does not listen never stops us. It
reads the environment once, when made.
"""

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """The line to the service manager."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path if path.startswith("/") else ""
        self.watchdog_s = _watchdog_s(environ) if self._address else None
        """Tell `alive` at least this often (half of what the manager allows); None: it does not watch us."""

    def ready(self, status: str = "") -> None:
        """Both listeners answer."""
        self._tell("READY=1", status)

    def stopping(self, status: str = "") -> None:
        """A stop has begun."""
        self._tell("STOPPING=1", status)

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._tell("", status)

    def alive(self) -> None:
        """The watchdog's keep-alive. Call it from the loop whose health it stands for."""
        self._tell("WATCHDOG=1", "")

    def _tell(self, state: str, status: str) -> None:
        if not self._address:
            return
        lines = [state] if state else []
        if status:
            lines.append("STATUS=" + status.replace("\n", " "))
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto("\n".join(lines).encode(), self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Half of WATCHDOG_USEC, if it is meant for this process (sd_watchdog_enabled)."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit()) or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000 / 2
