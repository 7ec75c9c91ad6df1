"""One question over the network: bounded in size and time, credentials to one origin alone; and a run of many."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from receiver.clock import SystemClock
from receiver.providers.base import Question, Reply, segment
from receiver.settings import ReconcileSettings, SourceSettings
from reconciler import outbound as outbound_module
from reconciler.outbound import Exchange, Outbound, Unanswered
from tests.reconciler.fence import Asked, field_of
from tests.reconciler.peer import Peer, Writer, http, listening
from tests.support import free_port

KEY = "the-key-that-must-not-leave"
RULES = ReconcileSettings(http_timeout_s=0.6, max_answer_bytes=20_000)


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    made = Outbound(SystemClock())
    yield made
    made.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with listening(http(b'{"status": "processing"}')) as made:
        yield made


def source_at(url: str, name: str = "src") -> SourceSettings:
    return SourceSettings.named(name, provider="omnifence", base_url=url, api_key=KEY)


async def ask(outbound: Outbound, peer: Peer, question: Question | None = None) -> Exchange:
    return await outbound.ask(source_at(peer.url), question or Question(path="/api/v1/job/a", job_id="a"), RULES)


def unanswered(exchange: Exchange) -> str:
    assert isinstance(exchange.outcome, Unanswered), exchange
    return exchange.outcome.detail


async def test_a_question_carries_its_key_to_the_configured_origin(outbound: Outbound, peer: Peer) -> None:
    """And says who asks, what it wants, and nothing else."""
    exchange = await ask(outbound, peer, Question(path="/api/v1/jobs", query={"status": "queued,a&b", "limit": "5"}))

    assert isinstance(exchange.outcome, Reply)
    assert (exchange.outcome.status, exchange.outcome.body) == (200, b'{"status": "processing"}')
    assert peer.targets == ["/api/v1/jobs?status=queued%2Ca%26b&limit=5"]
    assert peer.header("authorization") == [f"Bearer {KEY}"]
    assert peer.header("host") == [f"127.0.0.1:{peer.port}"]
    assert peer.header("accept-encoding") == ["identity"]
    assert peer.header("user-agent")[0].startswith("holdfast/")
    assert exchange.request == "GET /api/v1/jobs?status=queued%2Ca%26b&limit=5"
    assert exchange.latency_ms >= 0


@pytest.mark.parametrize(
    "job_id", ["../x", "..", ".", "a/b?c#d", "line\nbreak\r\nHost: evil", "%2e%2e%2f", "\\..\\x", "ключ", "x" * 5000]
)
async def test_an_id_is_one_segment_on_the_wire(outbound: Outbound, peer: Peer, job_id: str) -> None:
    """Whatever stands in it: it climbs nowhere, ends no line, begins no query."""
    await ask(outbound, peer, Question(path=f"/api/v1/job/{segment(job_id)}", job_id=job_id))

    (target,) = peer.targets
    assert target.startswith("/api/v1/job/")
    assert target.count("/") == 4
    assert not set(target) & set("?#\\")
    assert len(peer.heads) == 1
    assert peer.header("host") == [f"127.0.0.1:{peer.port}"]


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://127.0.0.1:{other}/job/a", "https://127.0.0.1:{mine}/job/a", "http://localhost:{mine}/job/a",
        "http://127.0.0.1:{mine}@127.0.0.1:{other}/job/a", "http://127.0.0.1.evil.example.com:{mine}/a",
        "//127.0.0.1:{other}/a", "http://user:pw@127.0.0.1:{mine}/a", "http://127.0.0.1:{mine}\\@127.0.0.1:{other}/",
        "file:///etc/passwd", "http://[::1", "http://127.0.0.1:99999/", "not a url", "",
    ],
)  # fmt: skip
async def test_no_credentials_leave_the_configured_origin(outbound: Outbound, peer: Peer, elsewhere: str) -> None:
    """A poll URL that points anywhere else, however cleverly, is not asked; that proves nothing of the source."""
    async with listening(http(b"{}")) as other:
        url = elsewhere.replace("{mine}", str(peer.port)).replace("{other}", str(other.port))
        exchange = await ask(outbound, peer, Question(url=url, job_id="a"))

        assert isinstance(exchange.outcome, Unanswered)
        assert exchange.outcome.unasked
        assert peer.heads == other.heads == []


async def test_a_poll_url_on_the_origin_is_asked_as_it_is(outbound: Outbound, peer: Peer) -> None:
    """With its own query; a fragment stays at home."""
    await ask(outbound, peer, Question(url=f"{peer.url}/other/path?x=1#frag", job_id="a"))

    assert peer.targets == ["/other/path?x=1"]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_never_followed(outbound: Outbound, peer: Peer, status: str) -> None:
    """Neither elsewhere nor to the same origin: it is an answer like any other."""
    async with listening(http(b"{}")) as other:
        peer.answer = http(b"", status, f"Location: {other.url}/trap", f"Link: <{peer.url}/next>; rel=next")
        exchange = await ask(outbound, peer)

        assert isinstance(exchange.outcome, Reply)
        assert exchange.outcome.status == int(status[:3])
        assert (len(peer.heads), other.heads) == (1, [])


async def test_nothing_is_remembered_between_two_questions(outbound: Outbound, peer: Peer) -> None:
    """No cookie comes back, no connection is kept."""
    peer.answer = http(b"{}", "200 OK", "Set-Cookie: session=1; Path=/", "Alt-Svc: h2=:443")
    for _ in range(2):
        await ask(outbound, peer)

    assert peer.header("cookie") == []
    await asyncio.wait_for(peer.gone.wait(), 5)


async def test_an_answer_has_a_largest_size(outbound: Outbound, peer: Peer) -> None:
    """Announced or not: at the limit it is read, past it the connection is dropped and nothing is decided."""
    peer.answer = http(b"x" * 20_000)
    assert isinstance((await ask(outbound, peer)).outcome, Reply)
    peer.answer = http(b"x" * 20_001)
    assert "longer than 20000" in unanswered(await ask(outbound, peer))

    sent = 0

    async def endless(writer: Writer) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"y" * 4096 + b"\r\n")
            await writer.drain()
            sent += 4096

    peer.answer = endless
    assert "longer than" in unanswered(await ask(outbound, peer))
    await asyncio.wait_for(peer.gone.wait(), 5)
    assert sent < 20_000_000


async def hang(writer: Writer) -> None:
    await asyncio.Event().wait()


async def hang_in_the_head(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await hang(writer)


async def trickle(writer: Writer) -> None:
    """Never silent for long, and never done: no timeout between two reads notices."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    pause = asyncio.Event()
    while True:
        writer.write(b" ")
        await writer.drain()
        try:
            await asyncio.wait_for(pause.wait(), 0.05)
        except TimeoutError:
            continue


