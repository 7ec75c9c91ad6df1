"""The pass-through: bytes through unchanged, the job on record before the answer."""

import asyncio
import contextlib
import gzip
import hashlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.errors import StoreUnavailable
from reconciler.api.desk import Limits
from tests.api.conftest import Open
from tests.api.office import Office
from tests.api.upstream import Received, Upstream, read_body, reply
from tests.support import aeventually, free_port

ACCEPTED = reply("202 Accepted", b'{"job_id": "j-1", "status": "queued"}', "X-Request-Id: r1", "Set-Cookie: a=1")
PATH = "/submit/moderation/api/v1/moderate/video"
TOKEN = "the-api-token-of-this-test"


@contextlib.asynccontextmanager
async def passing(
    open_office: Open, upstream: Upstream, limits: Limits | None = None, **source: Any
) -> AsyncIterator[tuple[Office, httpx.AsyncClient]]:
    """An office over the real server, whose source `moderation` is this provider."""
    async with upstream.running():
        base = {"provider": "omnifence", "base_url": upstream.address, "api_key": "provider-key"}
        office = open_office(sources={"moderation": base | source}, limits=limits or Limits())
        async with office.served() as address, httpx.AsyncClient(base_url=address, timeout=60) as client:
            yield office, client


def resident_bytes() -> int:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def jobs_of(office: Office) -> dict[str, dict[str, Any]]:
    rows, _ = await office.store.read(lambda view: view.jobs())
    return {row["job_id"]: row for row in rows}


async def test_a_submission_passes_and_its_job_is_on_record(open_office: Open) -> None:
    """The provider gets the request, the caller the answer, unchanged; the job is recorded with its modality."""
    upstream = Upstream(ACCEPTED)
    async with passing(open_office, upstream) as (office, client):
        answer = await client.post(f"{PATH}?a=1&a=%2F", json={"video_url": "x"}, headers={"x-own": "kept"})
        jobs = await jobs_of(office)

    assert (answer.status_code, answer.content) == (202, b'{"job_id": "j-1", "status": "queued"}')
    assert (answer.headers["x-request-id"], answer.headers["set-cookie"]) == ("r1", "a=1")
    got = upstream.requests[0]
    assert got.line == "POST /api/v1/moderate/video?a=1&a=%2F HTTP/1.1"
    assert got.body == b'{"video_url":"x"}'
    assert got.all("x-own") == ["kept"]
    assert got.all("host") == [upstream.address.removeprefix("http://")]
    assert got.all("authorization") == ["Bearer provider-key"]
    assert (jobs["j-1"]["modality"], jobs["j-1"]["state"], jobs["j-1"]["registered_by"]) == (
        "video",
        "pending",
        "application",
    )


async def test_the_job_is_durable_before_the_answer_is_handed_back(open_office: Open) -> None:
    """When the first byte of the answer arrives, another connection to the file sees the job."""
    from receiver.store import look

    async with (
        passing(open_office, Upstream(ACCEPTED)) as (office, client),
        client.stream("POST", PATH, json={}) as answer,
    ):
        there = office.settings.store.model_copy(update={"url": f"sqlite:///{office.path}"})
        settings = office.settings.model_copy(update={"store": there})
        seen = await asyncio.to_thread(look, settings, lambda view: view.job("moderation", "j-1"))
        assert seen is not None
        await answer.aread()


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({}, ["Bearer provider-key"]),
        ({"authorization": "Bearer the-callers-own"}, ["Bearer the-callers-own"]),
        ({"authorization": "Basic dTpw"}, ["Basic dTpw"]),
    ],
)
async def test_credentials_are_the_callers_or_the_sources(
    open_office: Open, headers: dict[str, str], sent: list[str]
) -> None:
    """The caller's own credentials are forwarded; without any the source's api_key is used."""
    upstream = Upstream(ACCEPTED)
    async with passing(open_office, upstream) as (_, client):
        await client.post(PATH, json={}, headers=headers)

    assert upstream.requests[0].all("authorization") == sent


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, ["Bearer provider-key"]),
        ({"x-holdfast-token": TOKEN}, ["Bearer provider-key"]),
        ({"x-holdfast-token": TOKEN, "authorization": "Bearer mine"}, ["Bearer mine"]),
        ({"x-holdfast-token": TOKEN, "authorization": f"Bearer {TOKEN}"}, ["Bearer provider-key"]),
        ({"x-holdfast-token": TOKEN, "authorization": f"bearer  {TOKEN}"}, ["Bearer provider-key"]),
        ({"x-holdfast-token": TOKEN, "authorization": TOKEN}, ["Bearer provider-key"]),
    ],
)
async def test_our_own_token_never_reaches_a_provider(
    open_office: Open, headers: dict[str, str], sent: list[str]
) -> None:
    """An Authorization that is the API token is removed and the source's key used; X-Holdfast-* never goes out."""
    upstream = Upstream(ACCEPTED)
    async with upstream.running():
        source = {"provider": "omnifence", "base_url": upstream.address, "api_key": "provider-key"}
        office = open_office(sources={"moderation": source}, config={"api": {"token": TOKEN}})
        async with office.client() as client:
            answer = await client.post(PATH, json={}, headers=headers | {"X-Holdfast-Anything": "x"})

    assert answer.status_code == 202
    got = upstream.requests[0]
    assert got.all("authorization") == sent
    assert not [name for name, value in got.headers if name.lower().startswith("x-holdfast") or TOKEN in value]


