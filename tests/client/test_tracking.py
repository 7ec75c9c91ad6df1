"""TrackingTransport: jobs are on record before the application sees the answer, which comes back whatever happens."""

import asyncio
import contextlib
import gzip
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from holdfast import AsyncClient, AsyncTrackingTransport, Client, TrackingTransport, jobs_of_provider
from holdfast.tracking import Find
from tests.api.office import Office
from tests.api.upstream import ACCEPTED, Upstream, jobs_of, reply
from tests.support import free_port

Send = Callable[..., Awaitable[httpx.Response]]
PATH = "/api/v1/moderate/video"


class Tracked:
    """An application's own client for a provider, tracking or not, sync (on a thread) or async."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @contextlib.asynccontextmanager
    async def sending(self, api: str, provider: str, find: Find, source: str = "moderation") -> AsyncIterator[Send]:
        """A `request(method, url, …)` whose jobs are recorded at `api`."""
        if self.kind == "async":
            async with (
                AsyncClient(api) as holdfast,
                httpx.AsyncClient(
                    base_url=provider, transport=AsyncTrackingTransport(holdfast, source, find), timeout=10
                ) as own,
            ):
                yield own.request
        else:
            with (
                Client(api) as sync,
                httpx.Client(base_url=provider, transport=TrackingTransport(sync, source, find), timeout=10) as mine,
            ):

                async def send(*arguments: Any, **named: Any) -> httpx.Response:
                    return await asyncio.to_thread(mine.request, *arguments, **named)

                yield send


@pytest.fixture(params=["sync", "async"])
def tracked(request: pytest.FixtureRequest) -> Tracked:
    """Both transports, one after the other."""
    return Tracked(request.param)


FENCE = jobs_of_provider("moderation", "omnifence")


async def test_a_job_is_on_record_before_its_answer_is_seen(office: Office, tracked: Tracked) -> None:
    """The job is there when the answer is; the answer is unchanged, down to its headers."""
    upstream = Upstream(ACCEPTED)
    async with office.served() as api, upstream.running(), tracked.sending(api, upstream.address, FENCE) as send:
        answer = await send("POST", PATH, json={"video_url": "v"})
        job = (await jobs_of(office))["j-1"]

    assert (answer.status_code, answer.content) == (202, b'{"job_id": "j-1", "status": "queued"}')
    assert (answer.headers["x-request-id"], answer.http_version, answer.reason_phrase) == ("r1", "HTTP/1.1", "Accepted")
    assert (job["modality"], job["registered_by"]) == ("video", "application")
    assert upstream.requests[0].body == b'{"video_url":"v"}'


async def test_the_answer_waits_for_the_record(office: Office) -> None:
    """Not even the head of the answer is handed over before the registration was answered."""
    order: list[str] = []

    async def find(request: httpx.Request) -> httpx.Response:
        order.append("provider answers")
        return httpx.Response(202, json={"job_id": "j-1"})

    async with office.served() as api, AsyncClient(api) as holdfast:
        original = holdfast.register

        async def register(*arguments: Any, **facts: Any) -> Any:
            job = await original(*arguments, **facts)
            order.append("on record")
            return job

        holdfast.register = register  # type: ignore[method-assign]  # a listener at the wall
        transport = AsyncTrackingTransport(holdfast, "moderation", FENCE, httpx.MockTransport(find))
        async with httpx.AsyncClient(transport=transport) as own, own.stream("POST", f"http://p{PATH}") as answer:
            order.append("seen")
            assert [part async for part in answer.aiter_raw()] == [b'{"job_id":"j-1"}']

    assert order == ["provider answers", "on record", "seen"]


@pytest.mark.parametrize("trouble", ["away", "refuses", "not one of us"])
async def test_the_answer_comes_back_when_recording_fails(
    office: Office, tracked: Tracked, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the sidecar is away, does not know the source, or is another server: the failure is logged by job."""
    upstream, stranger = Upstream(ACCEPTED), Upstream(reply("200 OK", b"hello", kind="text/plain"))
    async with office.served() as api, upstream.running(), stranger.running():
        api = {"away": f"http://127.0.0.1:{free_port()}", "refuses": api, "not one of us": stranger.address}[trouble]
        source = "nowhere" if trouble == "refuses" else "moderation"
        async with tracked.sending(api, upstream.address, FENCE, source) as send:
            with caplog.at_level(logging.ERROR, "holdfast.client"):
                answer = await send("POST", PATH)

    assert (answer.status_code, answer.json()["job_id"]) == (202, "j-1")
    assert "job j-1" in caplog.text


