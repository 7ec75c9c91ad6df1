"""Registering is idempotent: what is not known is filled in, what differs is refused, and what was held is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver import clock, registrar
from receiver.providers.base import Finding
from receiver.records import Job
from receiver.states import Claim
from receiver.store.base import Tx
from tests.receiver.scene import Scene
from tests.support import START

FACTS: dict[str, Any] = {
    "modality": "video",
    "submitted_at": START - 20.0,
    "poll_url": "https://api.evershield.ai/api/v1/job/j1",
    "alias": "the-other",
    "refs": {"lead_id": "L1"},
    "metadata": {"ours": True},
}
OTHER: dict[str, Any] = {
    "modality": "image",
    "submitted_at": START - 21.0,
    "poll_url": "https://api.evershield.ai/api/v1/job/j2",
    "alias": "another",
    "refs": {"lead_id": "L2"},
    "metadata": {"ours": False},
}


@pytest.fixture
def scene(fast_folder: Path) -> Iterator[Scene]:
    omnia = {"provider": "omnia", "path_token": "tok", "api_key": "key", "base_url": "https://omnia.example.com/api/v1"}
    made = Scene(fast_folder / "record.db", {"insights": omnia})
    yield made
    made.store.close()


def completed(job_id: str, **more: Any) -> dict[str, Any]:
    return {"job_id": job_id, "status": "completed", **more}


def stored(fact: str, value: Any) -> Any:
    """A fact as the record shows it."""
    return clock.text(value) if fact == "submitted_at" else value


async def insert(scene: Scene, job_id: str, source: str = "known", **columns: Any) -> None:
    """What an application does that registers with SQL alone."""
    values = {"source": source, "job_id": job_id, **columns}

    def work(tx: Tx) -> None:
        connection = tx.jobs._c  # type: ignore[attr-defined]  # another program's connection would do the same
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO jobs ({', '.join(values)}) VALUES ({marks})", list(values.values()))

    await scene.store.write(work)


async def pick_up(scene: Scene, source: str = "known") -> int:
    """What the next pass of the sweep does first."""
    settings, now = scene.settings.sources[source], scene.clock.now()

    def work(tx: Tx) -> int:
        new = tx.jobs.unscheduled(source, 100)
        for job in new:
            registrar.pick_up(tx, job, settings, now)
        return len(new)

    return await scene.store.write(work)


async def test_a_registration_is_kept_whole(scene: Scene) -> None:
    """201, every fact as told, its first question and its deadline set."""
    done = await scene.register("j1", **FACTS)
    job = await scene.job("j1")

    assert (done.status, done.conflicts) == (201, [])
    assert {fact: job[fact] for fact in FACTS} == {fact: stored(fact, value) for fact, value in FACTS.items()}
    assert (job["state"], job["settled_at"], job["registered_at"]) == ("pending", None, clock.text(START))
    assert (job["deadline_at"], job["next_poll_at"]) == (clock.text(START + 880), clock.text(START + 280))
    assert [(row["from_state"], row["to_state"], row["by"]) for row in job["history"]] == [
        (None, "pending", "application")
    ]


async def test_the_same_again_is_the_same(scene: Scene) -> None:
    """200, and nothing changes, whether all facts are told again or none."""
    await scene.register("j1", **FACTS)
    before = await scene.job("j1")
    scene.clock.advance(30)

    assert (await scene.register("j1", **FACTS)).status == 200
    assert (await scene.register("j1", modality=None)).status == 200
    assert await scene.job("j1") == before


@pytest.mark.parametrize("fact", FACTS)
async def test_a_fact_that_was_not_told_is_filled_in(scene: Scene, fact: str) -> None:
    """Null on record is not yet recorded: 200, and it stands from now on."""
    await scene.register("j1", modality=None)
    done = await scene.register("j1", **({"modality": None} | {fact: FACTS[fact]}))

    assert done.status == 200
    assert (await scene.job("j1"))[fact] == stored(fact, FACTS[fact])


@pytest.mark.parametrize("fact", FACTS)
async def test_a_fact_that_differs_is_refused_whole(scene: Scene, fact: str) -> None:
    """409 names the fact; the others told with it are not taken either."""
    told = {name: value for name, value in FACTS.items() if name != "metadata" or fact == "metadata"}
    await scene.register("j1", **told)
    before = await scene.job("j1")
    done = await scene.register("j1", **(told | {"metadata": FACTS["metadata"]} | {fact: OTHER[fact]}))

    assert done.status == 409
    assert done.conflicts == [fact if fact != "refs" else "refs.lead_id"]
    assert await scene.job("j1") == before


async def test_refs_grow_key_by_key(scene: Scene) -> None:
    """Another key of `refs` is another fact."""
    await scene.register("j1", refs={"lead_id": "L1"})

    assert (await scene.register("j1", refs={"monitor_id": "M"})).status == 200
    assert (await scene.job("j1"))["refs"] == {"lead_id": "L1", "monitor_id": "M"}


async def test_a_modality_told_later_moves_the_deadline(scene: Scene) -> None:
    """Until it is told the default holds; a question that is due already is not put off."""
    await scene.register("j1", modality=None)
    assert (await scene.job("j1"))["deadline_at"] == clock.text(START + 900)
    await scene.register("j1", modality="prompt")

    job = await scene.job("j1")
    assert job["deadline_at"] == clock.text(START + 300)
    assert job["next_poll_at"] == clock.text(START + 60)


async def test_facts_told_after_the_end_reopen_nothing(scene: Scene) -> None:
    """A settled job takes what it lacks and stays settled."""
    await scene.register("j1", modality=None)
    await scene.poll("j1", Claim.COMPLETED, status="completed")
    done = await scene.register("j1", modality="video", metadata={"late": 1})
    job = await scene.job("j1")

    assert done.status == 200
    assert (job["state"], job["next_poll_at"], job["metadata"]) == ("completed", None, {"late": 1})


@pytest.mark.parametrize(
    ("first", "second"), [("id", "alias"), ("alias", "id"), ("both", "alias"), ("both", "swapped")]
)
async def test_two_ids_are_one_job(scene: Scene, first: str, second: str) -> None:
    """Whichever id a job was registered under, the other one told with it finds the same job (CONTRACT 10)."""
    ways: dict[str, tuple[str, dict[str, str]]] = {
        "id": ("task_1", {}),
        "alias": ("generation_1", {}),
        "both": ("task_1", {"alias": "generation_1"}),
        "swapped": ("generation_1", {"alias": "task_1"}),
    }
    for job_id, facts in (ways[first], ways["both"], ways[second]):
        assert (await scene.register(job_id, "insights", modality="insight", **facts)).status in (200, 201)

    jobs, _ = await scene.store.read(lambda view: view.jobs(source="insights"))
    assert len(jobs) == 1
    assert {jobs[0]["job_id"], jobs[0]["alias"]} == {"task_1", "generation_1"}
    assert (await scene.job("task_1", "insights"))["job_id"] == (await scene.job("generation_1", "insights"))["job_id"]


async def test_an_alias_names_one_job_only(scene: Scene) -> None:
    """An id that belongs to another job is refused, at the registration and afterwards."""
    await scene.register("j1", alias="shared")
    await scene.register("j2")

    assert (await scene.register("j3", alias="shared")).conflicts == ["alias"]
    assert (await scene.register("j2", alias="shared")).conflicts == ["alias"]
    assert (await scene.register("j2", alias="j1")).conflicts == ["alias"]
    assert (await scene.job("j2"))["alias"] is None
    assert await scene.store.read(lambda view: view.job("known", "j3")) is None


async def test_one_id_at_two_sources_is_two_jobs(scene: Scene) -> None:
    """Ids belong to their source."""
    await scene.register("j1", "known")

    assert (await scene.register("j1", "verify", modality="video")).status == 201
    assert (await scene.job("j1", "known"))["modality"] == "prompt"


async def test_the_link_of_a_task_names_its_other_id(scene: Scene) -> None:
    """Omnia: webhooks name a task by the last segment of its link, so a held one is matched at the registration."""
    hook = {"event": "insight_generated", "webhookId": "w", "timestamp": "t", "data": {"generationId": "generation_7"}}
    delivery = await scene.webhook(hook, "insights")
    assert (await scene.verdict(delivery))[0] == "held"
    link = "https://omnia.example.com/api/v1/insights/generation_7"
    await scene.register("task_7", "insights", modality="insight", poll_url=link)
    await scene.read()

    assert (await scene.verdict(delivery))[0] == "accepted"
    assert (await scene.job("generation_7", "insights"))["job_id"] == "task_7"


async def test_a_job_on_record_under_the_id_in_its_link_is_the_one_registered(scene: Scene) -> None:
    """Omnia: a webhook that was believed before the registration knows the link's id alone, and its job is no other."""
    link = "https://omnia.example.com/api/v1/insights/generation/generation_8"
    await scene.register("generation_8", "insights", modality="insight")

    assert (await scene.register("task_8", "insights", modality="insight", poll_url=link)).status == 200
    job = await scene.job("task_8", "insights")
    assert (job["job_id"], job["alias"], job["poll_url"]) == ("generation_8", "task_8", link)
    elsewhere = "https://omnia.example.com/api/v1/exports/generation_8"
    assert (await scene.register("task_9", "insights", modality="export", poll_url=elsewhere)).status == 201


