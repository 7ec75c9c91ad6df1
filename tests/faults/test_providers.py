"""Providers that misbehave on the wire: each question ends in time, proves nothing, and holds up no other source."""

import asyncio
import contextlib
import gzip
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from faults import NotMeasured, providers
from receiver.clock import SystemClock
from receiver.providers.base import Question, Reply
from receiver.settings import Settings
from reconciler import outbound
from reconciler.outbound import Outbound, Unanswered

LIMIT_S = 0.6
Misbehave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def _forever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def _says(*pieces: bytes, then: str = "close", again: bytes = b"") -> Misbehave:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        while again:
            writer.write(again)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0 if then == "flood" else 0.1):
                    await asyncio.Event().wait()
        if then == "hang":
            await asyncio.Event().wait()
        if then == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    return say


BOMB = gzip.compress(bytes(20_000_000))
MISBEHAVE: dict[str, Misbehave] = {
    "says nothing": _forever,
    "hangs in the head": _says(b"HTTP/1.1 200 OK\r\nContent-", then="hang"),
    "hangs in the body": _says(OK + b"Content-Length: 100\r\n\r\n{", then="hang"),
    "drips its head": _says(b"HTTP/1.1 200 OK\r\n", again=b"X-A: b\r\n"),
    "drips its body": _says(OK + b"\r\n", again=b" "),
    "closes at once": _says(),
    "resets": _says(OK, then="reset"),
    "cuts the body": _says(OK + b"Content-Length: 100\r\n\r\n{}"),
    "floods": _says(OK + b"\r\n", again=b"x" * 65536, then="flood"),
    "announces 100 MB": _says(OK + b"Content-Length: 104857600\r\n\r\n", again=b"x" * 65536, then="flood"),
    "sends a gzip bomb": _says(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
    "speaks no HTTP": _says(b"\x16\x03\x01\0\xa5 what", then="hang"),
    "sends a head without end": _says(b"HTTP/1.1 200 OK\r\n", again=b"X-A: " + b"b" * 60000 + b"\r\n", then="flood"),
}
"""What a provider does with a question -> how."""


@contextlib.asynccontextmanager
async def provider(misbehave: Misbehave) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await misbehave(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def settings(base_url: str) -> Settings:
    source = {"provider": "omnifence", "base_url": base_url, "api_key": "k", "path_token": "x" * 24}
    rules = {"http_timeout_s": LIMIT_S, "max_answer_bytes": 1_000_000}
    return Settings.model_validate({"reconcile": rules, "sources": {"bad": source, "good": source}})


async def ask(given: Settings, asker: Outbound, name: str = "bad") -> tuple[object, float]:
    """(what came of one question, how long it took)."""
    began = time.monotonic()
    exchange = await asker.ask(given.sources[name], Question(path="/api/v1/jobs/1", job_id="1"), given.reconcile)
    return exchange.outcome, time.monotonic() - began


@pytest.mark.parametrize("what", MISBEHAVE)
async def test_whatever_a_provider_does_the_question_ends_and_proves_nothing(what: str) -> None:
    """No answer is made of half of one, none takes longer than the limit, and nothing escapes as an exception."""
    async with provider(MISBEHAVE[what]) as port:
        asker = Outbound(SystemClock())
        outcome, took_s = await ask(settings(f"http://127.0.0.1:{port}"), asker)
        asker.close()

    assert isinstance(outcome, Unanswered), outcome
    assert took_s < LIMIT_S + 1.0


async def test_a_redirect_is_not_followed() -> None:
    """A 302 elsewhere is an answer to be judged; the credentials do not travel."""
    asked: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(b"followed")

    async with provider(elsewhere) as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{other}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with provider(_says(moved)) as port:
            asker = Outbound(SystemClock())
            outcome, _ = await ask(settings(f"http://127.0.0.1:{port}"), asker)
            asker.close()

    assert isinstance(outcome, Reply)
    assert outcome.status == 302
    assert asked == []


async def test_a_resolver_that_hangs_for_one_source_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """While twenty questions of one source wait for a name, another source's are answered as fast as ever."""
    release = threading.Event()

    def hangs(host: str, port: int) -> str:
        if host == "hangs.test":
            release.wait(10.0)
        return "127.0.0.1"

    monkeypatch.setattr(outbound, "_resolve", hangs)
    async with provider(_says(OK + b"Content-Length: 2\r\n\r\n{}")) as port:
        stuck, well = settings(f"http://hangs.test:{port}"), settings(f"http://well.test:{port}")
        asker = Outbound(SystemClock())
        await ask(well, asker, "good")  # what is made once for all questions is made
        waiting = [asyncio.create_task(ask(stuck, asker)) for _ in range(20)]
        outcome, took_s = await ask(well, asker, "good")
        others = await asyncio.gather(*waiting)
        release.set()
        asker.close()

    assert isinstance(outcome, Reply)
    assert took_s < LIMIT_S
    assert all(isinstance(other, Unanswered) and late_s < LIMIT_S + 1.0 for other, late_s in others)


@pytest.mark.process
def test_the_sidecar_lives_through_providers_that_misbehave(tmp_path: Path) -> None:
    """Hangs, names that hang, redirects, waits and nonsense at once: nothing is decided, nobody asked early, and when
    they are well every job ends; a look-up that hangs does not hold up the stop."""
    kinds = ("says nothing", "429 for 2 s", "another job's answer", "HTML")
    try:
        assert providers.misbehaving(tmp_path, lasting_s=1.5, rounds=0, kinds=kinds).faults == []
    except NotMeasured as why:
        pytest.skip(str(why))
