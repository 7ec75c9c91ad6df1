"""Serving, the control desk, determinism, and judging accounts against the truth."""

import json
from typing import Any

import anyio
import httpx
import pytest

from holdfast.simulator import SIMULATORS, Faults, Settings, Simulation, Simulator, disagreement
from tests.support import aeventually, free_port

EVERYTHING = Faults(
    drop=0.3, duplicate=0.3, forged=0.3, wrong_id=0.3, malformed=0.3, stuck=0.2, delay=0.3, delay_s=(0.0, 0.01)
)


def fates(simulator: Simulator) -> list[Any]:
    """What must be equal in two runs of one seed."""
    return [
        (job.job_id, job.modality, job.state_at_end, job.answer, round(job.duration_s, 9), job.faults)
        for job in simulator.truth()
    ]


@pytest.mark.parametrize("name", sorted(SIMULATORS))
async def test_the_same_seed_gives_the_same_run(run: Any, hook: Any, name: str) -> None:
    """Ids, ends, durations and fates are equal in two runs of one seed, and differ with another seed."""
    runs = []
    for seed in (1, 1, 2):
        given = {"webhook_url": hook.url, "job_duration_s": (0.0, 0.05), "failed_share": 0.3, "time_scale": 0.0}
        simulator = await run.start(name, seed=seed, **given)
        simulator.faults = EVERYTHING
        for number in range(20):
            await simulator.submit(simulator.modalities[number % len(simulator.modalities)])
        await simulator.idle()
        runs.append(fates(simulator))

    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


async def test_one_share_does_not_move_the_others(run: Any, hook: Any) -> None:
    """Ordering one more fault leaves it unchanged whom the other faults hit, and how the jobs end."""
    hit = []
    for faults in ({"drop": 0.5}, {"drop": 0.5, "duplicate": 0.5, "malformed": 0.5}):
        simulator = await run.start(seed=9, webhook_url=hook.url, faults=faults)
        for _ in range(12):
            await simulator.submit("image")
        await simulator.idle()
        hit.append([(job.job_id, job.answer["is_prohibited"], "drop" in job.faults) for job in simulator.truth()])

    assert hit[0] == hit[1]
    assert {dropped for _, _, dropped in hit[0]} == {True, False}


async def test_each_provider_is_below_its_own_path(served: Simulation) -> None:
    """base_url leads to the provider, and the desk tells the same address."""
    async with httpx.AsyncClient() as client:
        health = await client.get(served.base_url("omnifence") + "/health")
        where = await client.get(served.control_url)

    assert health.status_code == 200
    assert where.json()["providers"]["omnifence"]["base_url"] == served.base_url("omnifence")


async def test_each_provider_on_its_own_port() -> None:
    """With separate ports the origins differ, and two simulators of one provider make different jobs."""
    kind, settings = SIMULATORS["omnifence"], Settings(seed=1)
    simulators = {"one": kind(settings), "two": kind(settings)}
    async with Simulation(simulators, separate_ports=True).serve() as simulation, httpx.AsyncClient() as client:
        answers = [await client.get(simulation.base_url(name) + "/health") for name in simulators]
        jobs = [await one.submit("prompt") for one in simulators.values()]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert simulation.base_url("one") != simulation.base_url("two")
    assert jobs[0].job_id != jobs[1].job_id


@pytest.mark.parametrize("name", ["_control", "a/b", "", "a b"])
def test_a_name_that_cannot_stand_in_a_path_is_refused(name: str) -> None:
    """Names share the address space with the desk and the paths."""
    with pytest.raises(ValueError, match="name"):
        Simulation({name: SIMULATORS["omnifence"]()})


def test_one_provider_twice_needs_names() -> None:
    """A list cannot tell two of a kind apart."""
    with pytest.raises(ValueError, match="mapping"):
        Simulation([SIMULATORS["omnifence"](), SIMULATORS["omnifence"]()])


def test_an_unknown_switch_is_refused() -> None:
    """A provider takes the options it documents and no others."""
    with pytest.raises(ValueError, match="omnifence"):
        SIMULATORS["omnifence"](Settings(options={"no_such": 1}))


