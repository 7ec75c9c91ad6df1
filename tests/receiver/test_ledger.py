"""`Ledger.apply`: job, history and message move together, each outcome once, each correction in its place."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver import clock
from receiver.ledger import Applied, message_id
from receiver.records import Observation
from receiver.states import By, Claim, Evidence, Move, Reason
from receiver.store.base import Tx
from tests.receiver.scene import Scene
from tests.support import START

DONE: dict[str, Any] = {"verdict": "clean", "score": 0.25}


@pytest.fixture
def scene(fast_folder: Path) -> Iterator[Scene]:
    made = Scene(fast_folder / "record.db")
    yield made
    made.store.close()


def seen(claim: Claim, evidence: Evidence, **facts: Any) -> Observation:
    by = {Evidence.DEADLINE: By.DEADLINE, Evidence.POLL: By.POLL}.get(evidence, By.WEBHOOK)
    reason = {Claim.FAILED: Reason.PROVIDER, Claim.GIVEN_UP: Reason.STALE}.get(claim)
    return Observation("known", "j1", claim, by, evidence, **({"reason": reason} | facts))


async def apply(scene: Scene, claim: Claim, evidence: Evidence, **facts: Any) -> Applied | None:
    observation = seen(claim, evidence, **facts)
    return await scene.store.write(lambda tx: scene.ledger.apply(tx, observation, scene.clock.now()))


async def move(scene: Scene, claim: Claim, evidence: Evidence, **facts: Any) -> Move:
    applied = await apply(scene, claim, evidence, **facts)
    assert applied is not None
    return applied.move


async def test_the_application_hears_everything_the_contract_lists(scene: Scene) -> None:
    """A message is `{id, type, timestamp, data}` with every member of CONTRACT 7, null where there is nothing."""
    await scene.register("j1", alias="other", metadata={"mine": [1]})
    scene.clock.advance(5)
    await apply(scene, Claim.COMPLETED, Evidence.POLL, result=DONE, provider_status="completed")

    (message,) = (await scene.job("j1"))["messages"]
    assert message["payload"] == {
        "id": message["id"],
        "type": "job.completed",
        "timestamp": clock.text(START + 5),
        "data": {
            "source": "known", "provider": "omnifence", "job_id": "j1", "alias": "other", "modality": "prompt",
            "state": "completed", "reason": None, "decided_by": "poll", "result": DONE, "metadata": {"mine": [1]},
            "supersedes": None,
        },
    }  # fmt: skip
    assert (message["state"], message["attempts"], message["supersedes"]) == ("pending", 0, None)
    assert (message["source"], message["job_id"], message["type"]) == ("known", "j1", "job.completed")
    assert "." not in message["id"]


async def test_a_job_that_ended_says_when_by_whom_and_why(scene: Scene) -> None:
    """The row and its history agree; nothing is due any more."""
    await scene.register("j1")
    scene.clock.advance(7)
    await apply(scene, Claim.FAILED, Evidence.KNOWN, provider_status="FAILED", delivery_id=77, result={"error": "x"})

    job = await scene.job("j1")
    assert (job["state"], job["reason"], job["decided_by"]) == ("failed", "provider", "webhook")
    assert (job["settled_at"], job["next_poll_at"]) == (clock.text(START + 7), None)
    assert (job["provider_status"], job["result"], job["last_error"]) == ("FAILED", {"error": "x"}, None)
    ending = job["history"][-1]
    assert (ending["from_state"], ending["to_state"], ending["by"]) == ("pending", "failed", "webhook")
    assert (ending["reason"], ending["delivery_id"], ending["at"]) == ("provider", "77", job["settled_at"])


async def test_a_transaction_that_fails_later_leaves_nothing(scene: Scene) -> None:
    """Job, history and message commit together or not at all."""
    await scene.register("j1")
    before = await scene.job("j1")

    def work(tx: Tx) -> None:
        scene.ledger.apply(tx, seen(Claim.COMPLETED, Evidence.POLL), scene.clock.now())
        raise RuntimeError("the power goes")

    with pytest.raises(RuntimeError, match="the power goes"):
        await scene.store.write(work)
    assert await scene.job("j1") == before
    assert (await scene.store.read(lambda view: view.messages()))[0] == []


async def test_the_same_outcome_is_told_once_whoever_repeats_it(scene: Scene) -> None:
    """A webhook and a poll that agree are one message; the stronger witness is remembered."""
    await scene.register("j1")

    assert await move(scene, Claim.COMPLETED, Evidence.KNOWN) is Move.SETTLE
    assert await move(scene, Claim.COMPLETED, Evidence.POLL, result=DONE) is Move.CONFIRM
    assert await move(scene, Claim.COMPLETED, Evidence.KNOWN) is Move.CONFIRM
    assert await move(scene, Claim.FAILED, Evidence.PAYLOAD) is Move.CONFLICT
    job = await scene.job("j1")
    assert len(job["messages"]) == 1
    assert (job["decided_by"], job["result"]) == ("webhook", DONE)


async def test_a_confirmation_never_replaces_a_result(scene: Scene) -> None:
    """What was told stays what is on record."""
    await scene.register("j1")
    await apply(scene, Claim.COMPLETED, Evidence.KNOWN, result={"first": 1})
    await apply(scene, Claim.COMPLETED, Evidence.POLL, result={"second": 2})

    assert (await scene.job("j1"))["result"] == {"first": 1}


async def test_a_contradiction_that_is_not_stronger_is_a_conflict(scene: Scene) -> None:
    """A history row with from = to whose note begins with `conflict`; nothing else moves."""
    await scene.register("j1")
    await apply(scene, Claim.COMPLETED, Evidence.PAYLOAD, result=DONE)
    before = await scene.job("j1")

    assert await move(scene, Claim.FAILED, Evidence.KNOWN, delivery_id=5) is Move.CONFLICT
    assert await move(scene, Claim.FAILED, Evidence.PAYLOAD) is Move.CONFLICT
    after = await scene.job("j1")
    conflicts = after["history"][len(before["history"]) :]
    assert [(row["from_state"], row["to_state"], row["note"][:8]) for row in conflicts] == [
        ("completed", "completed", "conflict")
    ] * 2
    assert conflicts[0]["delivery_id"] == "5"
    assert "failed (provider)" in conflicts[0]["note"]
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"history"}


async def test_late_truth_corrects_what_we_gave_up_on(scene: Scene) -> None:
    """Both messages stand in order, the second supersedes the first, and the job is as the provider says."""
    await scene.register("j1")
    await apply(scene, Claim.GIVEN_UP, Evidence.DEADLINE, note="the provider still says processing")
    stale = await scene.job("j1")
    scene.clock.advance(60)
    await apply(scene, Claim.COMPLETED, Evidence.KNOWN, result=DONE)

    job = await scene.job("j1")
    first, second = job["messages"]
    assert (stale["state"], stale["reason"], stale["decided_by"]) == ("failed", "stale", "deadline")
    assert stale["last_error"] == "the provider still says processing"
    assert (job["state"], job["reason"], job["decided_by"]) == ("completed", None, "webhook")
    assert (first["type"], second["type"]) == ("job.failed", "job.completed")
    assert second["supersedes"] == second["payload"]["data"]["supersedes"] == first["id"]
    assert job["settled_at"] == clock.text(START + 60)
    assert (job["last_error"], job["next_poll_at"]) == (None, None)
    assert job["history"][-1]["note"] == "corrects failed"


async def test_a_chain_of_corrections_names_each_predecessor(scene: Scene) -> None:
    """stale, then a webhook, then the provider's own answer: three messages, each superseding the one before."""
    await scene.register("j1")
    for claim, evidence in (
        (Claim.GIVEN_UP, Evidence.DEADLINE), (Claim.COMPLETED, Evidence.KNOWN), (Claim.FAILED, Evidence.POLL),
    ):  # fmt: skip
        await apply(scene, claim, evidence)

    messages = (await scene.job("j1"))["messages"]
    ids = [message["id"] for message in messages]
    assert len(set(ids)) == 3
    assert [message["supersedes"] for message in messages] == [None, *ids[:2]]


