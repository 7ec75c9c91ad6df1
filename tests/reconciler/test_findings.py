"""What one finding does to one job: an answer decides, a 404 must repeat itself, and no answer proves nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from receiver import clock as clocks
from receiver.providers.base import Finding
from receiver.records import Job
from receiver.states import Claim
from receiver.timetable import JITTER
from tests.reconciler.fence import Field
from tests.support import START

Make = Callable[..., Field]


async def find(field: Field, job_id: str = "j1") -> Job:
    job = await field.store.write(lambda tx: tx.jobs.find("asked", job_id))
    assert job is not None
    return job


async def hear(field: Field, job_id: str = "j1", **facts: Any) -> Job:
    await field.poll(job_id, facts.pop("claim", None), "asked", **facts)
    return await find(field, job_id)


async def adopt(field: Field, since: float = START - 3600, **facts: Any) -> Job | None:
    finding = Finding("orphan", **{"claim": Claim.RUNNING, "unlisted": True, **facts})
    judge = field.judges["asked"]
    return await field.store.write(lambda tx: judge.adopt(tx, finding, since, field.clock.now()))


async def test_nobody_on_record_is_nobody_judged(field: Field) -> None:
    """A finding puts no job on record by itself."""
    assert await field.poll("stranger", Claim.COMPLETED, "asked") is None
    assert await field.store.read(lambda view: view.job("asked", "stranger")) is None


async def test_a_running_answer_puts_the_next_question_off(field: Field) -> None:
    """The word is kept, the miss count and the last error go, the next question widens."""
    await field.register("j1", "asked", modality="video")
    await hear(field, problem="503")
    job = await hear(field, claim=Claim.RUNNING, status="In Queue")

    assert (job.provider_status, job.last_error, job.polls, job.asked_at) == ("In Queue", None, 2, START)
    assert job.wait_s == 7.5
    assert job.next_poll_at is not None
    assert abs(job.next_poll_at - START - 7.5) <= 7.5 * JITTER + 0.001


@pytest.mark.parametrize(("at", "ended"), [(299.999, False), (300.0, True), (900.0, True)])
async def test_the_answer_at_the_deadline_is_the_last(field: Field, at: float, ended: bool) -> None:
    """`running` at or past `fail_after_s` is stale; a moment before it is not."""
    await field.register("j1", "asked")
    field.clock.advance(at)
    job = await hear(field, claim=Claim.RUNNING, status="processing")

    assert (job.reason is not None) == ended
    assert job.state == ("failed" if ended else "pending")
    if ended:
        assert job.reason == "stale"


async def test_no_answer_is_no_evidence(field: Field) -> None:
    """Past the deadline too: the job stays pending, and says what was met."""
    await field.register("j1", "asked")
    field.clock.advance(1000)
    job = await hear(field, problem="unavailable: 503")

    assert (job.state, job.last_error, job.asked_at, job.polls) == ("pending", "unavailable: 503", None, 1)
    assert job.next_poll_at is not None
    assert job.next_poll_at > field.clock.now()


async def test_a_result_from_a_list_row_says_that_it_is_partial(field: Field) -> None:
    """`bulk_results = "list"`: told, and noted as what it is."""
    await field.register("j1", "asked")
    row = {"job_id": "j1", "status": "completed"}
    await hear(field, claim=Claim.COMPLETED, status="completed", result=row, partial=True)

    assert "partial" in (await field.job("j1", "asked"))["history"][-1]["note"]
    assert (await field.told("j1", "asked"))[0]["data"]["result"] == row


async def test_a_job_that_waits_for_a_person_has_no_deadline(field: Field) -> None:
    """The clock stands still, however long they take, and runs on with what was left."""
    await field.register("j1", "asked")
    field.clock.advance(200)
    assert (await hear(field, claim=Claim.RUNNING, freezes=True)).deadline_at is None
    field.clock.advance(50_000)
    still = await hear(field, claim=Claim.RUNNING, freezes=True)
    assert (still.state, still.remaining_s) == ("pending", 100)
    going = await hear(field, claim=Claim.RUNNING)

    assert (going.state, going.deadline_at) == ("pending", field.clock.now() + 100)
    field.clock.advance(101)
    assert (await hear(field, claim=Claim.RUNNING)).reason == "stale"


async def test_what_an_answer_tells_is_learned(field: Field) -> None:
    """The modality (and with it the deadline), the other id, what the provider needs to be asked; never overwritten."""
    await field.register("j1", "asked", modality=None, refs={"lead_id": "mine"})
    assert (await find(field)).deadline_at == START + 900
    facts: dict[str, Any] = {"modality": "prompt", "alias": "other", "refs": {"lead_id": "theirs", "more": 1}}
    job = await hear(field, claim=Claim.RUNNING, **facts)

    assert (job.modality, job.alias, job.refs) == ("prompt", "other", {"lead_id": "mine", "more": 1})
    assert job.deadline_at == START + 300
    again = await hear(field, claim=Claim.RUNNING, modality="video", alias="third")
    assert (again.modality, again.alias, again.deadline_at) == ("prompt", "other", START + 300)
    assert (await hear(field, "other", claim=Claim.COMPLETED)).state == "completed"


async def test_an_alias_that_is_taken_spoils_no_answer(field: Field) -> None:
    """Another job holds it: the outcome counts all the same."""
    await field.register("j0", "asked", alias="taken")
    await field.register("j1", "asked")
    job = await hear(field, claim=Claim.COMPLETED, status="completed", alias="taken")

    assert (job.state, job.alias) == ("completed", None)


@pytest.mark.parametrize(
    ("misses_at", "reason"),
    [
        ([0, 30, 59], None),
        ([59.9, 100, 200], None),
        ([60, 200, 359.9], None),
        ([60, 360], None),
        ([60, 61, 360], "not_found"),
        ([61, 62, 63, 361], "not_found"),
        ([30, 60, 200, 360], "not_found"),
    ],
)
async def test_a_404_is_believed_after_three_over_five_minutes(
    make: Make, misses_at: list[float], reason: str | None
) -> None:
    """Those of the first minute do not count; fewer, or in a shorter time, are not enough."""
    field = make(timeouts={"prompt": {"fail_after_s": 5000}})
    await field.register("j1", "asked")
    for at in misses_at:
        field.clock.advance(START + at - field.clock.now())
        await hear(field, missing=True)

    job = await find(field)
    assert job.reason == reason
    assert job.last_error is not None


async def test_a_missing_job_is_looked_for_often_enough_to_be_counted(field: Field) -> None:
    """However far its questions had widened, three fit into five minutes; a Retry-After still rules."""
    await field.register("j1", "asked", modality="video")
    job = await find(field)
    await field.store.write(lambda tx: tx.jobs.change(job, job.with_(wait_s=290.0)))
    field.clock.advance(70)
    soon = await hear(field, missing=True)
    patient = await hear(field, missing=True, retry_after_s=250.0)

    assert soon.next_poll_at is not None
    assert soon.next_poll_at <= field.clock.now() + 150
    assert patient.next_poll_at == field.clock.now() + 250


async def test_a_missing_job_past_its_deadline_is_not_stale(field: Field) -> None:
    """Nobody said that it runs: it is looked for until it is not found."""
    await field.register("j1", "asked")
    for at in (290, 310, 500):
        field.clock.advance(START + at - field.clock.now())
        assert (await hear(field, missing=True)).state == "pending"
    field.clock.advance(100)

    assert (await hear(field, missing=True)).reason == "not_found"


@pytest.mark.parametrize("facts", [{"missing": True}, {"claim": Claim.RUNNING}])
async def test_an_ended_job_is_only_looked_at_again(field: Field, facts: dict[str, Any]) -> None:
    """After the end neither 404 nor `running` says anything, and the looks come to an end."""
    await field.register("j1", "asked")
    await hear(field, claim=Claim.COMPLETED, status="completed", result=1)
    for _ in range(5):
        job = await hear(field, **facts)

    assert (job.state, job.result) == ("completed", 1)
    assert job.next_poll_at is None
    assert len(await field.told("j1", "asked")) == 1


async def test_trouble_over_an_ended_job_asks_for_nothing_more(field: Field) -> None:
    """An operator's question that nobody answered does not become a habit."""
    await field.register("j1", "asked")
    await hear(field, claim=Claim.COMPLETED)

    assert (await hear(field, problem="503")).next_poll_at is None


