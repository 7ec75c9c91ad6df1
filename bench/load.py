"""The load: a process of its own that posts to one URL over kept-alive connections and measures what comes back.

Closed loop (each connection sends as soon as it was answered) for the peak; open loop (`--rate`) for latency: requests
are due at fixed moments and their latency counts from then, so a stalled server cannot hide its queue (coordinated
omission). Bodies carry a fresh job id each and are signed when a secret is given. Every delivery id that was
acknowledged is written to `--ledger`, so that it can be looked for in the file afterwards.
"""

import argparse
import asyncio
import gc
import hashlib
import hmac
import json
import resource
import sys
from collections import deque
from pathlib import Path

from receiver.clock import SystemClock

_CLOCK = SystemClock()
_PATIENCE_S = 30.0


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request under way."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._load.free(self)

    def send(self, request: bytes, due: float) -> None:
        """Send one request, due at that moment."""
        assert self._transport is not None
        self.due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.find(b"ontent-")
        while at >= 0 and head[at + 7 : at + 13].lower() != b"length":
            at = head.find(b"ontent-", at + 7)
        length = int(head[at + 14 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._load.answered(self, head[9:12], rest[:length])

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self)


class Load:
    """All connections of one run."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.lost_connections = 0
        self.latencies: list[float] = []
        self.statuses: dict[bytes, int] = {}
        self.acknowledged: list[bytes] = []
        self._free: deque[Connection] = deque()
        self._number = 0
        self._until = float("inf")
        self._due: deque[float] = deque()
        self._pad = "x" * max(0, given.body_bytes - 60)
        self._done = asyncio.Event()
        self._under_way = 0
        self._key = given.secret.encode()
        self._head = f"POST {given.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"

    def _request(self) -> bytes:
        self._number += 1
        body = f'{{"job_id":"{self.given.prefix}{self._number}","status":"completed","pad":"{self._pad}"}}'
        if not self._key:
            return f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        signature = hmac.digest(self._key, body.encode(), hashlib.sha256).hex()
        return f"{self._head}X-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def free(self, connection: Connection) -> None:
        """A connection that may send."""
        now = _CLOCK.monotonic()
        if self.given.rate:
            if self._due and self._due[0] <= now:
                self._send(connection, self._due.popleft())
            else:
                self._free.append(connection)
        elif now < self._until and (not self.given.count or self._number < self.given.count):
            self._send(connection, now)
        self._end(now)

    def _end(self, now: float) -> None:
        counted = self.given.count and self._number >= self.given.count
        if (now >= self._until or counted) and self._under_way == 0 and not self._due:
            self._done.set()

    def _send(self, connection: Connection, due: float) -> None:
        self._under_way += 1
        connection.send(self._request(), due)

    def answered(self, connection: Connection, status: bytes, body: bytes) -> None:
        """An answer came."""
        self._under_way -= 1
        self.latencies.append(_CLOCK.monotonic() - connection.due)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == b"200":
            self.acknowledged.append(body)
        self.free(connection)

    def lost(self, connection: Connection) -> None:
        """A connection went: what was under way on it has no answer."""
        self.lost_connections += 1
        self._end(_CLOCK.monotonic())

    async def run(self) -> dict[str, object]:
        """Load until the time is up; answers the figures."""
        loop = asyncio.get_running_loop()
        began = _CLOCK.monotonic()
        self._until = began + self.given.seconds
        for _ in range(self.given.connections):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.given.port)
        if self.given.rate:
            await self._pace(began)
        try:
            async with asyncio.timeout(self.given.seconds + _PATIENCE_S):
                await self._done.wait()
        except TimeoutError:
            self.statuses[b"unanswered"] = self._under_way
        took = _CLOCK.monotonic() - began
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

    async def _pace(self, began: float) -> None:
        sent = 0
        while (now := _CLOCK.monotonic()) < self._until:
            while began + sent / self.given.rate <= now:
                due = began + sent / self.given.rate
                sent += 1
                if self._free:
                    self._send(self._free.popleft(), due)
                else:
                    self._due.append(due)
            await asyncio.sleep(max(0.0, began + sent / self.given.rate - _CLOCK.monotonic()))
        self._end(now)


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

    async def go() -> dict[str, object]:
        return await Load(given).run()

    sys.stdout.write(json.dumps(asyncio.run(go())) + "\n")


if __name__ == "__main__":
    main()
