"""Provider origins that misbehave in every way there is, each on a port of its own, in a thread of their own.

What a place says is in `BEHAVIOUR`; when it is healed it answers well. It notes when it was asked, whether that was
before the time it had named, and which keys it was shown. It judges nothing: `providers.py` does.
"""

import asyncio
import contextlib
import email.utils
import gzip
import json
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

LONGEST_WAIT_S = 3.0
"""`retry_after_max_s` of the sources: no wait that a provider names is believed beyond it."""
KEY = "the-key-of-"
Writer = asyncio.StreamWriter
Behave = Callable[["Place", Writer, str], Awaitable[None]]


@dataclass(slots=True)
class Place:
    """One origin and what was seen there."""

    name: str
    behave: Behave
    heals: bool = True
    """False: it stands for a place that cannot be spoken with, so it shall see no key."""
    port: int = 0
    well: bool = False
    asked: list[float] = field(default_factory=list)
    of: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When each job was asked about."""
    not_before: float = 0.0
    early: int = 0
    foreign_keys: int = 0
    """Requests that carried the key of another source, or its own in the clear."""
    server: asyncio.Server | None = None

    @property
    def source(self) -> str:
        """Its source's name in the configuration."""
        return "".join(each if each.isalnum() else "_" for each in self.name)


def answer(status: int, body: bytes, *headers: str) -> bytes:
    """A whole answer."""
    head = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def completed(job_id: str) -> bytes:
    """The good answer about a job."""
    return answer(200, json.dumps({"job_id": job_id, "status": "completed", "result": {"of": job_id}}).encode())


def says(*pieces: bytes, then: str = "", again: bytes = b"", every_s: float = 0.1) -> Behave:
    """Send these, then `again` for ever, then hang, reset or close."""

    async def behave(place: Place, writer: Writer, job_id: str) -> None:
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        while again:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(every_s)
        if then == "hang":
            await asyncio.Event().wait()
        if then == "reset":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behave


def waits(status: int, *, seconds: float | None = None, date: bool = False, text: str = "") -> Behave:
    """Ask to be left alone for so long, as a number, as a date, or as something that means nothing."""

    async def behave(place: Place, writer: Writer, job_id: str) -> None:
        said = text
        if seconds is not None:
            until = int(time.time()) + seconds if date else time.time() + min(seconds, LONGEST_WAIT_S)
            place.not_before = until
            said = email.utils.formatdate(until, usegmt=True) if date else str(int(seconds))
        writer.write(answer(status, b"{}", f"Retry-After: {said}"))

    return behave


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BOMB = gzip.compress(bytes(50_000_000))
OTHER = b'{"job_id":"another-job","status":"completed","result":{"of":"another-job"}}'
BEHAVIOUR: dict[str, Behave] = {
    "says nothing": says(then="hang"),
    "hangs in the head": says(b"HTTP/1.1 200 OK\r\nContent-", then="hang"),
    "hangs in the body": says(OK + b"Content-Length: 100\r\n\r\n{", then="hang"),
    "drips its head": says(b"HTTP/1.1 200 OK\r\n", again=b"X-A: b\r\n"),
    "drips its body": says(OK + b"\r\n", again=b" "),
    "closes at once": says(),
    "resets": says(OK, then="reset"),
    "cuts the body": says(OK + b'Content-Length: 100\r\n\r\n{"status":"completed"}'),
    "sends 100 MB": says(OK + b"Content-Length: 104857600\r\n\r\n", again=b"x" * 65536, every_s=0.0),
    "floods without a length": says(OK + b"\r\n", again=b"x" * 65536, every_s=0.0),
    "sends a gzip bomb": says(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
    "sends noise": says(bytes(range(256)) * 4),
    "sends a head without end": says(b"HTTP/1.1 200 OK\r\n", again=b"X-A: " + b"b" * 60000 + b"\r\n", every_s=0.01),
    "429 for 2 s": waits(429, seconds=2),
    "429 until a date": waits(429, seconds=3, date=True),
    "429 for a year": waits(429, seconds=31_536_000),
    "429 for ever": waits(429, seconds=1e30),
    "429 soon": waits(429, text="soon"),
    "429 for less than nothing": waits(429, text="-5"),
    "503 for 2 s": waits(503, seconds=2),
    "500": says(answer(500, b"oops")),
    "401": says(answer(401, b'{"error":"UNAUTHORIZED"}')),
    "HTML": says(answer(200, b"<html>please log in</html>")),
    "half a JSON": says(answer(200, b'{"status":"completed"')),
    "a JSON of 200,000 brackets": says(answer(200, b"[" * 200_000)),
    "no UTF-8": says(answer(200, b'{"status":"\xff\xfe"}')),
    "an array": says(answer(200, b'["completed"]')),
    "nothing in it": says(answer(200, b"")),
    "another job's answer": says(answer(200, OTHER)),
    "an unknown word": says(answer(200, b'{"status":"done-ish"}')),
}
"""What a provider does with a question -> how."""


def redirecting(scheme: str, to: Place) -> Behave:
    """Send whoever asks to another port, with the same host's name or another's."""

    async def behave(place: Place, writer: Writer, job_id: str) -> None:
        writer.write(answer(307, b"", f"Location: {scheme}:{to.port}/elsewhere/{job_id}"))

    return behave


class Places:
    """All of them at work; a context manager. `heal` makes every one that can answer well."""

    def __init__(self, places: list[Place]) -> None:
        self.places = places
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def heal(self) -> None:
        """From now on they answer well."""
        for place in self.places:
            place.well = place.heals

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        for place in self.places:
            place.server = await asyncio.start_server(
                lambda reader, writer, place=place: self._talk(place, reader, writer),  # type: ignore[misc]  # bound now
                "127.0.0.1",
                0,
                backlog=128,
            )
            place.port = place.server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        for place in self.places:
            if place.server is not None:
                place.server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _talk(self, place: Place, reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            head = await (reader.readuntil(b"\r\n\r\n") if place.heals else reader.read(65536))
            await self._judge(place, writer, head.decode("latin-1"))
        writer.close()

    async def _judge(self, place: Place, writer: Writer, head: str) -> None:
        now = time.time()
        place.asked.append(now)
        place.early += now < place.not_before
        place.foreign_keys += KEY in head and (not place.heals or KEY + place.source + "\r" not in head)
        job_id = head.partition(" ")[2].partition(" ")[0].rpartition("/")[2]
        place.of[job_id].append(now)
        if place.well:
            writer.write(completed(job_id))
            await writer.drain()
        else:
            await place.behave(place, writer, job_id)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10.0)
