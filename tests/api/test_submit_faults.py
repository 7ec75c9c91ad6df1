"""The pass-through when something goes wrong, or is large: the answer still goes back, and nothing is made up."""

import asyncio
import contextlib
import gzip
import hashlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from receiver.errors import StoreUnavailable
from tests.api.conftest import Open
from tests.api.upstream import ACCEPTED, PATH, Received, Upstream, jobs_of, passing, read_body, reply
from tests.support import aeventually, free_port


def resident_bytes() -> int:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_unreachable_is_502_and_too_slow_504(open_office: Open) -> None:
    """A provider that is not there is 502, one that hangs 504; nothing is registered."""

    async def hang(received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the caller gives up

    async with passing(open_office, Upstream(script=hang), http_timeout_s=0.1) as (office, client):
        slow = await client.post(PATH, json={})
        gone = {"provider": "omnifence", "base_url": f"http://127.0.0.1:{free_port()}"}
        other = open_office(sources={"moderation": gone})
        async with other.client() as direct:
            unreachable = await direct.post(PATH, json={})
        assert await jobs_of(office) == await jobs_of(other) == {}

    assert (slow.status_code, unreachable.status_code) == (504, 502)
    assert slow.headers["content-type"] == unreachable.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 20", b"nonsense\r\n\r\n", b"HTTP/1.1 202 OK\r\nContent-Length: 90\r\n\r\n{}"]
)
async def test_a_provider_that_breaks_off_is_502(open_office: Open, answer: bytes) -> None:
    """An answer that is none, or not whole, is 502."""
    async with passing(open_office, Upstream(answer)) as (office, client):
        got = await client.post(PATH, json={})
        assert await jobs_of(office) == {}

    assert got.status_code == 502


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b'{"status": "queued"}', b'{"job_id": null}', b"\xff", b'"' + b"[" * 1000]
)
async def test_an_answer_without_an_id_goes_back_all_the_same(open_office: Open, body: bytes) -> None:
    """On any doubt the answer still goes back, and nothing is registered."""
    async with passing(open_office, Upstream(reply("202 Accepted", body))) as (office, client):
        got = await client.post(PATH, json={})
        assert await jobs_of(office) == {}

    assert (got.status_code, got.content) == (202, body)


async def test_a_packed_answer_is_looked_into_and_handed_back_packed(open_office: Open) -> None:
    """gzip is read for the job id; the caller gets the very bytes the provider sent."""
    packed = gzip.compress(b'{"job_id": "j-1"}')
    async with passing(open_office, Upstream(reply("202 Accepted", packed, "Content-Encoding: gzip"))) as (
        office,
        client,
    ):
        async with client.stream("POST", PATH, json={}) as answer:
            raw = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert set(await jobs_of(office)) == {"j-1"}

    assert raw == packed


@pytest.mark.parametrize("coding", ["br", "gzip"])
async def test_a_packed_answer_that_cannot_be_read_goes_back(open_office: Open, coding: str) -> None:
    """An unknown coding or a bomb is a doubt: it goes back as it came."""
    body = gzip.compress(b"0" * 50_000_000) if coding == "gzip" else b"??"
    upstream = Upstream(reply("202 Accepted", body, f"Content-Encoding: {coding}"))
    async with passing(open_office, upstream) as (office, client):
        async with client.stream("POST", PATH, json={}) as answer:
            raw = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert await jobs_of(office) == {}

    assert raw == body