async def test_late_truth_may_be_any_end(field: Field) -> None:
    """Stale, then failed by the provider: the correction says which."""
    await field.register("j1", "asked")
    field.clock.advance(300)
    await hear(field, claim=Claim.RUNNING)
    job = await hear(field, claim=Claim.FAILED, status="failed", result={"error_code": "X"})

    assert (job.state, job.reason, job.decided_by, job.last_error) == ("failed", "provider", "poll", None)
    first, second = await field.told("j1", "asked")
    assert (first["data"]["reason"], second["data"]["reason"]) == ("stale", "provider")
    assert second["data"]["supersedes"] == first["id"]


# -- adopting --------------------------------------------------------------------------------------------------------


async def test_a_job_is_adopted_with_what_the_list_tells(field: Field) -> None:
    """Pending, whatever the row says: the answer to its own question decides."""
    job = await adopt(field, claim=Claim.COMPLETED, modality="image", submitted_at=START - 100, status="completed")
    assert job is not None

    kept = await find(field, "orphan")
    assert (kept.state, kept.registered_by, kept.modality) == ("pending", "adopted", "image")
    assert (kept.submitted_at, kept.next_poll_at, kept.deadline_at) == (START - 100, START, START + 200)
    assert not kept.vouched
    assert (await field.job("orphan", "asked"))["history"][0]["note"] == "found at the provider"


@pytest.mark.parametrize(
    ("facts", "adopted"),
    [
        ({"submitted_at": START - 59}, False),
        ({"submitted_at": START - 60}, True),
        ({"submitted_at": START + 500}, False),
        ({"submitted_at": None}, True),
        ({"submitted_at": START - 3601, "claim": Claim.COMPLETED}, False),
        ({"submitted_at": START - 3601, "claim": None}, False),
        ({"submitted_at": START - 3601, "claim": Claim.RUNNING}, True),
        ({"submitted_at": START - 3599, "claim": Claim.FAILED}, True),
    ],
)
async def test_who_is_adopted(field: Field, facts: dict[str, Any], adopted: bool) -> None:
    """Not the young, whose registration may be on its way, and not what ended before our time."""
    assert (await adopt(field, **facts) is not None) == adopted


async def test_a_job_on_record_is_not_adopted(field: Field) -> None:
    """By its id or by its alias; nothing about it changes."""
    await field.register("orphan", "asked", metadata=1)
    before = await find(field, "orphan")

    assert await adopt(field, submitted_at=START - 100, modality="video") is None
    assert await find(field, "orphan") == before


async def test_a_poll_is_named_by_what_it_decided(field: Field) -> None:
    """The history points at the question that brought the answer."""
    await field.register("j1", "asked")
    field.fence.put("j1", "completed")
    await field.passes()
    job = await field.job("j1", "asked")

    assert job["history"][-1]["poll_id"] == job["polls"][0]["id"]
    assert job["settled_at"] == clocks.text(field.clock.now())
