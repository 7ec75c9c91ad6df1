"""Omnist's HTTP shape, as providers.md section 4 tells it."""

import hashlib
import hmac
import json
import re
from typing import Any

import pytest

from holdfast.simulator._omnist_webhooks import signature
from tests.support import ManualClock

KEY = {"Authorization": "Bearer omni_live_x"}


async def started(run: Any, **changes: Any) -> tuple[Any, Any, str]:
    """A simulator, its client, and one of its monitors."""
    simulator = await run.start("omnist", **changes)
    client = await run.client(simulator, **KEY)
    return simulator, client, (await client.get("/v1/monitors")).json()["monitors"][0]["id"]


@pytest.mark.parametrize(
    ("sign_format", "key_form", "digest"),
    [
        ("dot", "full", "6cdfbb59eaa6c05b95f08c09c8110f5c65c05c1a2550364d82e8ab8089025ea9"),
        ("concat", "full", "cb1dfdc7e48e9005b504d938bd1770a4400d8ffb547cb268ff8d4b8fca47ec75"),
        ("dot", "strip_prefix", "65f2b36b78cb0b73f2debb678f69ad4909ed54467814f999107a688c1e4d10cb"),
    ],
)
def test_the_signature_has_its_known_values(sign_format: Any, key_form: Any, digest: str) -> None:
    """The check values written down for each assumption."""
    body = b'{"id":"evt_demo_1","type":"webhook.test","data":{}}'

    made = signature(["whsec_example_do_not_use"], body, 1760000000, sign_format, key_form)

    assert made == f"t=1760000000,v1={digest}"


@pytest.mark.parametrize(("path", "key", "prefix"), [("run", "run_id", "run_"), ("backfills", "task_id", "task_")])
async def test_starting_answers_an_id(run: Any, path: str, key: str, prefix: str) -> None:
    """Runs answer a run_id, backfills a task_id, both running afterwards."""
    simulator, client, monitor = await started(run)

    answer = await client.post(f"/v1/monitors/{monitor}/{path}")

    assert answer.status_code == 202
    assert answer.json()[key].startswith(prefix)
    assert simulator.jobs[answer.json()[key]].refs == {"monitor_id": monitor}


async def test_a_backfill_is_read_by_id_and_runs_by_list(run: Any) -> None:
    """Both show status, times and a result count once they have ended."""
    simulator, client, monitor = await started(run)
    task = (await client.post(f"/v1/monitors/{monitor}/backfills")).json()["task_id"]
    wanted = (await client.post(f"/v1/monitors/{monitor}/run")).json()["run_id"]
    await simulator.idle()

    backfill = (await client.get(f"/v1/monitors/{monitor}/backfills/{task}")).json()
    runs = (await client.get(f"/v1/monitors/{monitor}/runs")).json()["runs"]
    results = (await client.get(f"/v1/monitors/{monitor}/results")).json()["results"]

    assert backfill["task_id"] == task
    assert backfill["status"].lower() in ("succeeded", "completed", "done")
    assert backfill["result_count"] == simulator.jobs[task].facts["result_count"]
    assert [row["run_id"] for row in runs] == [wanted]
    assert [row["run_id"] for row in results] == [wanted]


async def test_lists_page_by_offset(run: Any) -> None:
    """limit and offset, with next_offset and has_more, newest first."""
    simulator, client, monitor = await started(run)
    ids = [(await simulator.submit("run", {"monitor_id": monitor})).job_id for _ in range(5)]
    path = f"/v1/monitors/{monitor}/runs"

    first = (await client.get(path, params={"limit": 3})).json()
    second = (await client.get(path, params={"limit": 3, "offset": first["next_offset"]})).json()

    assert [row["id"] for row in first["runs"] + second["runs"]] == ids[::-1]
    assert (first["has_more"], first["next_offset"]) == (True, 3)
    assert (second["has_more"], second["next_offset"]) == (False, None)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "offset=-1"])
async def test_wrong_paging_is_400(run: Any, query: str) -> None:
    """A limit past 100 or no number."""
    _, client, monitor = await started(run)

    assert (await client.get(f"/v1/monitors/{monitor}/runs?{query}")).status_code == 400


@pytest.mark.parametrize("path", ["none/runs", "none/backfills", "none/results", "none/backfills/x", "{}/backfills/x"])
async def test_what_does_not_exist_is_404(run: Any, path: str) -> None:
    """Errors have a slug, a message and a request id that the header repeats."""
    _, client, monitor = await started(run)

    answer = await client.get(f"/v1/monitors/{path.format(monitor)}")

    assert answer.status_code == 404
    assert answer.json()["error"] == "not_found"
    assert answer.json()["meta"]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("auth", "headers", "status"),
    [
        ("both", {"x-api-key": "om_sk_1"}, 200),
        ("both", {"Authorization": "Bearer omni_live_1"}, 200),
        ("both", {"x-api-key": "other"}, 401),
        ("bearer", {"x-api-key": "om_sk_1"}, 401),
        ("x-api-key", {"Authorization": "Bearer omni_live_1"}, 401),
    ],
)
async def test_both_documented_forms_of_a_key(run: Any, auth: str, headers: dict[str, str], status: int) -> None:
    """Which of them counts is an option."""
    client = await run.client(await run.start("omnist", options={"auth": auth}))
    del client.headers["Authorization"]

    assert (await client.get("/v1/monitors", headers=headers)).status_code == status


