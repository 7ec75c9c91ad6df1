"""Adapters and simulators were written apart from the same facts: here each adapter must find out the truth."""

import json
from typing import Any

import httpx
import pytest

from holdfast.simulator import SIMULATORS, SimulatedJob, Simulator, disagreement
from receiver import jsontext
from receiver.providers import provider_named, provider_names
from receiver.providers.base import Accepted, Finding, Question, RawRequest, Refused, Reply
from receiver.records import Job
from receiver.secrets import Secret
from receiver.settings import SourceSettings

BOTH = sorted(set(SIMULATORS) & set(provider_names()))
"""Whoever has both an adapter and a simulator."""
SECRETS = {"omniai": "a-shared-secret", "omnist": "whsec_demo", "standard": "whsec_c2VjcmV0IG9mIHR3ZW50eS1mb3VyIGI="}
KEYS = {"omnia": "ot_key", "omnist": "omni_live_key"}
OPTIONS: dict[str, dict[str, Any]] = {
    "omnifence": {"webhook_on_failed": True},
    "omnia": {"webhook_on_failed": True, "webhook_results": True},
    "omniai": {"secret_header": "x-own-secret", "status_case": "mixed"},
}


def test_the_four_have_both() -> None:
    """The providers the mission names each have an adapter and a simulator."""
    assert {"omnia", "omniai", "omnifence", "omnist"} <= set(BOTH)


def source_of(name: str, simulator: Simulator) -> SourceSettings:
    """A source configured for this simulator."""
    keys: dict[str, Any] = {"provider": name, "base_url": simulator.base_url, "api_key": KEYS.get(name, "key")}
    if name in SECRETS:
        keys["secret"] = Secret.literal(SECRETS[name])
    if name == "omniai":
        keys["secret_header"] = "x-own-secret"
    return SourceSettings.named("src", **keys)


async def lived(run: Any, hook: Any, name: str, n: int, **faults: Any) -> Simulator:
    """A simulator whose n jobs have ended."""
    simulator: Simulator = await run.start(
        name,
        seed=11,
        failed_share=0.4,
        webhook_url=hook.url,
        webhook_secret=SECRETS.get(name),
        options=OPTIONS.get(name, {}),
        faults=faults,
        time_scale=0.0,
    )
    for number in range(n):
        await simulator.submit(simulator.modalities[number % len(simulator.modalities)])
    await simulator.idle()
    return simulator


def raw(request: Any, body: bytes) -> RawRequest:
    """A delivery as intake hands it over."""
    headers = tuple((name.decode().lower(), value.decode()) for name, value in request.headers.raw)
    return RawRequest(headers, body)


@pytest.mark.parametrize("name", BOTH)
async def test_an_adapter_reads_its_simulators_webhooks(run: Any, hook: Any, name: str) -> None:
    """Every genuine webhook is let in, and what it says of an end is the truth; every end told is heard."""
    simulator = await lived(run, hook, name, 24)
    provider, source = provider_named(name), source_of(name, simulator)
    heard: dict[str, str] = {}
    for request, body in zip(hook.received, hook.bodies, strict=True):
        delivery = raw(request, body)
        assert isinstance(provider.authenticate(delivery, source, simulator.clock.now()), Accepted)
        reading = provider.read(delivery, jsontext.parse_object(body), source)
        assert reading.problem is None
        if reading.said is not None and reading.said.claim.value in ("completed", "failed"):
            job = simulator.find(reading.said.job_id)
            assert job is not None
            assert disagreement(job.as_dict(), reading.said.claim.value, reading.said.result) is None
            heard[job.job_id] = reading.said.claim.value

    told = {job.job_id for job in simulator.truth() if _announced(job)}
    assert set(heard) == told
    assert set(heard.values()) == {"completed", "failed"}


def _announced(job: SimulatedJob) -> bool:
    return any(attempt.event not in ("document.received",) for attempt in job.attempts)


@pytest.mark.parametrize("name", [name for name in BOTH if name in SECRETS])
async def test_an_adapter_refuses_its_simulators_forgeries(run: Any, hook: Any, name: str) -> None:
    """A signing sender's forgeries do not get in; its own webhooks do."""
    simulator = await lived(run, hook, name, 6, forged=1.0, forged_lie=1.0, forged_knows_url=True)
    provider, source = provider_named(name), source_of(name, simulator)

    judged = [
        type(provider.authenticate(raw(request, body), source, simulator.clock.now()))
        for request, body in zip(hook.received, hook.bodies, strict=True)
    ]

    assert judged.count(Refused) == simulator.counters["forged"] == 6
    assert judged.count(Accepted) == simulator.counters["sent"]


