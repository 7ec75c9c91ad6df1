"""The long poll."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from reconciler.api.desk import Limits
from tests.api.conftest import Open
from tests.api.office import Office
from tests.support import aeventually


async def test_a_job_that_has_ended_is_answered_at_once(office: Office, client: httpx.AsyncClient) -> None:
    """200 with the whole job, without waiting."""
    await office.told("a")

    answer = await client.get("/v1/jobs/moderation/a/wait", params={"timeout_s": 300})

    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["result"]) == ("completed", {"of": "a"})
    assert len(answer.json()["messages"]) == 1


async def test_the_time_is_up(office: Office, client: httpx.AsyncClient) -> None:
    """202 with the job as it is, once the time is up and no earlier."""
    await office.register("a")
    began = time.monotonic()

    answer = await client.get("/v1/jobs/moderation/a/wait", params={"timeout_s": 0.3})
    at_once = await client.get("/v1/jobs/moderation/a/wait", params={"timeout_s": 0})

    assert time.monotonic() - began >= 0.3
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    assert at_once.status_code == 202


@pytest.mark.parametrize("timeout_s", ["-1", "301", "x", "nan", "inf", ""])
async def test_only_times_up_to_300_s_are_taken(office: Office, client: httpx.AsyncClient, timeout_s: str) -> None:
    """Anything else is 400, before anybody waits."""
    await office.register("a")

    answer = await client.get("/v1/jobs/moderation/a/wait", params={"timeout_s": timeout_s})

    assert answer.status_code == 400


@pytest.mark.parametrize("job_id", ["a", "alias-of-a"])
async def test_a_waiter_is_woken_by_the_commit(open_office: Open, job_id: str) -> None:
    """The end of a job wakes who waits for it, under its id or its alias, not the next tick."""
    office = open_office(limits=Limits(tick_s=60.0))
    await office.register("a", alias="alias-of-a")
    async with office.client() as client:
        asking = asyncio.ensure_future(client.get(f"/v1/jobs/moderation/{job_id}/wait", params={"timeout_s": 50}))
        await aeventually(lambda: office.app.parts.waiting.looks >= 1)

        await office.settle("a")
        answer = await asyncio.wait_for(asking, 10)

    assert (answer.status_code, answer.json()["job_id"]) == (200, "a")
    assert len(office.app.parts.waiting) == 0


async def test_what_another_process_writes_is_seen_at_the_next_tick(open_office: Open) -> None:
    """A commit that this process does not hear of is found all the same."""
    from receiver.store.sqlite.store import SqliteOptions, SqliteStore

    office = open_office(limits=Limits(tick_s=0.05))
    await office.register("a")
    other = SqliteStore(SqliteOptions(office.path, keeper=False), office.clock)
    async with office.client() as client:
        asking = asyncio.ensure_future(client.get("/v1/jobs/moderation/a/wait", params={"timeout_s": 50}))
        await aeventually(lambda: office.app.parts.waiting.looks >= 1)

        mine, office.store = office.store, other
        await office.settle("a")
        office.store = mine
        answer = await asyncio.wait_for(asking, 10)
    other.close()

    assert answer.status_code == 200


async def test_a_job_that_is_forgotten_meanwhile_is_404(office: Office, client: httpx.AsyncClient) -> None:
    """Whoever waits for a job that retention removes hears so, instead of waiting for nothing."""
    await office.register("a")
    asking = asyncio.ensure_future(client.get("/v1/jobs/moderation/a/wait", params={"timeout_s": 50}))
    await aeventually(lambda: office.app.parts.waiting.looks >= 1)

    await office.store.write(lambda tx: tx.jobs._c.execute("DELETE FROM jobs"))  # type: ignore[attr-defined]  # as retention may
    answer = await asyncio.wait_for(asking, 10)

    assert answer.status_code == 404


async def test_thousands_wait_on_a_few_queries(open_office: Open) -> None:
    """2,000 waiters for 200 jobs: one query looks for all; whoever's job ends is answered, the others wait on."""
    office = open_office(limits=Limits(tick_s=60.0))
    jobs, waiters = 200, 2000
    for n in range(jobs):
        await office.register(f"j{n}")
    waiting = office.app.parts.waiting
    async with office.client(timeout_s=120) as client:
        asking = [
            asyncio.ensure_future(client.get(f"/v1/jobs/moderation/j{n % jobs}/wait", params={"timeout_s": 120}))
            for n in range(waiters)
        ]
        await aeventually(lambda: len(waiting) == waiters, 30)
        await aeventually(lambda: waiting.looks >= 1)
        looks = waiting.looks
        await office.settle("j0")
        first, others = await asyncio.wait(asking, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert {done.result().json()["job_id"] for done in first} == {"j0"}
        assert len(others) >= waiters - waiters // jobs
        for n in range(1, jobs):
            await office.settle(f"j{n}")
        answers = await asyncio.gather(*asking)

    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["job_id"] for answer in answers[:jobs]] == [f"j{n}" for n in range(jobs)]
    assert waiting.looks - looks < jobs + 50, "the number of queries follows the commits, never the waiters"
    assert len(waiting) == 0


async def test_too_many_waiters_are_turned_away(open_office: Open) -> None:
    """Past the bound the answer is 503 with Retry-After."""
    office = open_office(limits=Limits(most_waiters=1))
    await office.register("a")
    async with office.client() as client:
        asking = asyncio.ensure_future(client.get("/v1/jobs/moderation/a/wait", params={"timeout_s": 50}))
        await aeventually(lambda: len(office.app.parts.waiting) == 1)

        refused = await client.get("/v1/jobs/moderation/a/wait", params={"timeout_s": 50})
        await office.settle("a")

        assert (await asking).status_code == 200
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)


async def test_a_caller_that_leaves_waits_no_longer(office: Office) -> None:
    """A broken connection frees its place at once, over the real server."""
    await office.register("a")
    async with office.served() as address:
        host, port = address.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/jobs/moderation/a/wait?timeout_s=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await aeventually(lambda: len(office.app.parts.waiting) == 1)

        writer.close()

        await aeventually(lambda: len(office.app.parts.waiting) == 0)


async def test_stopping_answers_who_waits(office: Office) -> None:
    """When the listener stops, waiters are answered with the job as it is; nobody is cut off."""
    await office.register("a")
    async with office.served() as address, httpx.AsyncClient(base_url=address) as client:
        asking: Any = asyncio.ensure_future(client.get("/v1/jobs/moderation/a/wait?timeout_s=300"))
        await aeventually(lambda: len(office.app.parts.waiting) == 1)

        office.app.stop()
        answer = await asyncio.wait_for(asking, 10)

    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
