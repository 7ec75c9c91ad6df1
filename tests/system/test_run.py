"""`holdfast run` as a process, end to end: nothing lost, told twice or told wrong, also when it is killed."""

import asyncio
import collections
import itertools
import json
import signal
from pathlib import Path

import anyio.to_thread
import httpx
import pytest

from holdfast.simulator import SimulatedJob, disagreement
from receiver import clock as clocks
from receiver.store.sqlite import driver
from tests.system.theatre import Theatre, theatre

pytestmark = pytest.mark.process

QUICK = "poll_min_s = 0.2\npoll_max_s = 1\nnot_yet_s = 1\ntick_s = 0.05\ncircuit_open_s = 0.5"


async def register(stage: Theatre, jobs: list[SimulatedJob]) -> None:
    """The application registers many jobs at once."""
    told = [
        {
            "source": "moderation",
            "job_id": job.job_id,
            "modality": job.modality,
            "submitted_at": clocks.text(job.submitted_at),
            "metadata": {"n": job.number},
        }
        for job in jobs
    ]
    async with stage.client() as client:
        answer = await client.post("/v1/jobs", json=told)
    assert {item["status"] for item in answer.json()["jobs"]} <= {200, 201}


def wrong(stage: Theatre, jobs: list[SimulatedJob]) -> list[str]:
    """Jobs not told of, told of more than once, or told of otherwise than the provider knows."""
    told, found = stage.by_job, []
    for job in jobs:
        messages = list(told.get(job.job_id, {}).values())
        if len(messages) != 1:
            found.append(f"{job.job_id} was told {len(messages)} times")
        elif job.finished:
            data = messages[0].data
            trouble = disagreement(job.as_dict(), data["state"], data["result"])
            found += [f"{job.job_id}: {trouble}"] if trouble else []
    return found


async def test_every_outcome_is_told_once_and_right(fast_folder: Path) -> None:
    """Webhooks lost, doubled, early and forged; jobs registered over HTTP and with SQL; stopped by SIGTERM with 0; and
    no secret in any file or log."""
    faults = {"drop": 0.4, "duplicate": 0.3, "early": 0.2, "forged": 0.3}
    async with theatre(fast_folder, faults, job_duration_s=(0.1, 1.0), failed_share=0.2) as stage:
        stage.write_config(
            "polls_per_min = 6000\ntimeouts.prompt = { poll_after_s = 0.5, fail_after_s = 20 }\nhold_s = 2", QUICK
        )
        async with stage.sidecar() as process:
            jobs = [await stage.simulator.submit("prompt", {"prompt": "x"}) for _ in range(40)]
            await register(stage, jobs[:30])
            connection = driver.sqlite3.connect(fast_folder / "holdfast.db", timeout=10)
            for job in jobs[30:]:
                connection.execute(
                    "INSERT INTO jobs (source, job_id, modality) VALUES ('moderation', ?, 'prompt')", (job.job_id,)
                )
            connection.commit()
            connection.close()
            await stage.simulator.idle()
            await stage.all_told({job.job_id for job in jobs}, 20)
            async with stage.client() as client:
                story = (await client.get(f"/v1/jobs/moderation/{jobs[0].job_id}")).json()
            process.signal(signal.SIGTERM)
            code = await anyio.to_thread.run_sync(process.wait)

    assert code == 0, process.output
    assert wrong(stage, jobs) == []
    assert story["metadata"] == {"n": jobs[0].number}
    assert [message["state"] for message in story["messages"]] == ["delivered"]
    assert set(stage.by_job) == {job.job_id for job in jobs}, "no job that a forger made up"
    assert stage.leaks() == []