async def test_headers_of_the_connection_stay_on_it(open_office: Open) -> None:
    """Hop-by-hop headers, and those that Connection names, are dropped both ways."""
    upstream = Upstream(
        reply(
            "202 Accepted", b'{"job_id": "j-1"}', "Connection: close, X-Hop", "X-Hop: 1", "Keep-Alive: 5", "X-Stays: 1"
        )
    )
    hop = {
        "connection": "x-mine, keep-alive",
        "x-mine": "1",
        "te": "trailers",
        "proxy-authorization": "x",
        "x-stays": "1",
    }
    async with passing(open_office, upstream) as (_, client):
        answer = await client.post(PATH, json={}, headers=hop)

    got = {name.lower() for name, _ in upstream.requests[0].headers}
    assert "x-stays" in got
    assert not got & {"x-mine", "te", "proxy-authorization", "keep-alive"}
    assert answer.headers["x-stays"] == "1"
    assert not {"x-hop", "keep-alive"} & set(answer.headers)


@pytest.mark.parametrize(
    "status", ["400 Bad Request", "402 Payment Required", "429 Too Many Requests", "500 Oops", "503 No"]
)
async def test_the_providers_errors_pass_untouched(open_office: Open, status: str) -> None:
    """Whatever the provider answers, the caller gets, and nothing is registered."""
    upstream = Upstream(reply(status, b'{"job_id": "j-1"}', "Retry-After: 7", kind="application/x-own"))
    async with passing(open_office, upstream) as (office, client):
        answer = await client.post(PATH, json={})
        assert await jobs_of(office) == {}

    assert (answer.status_code, answer.content) == (int(status[:3]), b'{"job_id": "j-1"}')
    assert (answer.headers["retry-after"], answer.headers["content-type"]) == ("7", "application/x-own")


async def test_a_redirect_is_handed_back_not_followed(open_office: Open) -> None:
    """No credentials go where a redirect points."""
    async with Upstream(ACCEPTED).running() as elsewhere:
        upstream = Upstream(reply("307 Temporary Redirect", b"", f"Location: {elsewhere.address}/steal"))
        async with passing(open_office, upstream) as (_, client):
            answer = await client.post(PATH, json={})

        assert (answer.status_code, answer.headers["location"]) == (307, f"{elsewhere.address}/steal")
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "path",
    [
        "/submit/moderation/../secret",
        "/submit/moderation/a/%2e%2e/b",
        "/submit/moderation/a/%2E./b",
        "/submit/moderation/a%2f..%2fb",
        "/submit/moderation/a/..%5Cb",
        "/submit/moderation/./a",
    ],
)
async def test_paths_that_climb_are_refused(open_office: Open, path: str) -> None:
    """A path of dots could leave the base URL's own path; it is 400, and the provider hears nothing."""
    upstream = Upstream(ACCEPTED)
    async with passing(open_office, upstream) as (_, client):
        answer = await client.send(httpx.Request("POST", client.base_url, extensions={"target": path.encode()}))

    assert answer.status_code == 400
    assert upstream.connections == 0


async def test_only_the_configured_origin_is_called(open_office: Open) -> None:
    """What looks like another host in the path stays a path; the base URL's own path stands in front."""
    upstream = Upstream(ACCEPTED)
    async with upstream.running():
        source = {"provider": "omnifence", "base_url": upstream.address + "/gate"}
        office = open_office(sources={"moderation": source})
        async with office.client() as client:
            for path in ("//evil.example/x", "/@evil.example/", "/http://evil.example/", "", "/a%2Fb%20c"):
                answer = await client.post(f"/submit/moderation{path}", json={}, headers={"host": "localhost"})
                assert answer.status_code == 202
            unknown = await client.post("/submit/nobody/x", json={})

    assert [got.line.split(" ")[1] for got in upstream.requests] == [
        "/gate//evil.example/x",
        "/gate/@evil.example/",
        "/gate/http://evil.example/",
        "/gate/",
        "/gate/a%2Fb%20c",
    ]
    assert unknown.status_code == 404


async def test_the_modality_may_be_told(open_office: Open) -> None:
    """X-Holdfast-Modality overrides the one read from the path; a bad one is 400 before anything is sent."""
    upstream = Upstream(ACCEPTED)
    async with passing(open_office, upstream) as (office, client):
        bad = await client.post(PATH, json={}, headers={"x-holdfast-modality": "x" * 65})
        assert (bad.status_code, upstream.connections) == (400, 0)
        await client.post(PATH, json={}, headers={"x-holdfast-modality": "long-video"})
        assert (await jobs_of(office))["j-1"]["modality"] == "long-video"


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