def check(request: Any, body: bytes, secret: str) -> int:
    """How many of the signatures in the header are made with this secret."""
    header = request.headers["x-omnist-signature"]
    t = re.match(r"t=(\d+),", header)
    assert t
    digest = hmac.new(secret.encode(), f"{t[1]}.".encode() + body, hashlib.sha256).hexdigest()
    return [part for part in header.split(",") if part.startswith("v1=")].count(f"v1={digest}")


async def test_events_are_signed(run: Any, hook: Any) -> None:
    """Signature over time and body, event and delivery ids in the headers, other prefixes in the body."""
    simulator, client, monitor = await started(run, webhook_url=hook.url, webhook_secret="whsec_a")
    started_run = (await client.post(f"/v1/monitors/{monitor}/run")).json()["run_id"]
    await simulator.idle()

    headers, told = hook.received[0].headers, json.loads(hook.bodies[0])
    assert check(hook.received[0], hook.bodies[0], "whsec_a") == 1
    assert headers["x-omnist-event-id"].removeprefix("evt_") == told["id"].removeprefix("event_")
    assert headers["x-omnist-delivery-id"].startswith("del_")
    assert told["type"] == "monitor.run.completed"
    assert told["data"]["run_id"] == started_run


async def test_forgeries_and_stale_sendings(run: Any, hook: Any) -> None:
    """A forger signs with another secret; a stale webhook is signed rightly with an old time."""
    faults = {"forged": 1.0, "forged_lie": 1.0, "stale": 1.0, "stale_s": 3600.0}
    simulator, _, _ = await started(run, webhook_url=hook.url, webhook_secret="whsec_a", faults=faults)
    await simulator.submit("run")
    await simulator.idle()

    right = [check(request, body, "whsec_a") for request, body in zip(hook.received, hook.bodies, strict=True)]
    assert sorted(right) == [0, 1]
    header = hook.received[right.index(1)].headers["x-omnist-signature"]
    assert 3590 < simulator.clock.now() - int(header[2 : header.index(",")]) < 3610
    assert simulator.counters["stale"] == 1


async def test_five_attempts_of_one_event(run: Any, hook: Any) -> None:
    """A refused event is tried five times under the same ids."""
    hook.status = 500
    simulator, client, _ = await started(run, webhook_url=hook.url, time_scale=0.0)
    await simulator.submit("run")
    await simulator.idle()

    log = (await client.get("/v1/webhooks/events")).json()["events"]
    assert len(hook.bodies) == 5
    assert len({request.headers["x-omnist-event-id"] for request in hook.received}) == 1
    assert len({request.headers["x-omnist-delivery-id"] for request in hook.received}) == 1
    assert sorted(row["attempt_count"] for row in log) == [1, 2, 3, 4, 5]
    assert {row["last_http_status"] for row in log} == {500}


async def test_setting_the_target_shows_the_secret_once(run: Any, hook: Any) -> None:
    """new_signing_secret on first creation; a preview afterwards; a disabled target gets nothing."""
    simulator, client, _ = await started(run)
    before = (await client.get("/v1/webhooks")).json()["webhook"]

    first = (await client.put("/v1/webhooks", json={"url": hook.url})).json()
    second = (await client.put("/v1/webhooks", json={"enabled": False})).json()
    await simulator.submit("run")
    await simulator.idle()

    assert before["configured"] is False
    assert first["webhook"]["enabled"] is True
    assert first["new_signing_secret"].startswith("whsec_")
    assert first["webhook"]["signing_secret"]["preview"].endswith(first["new_signing_secret"][-4:])
    assert "new_signing_secret" not in second
    assert second["webhook"] == {**first["webhook"], "enabled": False}
    assert hook.bodies == []


@pytest.mark.parametrize("url", ["http://example.com/x", "https://u:p@example.com/x", "x", 1, "https://[/"])
async def test_a_target_must_be_public_https(run: Any, url: Any) -> None:
    """Plain http (but for loopback) and credentials in the URL are refused."""
    _, client, _ = await started(run)

    assert (await client.put("/v1/webhooks", json={"url": url})).status_code == 400


@pytest.mark.parametrize(("overlap_s", "old"), [(0.0, 0), (60.0, 1)])
async def test_rotation(run: Any, hook: Any, overlap_s: float, old: int) -> None:
    """The new secret signs at once; the old one beside it for as long as the option says."""
    options = {"overlap_s": overlap_s}
    simulator, client, _ = await started(run, webhook_url=hook.url, webhook_secret="whsec_old", options=options)

    rotated = (await client.post("/v1/webhooks/rotate-signing-secret")).json()
    await simulator.submit("run")
    await simulator.idle()

    assert rotated["signing_secret"]["version"] == 2
    assert check(hook.received[0], hook.bodies[0], rotated["new_signing_secret"]) == 1
    assert check(hook.received[0], hook.bodies[0], "whsec_old") == old


