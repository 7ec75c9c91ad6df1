"""OmniFence's HTTP shape, as providers.md section 1 tells it."""

import json
from typing import Any

import httpx
import pytest

from holdfast.simulator import Simulator

TEXT: Any = {"prompt": (None, "is this fine?")}


def field(name: str, value: str) -> Any:
    """One multipart form field."""
    return {name: (None, value)}


async def test_a_submission_is_answered_202_with_an_id_and_queued(run: Any) -> None:
    """A moderation request is accepted with a job id in UUID form, before anything is decided."""
    simulator = await run.start()
    client = await run.client(simulator)

    answer = await client.post("/api/v1/moderate/prompt", files=TEXT)

    assert answer.status_code == 202
    assert set(answer.json()) == {"job_id", "status"}
    assert answer.json()["status"] == "queued"
    assert answer.json()["job_id"] in simulator.jobs


@pytest.mark.parametrize(
    ("modality", "name", "content"),
    [
        ("prompt", "prompt", "hello"),
        ("image", "image_url", "https://media.example.com/a.png"),
        ("video", "video_url", "https://media.example.com/a.mp4"),
        ("chat", "messages", "[]"),
    ],
)
async def test_every_modality_has_its_own_field(run: Any, modality: str, name: str, content: str) -> None:
    """Each endpoint takes its own form field and makes a job of its own type."""
    simulator = await run.start()
    client = await run.client(simulator)

    answer = await client.post(f"/api/v1/moderate/{modality}", files=field(name, content))
    shown = await client.get(f"/api/v1/job/{answer.json()['job_id']}")

    assert answer.status_code == 202
    assert shown.json()["type"] == modality


@pytest.mark.parametrize("where", ["http://localhost/a", "http://10.0.0.1/a", "http://[::1]/a", "ftp://x.org/a", "a"])
async def test_media_on_a_private_network_is_refused(run: Any, where: str) -> None:
    """A media URL the provider could not or must not fetch is a 400."""
    client = await run.client(await run.start())

    answer = await client.post("/api/v1/moderate/image", files=field("image_url", where))

    assert answer.status_code == 400
    assert answer.json()["error"] == "INVALID_REQUEST"


async def test_a_json_body_is_refused(run: Any) -> None:
    """The submit endpoints take multipart forms alone."""
    client = await run.client(await run.start())

    answer = await client.post("/api/v1/moderate/prompt", json={"prompt": "x"})

    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "message", "statusCode"}


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "/api/v1/job/none", "JOB_NOT_FOUND"), ("GET", "/api/v1/other", "JOB_NOT_FOUND")],
)
async def test_unknown_things_are_404_in_the_error_shape(run: Any, method: str, path: str, code: str) -> None:
    """404 answers carry the provider's error object."""
    client = await run.client(await run.start())

    answer = await client.request(method, path)

    assert answer.status_code == 404
    assert answer.json() == {"error": code, "message": answer.json()["message"], "statusCode": 404}


async def test_without_a_key_only_health_answers(run: Any) -> None:
    """Every endpoint but /health wants a bearer key, and with api_key set wants that key."""
    simulator = await run.start(api_key="right")
    client = await run.client(simulator)

    wrong = await client.get("/api/v1/jobs")
    none = await client.get("/api/v1/jobs", headers={"Authorization": ""})
    right = await client.get("/api/v1/jobs", headers={"Authorization": "Bearer right"})
    health = await client.get("/health", headers={"Authorization": ""})

    assert (wrong.status_code, none.status_code, right.status_code, health.status_code) == (401, 401, 200, 200)
    assert wrong.json()["error"] == "UNAUTHORIZED"


async def test_a_running_job_has_no_verdict(run: Any) -> None:
    """Until it has ended a job shows no verdict, and no end time."""
    simulator = await run.start(faults={"stuck": 1.0})
    client = await run.client(simulator)
    job_id = (await client.post("/api/v1/moderate/prompt", files=TEXT)).json()["job_id"]

    shown = (await client.get(f"/api/v1/job/{job_id}")).json()

    assert shown["status"] == "processing"
    assert shown["is_prohibited"] is None
    assert shown["completed_at"] is None