async def test_a_stale_job_is_looked_at_again(scene: Scene) -> None:
    """Giving up sets the first late look; an answer ends the looking."""
    await scene.register("j1")
    await apply(scene, Claim.GIVEN_UP, Evidence.DEADLINE)

    late = (await scene.job("j1"))["next_poll_at"]
    assert late is not None
    assert late > clock.text(scene.clock.now())
    await apply(scene, Claim.FAILED, Evidence.POLL)
    assert (await scene.job("j1"))["next_poll_at"] is None


async def test_giving_up_twice_tells_once(scene: Scene) -> None:
    """Two reconcilers, or two reasons, end a job once."""
    await scene.register("j1")

    assert await move(scene, Claim.GIVEN_UP, Evidence.DEADLINE) is Move.SETTLE
    assert await move(scene, Claim.GIVEN_UP, Evidence.DEADLINE, reason=Reason.UNREACHABLE) is Move.IGNORE
    assert len((await scene.job("j1"))["messages"]) == 1


async def test_a_running_job_only_remembers_the_word(scene: Scene) -> None:
    """`provider_status` is the provider's word as written; no history, no message."""
    await scene.register("j1")
    before = await scene.job("j1")

    assert await move(scene, Claim.RUNNING, Evidence.KNOWN, provider_status="In_Progress") is Move.NOTE
    job = await scene.job("j1")
    assert job["provider_status"] == "In_Progress"
    assert job["history"] == before["history"]
    assert job["messages"] == []


