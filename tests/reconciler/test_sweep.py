"""Asking as CONTRACT 5 has it: who is asked about, when, how often, and what proves nothing."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from receiver import clock as clocks
from receiver.records import SourceState
from receiver.states import Claim
from reconciler.outbound import Unanswered
from tests.reconciler.fence import Field
from tests.support import START

Make = Callable[..., Field]

ODD_IDS = ["../x", "..", ".", "a/b?c#d", "line\nbreak", "x" * 5000, "%2e%2e%2f", " ", "ключ", 'q"uo\\te', "a;b=c&d"]
DOWN = Unanswered("connection refused")


async def register(field: Field, *job_ids: str, status: str | None = "processing", **facts: Any) -> None:
    """Jobs the application registers and the provider knows."""
    for job_id in job_ids:
        await field.register(job_id, "asked", **facts)
        if status is not None:
            field.fence.put(job_id, status)


async def source_state(field: Field, source: str = "asked") -> SourceState:
    return await field.store.write(lambda tx: tx.sources.get(source))


async def verdicts(field: Field, source: str = "asked") -> dict[str | None, tuple[str, str | None]]:
    rows, _ = await field.store.read(lambda view: view.deliveries(source=source, limit=500))
    return {row["job_id"]: (row["verdict"], row["reason"]) for row in rows}


def completed(job_id: str) -> dict[str, Any]:
    return {"job_id": job_id, "status": "completed"}


# -- who is asked about --------------------------------------------------------------------------------------------


async def test_every_open_job_is_asked_about_once_after_a_start(field: Field) -> None:
    """Due or not; ended ones are left alone, and the second pass asks nobody again."""
    await register(field, "a", "b")
    await register(field, "done")
    await field.poll("done", Claim.COMPLETED, "asked", status="completed")
    field.restart()
    await field.passes(times=3)

    assert sorted(field.fence.ids, key=str) == ["a", "b"]
    assert (await field.job("a", "asked"))["provider_status"] == "processing"


async def test_the_start_may_be_told_not_to_ask(make: Make) -> None:
    """`startup_sweep = false`: only what is due."""
    field = make({"startup_sweep": False})
    await register(field, "a")
    await field.passes()
    assert field.fence.ids == []
    field.clock.advance(61)
    await field.passes()

    assert field.fence.ids == ["a"]


async def test_a_job_is_asked_about_when_it_is_due_and_widening(field: Field) -> None:
    """First after `poll_after_s`, then at 5 s, 7.5 s, … within jitter; the last time at its deadline."""
    await field.passes()
    await register(field, "a")
    await field.ticks(299.5, every_s=0.5)
    times = [asked.at - START for asked in field.fence.asked]
    waits = [later - before for before, later in itertools.pairwise(times)]

    assert times[0] == pytest.approx(60, abs=0.6)
    assert all(0.8 * 5 * 1.5**n <= wait <= 1.2 * 5 * 1.5**n + 0.6 for n, wait in enumerate(waits[:6]))
    assert (await field.state("a"))[0] == "pending"
    await field.ticks(1.0, every_s=0.5)
    assert await field.state("a") == ("failed", "stale")
    assert field.fence.asked[-1].at - START == pytest.approx(300, abs=0.6)


async def test_an_answer_settles_and_is_told_once(field: Field) -> None:
    """Completed or failed: the provider's object is the result, and the poll is on record."""
    await register(field, "good", status="completed")
    await register(field, "bad", status="failed")
    await field.passes(times=2)

    assert [await field.state(each) for each in ("good", "bad")] == [("completed", None), ("failed", "provider")]
    job = await field.job("good", "asked")
    assert job["result"] == field.fence.jobs["good"]
    assert [(row["outcome"], row["http_status"], row["request"]) for row in job["polls"]] == [
        ("completed", 200, "GET /api/v1/job/good")
    ]
    assert (job["polls_made"], job["decided_by"], len(job["messages"])) == (1, "poll", 1)
    assert job["history"][-1]["poll_id"] == job["polls"][0]["id"]


async def test_many_jobs_are_asked_about_through_the_list(field: Field) -> None:
    """Who is open is told by one listing; who is absent is confirmed singly before anything is decided."""
    await register(field, *(f"open{n}" for n in range(30)))
    await register(field, *(f"done{n}" for n in range(5)), status="completed")
    await field.passes()

    assert field.fence.ids.count(None) == 1
    assert sorted(str(each) for each in field.fence.ids if each) == [f"done{n}" for n in range(5)]
    assert [await field.state(f"done{n}") for n in range(5)] == [("completed", None)] * 5
    assert await field.state("open7") == ("pending", None)


async def test_a_list_is_read_once_for_thousands_of_due_jobs(field: Field) -> None:
    """After an outage one pass takes as many jobs as the list tells of, and reads it but once."""
    await register(field, *(f"j{n:04}" for n in range(1_200)))
    await field.passes()

    assert field.fence.ids == [None] * 12


async def test_jobs_inserted_by_sql_are_picked_up(field: Field) -> None:
    """The next pass gives them their times; the one after a start asks."""

    def insert(tx: Any) -> None:
        tx.jobs._c.execute(
            "INSERT INTO jobs (source, job_id, modality, registered_at) VALUES ('asked', 'sql', 'prompt', ?)",
            (clocks.text(START),),
        )

    await field.passes()
    await field.store.write(insert)
    field.fence.put("sql", "completed")
    assert (await field.passes()).picked_up == 1
    await field.ticks(61)

    assert await field.state("sql") == ("completed", None)


async def test_a_wish_for_a_sweep_asks_about_everything_open(field: Field) -> None:
    """Intake had to refuse, or an operator wants it: at once, and once."""
    await field.passes()
    await register(field, "a", "b")
    await field.store.write(lambda tx: tx.sources.want_sweep(["asked"], START))
    await field.passes(times=2)

    assert sorted(field.fence.ids, key=str) == ["a", "b"]
    assert (await source_state(field)).sweep_wanted_at is None


async def test_an_operators_wish_asks_about_an_ended_job_too(field: Field) -> None:
    """`POST …/poll`: whatever its state; a later answer of equal rank changes nothing."""
    await register(field, "a", status="completed")
    await field.passes()
    field.fence.put("a", "failed")
    field.sweep.urge("asked", "a")
    await field.passes(times=2)

    assert field.fence.ids == ["a", "a"]
    assert await field.state("a") == ("completed", None)
    assert (await field.job("a", "asked"))["history"][-1]["note"].startswith("conflict")


async def test_a_webhook_to_be_verified_is_asked_about_at_once(field: Field) -> None:
    """Between two ticks, and the answer is what is told."""
    await field.register("a", "verify")
    field.fence.put("a", "failed")
    await field.webhook(completed("a"), "verify")
    await field.passes("verify")

    assert await field.state("a", "verify") == ("failed", "provider")
    assert [told["type"] for told in await field.told("a", "verify")] == ["job.failed"]


async def test_an_answer_that_still_runs_leaves_a_verified_job_due(field: Field) -> None:
    """After `poll_min_s`, widening from there (CONTRACT 10)."""
    await field.register("a", "verify")
    await field.passes("verify")
    field.fence.put("a")
    await field.webhook(completed("a"), "verify")
    await field.passes("verify")
    due = clocks.instant((await field.job("a", "verify"))["next_poll_at"])

    assert await field.state("a", "verify") == ("pending", None)
    assert 4 <= due - field.clock.now() <= 6