async def test_webhook_and_read_tell_the_same_verdict(run: Any, hook: Any) -> None:
    """The webhook is the bare result, without type or creation time, and agrees with the job as read."""
    simulator = await run.start(webhook_url=hook.url)
    client = await run.client(simulator)
    job_id = (await client.post("/api/v1/moderate/prompt", files=TEXT)).json()["job_id"]
    await simulator.idle()

    told = json.loads(hook.bodies[0])
    shown = (await client.get(f"/api/v1/job/{job_id}")).json()

    assert len(hook.bodies) == 1
    assert not {"type", "created_at", "error_code"} & set(told)
    assert told == {key: shown[key] for key in told}
    assert hook.received[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(("announced", "deliveries"), [(False, 0), (True, 1)])
async def test_failures_are_silent_unless_switched_on(run: Any, hook: Any, announced: bool, deliveries: int) -> None:
    """A failed job sends no webhook by default; it shows an error code and no verdict when read."""
    options = {"webhook_on_failed": announced}
    simulator = await run.start(webhook_url=hook.url, failed_share=1.0, options=options)
    client = await run.client(simulator)
    job_id = (await client.post("/api/v1/moderate/prompt", files=TEXT)).json()["job_id"]
    await simulator.idle()

    shown = (await client.get(f"/api/v1/job/{job_id}")).json()

    assert shown["status"] == "failed"
    assert shown["is_prohibited"] is None
    assert shown["error_code"]
    assert len(hook.bodies) == deliveries
    assert simulator.jobs[job_id].state == "failed"


async def test_the_url_of_a_submission_beats_the_registered_one(run: Any, hook: Any) -> None:
    """A job with its own webhook_url is announced there; others go to the registered URL, which can be replaced."""
    simulator = await run.start(webhook_url="http://127.0.0.1:9/never")
    client = await run.client(simulator)

    registered = await client.post("/api/v1/webhook/register", json={"url": hook.url.replace("token", "global")})
    await client.post("/api/v1/moderate/prompt", files=TEXT)
    await client.post("/api/v1/moderate/prompt", files={**TEXT, **field("webhook_url", hook.url)})
    await simulator.idle()

    assert registered.status_code == 200
    assert sorted(request.path_params["token"] for request in hook.received) == ["global", "token"]


@pytest.mark.parametrize("body", ["{}", '{"url": 1}', '{"url": "x"}', "[]", "no json"])
async def test_a_registration_without_a_url_is_refused(run: Any, body: str) -> None:
    """Only an http or https URL can be registered."""
    client = await run.client(await run.start())

    answer = await client.post("/api/v1/webhook/register", content=body)

    assert answer.status_code == 400


async def filled(run: Any, n: int = 7) -> tuple[Simulator, httpx.AsyncClient, list[str]]:
    """Some finished jobs, oldest first."""
    simulator = await run.start()
    client = await run.client(simulator)
    ids = [(await client.post("/api/v1/moderate/prompt", files=TEXT)).json()["job_id"] for _ in range(n)]
    await simulator.idle()
    return simulator, client, ids


async def test_the_list_pages_newest_first(run: Any) -> None:
    """limit and offset walk through all matches from the newest to the oldest; total counts them all."""
    _, client, ids = await filled(run)

    pages = [(await client.get("/api/v1/jobs", params={"limit": 3, "offset": offset})).json() for offset in (0, 3, 6)]

    assert [job["job_id"] for page in pages for job in page["jobs"]] == ids[::-1]
    assert [(page["total"], page["limit"], page["offset"]) for page in pages] == [(7, 3, 0), (7, 3, 3), (7, 3, 6)]
    assert set(pages[0]["jobs"][0]) == {"job_id", "type", "status", "is_prohibited", "created_at", "completed_at"}


async def test_the_list_filters(run: Any) -> None:
    """type, decision, status, search, from (inclusive) and to (exclusive) each narrow the list."""
    simulator, client, ids = await filled(run)
    jobs = [simulator.jobs[job_id] for job_id in ids]
    created = simulator.text(jobs[3].submitted_at)
    passed = [job for job in jobs if job.answer["is_prohibited"] is False]
    later = [job for job in jobs if simulator.text(job.submitted_at) >= created]

    async def total(**query: str) -> int:
        return int((await client.get("/api/v1/jobs", params=query)).json()["total"])

    assert await total(type="image") == 0
    assert await total(type="prompt") == 7
    assert await total(decision="pass") == len(passed)
    assert await total(decision="reject") == 7 - len(passed)
    assert await total(status="queued,processing") == 0
    assert await total(status="completed,failed") == 7
    assert await total(search=ids[0][:8]) == 1
    assert await total(**{"from": created}) == len(later)
    assert await total(to=created) == 7 - len(later)


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "status=queued,done",
        "limit=101",
        "limit=0",
        "limit=x",
        "offset=-1",
        "decision=maybe",
        "from=noon",
    ],
)
async def test_a_filter_that_makes_no_sense_is_400(run: Any, query: str) -> None:
    """Unknown words and limits past 100 are refused, never ignored."""
    client = await run.client(await run.start())

    answer = await client.get(f"/api/v1/jobs?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"] == "INVALID_REQUEST"


async def test_the_quota_is_shared_by_all_endpoints(run: Any) -> None:
    """The sixty-first request of a minute is refused, whatever it asks, without a word about when to come back."""
    simulator = await run.start(quota_per_min=None)
    client = await run.client(simulator)
    await client.post("/api/v1/moderate/prompt", files=TEXT)
    statuses = [(await client.get("/api/v1/jobs")).status_code for _ in range(59)]

    refused = await client.post("/api/v1/moderate/prompt", files=TEXT)

    assert statuses == [200] * 59
    assert refused.status_code == 429
    assert refused.json()["error"] == "RATE_LIMITED"
    assert "retry-after" not in refused.headers
    assert simulator.counters["api_over_quota"] == 1
    assert simulator.counters["submitted"] == 1


async def test_the_list_can_leave_out_statuses(run: Any) -> None:
    """list_has_status off gives list items as the vendor's sample shows them."""
    simulator = await run.start(options={"list_has_status": False})
    client = await run.client(simulator)
    await client.post("/api/v1/moderate/prompt", files=TEXT)

    listed = (await client.get("/api/v1/jobs")).json()["jobs"][0]

    assert set(listed) == {"job_id", "is_prohibited", "created_at", "completed_at"}
