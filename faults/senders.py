"""Senders with a ledger of their own: what they sent, and what they were told, noted outside the product.

Each sender is a thread with one connection (or one for each delivery, as webhook senders do) that sends the next
delivery as soon as the last was answered. A delivery counts as acknowledged when the whole of a 200 has arrived.
"""

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from faults.product import PATH, pause


@dataclass(slots=True)
class Answer:
    """One acknowledged delivery."""

    job: str
    delivery: int
    at: float
    """When it was acknowledged, on the monotonic clock."""
    took_s: float


@dataclass(slots=True)
class Ledger:
    """What the senders know."""

    acknowledged: list[Answer] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    """Answers other than 200, by status."""
    failed: list[str] = field(default_factory=list)
    """Requests without a whole answer."""
    slowest_refusal_s: float = 0.0

    @property
    def ids(self) -> set[int]:
        """Every acknowledged delivery."""
        return {answer.delivery for answer in self.acknowledged}

    @property
    def jobs(self) -> set[str]:
        """The jobs of all acknowledged deliveries."""
        return {answer.job for answer in self.acknowledged}

    def slowest_s(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The longest an acknowledged delivery took whose sending began in this span."""
        took = (each.took_s for each in self.acknowledged if since <= each.at - each.took_s and each.at <= until)
        return max(took, default=0.0)


class Senders:
    """So many senders at work; a context manager that stops them."""

    def __init__(self, port: int, count: int = 8, *, path: str = PATH, size_bytes: int = 300, **ways: float) -> None:
        """`close_each=1` opens a connection for every delivery; `rate` bounds all together, deliveries a second;
        `patience_s` is how long an answer is waited for."""
        self.ledger = Ledger()
        self._port = port
        self._path = path
        self._pad = "x" * size_bytes
        self._close_each = bool(ways.get("close_each"))
        self._every_s = count / ways["rate"] if ways.get("rate") else 0.0
        self._patience_s = ways.get("patience_s", 30.0)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._run = f"{random.getrandbits(40):x}"
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def no_more(self) -> None:
        """Begin no further delivery; do not wait."""
        self._stop.set()

    def stop(self) -> Ledger:
        """Let the last answers come, then stop; the ledger."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._patience_s + 5.0)
        return self.ledger

    def _work(self, number: int) -> None:
        connection: socket.socket | None = None
        turn = 0
        while not self._stop.is_set():
            began = time.monotonic()
            turn += 1
            job = f"{self._run}-{number}-{turn}"
            try:
                if connection is None:
                    connection = self._connect()
                status, body = self._exchange(connection, job)
                took_s = time.monotonic() - began
            except OSError as error:
                with self._lock:
                    self.ledger.failed.append(f"{job}: {type(error).__name__}: {error}")
                connection = _close(connection)
                pause(0.01)
                continue
            self._note(job, status, body, took_s)
            if self._close_each or status != 200:
                connection = _close(connection)
            if self._every_s:
                self._stop.wait(max(0.0, began + self._every_s - time.monotonic()))
        _close(connection)

    def _note(self, job: str, status: int, body: bytes, took_s: float) -> None:
        with self._lock:
            if status == 200:
                answer = Answer(job, int(json.loads(body)["delivery"]), time.monotonic(), took_s)
                self.ledger.acknowledged.append(answer)
            else:
                self.ledger.refused[status] += 1
                self.ledger.slowest_refusal_s = max(self.ledger.slowest_refusal_s, took_s)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=self._patience_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _exchange(self, connection: socket.socket, job: str) -> tuple[int, bytes]:
        body = f'{{"job_id":"{job}","status":"completed","pad":"{self._pad}"}}'.encode()
        kept = "close" if self._close_each else "keep-alive"
        head = f"POST {self._path} HTTP/1.1\r\nHost: x\r\nConnection: {kept}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """One whole answer: (status, body). Raises OSError when it does not come whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
    while len(body) < length:
        body += _more(connection)
    return int(lines[0].split(" ")[1]), body[:length]


def _more(connection: socket.socket) -> bytes:
    more = connection.recv(65536)
    if not more:
        raise ConnectionError("the connection was closed before the answer was whole")
    return more


def _close(connection: socket.socket | None) -> socket.socket | None:
    """Close it; answers None, for there is none now."""
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.close()
    return None
