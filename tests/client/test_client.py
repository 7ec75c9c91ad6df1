"""Registering, waiting, claiming and submitting by the Python clients, over real sockets."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast import AsyncClient, ClientError, Conflict, NotFound
from receiver.listeners import open_listener
from receiver.server import HttpServer, private_limits
from tests.api.conftest import Open
from tests.api.office import Office
from tests.api.upstream import ACCEPTED, Upstream, reply
from tests.client.conftest import Connect
from tests.support import aeventually, free_port

TOKEN = "the-api-token-of-this-test"


async def test_a_job_is_registered_and_shown(office: Office, connect: Connect) -> None:
    """All facts arrive; None is not told; the same again does no harm."""
    async with office.served() as address, connect(address) as client:
        facts: dict[str, Any] = {
            "modality": "image",
            "submitted_at": "2026-04-13T14:29:00Z",
            "poll_url": "http://127.0.0.1:9/jobs/a",
            "alias": "also-a",
            "refs": {"lead": 1},
            "metadata": {"post": 7},
        }
        first = await client.register("moderation", "a", **facts)
        again = await client.register("moderation", "a", modality="image", metadata=None)
        shown = await client.job("moderation", "also-a")

    assert (first["state"], first["modality"], first["metadata"]) == ("pending", "image", {"post": 7})
    assert (first["refs"], first["submitted_at"]) == ({"lead": 1}, "2026-04-13T14:29:00.000Z")
    assert again["job_id"] == shown["job_id"] == "a"
    assert len(shown["history"]) == 1


async def test_refusals_are_errors_that_explain(office: Office, connect: Connect) -> None:
    """404 is NotFound, 409 Conflict, everything else ClientError with status and the sidecar's own words."""
    async with office.served() as address, connect(address) as client:
        await client.register("moderation", "a", modality="image")
        with pytest.raises(Conflict, match="modality") as conflict:
            await client.register("moderation", "a", modality="video")
        with pytest.raises(NotFound) as missing:
            await client.job("moderation", "b")
        with pytest.raises(NotFound, match="nowhere"):
            await client.register("nowhere", "a")
        with pytest.raises(ClientError, match="poll_url") as refused:
            await client.register("moderation", "c", poll_url="http://elsewhere.example/c")
        with pytest.raises(NotFound):
            await client.wait("moderation", "b", timeout_s=5)

    assert (conflict.value.status, missing.value.status, refused.value.status) == (409, 404, 400)
    assert type(refused.value) is ClientError
    assert refused.value.detail in str(refused.value)


@pytest.mark.parametrize("job_id", ["a/b", "..", ".", "a b?c#d", "é%2F", "x" * 300, "../../healthz"])
async def test_any_id_is_one_segment(office: Office, connect: Connect, job_id: str) -> None:
    """Whatever an id holds, it is registered and found under exactly that id."""
    async with office.served() as address, connect(address) as client:
        await client.register("moderation", job_id)
        assert (await client.job("moderation", job_id))["job_id"] == job_id
        assert (await client.wait("moderation", job_id, timeout_s=0))["state"] == "pending"


async def test_the_token_opens_and_a_wrong_one_does_not(open_office: Open, connect: Connect) -> None:
    """With the token everything works; without it, or with another, ClientError 401."""
    office = open_office(config={"api": {"token": TOKEN}})
    async with office.served() as address:
        async with connect(address, TOKEN) as client:
            assert (await client.register("moderation", "a"))["state"] == "pending"
        for wrong in (None, "another"):
            async with connect(address, wrong) as client:
                with pytest.raises(ClientError) as refused:
                    await client.job("moderation", "a")
                assert refused.value.status == 401


async def test_a_unix_socket_is_an_address(office: Office, connect: Connect, tmp_path: Path) -> None:
    """`unix:/path` reaches a listener on a unix socket."""
    path = tmp_path / "api.sock"
    server = HttpServer(office.app, open_listener(f"unix:{path}"), private_limits())
    await server.start()
    try:
        async with connect(f"unix:{path}") as client:
            await client.register("moderation", "a")
            assert (await client.job("moderation", "a"))["job_id"] == "a"
    finally:
        await server.stop(2.0)


