"""Every fault of the provider's own API can be ordered and seen."""

import json
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from tests.support import ManualClock


async def asked(run: Any, faults: dict[str, Any], **changes: Any) -> tuple[Any, httpx.Response, str]:
    """A running simulator with one finished job, and its answer about it under these faults."""
    simulator = await run.start(**changes)
    client = await run.client(simulator)
    job = await simulator.submit("prompt")
    await simulator.idle()
    simulator.order(faults)
    return simulator, await client.get(f"/api/v1/job/{job.job_id}"), job.job_id


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        ("api_error_5xx", {500, 503}),
        ("api_rate_limited", {429}),
        ("api_not_found", {404}),
        ("api_unauthorized", {401}),
        ("api_payment_required", {402}),
        ("api_forbidden", {403}),
        ("api_redirect", {302, 307}),
    ],
)
async def test_refusals_to_order(run: Any, fault: str, statuses: set[int]) -> None:
    """Each ordered refusal has its status, in the provider's error shape where it has a body."""
    simulator, answer, _ = await asked(run, {fault: 1.0})

    assert answer.status_code in statuses
    assert simulator.counters["api_faults"] == 1
    if answer.status_code < 300 or answer.status_code >= 400:
        assert answer.json()["statusCode"] == answer.status_code


async def test_both_kinds_of_5xx_occur(run: Any) -> None:
    """Many faulty answers show 500 and 503."""
    simulator = await run.start(faults={"api_error_5xx": 1.0})
    client = await run.client(simulator)

    statuses = {(await client.get("/api/v1/jobs")).status_code for _ in range(20)}

    assert statuses == {500, 503}


@pytest.mark.parametrize("style", ["seconds", "date", "none", "provider"])
async def test_retry_after_in_every_form(run: Any, style: str) -> None:
    """A 429 names its wait in seconds, as a date, or (as OmniFence does) not at all."""
    simulator, answer, _ = await asked(run, {"api_rate_limited": 1.0, "retry_after": style, "retry_after_s": 7})

    named = answer.headers.get("retry-after")
    if style == "seconds":
        assert named == "7"
    elif style == "date":
        assert 5 <= parsedate_to_datetime(named or "").timestamp() - simulator.clock.now() <= 8
    else:
        assert named is None


async def test_malformed_answers_come_in_every_kind(run: Any) -> None:
    """api_malformed: HTML, a cut, nothing, or an array; never the object asked for."""
    simulator = await run.start(faults={"api_malformed": 1.0})
    client = await run.client(simulator)

    bodies = [(await client.get("/api/v1/jobs")).content for _ in range(30)]

    assert {body[:1] for body in bodies} == {b"<", b"{", b"", b"["}
    for body in bodies:
        with pytest.raises((ValueError, AssertionError)):
            assert isinstance(json.loads(body), dict)


async def test_a_huge_answer_is_as_large_as_ordered(run: Any) -> None:
    """api_huge: at least api_huge_bytes."""
    _, answer, _ = await asked(run, {"api_huge": 1.0, "api_huge_bytes": 100_000})

    assert len(answer.content) >= 100_000


async def test_unknown_words_replace_the_status(run: Any) -> None:
    """api_unknown_word: the answer is whole but for a status nobody has heard."""
    _, answer, job_id = await asked(run, {"api_unknown_word": 1.0})

    assert answer.json()["job_id"] == job_id
    assert answer.json()["status"] not in ("queued", "processing", "completed", "failed")


async def test_a_wrong_id_answers_about_another_job(run: Any) -> None:
    """api_wrong_id: the answer names another id than the one asked for."""
    _, answer, job_id = await asked(run, {"api_wrong_id": 1.0})

    assert answer.json()["job_id"] != job_id
    assert answer.json()["status"] == "completed"


async def test_a_hanging_answer_ends_when_the_simulator_stops(run: Any) -> None:
    """api_hang and api_slow: the answer takes as long as ordered."""
    simulator, answer, _ = await asked(run, {"api_hang": 1.0, "api_hang_s": 0.05})
    _, slow, _ = await asked(run, {"api_slow": 1.0, "api_slow_s": 0.05})

    assert answer.status_code == 503
    assert slow.status_code == 200
    assert slow.json()["status"] == "completed"
    assert simulator.counters["api_faults"] == 1


async def test_a_lost_submit_answer_leaves_an_orphan(run: Any) -> None:
    """submit_lost: the caller gets a 502 in HTML, the provider has the job all the same."""
    simulator = await run.start(faults={"submit_lost": 1.0})
    client = await run.client(simulator)

    answer = await client.post("/api/v1/moderate/prompt", files={"prompt": (None, "x")})
    listed = await client.get("/api/v1/jobs")

    assert answer.status_code == 502
    assert listed.status_code == 200
    assert listed.json()["total"] == 1


@pytest.mark.parametrize(
    ("scope", "submitting", "reading"), [("read", 202, 429), ("submit", 429, 200), ("all", 429, 429)]
)
async def test_api_faults_keep_to_their_scope(run: Any, scope: str, submitting: int, reading: int) -> None:
    """api_scope says which requests are hit."""
    simulator = await run.start(faults={"api_rate_limited": 1.0, "api_scope": scope})
    client = await run.client(simulator)

    submitted = await client.post("/api/v1/moderate/prompt", files={"prompt": (None, "x")})
    read = await client.get("/api/v1/jobs")

    assert (submitted.status_code, read.status_code) == (submitting, reading)


async def test_the_account_of_a_terminated_client_says_so(run: Any) -> None:
    """A 403 can be the permanent kind."""
    _, answer, _ = await asked(run, {"api_forbidden": 1.0}, options={"forbidden_code": "ACCOUNT_TERMINATED"})

    assert answer.json()["error"] == "ACCOUNT_TERMINATED"


async def test_the_quota_frees_itself_as_its_window_passes(run: Any) -> None:
    """Requests older than the window no longer count; the wait named is the true one."""
    clock = ManualClock()
    simulator = await run.start(quota_per_min=2, faults={"retry_after": "seconds"}, clock=clock)
    client = await run.client(simulator)

    first = [(await client.get("/api/v1/jobs")).status_code for _ in range(3)]
    clock.advance(20)
    refused = await client.get("/api/v1/jobs")
    clock.advance(40)
    allowed = await client.get("/api/v1/jobs")

    assert first == [200, 200, 429]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "40")
    assert allowed.status_code == 200