async def test_an_unknown_job_is_nobodys(scene: Scene) -> None:
    """The ledger puts nothing on record by itself."""
    assert await apply(scene, Claim.COMPLETED, Evidence.POLL) is None
    assert (await scene.store.read(lambda view: view.messages()))[0] == []


async def test_an_observation_by_alias_reaches_the_job(scene: Scene) -> None:
    """Either id finds the job, and the message names its own."""
    await scene.register("j1", alias="the-other")
    observation = Observation("known", "the-other", Claim.COMPLETED, By.POLL, Evidence.POLL)
    await scene.store.write(lambda tx: scene.ledger.apply(tx, observation, scene.clock.now()))

    assert [told["data"]["job_id"] for told in await scene.told("j1")] == ["j1"]


async def test_a_lost_database_tells_the_same_outcome_under_the_same_id(fast_folder: Path) -> None:
    """Ids follow from what is told, so that the application knows a message again."""
    ids = []
    for name in ("first", "second"):
        scene = Scene(fast_folder / f"{name}.db")
        await scene.register("j1")
        scene.clock.advance(len(name))
        await apply(scene, Claim.COMPLETED, Evidence.POLL, result={"of": name})
        ids += [message["id"] for message in (await scene.job("j1"))["messages"]]
        scene.store.close()

    assert ids[0] == ids[1]


def test_message_ids_of_different_things_differ() -> None:
    """The parts are kept apart, so no two outcomes can be made to share an id."""
    assert message_id("job", "a", "b") != message_id("job", "ab", "")
    assert message_id("job", "a") != message_id("event", "a")
    assert len(message_id("\ud800")) == len("msg_") + 32


async def test_the_payload_is_stored_as_the_text_that_goes_out(scene: Scene) -> None:
    """Signed bytes must not be written anew: the row holds the exact JSON text."""
    await scene.register("j1")
    await apply(scene, Claim.COMPLETED, Evidence.POLL, result={"text": "naïve ☃ \ud800"})

    ((_, message, text),) = await scene.store.read(lambda view: view.stream(0, 10))
    assert text.isascii()
    assert json.loads(text)["id"] == message
    assert json.loads(text)["data"]["result"] == {"text": "naïve ☃ \ud800"}