async def test_a_proxy_of_the_environment_is_not_asked(
    office: Office, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is set for the application's way to the internet is not the way to its sidecar."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with office.served() as address, connect(address) as client:
        assert (await client.register("moderation", "a"))["job_id"] == "a"


async def test_nobody_there_is_an_error_at_once(connect: Connect) -> None:
    """A sidecar that was never reached is not waited for: the address is wrong."""
    async with connect(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(httpx.ConnectError):
            await client.wait("moderation", "a", timeout_s=60)
        with pytest.raises(httpx.ConnectError):
            await anext(client.messages())


async def test_an_answer_of_somebody_else_is_an_error(connect: Connect) -> None:
    """A web server that is no Holdfast is ClientError with what it said, not a crash of the JSON reader."""
    upstream = Upstream(reply("200 OK", b"<h1>Welcome to nginx</h1>", kind="text/html"))
    async with upstream.running(), connect(upstream.address) as client:
        with pytest.raises(ClientError, match="nginx") as odd:
            await client.job("moderation", "a")
        upstream.answer = reply("418 Teapot", b"[1]")
        with pytest.raises(ClientError, match=r"418: \[1\]"):
            await client.job("moderation", "a")
    assert odd.value.status == 200


async def test_waiting_ends_with_the_job(office: Office, connect: Connect) -> None:
    """`wait` answers as soon as the job has ended, and as it is when the time is up."""
    async with office.served() as address, connect(address) as client:
        await client.register("moderation", "a", modality="prompt")
        assert (await client.wait("moderation", "a", timeout_s=0.05))["state"] == "pending"
        waiting = asyncio.create_task(client.wait("moderation", "a", timeout_s=30))
        await aeventually(lambda: len(office.app.parts.waiting) == 1)
        await office.settle("a", result={"fine": True})
        ended = await asyncio.wait_for(waiting, 5)

    assert (ended["state"], ended["result"]) == ("completed", {"fine": True})


async def test_waiting_outlasts_a_restart_of_the_sidecar(office: Office, connect: Connect) -> None:
    """A sidecar that stops answers its waiters early; the client asks again, also while nobody listens."""
    port = free_port()

    async def start() -> HttpServer:
        server = HttpServer(office.app, open_listener(f"127.0.0.1:{port}"), private_limits())
        await server.start()
        return server

    async def stop(server: HttpServer) -> None:
        office.app.stop()
        await server.stop(2.0)

    server = await start()
    async with connect(f"http://127.0.0.1:{port}") as client:
        await client.register("moderation", "a", modality="prompt")
        waiting = asyncio.create_task(client.wait("moderation", "a", timeout_s=30))
        await aeventually(lambda: len(office.app.parts.waiting) == 1)
        await stop(server)
        office.restart()
        await office.settle("a")
        assert not waiting.done()
        server = await start()
        ended = await asyncio.wait_for(waiting, 10)
    await stop(server)

    assert ended["state"] == "completed"


async def test_a_hundred_and_more_wait_with_one_client(office: Office) -> None:
    """No pool of connections limits how many may wait at once."""
    async with office.served() as address, AsyncClient(address) as client:
        await client.register("moderation", "a", modality="prompt")
        async with asyncio.TaskGroup() as group:
            waiters = [group.create_task(client.wait("moderation", "a", timeout_s=60)) for _ in range(150)]
            await aeventually(lambda: len(office.app.parts.waiting) == 150, 20)
            await office.settle("a")

    assert {waiter.result()["state"] for waiter in waiters} == {"completed"}


async def test_messages_are_claimed_and_acknowledged(office: Office, connect: Connect) -> None:
    """`claim` leases, `ack` counts what it ended; a message tells what it is about."""
    await office.told("a", "b")
    async with office.served() as address, connect(address) as client:
        first, second = await client.claim(limit=10, lease_s=30)
        assert await client.claim() == []
        assert await client.ack(first.id, second.id, "msg_of_nobody") == 2
        assert await client.ack(first.id) == 0

    assert (first.type, first.source, first.job_id, first.result) == ("job.completed", "moderation", "a", {"of": "a"})
    assert first.supersedes is None
    assert first.timestamp.endswith("Z")


async def test_a_submission_goes_through_with_the_right_credentials(open_office: Open, connect: Connect) -> None:
    """`submit` hands back the provider's own answer with the job on record; the caller's own Authorization goes to the
    provider, and the sidecar's token never does."""
    upstream = Upstream(ACCEPTED)
    async with upstream.running():
        guarded = open_office(
            config={"api": {"token": TOKEN}},
            sources={"moderation": {"provider": "omnifence", "base_url": upstream.address, "api_key": "provider-key"}},
        )
        async with guarded.served() as address, connect(address, TOKEN) as client:
            answer = await client.submit("moderation", "/api/v1/moderate/video?x=1", json={"video_url": "v"})
            await client.submit("moderation", "api/v1/moderate/image", headers={"Authorization": "Bearer my-own"})
            upstream.answer = reply("422 Unprocessable", b'{"error": "no"}')
            refused = await client.submit("moderation", "api/v1/moderate/video", method="PUT", content=b"x")
            job = await client.job("moderation", "j-1")

    assert (answer.status_code, answer.json()["job_id"], job["modality"]) == (202, "j-1", "video")
    assert refused.json() == {"error": "no"}
    assert [sent.line.split(" ")[:2] for sent in upstream.requests] == [
        ["POST", "/api/v1/moderate/video?x=1"],
        ["POST", "/api/v1/moderate/image"],
        ["PUT", "/api/v1/moderate/video"],
    ]
    keys = [sent.all("authorization") for sent in upstream.requests]
    assert keys == [["Bearer provider-key"], ["Bearer my-own"], ["Bearer provider-key"]]
    assert not any(TOKEN in value for sent in upstream.requests for _, value in sent.headers)