@pytest.mark.parametrize("facts", [{}, {"alias": "early"}])
async def test_what_was_held_is_read_the_moment_the_job_is_registered(scene: Scene, facts: dict[str, str]) -> None:
    """By its id or by its alias; the outcome is told once."""
    job_id = "j1" if facts else "early"
    delivery = await scene.webhook(completed("early"))
    again = await scene.webhook(completed("early"))
    assert [(await scene.verdict(each))[0] for each in (delivery, again)] == ["held", "duplicate"]
    await scene.register(job_id, **facts)
    await scene.read()

    assert (await scene.verdict(delivery)) == ("accepted", None)
    assert [told["type"] for told in await scene.told(job_id)] == ["job.completed"]


async def test_what_others_told_gives_way_to_the_application(scene: Scene) -> None:
    """A job that a list or a delivery put on record takes the application's facts, and is vouched for from then on."""
    finding = Finding("j1", claim=Claim.RUNNING, modality="image", submitted_at=START - 100, unlisted=True)
    await scene.store.write(lambda tx: scene.judges["known"].adopt(tx, finding, 0.0, START))
    assert (await scene.job("j1"))["registered_by"] == "adopted"
    done = await scene.register("j1", **FACTS)
    job = await scene.job("j1")

    assert done.status == 200
    assert (job["registered_by"], job["modality"], job["submitted_at"]) == (
        "application", "video", clock.text(START - 20),
    )  # fmt: skip
    assert (await scene.register("j1", modality="image")).status == 409


