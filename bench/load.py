"""The load: a process of its own that posts to one URL over kept-alive connections and measures what comes back.

Closed loop (each connection sends as soon as it was answered) for the peak; open loop (`--rate`) for latency: requests
are due at fixed moments and their latency counts from then, so a stalled server cannot hide its queue (coordinated
omission). It costs as little as it can, for on a small machine it shares the cores with what it measures: plain
sockets, no event loop's machinery. Bodies carry a fresh job id each and are signed when a secret is given. Every
delivery id that was acknowledged is written to `--ledger`, so that it can be looked for in the file afterwards.
"""

import argparse
import contextlib
import gc
import hashlib
import hmac
import json
import resource
import selectors
import socket
import sys
from collections import deque
from functools import lru_cache
from pathlib import Path

from receiver.clock import SystemClock

_CLOCK = SystemClock()
_PATIENCE_S = 30.0


class Connection:
    """One kept-alive connection with at most one request under way."""

    __slots__ = ("_answer", "_socket", "due")

    def __init__(self, port: int, poll: selectors.BaseSelector) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(self._socket, selectors.EVENT_READ, self)
        self._answer = b""
        self.due = 0.0

    def send(self, request: bytes, due: float) -> None:
        """Send one request, due at that moment."""
        self.due = due
        self._socket.sendall(request)

    def read(self) -> tuple[bytes, bytes] | None:
        """The answer's status and body once all of it is here. Raises OSError when the connection is gone."""
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionResetError
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return None
        self._answer = b""
        return head[9:12], body

    def close(self, poll: selectors.BaseSelector) -> None:
        """Forget it."""
        poll.unregister(self._socket)
        self._socket.close()


@lru_cache(maxsize=64)  # many answers have one head: all those of a second
def _length(head: bytes) -> int:
    """The length of the body that a head announces."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


class Load:
    """All connections of one run."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.lost_connections = 0
        self.latencies: list[float] = []
        self.statuses: dict[bytes, int] = {}
        self.acknowledged: list[bytes] = []
        self._poll = selectors.DefaultSelector()
        self._free: deque[Connection] = deque()
        self._number = 0
        self._sent = 0
        """Requests that became due, in an open loop."""
        self._began = self._until = 0.0
        self._due: deque[float] = deque()
        self._under_way = 0
        head = f"POST {given.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        self._head = head.encode()
        self._tail = f'","status":"completed","pad":"{"x" * max(0, given.body_bytes - 60)}"}}'.encode()
        self._keyed = hmac.new(given.secret.encode(), digestmod=hashlib.sha256) if given.secret else None

    def _request(self) -> bytes:
        self._number += 1
        body = b'{"job_id":"%b%d%b' % (self.given.prefix.encode(), self._number, self._tail)
        if self._keyed is None:
            return b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)
        keyed = self._keyed.copy()
        keyed.update(body)
        signature = keyed.hexdigest().encode()
        return b"%bX-Signature: %b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, signature, len(body), body)

    def _send(self, connection: Connection, due: float) -> None:
        self._under_way += 1
        with contextlib.suppress(OSError):  # it has gone, and will be read as gone
            connection.send(self._request(), due)

    def _next(self, connection: Connection, now: float) -> None:
        """A connection may send: at once in a closed loop, what is due in an open one."""
        if self.given.rate:
            if self._due:
                self._send(connection, self._due.popleft())
            else:
                self._free.append(connection)
        elif now < self._until and (not self.given.count or self._number < self.given.count):
            self._send(connection, now)

    def _pace(self, now: float) -> float:
        """Send what has become due in an open loop; the seconds until the next is."""
        rate: float = self.given.rate
        while now < self._until and (due := self._began + self._sent / rate) <= now:
            self._sent += 1
            if self._free:
                self._send(self._free.popleft(), due)
            else:
                self._due.append(due)
        return max(0.0, self._began + self._sent / rate - now)

    def _is_over(self, now: float) -> bool:
        if self._under_way or self._due:
            return now > self._until + _PATIENCE_S
        return now >= self._until or bool(self.given.count and self._number >= self.given.count)

    def _hear(self, connection: Connection) -> None:
        try:
            answer = connection.read()
        except OSError:
            self.lost_connections += 1
            connection.close(self._poll)
            if connection in self._free:
                self._free.remove(connection)
            else:
                self._under_way -= 1  # what was asked on it has no answer
            return
        if answer is None:
            return
        now = _CLOCK.monotonic()
        self._under_way -= 1
        self.latencies.append(now - connection.due)
        self.statuses[answer[0]] = self.statuses.get(answer[0], 0) + 1
        if answer[0] == b"200":
            self.acknowledged.append(answer[1])
        self._next(connection, now)

    def run(self) -> dict[str, object]:
        """Load until the time is up; answers the figures."""
        connections = [Connection(self.given.port, self._poll) for _ in range(self.given.connections)]
        now = self._began = _CLOCK.monotonic()
        self._until = self._began + self.given.seconds
        for connection in connections:
            self._next(connection, now)
        while not self._is_over(now):
            wait_s = min(0.1, self._pace(now)) if self.given.rate else 0.1
            for key, _ in self._poll.select(wait_s):
                self._hear(key.data)
            now = _CLOCK.monotonic()
        if self._under_way or self._due:
            self.statuses[b"unanswered"] = self._under_way + len(self._due)
        took = _CLOCK.monotonic() - self._began
        if self.given.ledger:
            ids = [int(json.loads(body)["delivery"]) for body in self.acknowledged]
            self.given.ledger.write_text(json.dumps(ids))
        return self.figures(took)

    def figures(self, took_s: float) -> dict[str, object]:
        """What was seen, latencies in milliseconds."""
        ordered = sorted(self.latencies) or [0.0]

        def at(share: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)

        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "requests": len(self.latencies),
            "took_s": round(took_s, 3),
            "per_s": round(len(self.latencies) / took_s, 1),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "max_ms": at(1.0),
            "statuses": {status.decode(): count for status, count in self.statuses.items()},
            "acknowledged": len(self.acknowledged),
            "lost_connections": self.lost_connections,
            "load_cpu_share": round((used.ru_utime + used.ru_stime) / took_s, 3),
        }


def parser() -> argparse.ArgumentParser:
    """The options of the process."""
    options = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.partition("\n")[0])
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--path", required=True)
    options.add_argument("--connections", type=int, default=64)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--count", type=int, default=0, help="closed loop: so many requests, then stop; 0: by time")
    options.add_argument("--rate", type=float, default=0.0, help="open loop: requests a second; 0: closed loop")
    options.add_argument("--body-bytes", type=int, default=1024)
    options.add_argument("--prefix", default="job-", help="what job ids begin with")
    options.add_argument("--secret", default="", help="signs each body: HMAC-SHA256 in X-Signature")
    options.add_argument("--ledger", type=Path, help="where to write the acknowledged delivery ids")
    return options


def main() -> None:
    """Run as a process; the figures are one line of JSON on stdout."""
    given = parser().parse_args()
    gc.freeze()
    gc.disable()  # a pause of the load must not be counted as the server's
    sys.stdout.write(json.dumps(Load(given).run()) + "\n")


if __name__ == "__main__":
    main()