async def asked(simulator: Simulator, jobs: list[Job], source: SourceSettings) -> dict[str, Finding]:
    """What the adapter finds out by asking the simulator, as the sweep asks."""
    provider = provider_named(simulator.name)
    found: dict[str, Finding] = {}
    transport = httpx.ASGITransport(simulator.app)
    async with httpx.AsyncClient(transport=transport, headers=provider.auth_headers(source)) as client:
        asking = provider.ask(jobs, source, simulator.clock.now())
        reply: Reply | None = None
        for _ in range(500):
            try:
                item = asking.send(reply)
            except StopIteration:
                return found
            reply = None
            if isinstance(item, Question):
                reply = await _answer(client, simulator, item)
                assert provider.classify(reply) is None
            elif not item.unlisted:
                found[item.job_id] = item
    raise AssertionError("asks without end")


async def _answer(client: httpx.AsyncClient, simulator: Simulator, question: Question) -> Reply:
    url = question.url or simulator.base_url + (question.path or "")
    answer = await client.request(question.method, url, params=dict(question.query) or None, json=question.json)
    return Reply(answer.status_code, dict(answer.headers), answer.content, simulator.clock.now())


def registered(job: SimulatedJob) -> Job:
    """The job as an application registers it that kept the submit answer."""
    return Job(
        source="src",
        job_id=job.job_id,
        registered_at=job.submitted_at,
        submitted_at=job.submitted_at,
        modality=job.modality,
        alias=job.alias,
        refs=dict(job.refs) or None,
        poll_url=job.poll_url,
    )


@pytest.mark.parametrize("name", BOTH)
async def test_an_adapter_finds_out_the_truth_by_asking(run: Any, hook: Any, name: str) -> None:
    """With every webhook dropped, asking tells how each job ended, and why it failed."""
    simulator = await lived(run, hook, name, 24, drop=1.0)
    source = source_of(name, simulator)

    found = await asked(simulator, [registered(job) for job in simulator.truth()], source)

    assert set(found) == set(simulator.jobs)
    for job_id, finding in found.items():
        job = simulator.jobs[job_id]
        assert finding.claim is not None
        assert disagreement(job.as_dict(), finding.claim.value, finding.result) is None
        assert (finding.reason.value if finding.reason is not None else None) == job.reason
    assert {job.state for job in simulator.truth()} == {"completed", "failed"}


@pytest.mark.parametrize("name", BOTH)
async def test_an_adapter_sees_that_a_job_still_runs(run: Any, hook: Any, name: str) -> None:
    """Nothing is called ended that is not."""
    simulator = await lived(run, hook, name, 6, stuck=1.0)

    found = await asked(simulator, [registered(job) for job in simulator.truth()], source_of(name, simulator))

    assert set(found) == set(simulator.jobs)
    assert {finding.claim.value for finding in found.values() if finding.claim is not None} == {"running"}


SUBMISSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "omnifence": ("/api/v1/moderate/prompt", {"files": {"prompt": (None, "x")}}),
    "omnia": ("/insights/generation", {"json": {}}),
    "omniai": (
        "/api/v1/documents",
        {"data": {"leadId": "l"}, "files": [("files", ("a.pdf", b"x", "application/pdf"))]},
    ),
    "omnist": ("/v1/monitors/{monitor}/backfills", {"json": {}}),
    "standard": ("/jobs", {"json": {}}),
}


@pytest.mark.parametrize("name", BOTH)
async def test_an_adapter_recognises_a_submission(run: Any, name: str) -> None:
    """The job in the answer to a submission is the one the simulator made, with what is needed to ask about it."""
    simulator = await run.start(name)
    provider, source = provider_named(name), source_of(name, simulator)
    path, body = SUBMISSIONS[name]
    if name == "omnist":
        path = path.format(monitor=(await simulator.submit("run")).refs["monitor_id"])
    transport = httpx.ASGITransport(simulator.app)
    async with httpx.AsyncClient(transport=transport, headers=provider.auth_headers(source)) as client:
        answer = await client.post(simulator.base_url + path, **body)

    made = provider.submitted("POST", path, json.loads(answer.content), source)

    job = simulator.truth()[-1]
    assert [one.job_id for one in made] == [job.job_id]
    assert made[0].alias == job.alias
    assert made[0].modality in (None, job.modality)
    assert made[0].poll_url in (None, job.poll_url)