@pytest.mark.parametrize(
    "wrong", [{"job_duration_s": (2.0, 1.0)}, {"failed_share": 2.0}, {"quota_window_s": 0.0}, {"time_scale": -1.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """Ranges and shares are judged before anything runs."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


async def test_the_truth_is_told_of_a_job_that_never_ends(run: Any) -> None:
    """How long such a job takes is no number that JSON knows: it is null."""
    simulator = await run.start("omnifence", faults={"stuck": 1.0})
    job = await simulator.submit(simulator.modalities[0])

    assert json.loads(json.dumps(job.as_dict(), allow_nan=False))["duration_s"] is None


async def test_the_desk_submits_waits_and_tells_the_truth(served: Simulation, hook: Any) -> None:
    """/submit makes jobs without a client, /idle waits for their webhooks, /truth knows how each ended."""
    async with httpx.AsyncClient(base_url=served.control_url) as desk:
        made = await desk.post("submit", json={"provider": "omnifence", "modality": "video", "n": 3})
        idle = await desk.post("idle", json={"timeout_s": 20})
        truth = (await desk.get("truth")).json()["providers"]["omnifence"]
        alone = (await desk.get("truth", params={"provider": "omnifence"})).json()

    assert made.status_code == 201
    assert idle.json() == {"idle": True}
    assert len(hook.bodies) == 3
    assert [job["job_id"] for job in truth["jobs"]] == [job["job_id"] for job in made.json()["jobs"]]
    assert {job["state"] for job in truth["jobs"]} == {"completed"}
    assert truth["counters"]["sent"] == 3
    assert alone == truth


async def test_the_desk_changes_faults_while_running(served: Simulation, hook: Any) -> None:
    """A fault ordered at the desk holds for the jobs that follow, until it is taken back."""
    async with httpx.AsyncClient(base_url=served.control_url) as desk:
        on = await desk.post("faults", json={"drop": 1.0})
        await desk.post("submit", json={"provider": "omnifence"})
        off = await desk.post("faults", json={"provider": "omnifence", "drop": 0.0})
        await desk.post("submit", json={"provider": "omnifence"})
        await desk.post("idle")

    assert on.json()["omnifence"]["drop"] == 1.0
    assert off.json()["omnifence"]["drop"] == 0.0
    assert served["omnifence"].counters["dropped"] == 1
    assert len(hook.bodies) == 1


async def test_the_desk_redirects_webhooks(served: Simulation, hook: Any) -> None:
    """/webhook says where webhooks go from now on; null means nowhere."""
    async with httpx.AsyncClient(base_url=served.control_url) as desk:
        await desk.post("webhook", json={"provider": "omnifence", "url": hook.url.replace("token", "other")})
        await desk.post("submit", json={"provider": "omnifence"})
        await desk.post("webhook", json={"provider": "omnifence", "url": None})
        await desk.post("submit", json={"provider": "omnifence"})
        await desk.post("idle")

    assert [request.path_params["token"] for request in hook.received] == ["other"]


async def test_idle_gives_up_when_its_time_is_up(served: Simulation) -> None:
    """A webhook that is hours away does not hold the caller for hours."""
    served["omnifence"].order({"delay": 1.0, "delay_s": [3600, 3600]})
    async with httpx.AsyncClient(base_url=served.control_url) as desk:
        await desk.post("submit", json={"provider": "omnifence"})
        answer = await desk.post("idle", json={"timeout_s": 0.1})

    assert answer.status_code == 504


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", '{"drop": 2}'),
        ("faults", '{"provider": "nobody"}'),
        ("faults", "[]"),
        ("faults", "no json"),
        ("submit", "{}"),
        ("submit", '{"provider": "omnifence", "modality": "smell"}'),
        ("submit", '{"provider": "omnifence", "n": -1}'),
        ("webhook", '{"provider": "omnifence", "url": 1}'),
        ("idle", '{"timeout_s": "long"}'),
    ],
)
async def test_a_wrong_order_at_the_desk_is_400(served: Simulation, path: str, body: str) -> None:
    """The desk says what is wrong and changes nothing."""
    async with httpx.AsyncClient(base_url=served.control_url) as desk:
        answer = await desk.post(path, content=body)

    assert answer.status_code == 400
    assert answer.json()["error"]
    assert served["omnifence"].faults == Faults()
    assert served["omnifence"].truth() == []


async def test_who_follows_a_redirect_is_counted(served: Simulation) -> None:
    """A redirect leads to a trap that notes the visit, and whether the key came along."""
    served["omnifence"].order({"api_redirect": 1.0})
    url = served.base_url("omnifence") + "/api/v1/jobs"
    async with httpx.AsyncClient(headers={"Authorization": "Bearer k"}) as client:
        stayed = await client.get(url)
        counted = served["omnifence"].counters["redirects_followed"]
        await client.get(url, follow_redirects=True)

    assert stayed.is_redirect
    assert counted == 0
    assert served["omnifence"].counters["redirects_followed"] == 1
    assert served["omnifence"].counters["redirects_with_credentials"] == 1


async def test_leaving_does_not_wait_for_hanging_requests(hook: Any) -> None:
    """A simulation with a request in mid-hang stops at once, and frees its port."""
    port = free_port()
    settings = Settings(faults=Faults(api_hang=1.0, api_hang_s=3600.0))
    statuses: list[int] = []
    async with httpx.AsyncClient(headers={"Authorization": "Bearer k"}, timeout=30) as client:

        async def ask(url: str) -> None:
            statuses.append((await client.get(url)).status_code)

        hanging = Simulation([SIMULATORS["omnifence"](settings)])
        async with anyio.create_task_group() as group, hanging.serve(port=port):
            group.start_soon(ask, hanging.base_url("omnifence") + "/api/v1/jobs")
            await aeventually(lambda: hanging["omnifence"].counters["api_faults"] == 1)
        async with Simulation([SIMULATORS["omnifence"]()]).serve(port=port) as again:
            await ask(again.base_url("omnifence") + "/health")

    assert statuses == [503, 200]


async def test_accounts_are_judged_against_the_truth(run: Any) -> None:
    """An account agrees when its state is the true one and no fact in it is another."""
    simulator = await run.start()
    job = await simulator.submit("prompt")
    await simulator.idle()
    truth, verdict = job.as_dict(), job.answer["is_prohibited"]

    assert disagreement(truth, "completed", job.answer) is None
    assert disagreement(truth, "completed", None) is None
    assert "failed" in (disagreement(truth, "failed", job.answer) or "")
    assert "is_prohibited" in (disagreement(truth, "completed", [{"deep": {"is_prohibited": not verdict}}]) or "")


async def test_an_unfinished_job_is_pending_in_the_truth(run: Any) -> None:
    """Whoever tells an end of a job that has none is wrong."""
    simulator = await run.start(faults={"stuck": 1.0})
    job = await simulator.submit("prompt")

    assert disagreement(job.as_dict(), "completed", None) == "told completed, but it is pending"