async def test_nobody_to_ask_is_said_at_once(scene: Scene) -> None:
    """`last_error` tells why, before anything has gone wrong."""
    await scene.register("j1", "keyless")
    job = await scene.job("j1", "keyless")

    assert "no api_key" in job["last_error"]
    assert job["next_poll_at"] == job["deadline_at"]


async def test_an_inserted_job_gets_its_times(scene: Scene) -> None:
    """SQL is a way to register: defaults and the reconciler fill the rest, and what was held for it is read."""
    held = await scene.webhook(completed("j1"))
    await insert(scene, "j1", modality="video", registered_at=clock.text(START))
    assert await pick_up(scene) == 1
    await scene.read()
    job = await scene.job("j1")

    assert (await scene.verdict(held))[0] == "accepted"
    assert (job["state"], job["deadline_at"]) == ("completed", clock.text(START + 900))
    assert await pick_up(scene) == 0


@pytest.mark.parametrize("odd", ["yesterday", "2099-01-01T00:00:00.000Z", "", "1776090600", "0000-00-00", "+"])
@pytest.mark.parametrize("column", ["registered_at", "submitted_at"])
async def test_an_inserted_time_that_is_none_counts_as_now(scene: Scene, column: str, odd: str) -> None:
    """Anybody may write the table: a time that cannot be read, or lies ahead, neither ends a job nor keeps it open."""
    await insert(scene, "j1", modality="prompt", **{"registered_at": clock.text(START), column: odd})
    await pick_up(scene)

    assert (await scene.job("j1"))["deadline_at"] == clock.text(START + 300)