async def test_rotation_and_test_need_a_target(run: Any) -> None:
    """Without a target there is nothing to sign for."""
    _, client, _ = await started(run)

    assert (await client.post("/v1/webhooks/rotate-signing-secret")).status_code == 404
    assert (await client.post("/v1/webhooks/test")).status_code == 400


async def test_a_test_delivery_arrives_and_is_logged(run: Any, hook: Any) -> None:
    """POST test sends at once and answers what came of it; it can be read by number, or the latest."""
    simulator, client, _ = await started(run, webhook_url=hook.url)

    sent = (await client.post("/v1/webhooks/test")).json()["delivery"]
    hook.status = 500
    failed = (await client.post("/v1/webhooks/test")).json()["delivery"]
    by_number = (await client.get("/v1/webhooks/test", params={"id": 1})).json()["delivery"]
    latest = (await client.get("/v1/webhooks/test")).json()["deliveries"]
    statuses = [(await client.get(f"/v1/webhooks/test?id={wrong}")).status_code for wrong in ("x", "9")]

    assert json.loads(hook.bodies[0])["type"] == "webhook.test"
    assert sent["id"].startswith("delivery_")
    assert sent["event_id"].startswith("event_")
    assert (sent["delivery_status"], sent["attempt_count"], sent["last_http_status"]) == ("succeeded", 1, 200)
    assert failed["delivery_status"] == "failed"
    assert by_number == sent
    assert latest == [failed, sent]
    assert statuses == [400, 404]
    assert simulator.truth() == []


async def test_the_log_pages_by_fifty_and_knows_what_got_lost(run: Any, hook: Any) -> None:
    """Every attempt newest first, dropped ones as failed; start and end cut a window."""
    clock = ManualClock()
    simulator, client, _ = await started(run, webhook_url=hook.url, clock=clock, faults={"drop": 0.3})
    for _ in range(60):
        await simulator.submit("run")
    await simulator.idle()
    clock.advance(3600)
    await client.post("/v1/webhooks/test")

    pages = [(await client.get("/v1/webhooks/events", params={"page": page})).json()["events"] for page in (1, 2, 3)]
    window = {"start": simulator.text(clock.now() - 60), "end": simulator.text(clock.now() + 60)}
    recent = (await client.get("/v1/webhooks/events", params=window)).json()["events"]
    rows = [row for page in pages for row in page]

    assert [len(page) for page in pages] == [50, 11, 0]
    assert pages[0][0]["event_type"] == "webhook.test"
    assert recent == pages[0][:1]
    lost = {row["event_id"].removeprefix("event_") for row in rows if row["last_http_status"] is None}
    arrived = {request.headers["x-omnist-event-id"].removeprefix("evt_") for request in hook.received}
    assert len(lost) == simulator.counters["dropped"] > 0
    assert not lost & arrived


async def test_stats_count_attempts_by_bucket(run: Any, hook: Any) -> None:
    """Counts by bucket and outcome."""
    clock = ManualClock()
    _, client, _ = await started(run, webhook_url=hook.url, clock=clock)
    await client.post("/v1/webhooks/test")
    hook.status = 500
    await client.post("/v1/webhooks/test")
    clock.advance(7200)
    await client.post("/v1/webhooks/test")

    told = (await client.get("/v1/webhooks/stats", params={"bucket_minutes": 60})).json()

    assert told["bucket_minutes"] == 60
    assert [(row["delivery_status"], row["attempt_count"]) for row in told["stats"]] == [
        ("failed", 1),
        ("succeeded", 1),
        ("failed", 1),
    ]
    assert told["stats"][0]["bucket_start"] < told["stats"][2]["bucket_start"]


@pytest.mark.parametrize("path", ["events?page=0", "events?page=x", "events?start=noon", "stats?bucket_minutes=0"])
async def test_a_log_query_that_makes_no_sense_is_400(run: Any, path: str) -> None:
    """Pages count from 1, times are times."""
    _, client, _ = await started(run)

    assert (await client.get(f"/v1/webhooks/{path}")).status_code == 400


async def test_monitors_can_be_made(run: Any) -> None:
    """A new monitor can be run; one without a name is refused."""
    _, client, _ = await started(run)

    made = (await client.post("/v1/monitors", json={"name": "News"})).json()["monitor"]
    nameless = await client.post("/v1/monitors", json={})

    assert (await client.post(f"/v1/monitors/{made['id']}/run")).status_code == 202
    assert nameless.status_code == 400


async def test_failures_and_cancellations_have_words_of_their_own(run: Any, hook: Any) -> None:
    """The status words are a mix; a cancelled one is so in the truth."""
    simulator, _, _ = await started(run, webhook_url=hook.url, failed_share=1.0)
    for _ in range(12):
        await simulator.submit("backfill")
    await simulator.idle()

    told = [json.loads(body) for body in hook.bodies]
    assert {body["type"] for body in told} == {"monitor.backfill.failed"}
    assert {body["data"]["status"] for body in told} == {"failed", "error", "cancelled"}
    assert {job.reason for job in simulator.truth()} == {"provider", "cancelled"}
