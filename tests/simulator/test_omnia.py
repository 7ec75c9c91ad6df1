"""Omnia's HTTP shape, as providers.md section 2 tells it."""

import json
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.support import ManualClock

TOKEN = {"Authorization": "Bearer ot_test"}


async def started(run: Any, path: str = "/api/v1/insights/generation", **changes: Any) -> tuple[Any, Any, Any]:
    """A simulator, its client, and the answer to one submission."""
    simulator = await run.start("omnia", **changes)
    client = await run.client(simulator, **TOKEN)
    return simulator, client, await client.post(path, json={})


@pytest.mark.parametrize(
    ("path", "prefix", "modality"),
    [("/api/v1/insights/generation", "generation_", "insight"), ("/api/v1/exports", "export_", "export")],
)
async def test_a_task_has_two_ids(run: Any, path: str, prefix: str, modality: str) -> None:
    """The body names a task_ id, the link another one; the truth joins both."""
    simulator, _, answer = await started(run, path)

    told = answer.json()
    link = told["links"]["self"]
    job = simulator.jobs[told["data"]["id"]]
    assert told["data"]["id"].startswith("task_")
    assert told["data"]["status"] == "pending"
    assert link.startswith(simulator.base_url)
    assert link.rsplit("/", 1)[1].startswith(prefix)
    assert (job.alias, job.poll_url, job.modality) == (link.rsplit("/", 1)[1], link, modality)


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
async def test_a_running_task_is_a_200_with_retry_after(run: Any, form: str) -> None:
    """While it runs the answer is 200 and names a wait (or not, where the option says so)."""
    options = {"retry_after_form": form, "retry_after_s": 5}
    simulator, client, answer = await started(run, faults={"stuck": 1.0}, options=options)
    path = answer.json()["links"]["self"].removeprefix("http://omnia.invalid")

    running = await client.get(path)

    assert running.status_code == 200
    assert running.json()["data"]["status"] == "processing"
    assert running.json()["links"]["self"] == answer.json()["links"]["self"]
    wait = running.headers.get("retry-after")
    if form == "seconds":
        assert wait == "5"
    elif form == "date":
        assert 3 <= parsedate_to_datetime(wait).timestamp() - simulator.clock.now() <= 6
    else:
        assert wait is None


async def test_a_finished_task_has_results_and_no_retry_after(run: Any) -> None:
    """The end drops the link and the wait; a task is not found by its task_ id."""
    simulator, client, answer = await started(run)
    await simulator.idle()
    path = answer.json()["links"]["self"].removeprefix("http://omnia.invalid")

    done = await client.get(path)
    by_task_id = await client.get(f"/api/v1/insights/generation/{answer.json()['data']['id']}")

    assert done.json()["data"]["status"] == "completed"
    assert done.json()["data"]["results"]
    assert "links" not in done.json()
    assert "retry-after" not in done.headers
    assert by_task_id.status_code == 404
    assert by_task_id.json()["error"]["code"] == 1006


@pytest.mark.parametrize(
    ("path", "event", "key"),
    [("/api/v1/insights/generation", "insight_generated", "generationId"), ("/api/v1/exports", "data_exported", "x")],
)
async def test_the_envelope_names_the_links_id(run: Any, hook: Any, path: str, event: str, key: str) -> None:
    """event, data, webhookId and timestamp; the id is that of the link."""
    options = {} if key == "generationId" else {"export_key": "generationId"}
    simulator, _, _ = await started(run, path, webhook_url=hook.url, options=options)
    await simulator.idle()

    told = json.loads(hook.bodies[0])
    assert set(told) == {"event", "data", "webhookId", "timestamp"}
    assert told["event"] == event
    assert told["data"] == {"generationId": simulator.truth()[0].alias, "status": "completed"}