@pytest.mark.parametrize("answer", [hang, hang_in_the_head, trickle])
async def test_a_question_has_one_deadline(outbound: Outbound, peer: Peer, answer: Callable[[Writer], Any]) -> None:
    """`http_timeout_s` over all of it: connecting, the head, the last byte."""
    peer.answer = answer
    exchange = await ask(outbound, peer)

    assert "no answer within 0.6 s" in unanswered(exchange)
    assert 500 <= exchange.latency_ms < 5000


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\x16\x03\x01garbage", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"HTTP/9.9 what\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
        http(b"\x1f\x8b\x08junk", "200 OK", "Content-Encoding: gzip"), b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_none(outbound: Outbound, peer: Peer, answer: bytes) -> None:
    """Cut off, garbled, encoded though nobody asked: unanswered, and never an exception."""

    async def once(writer: Writer) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    peer.answer = once
    assert unanswered(await ask(outbound, peer))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{closed}", "http://no-such-host.invalid", "https://127.0.0.1:{peer}"]
)
async def test_a_place_that_cannot_be_reached_is_no_answer(outbound: Outbound, peer: Peer, url: str) -> None:
    """Nobody listens, no such name, no TLS where TLS was meant: said in one line, without the key."""
    base = url.replace("{closed}", str(free_port())).replace("{peer}", str(peer.port))
    exchange = await outbound.ask(source_at(base), Question(path="/api/v1/job/a", job_id="a"), RULES)

    detail = unanswered(exchange)
    assert KEY not in detail
    assert "\n" not in detail
    assert not any(KEY.encode() in head for head in peer.heads)


async def test_no_proxy_of_the_machine_is_used(outbound: Outbound, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys do not go through whatever the environment names."""
    async with listening(http(b"{}", "200 OK")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        exchange = await ask(outbound, peer)

        assert isinstance(exchange.outcome, Reply)
        assert proxy.heads == []


async def test_a_name_that_is_not_resolved_delays_no_other(
    outbound: Outbound, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source resolves on a thread of its own; a resolver that hangs for one starves nobody."""
    stuck, let_go = threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> str:
        if host == "slow.invalid":
            stuck.set()
            assert let_go.wait(20)
        return "127.0.0.1"

    monkeypatch.setattr(outbound_module, "_resolve", resolve)
    slow = source_at(f"http://slow.invalid:{peer.port}", "slow")
    quick = source_at(f"http://quick.invalid:{peer.port}", "quick")
    question = Question(path="/api/v1/job/a", job_id="a")
    waiting = [asyncio.create_task(outbound.ask(slow, question, RULES)) for _ in range(5)]
    assert await asyncio.to_thread(stuck.wait, 10)
    quickly = await outbound.ask(quick, question, RULES)
    slowly = await asyncio.gather(*waiting)
    let_go.set()

    assert isinstance(quickly.outcome, Reply)
    assert peer.header("host") == [f"quick.invalid:{peer.port}"]
    assert all("slow.invalid" in unanswered(each) or "no answer" in unanswered(each) for each in slowly)


async def test_many_questions_leave_nothing_open(outbound: Outbound, peer: Peer) -> None:
    """Answered or cut off: the next one always finds a free line."""
    peer.answer = hang
    cut = [asyncio.create_task(ask(outbound, peer)) for _ in range(5)]
    while len(peer.heads) < 5:
        await asyncio.wait(cut, timeout=0.01)
    for task in cut:
        task.cancel()
    await asyncio.gather(*cut, return_exceptions=True)
    peer.answer = http(b"{}")

    assert isinstance((await ask(outbound, peer)).outcome, Reply)


# -- a run of questions ----------------------------------------------------------------------------------------------


async def test_what_an_answer_proved_is_kept_before_the_next_question(fast_folder: Path) -> None:
    """Killed between two questions: the first answer's job has ended and was told; nothing is asked twice for it."""
    field = field_of(fast_folder / "f", asked={"provider": "omnifence", "api_key": "key", "adopt_unregistered": False})
    for job_id in ("a", "b"):
        await field.register(job_id, "asked")
        field.fence.put(job_id, "completed")

    def dies(asked: Asked) -> None:
        if len(field.fence.asked) == 2:
            raise KeyboardInterrupt

    field.fence.answers = dies
    with pytest.raises(KeyboardInterrupt):
        await field.sweep.pass_once("asked")
    field.fence.answers = lambda asked: None
    field.restart()
    first = field.fence.ids[0]
    assert await field.state(str(first)) == ("completed", None)
    await field.passes()

    assert [await field.state(each) for each in ("a", "b")] == [("completed", None)] * 2
    assert field.fence.ids.count(first) == 1
    field.store.close()
