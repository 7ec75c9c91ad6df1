"""The load: a process of its own that posts to one URL over kept-alive connections and measures what comes back.

Closed loop (each connection sends as soon as it was answered) for the peak; open loop (`--rate`) for latency: requests
are due at fixed moments and their latency counts from then, so a stalled server cannot hide its queue (coordinated
omission). Bodies carry a fresh job id each, and every acknowledged id is written to `--ledger` if asked.
"""

import argparse
import asyncio
import json
import sys
from collections import deque

from receiver.clock import SystemClock

_CLOCK = SystemClock()


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
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._load.answered(self, head[9:12], rest[:length])

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost += 1


class Load:
    """All connections of one run."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.lost = 0
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self._free: deque[Connection] = deque()
        self._number = 0
        self._until = 0.0
        self._due: deque[float] = deque()
        self._pad = "x" * max(0, given.body_bytes - 60)
        self._done = asyncio.Event()
        self._under_way = 0

    def _request(self) -> bytes:
        self._number += 1
        body = f'{{"job_id":"{self.given.prefix}{self._number}","status":"completed","pad":"{self._pad}"}}'
        return (
            f"POST {self.given.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def free(self, connection: Connection) -> None:
        """A connection that may send."""
        now = _CLOCK.monotonic()
        if now >= self._until:
            if self._under_way == 0:
                self._done.set()
            return
        if self.given.rate:
            if self._due and self._due[0] <= now:
                self._send(connection, self._due.popleft())
            else:
                self._free.append(connection)
        else:
            self._send(connection, now)

    def _send(self, connection: Connection, due: float) -> None:
        self._under_way += 1
        connection.send(self._request(), due)

    def answered(self, connection: Connection, status: bytes, _body: bytes) -> None:
        """An answer came."""
        self._under_way -= 1
        self.latencies.append(_CLOCK.monotonic() - connection.due)
        word = status.decode()
        self.statuses[word] = self.statuses.get(word, 0) + 1
        self.free(connection)

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
            async with asyncio.timeout(self.given.seconds + 30):
                await self._done.wait()
        except TimeoutError:
            self.statuses["unanswered"] = self._under_way
        took = max(self.given.seconds, 1e-9)
        ordered = sorted(self.latencies) or [0.0]

        def at(share: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)

        return {
            "requests": len(self.latencies),
            "per_s": round(len(self.latencies) / took, 1),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "max_ms": at(1.0),
            "statuses": self.statuses,
            "lost_connections": self.lost,
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
        self._due.clear()
        if self._under_way == 0:
            self._done.set()


def main() -> None:
    """Run as a process; the figures are one line of JSON on stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=0.0, help="open loop: requests a second; 0: closed loop")
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument("--prefix", default="job-")
    given = parser.parse_args()

    async def go() -> dict[str, object]:
        return await Load(given).run()

    sys.stdout.write(json.dumps(asyncio.run(go())) + "\n")


if __name__ == "__main__":
    main()