async def test_a_job_on_record_with_other_facts_is_no_failure(
    office: Office, tracked: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    """The same job submitted under another modality keeps the first; it is a warning."""
    await office.register("j-1", modality="image")
    upstream = Upstream(ACCEPTED)
    async with office.served() as api, upstream.running(), tracked.sending(api, upstream.address, FENCE) as send:
        answer = await send("POST", PATH)
        assert (await jobs_of(office))["j-1"]["modality"] == "image"

    assert answer.status_code == 202
    assert [record.levelname for record in caplog.records if record.name == "holdfast.client"] == ["WARNING"]


async def test_a_link_that_leads_elsewhere_costs_no_record(office: Office, tracked: Tracked) -> None:
    """A poll URL off the source's origin is refused by the sidecar; the job is recorded without it."""

    def find(request: httpx.Request, document: Any) -> list[dict[str, Any]]:
        return [{"job_id": document["job_id"], "poll_url": "http://elsewhere.example/j-1", "modality": "image"}]

    upstream = Upstream(ACCEPTED)
    async with office.served() as api, upstream.running(), tracked.sending(api, upstream.address, find) as send:
        await send("POST", PATH)
        assert (await jobs_of(office))["j-1"]["modality"] == "image"


ODD = [
    reply("200 OK", b""),
    reply("200 OK", b"{"),
    reply("200 OK", b"\xff\xfe"),
    reply("200 OK", b"[]"),
    reply("200 OK", b'{"job_id": null}'),
    reply("200 OK", b'{"job_id": {"a": 1}}'),
    reply("200 OK", b"not gzip", "Content-Encoding: gzip"),
    reply("204 No Content"),
    reply("200 OK", b'{"job_id": "j-1"}', kind="text/plain"),
    reply("200 OK", b'{"job_id": "j-1"}\n', kind="application/x-ndjson"),
    reply("500 Oops", b'{"job_id": "j-1"}'),
]


@pytest.mark.parametrize("number", range(len(ODD)))
async def test_odd_answers_come_back_and_register_nothing(office: Office, tracked: Tracked, number: int) -> None:
    """Empty, broken, wrongly packed, not JSON, an error: all are the application's own affair."""
    upstream = Upstream(ODD[number])
    async with office.served() as api, upstream.running(), tracked.sending(api, upstream.address, FENCE) as send:
        if number == 6:
            with pytest.raises(httpx.DecodingError):  # as it would be without tracking
                await send("POST", PATH)
        else:
            answer = await send("POST", PATH)
            assert ODD[number].endswith(answer.content)
        assert await jobs_of(office) == {}


async def test_what_starts_nothing_streams_through(office: Office) -> None:
    """The answer to a GET is not held back to be looked into."""
    told = httpx.Response(200, json={"job_id": "j-1"})
    async with office.served() as api:
        with Client(api) as holdfast:
            transport = TrackingTransport(holdfast, "moderation", FENCE, httpx.MockTransport(lambda request: told))
            assert transport.handle_request(httpx.Request("GET", f"http://p{PATH}")) is told
    assert await jobs_of(office) == {}


async def test_a_packed_answer_is_looked_into(office: Office, tracked: Tracked) -> None:
    """gzip is unpacked for the job id, and once for the application."""
    upstream = Upstream(reply("200 OK", gzip.compress(b'{"job_id": "j-2"}'), "Content-Encoding: gzip"))
    async with office.served() as api, upstream.running(), tracked.sending(api, upstream.address, FENCE) as send:
        answer = await send("POST", PATH)
        assert set(await jobs_of(office)) == {"j-2"}

    assert answer.json() == {"job_id": "j-2"}


async def test_a_find_of_ones_own_that_fails_costs_no_answer(
    office: Office, tracked: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that raises, or forgets the job id, is logged; several jobs in one answer are all recorded."""
    upstream = Upstream(ACCEPTED)

    def several(request: httpx.Request, document: Any) -> list[dict[str, Any]]:
        if request.url.params.get("mode") == "forget":
            return [{"modality": "image"}]
        if request.url.params.get("mode") == "raise":
            raise ValueError("a fault of the application's own")
        return [{"job_id": "one", "metadata": {"post": 1}}, {"job_id": 2}]

    async with office.served() as api, upstream.running(), tracked.sending(api, upstream.address, several) as send:
        answers = [await send("POST", f"{PATH}?mode={mode}") for mode in ("forget", "raise", "")]
        assert set(await jobs_of(office)) == {"one", "2"}

    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert caplog.text.count("was not understood") == 2


@pytest.mark.parametrize(
    ("provider", "settings", "request_", "document", "found"),
    [
        ("omniai", {}, "http://p/api/v1/documents", {"documents": [{"id": 5}], "leadId": 9}, ["5"]),
        (
            "omniai",
            {"base_url": "http://127.0.0.1:9100/omniai"},
            "http://127.0.0.1:9100/omniai/api/v1/documents",
            {"documents": [{"id": "d"}]},
            ["d"],
        ),
        ("omnist", {}, "http://p/v1/monitors/a%2Fb/backfills", {"task_id": "t"}, ["t"]),
        (
            "omnia",
            {},
            "http://p/v1/insights",
            {"data": {"id": 1, "status": "queued"}, "links": {"self": "/x/1"}},
            ["1"],
        ),
        ("omnifence", {}, "http://p/api/v1/jobs", {"job_id": "no submission"}, []),
    ],
)
def test_jobs_are_found_as_in_pass_through(
    provider: str, settings: dict[str, Any], request_: str, document: Any, found: list[str]
) -> None:
    """Every built-in provider's submissions are known by path, with a base URL that has a path of its own, too."""
    find = jobs_of_provider("a", provider, **settings)
    assert [each["job_id"] for each in find(httpx.Request("POST", request_), document)] == found


def test_the_wrapped_transport_is_closed() -> None:
    """Closing the application's client closes what was wrapped."""

    class Wrapped(httpx.BaseTransport):
        closed = False

        def close(self) -> None:
            self.closed = True

    wrapped = Wrapped()
    with Client() as holdfast, httpx.Client(transport=TrackingTransport(holdfast, "a", FENCE, wrapped)):
        assert not wrapped.closed
    assert wrapped.closed
