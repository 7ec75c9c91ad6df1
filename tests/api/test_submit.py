"""The pass-through: bytes through unchanged, the job on record before the answer."""

import asyncio

import httpx
import pytest

from tests.api.conftest import Open
from tests.api.upstream import ACCEPTED, PATH, Upstream, jobs_of, passing, reply

TOKEN = "the-api-token-of-this-test"


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


async def test_the_providers_date_is_the_only_one(open_office: Open) -> None:
    """An answer that is passed on keeps its own date and gets none of ours; one without gets ours."""
    upstream = Upstream(reply("200 OK", b"{}", "Date: Mon, 13 Apr 2026 14:30:00 GMT"))
    async with passing(open_office, upstream) as (_, client):
        dated = await client.post(PATH, json={})
        upstream.answer = ACCEPTED
        undated = await client.post(PATH, json={})

    assert dated.headers.get_list("date") == ["Mon, 13 Apr 2026 14:30:00 GMT"]
    assert len(undated.headers.get_list("date")) == 1


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