async def test_what_was_acknowledged_survives_kill_9(fast_folder: Path) -> None:
    """Killed three times under load, between any commit and its answer: every delivery that got its 200 is in the
    record, and every outcome so claimed is told, once."""
    acked: set[str] = set()
    sent = itertools.count()
    async with theatre(fast_folder) as stage:
        stage.write_config("adopt_unregistered = false\npolls_per_min = 1", QUICK)

        async def load(client: httpx.AsyncClient, enough: asyncio.Event) -> None:
            while not enough.is_set():
                job_id = f"job-{next(sent)}"
                try:
                    answer = await client.post(stage.hook, json={"job_id": job_id, "status": "completed"})
                except httpx.TransportError:
                    return
                if answer.status_code == 200:
                    acked.add(job_id)

        for _ in range(3):
            async with stage.sidecar() as process, httpx.AsyncClient(trust_env=False, timeout=10) as client:
                wanted, enough = len(acked) + 150, asyncio.Event()
                clients = [asyncio.create_task(load(client, enough)) for _ in range(16)]
                while len(acked) < wanted and not all(client.done() for client in clients):
                    await asyncio.wait(clients, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
                await anyio.to_thread.run_sync(process.kill)
                enough.set()
                await asyncio.gather(*clients)
        async with stage.sidecar():
            kept = {json.loads(row[0])["job_id"] for row in stage.rows("SELECT body FROM deliveries")}
            async with stage.client() as client:
                listed = [{"source": "moderation", "job_id": job_id, "modality": "prompt"} for job_id in sorted(acked)]
                await client.post("/v1/jobs", json=listed)
            await stage.all_told(acked, 20)

    assert len(acked) >= 450
    assert acked <= kept
    counts = collections.Counter(len(messages) for messages in stage.by_job.values())
    assert counts == {1: len(acked)}
    assert {message.data["decided_by"] for told in stage.by_job.values() for message in told.values()} == {"webhook"}


async def test_a_thousand_silent_jobs_end_in_their_time_under_the_budget(fast_folder: Path) -> None:
    """All webhooks lost, an hour's clock run in a minute (sixty to one): each job is told once, by its deadline and one
    poll interval at the latest, with no more questions than the budget has, and the account's quota is never hit."""
    deadline_s, interval_s, per_min = 300 / 60, 300 / 60, 12 * 60
    rules = f"""
tick_s = 0.05
poll_min_s = {5 / 60}
poll_max_s = {interval_s}
not_yet_s = 1
not_found_after_s = 5
circuit_open_s = 0.5
late_polls = 0
"""
    source = (
        f'polls_per_min = {per_min}\nbulk_results = "list"\nhold_s = 15\n'
        f"timeouts.prompt = {{ poll_after_s = 1, fail_after_s = {deadline_s} }}"
    )
    quota = {"quota_per_min": 60, "quota_window_s": 1.0}
    faults = {"drop": 1.0, "stuck": 0.05}
    async with theatre(fast_folder, faults, job_duration_s=(0.2, 4.0), failed_share=0.1, **quota) as stage:
        stage.write_config(source, rules)
        async with stage.sidecar():
            jobs = [await stage.simulator.submit("prompt", {"prompt": "x"}) for _ in range(1000)]
            await register(stage, jobs)
            await stage.all_told({job.job_id for job in jobs}, 30)
            asked = [clocks.instant(row[0]) for row in stage.rows("SELECT at FROM polls ORDER BY id")]
            outcomes = collections.Counter(stage.rows("SELECT state, reason, decided_by FROM jobs"))

    assert wrong(stage, jobs) == []
    late = [
        round(heard.at - job.submitted_at - deadline_s - interval_s, 2)
        for job in jobs
        for heard in stage.by_job[job.job_id].values()
        if heard.at > job.submitted_at + deadline_s + interval_s
    ]
    assert late == []
    stuck = sum(job.stuck for job in jobs)
    assert outcomes["failed", "stale", "deadline"] == stuck > 20
    assert sum(count for outcome, count in outcomes.items() if outcome[2] == "poll") == 1000 - stuck
    for index, begin in enumerate(asked):
        for count, end in enumerate(asked[index:], 1):
            assert count <= 10 + (end - begin + 0.05) * per_min / 60 + 1
    assert stage.simulator.counters["api_over_quota"] == 0