async def test_large_and_streamed_answers_pass_through(open_office: Open) -> None:
    """What is too large to look into, by its header or by its count, arrives whole and unrecorded."""
    body = b'{"job_id": "j-1", "pad": "' + b"x" * 3_000_000 + b'"}'

    async def chunked(received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(received, reader)
        writer.write(b"HTTP/1.1 202 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(body), 100_000):
            part = body[at : at + 100_000]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    for upstream in (Upstream(reply("202 Accepted", body)), Upstream(script=chunked)):
        async with passing(open_office, upstream) as (office, client):
            got = await client.post(PATH, json={})
            assert await jobs_of(office) == {}
        assert (got.status_code, got.content) == (202, body)


async def test_an_event_stream_arrives_as_it_is_sent(open_office: Open) -> None:
    """A streamed answer is not held back: its first part arrives while the provider still writes."""
    more = asyncio.Event()

    async def events(received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(received, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await more.wait()
        writer.write(b"data: 2\n\n")

    async with (
        passing(open_office, Upstream(script=events)) as (_, client),
        client.stream("POST", "/submit/moderation/api/v1/chat", json={}) as answer,
    ):
        parts = answer.aiter_raw()
        first = await anext(parts)
        more.set()
        rest = b"".join([part async for part in parts])

    assert (first, rest) == (b"data: 1\n\n", b"data: 2\n\n")


async def test_an_answer_that_breaks_off_midway_is_seen_as_broken(open_office: Open) -> None:
    """When the provider breaks off after the answer began, the caller sees a broken answer, not a short one."""
    upstream = Upstream(reply("200 OK", b"x" * 100_000)[:-10])
    async with passing(open_office, upstream) as (_, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/submit/moderation/file")


async def test_a_hundred_megabytes_pass_at_flat_memory(open_office: Open) -> None:
    """A multipart upload of 100 MB arrives byte-identical, and the process grows by a small part of it."""
    block = hashlib.sha256(b"seed").digest() * 2048
    blocks = 100 * 1024 * 1024 // len(block)
    digest = hashlib.sha256()
    sizes: list[int] = []

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(blocks):
            digest.update(block)
            sizes.append(resident_bytes())
            yield block

    upstream = Upstream(ACCEPTED)
    async with passing(open_office, upstream) as (office, client):
        await client.post(PATH, content=b"warm up")
        headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(blocks * len(block))}
        answer = await client.post(PATH, content=upload(), headers=headers)
        assert set(await jobs_of(office)) == {"j-1"}

    got = upstream.requests[1]
    assert (answer.status_code, got.body_bytes, got.digest) == (202, blocks * len(block), digest.hexdigest())
    assert got.all("content-length") == [str(blocks * len(block))]
    assert max(sizes) - sizes[0] < 20 << 20


async def test_an_upload_without_a_length_stays_without(open_office: Open) -> None:
    """A chunked upload is passed on chunked; a request without a body has none at the provider either."""

    async def upload() -> AsyncIterator[bytes]:
        for n in range(5):
            yield f"part {n};".encode()

    upstream = Upstream(ACCEPTED)
    async with passing(open_office, upstream) as (_, client):
        await client.post(PATH, content=upload())
        await client.get(PATH)

    sent, bare = upstream.requests
    assert (sent.all("transfer-encoding"), sent.all("content-length")) == (["chunked"], [])
    assert sent.body == b"part 0;part 1;part 2;part 3;part 4;"
    assert not bare.all("transfer-encoding")
    assert bare.all("content-length") in ([], ["0"])


async def test_a_caller_that_leaves_mid_upload_registers_nothing(open_office: Open) -> None:
    """The provider sees a broken request, never a shorter one that looks whole."""
    broken = asyncio.Event()

    async def listen(received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await read_body(received, reader)
        broken.set()

    upstream = Upstream(script=listen)
    async with passing(open_office, upstream) as (office, client):
        host, port = str(client.base_url).removeprefix("http://").rstrip("/").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nonly this".encode())
        await aeventually(lambda: upstream.requests)
        writer.close()
        async with asyncio.timeout(10):
            await broken.wait()
        assert await jobs_of(office) == {}

    assert upstream.requests[0].digest == ""


async def test_a_caller_that_leaves_before_the_answer_does_not_lose_its_job(open_office: Open) -> None:
    """The provider has begun the job, so it is recorded though nobody is left to hear the answer."""
    go_on = asyncio.Event()

    async def slow(received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(received, reader)
        await go_on.wait()
        writer.write(ACCEPTED)
        await writer.drain()

    upstream = Upstream(script=slow)
    async with passing(open_office, upstream) as (office, client):
        host, port = str(client.base_url).removeprefix("http://").rstrip("/").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        await aeventually(lambda: upstream.requests and upstream.requests[0].digest)
        writer.close()
        await writer.wait_closed()
        go_on.set()

        async def recorded() -> bool:
            return set(await jobs_of(office)) == {"j-1"}

        await aeventually(recorded)


async def test_a_record_that_fails_does_not_keep_the_answer(
    open_office: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the store takes nothing the answer still goes back, and the orphan is logged with its id."""
    async with passing(open_office, Upstream(ACCEPTED)) as (office, client):

        async def refuse(work: object) -> None:
            raise StoreUnavailable("the disk is full")

        monkeypatch.setattr(office.store, "write", refuse)
        answer = await client.post(PATH, json={})

    assert answer.status_code == 202
    logged = capsys.readouterr().out
    assert "submit.orphaned" in logged
    assert "j-1" in logged


async def test_the_same_job_submitted_again_is_no_conflict(open_office: Open) -> None:
    """An idempotent submission answered with the same id is recorded once."""
    async with passing(open_office, Upstream(ACCEPTED)) as (office, client):
        first = await client.post(PATH, json={})
        second = await client.post(PATH, json={})
        history = (await client.get("/v1/jobs/moderation/j-1")).json()["history"]
        assert set(await jobs_of(office)) == {"j-1"}

    assert (first.status_code, second.status_code) == (202, 202)
    assert [entry["note"] for entry in history] == ["registered"]