@pytest.mark.parametrize("written", ["2026-04-13 14:29:00", "2026-04-13T16:29:00+02:00", "2026-04-13T14:29:00Z"])
async def test_an_inserted_time_may_be_written_as_sql_writes_it(scene: Scene, written: str) -> None:
    """`datetime('now')`, an offset, no milliseconds: read, and written anew in our own form."""
    await insert(scene, "j1", modality="prompt", submitted_at=written, registered_at=clock.text(START))
    await pick_up(scene)
    job = await scene.job("j1")

    assert job["submitted_at"] == clock.text(START - 60)
    assert job["deadline_at"] == clock.text(START + 240)


async def test_an_inserted_end_is_left_as_it_is(scene: Scene) -> None:
    """History brought from elsewhere is not told again, and an odd time in it stops nobody."""
    await insert(scene, "old", state="completed", decided_by="webhook", settled_at="some day")
    await insert(scene, "new")
    assert await pick_up(scene) == 2
    assert await pick_up(scene) == 0

    assert (await scene.job("old"))["state"] == "completed"
    assert (await scene.job("old"))["messages"] == []
    assert (await scene.job("new"))["deadline_at"] is not None


async def test_a_job_of_a_source_that_is_not_configured_waits(scene: Scene) -> None:
    """It is on record, pending, and nobody's until the source is there."""
    await insert(scene, "j1", source="later", modality="prompt")

    assert await pick_up(scene) == 0
    assert (await scene.job("j1", "later"))["state"] == "pending"


async def test_a_release_vouches_for_the_delivery_and_its_job(scene: Scene) -> None:
    """An operator lets a delivery of an unknown job through: the job is on record, and the claim is acted on."""
    delivery = await scene.webhook(completed("j1", categories={}))
    assert (await scene.verdict(delivery))[0] == "held"
    await scene.store.write(lambda tx: registrar.release(tx, delivery.id, START, "me"))
    await scene.read()
    job = await scene.job("j1")

    assert (await scene.verdict(delivery)) == ("accepted", None)
    assert (job["state"], job["decided_by"], job["registered_by"]) == ("completed", "webhook", "operator")
    assert len(job["messages"]) == 1


async def test_a_released_repeat_is_let_through(scene: Scene) -> None:
    """A duplicate says nothing by itself; released, it is heard, and can still not tell an outcome twice."""
    await scene.register("j1")
    await scene.webhook(completed("j1"))
    repeat = await scene.webhook(completed("j1"))
    await scene.store.write(lambda tx: registrar.release(tx, repeat.id, START, "me"))
    await scene.read()

    assert (await scene.verdict(repeat)) == ("accepted", None)
    assert len(await scene.told("j1")) == 1


async def test_a_replay_judges_again_and_no_more(scene: Scene) -> None:
    """It trusts nobody more than before, and repeats no message."""
    await scene.register("j1")
    first, held = await scene.webhook(completed("j1")), await scene.webhook(completed("nobody"))
    repeat = await scene.webhook(completed("j1"))
    await scene.store.write(lambda tx: [registrar.replay(tx, each.id, START) for each in (first, held, repeat)])
    await scene.read()

    assert [(await scene.verdict(each))[0] for each in (first, held, repeat)] == ["accepted", "held", "duplicate"]
    assert len(await scene.told("j1")) == 1


async def test_what_was_never_there_is_not_released(scene: Scene) -> None:
    """None, for the API to answer 404."""
    unknown = scene.store.next_id()

    assert await scene.store.write(lambda tx: registrar.release(tx, unknown, START, "me")) is None
    assert await scene.store.write(lambda tx: registrar.replay(tx, unknown, START)) is None


async def test_making_due_respects_the_jobs_own_wait(scene: Scene) -> None:
    """An operator's wish comes after the provider's Retry-After."""
    await scene.register("j1")
    await scene.poll("j1", Claim.RUNNING, retry_after_s=100.0)

    def due(tx: Tx) -> Job:
        job = tx.jobs.find("known", "j1")
        assert job is not None
        return registrar.make_due(tx, job, scene.clock.now())

    assert (await scene.store.write(due)).next_poll_at == START + 100