async def test_an_export_can_be_named_by_its_task(run: Any, hook: Any) -> None:
    """With export_key taskId the webhook names the other of the two ids."""
    options = {"export_key": "taskId"}
    simulator, _, _ = await started(run, "/api/v1/exports", webhook_url=hook.url, options=options)
    await simulator.idle()

    assert json.loads(hook.bodies[0])["data"]["taskId"] == simulator.truth()[0].job_id


@pytest.mark.parametrize(("style", "times"), [("same", 1), ("fresh", 3)])
async def test_a_refused_webhook_is_tried_twice_more(run: Any, hook: Any, style: str, times: int) -> None:
    """Two more attempts, with the first one's timestamp or each with its own, then it is dropped."""
    hook.status = 500
    clock = ManualClock()
    options = {"retry_timestamp": style}
    simulator = await run.start("omnia", webhook_url=hook.url, time_scale=0.0, options=options, clock=clock)
    hook.on_take = lambda: clock.advance(1)
    await simulator.submit("insight")
    await simulator.idle()

    told = [json.loads(body) for body in hook.bodies]
    assert len(told) == 3
    assert len({body["timestamp"] for body in told}) == times
    assert len({body["webhookId"] for body in told}) == 1
    assert (simulator.counters["retried"], simulator.counters["given_up"]) == (2, 1)


async def test_two_tasks_can_share_webhook_id_and_timestamp(run: Any, hook: Any) -> None:
    """With a coarse timestamp the pair recommended for deduplication is equal for different tasks."""
    options = {"timestamp_step_s": 3600.0}
    simulator = await run.start("omnia", webhook_url=hook.url, options=options)
    for _ in range(2):
        await simulator.submit("insight")
    await simulator.idle()

    told = [json.loads(body) for body in hook.bodies]
    assert len({(body["webhookId"], body["timestamp"]) for body in told}) == 1
    assert len({body["data"]["generationId"] for body in told}) == 2


@pytest.mark.parametrize(("announced", "deliveries"), [(False, 0), (True, 1)])
async def test_a_failed_task(run: Any, hook: Any, announced: bool, deliveries: int) -> None:
    """A failure is read, and told only where the option says so."""
    options = {"webhook_on_failed": announced}
    simulator, client, answer = await started(run, webhook_url=hook.url, failed_share=1.0, options=options)
    await simulator.idle()

    read = await client.get(answer.json()["links"]["self"].removeprefix("http://omnia.invalid"))

    assert read.json()["data"]["status"] == "failed"
    assert len(hook.bodies) == deliveries


async def test_reads_cost_one_token_and_writes_five(run: Any) -> None:
    """Every answer tells the bucket; an empty one answers 429 with code 1007 and a wait."""
    clock = ManualClock()
    simulator = await run.start("omnia", quota_per_min=7, quota_window_s=7.0, clock=clock)
    client = await run.client(simulator, **TOKEN)

    write = await client.post("/api/v1/exports", json={})
    read = await client.get("/api/v1/exports/none")
    refused = await client.post("/api/v1/exports", json={})
    clock.advance(4)
    allowed = await client.post("/api/v1/exports", json={})

    assert (write.headers["x-ratelimit-limit"], write.headers["x-ratelimit-remaining"]) == ("7", "2")
    assert (read.headers["x-ratelimit-remaining"], read.headers["x-ratelimit-reset"]) == ("1", "6")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, 1007)
    assert refused.headers["retry-after"] == "4"
    assert allowed.status_code == 202


@pytest.mark.parametrize(("header", "code"), [("", 1005), ("Bearer wrong", 1004), ("Basic ot_x", 1005)])
async def test_a_bad_token_is_401(run: Any, header: str, code: int) -> None:
    """A missing header and a token of another form have codes of their own."""
    client = await run.client(await run.start("omnia"), Authorization=header)

    answer = await client.get("/api/v1/exports/none")

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == code


async def test_a_body_that_is_no_object_is_400(run: Any) -> None:
    """A submission is a JSON object or nothing."""
    client = await run.client(await run.start("omnia"), **TOKEN)

    answer = await client.post("/api/v1/exports", content="[]")

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 1002
