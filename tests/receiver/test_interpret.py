"""From a recorded delivery to a verdict: deduplication, trust, holding, and nobody held up by anybody."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver import jsontext, registrar
from receiver.interpret import BATCH, Interpreter
from receiver.providers.base import Finding
from receiver.records import Delivery
from receiver.states import Claim
from receiver.store.base import Tx
from tests.receiver.scene import TOKEN, Scene
from tests.support import START

ODD_IDS = [
    "../x",
    "a/b?c#d",
    "line\nbreak",
    "tab\tand nul-free",
    "%2e%2e",
    "x" * 5000,
    " padded ",
    "UPPER",
    "ключ",
    "💥",
]
OMNIA = {"provider": "omnia", "path_token": TOKEN, "base_url": "https://omnia.example.com/api/v1"}


@pytest.fixture
def scene(fast_folder: Path) -> Iterator[Scene]:
    extra = {
        "insights": {**OMNIA, "api_key": "key"},
        "bare": OMNIA,
        "nobody": {"provider": "omnifence"},
        "few": {"provider": "omnifence", "path_token": TOKEN, "max_held": 2},
    }
    made = Scene(fast_folder / "record.db", extra)
    yield made
    made.store.close()


def completed(job_id: Any = "j1", **more: Any) -> dict[str, Any]:
    return {"job_id": job_id, "status": "completed", **more}


def failed(job_id: str = "j1") -> dict[str, Any]:
    return {"job_id": job_id, "status": "failed"}


def insight(job_id: str = "gen_1", **data: Any) -> dict[str, Any]:
    return {"event": "insight_generated", "webhookId": "w", "timestamp": "t1", "data": {"generationId": job_id, **data}}


async def verdicts(scene: Scene, *deliveries: Delivery) -> list[str]:
    return [(await scene.verdict(delivery))[0] for delivery in deliveries]


async def messages(scene: Scene, **which: Any) -> list[dict[str, Any]]:
    rows, _ = await scene.store.read(lambda view: view.messages(**which))
    return rows


# -- the same sending --------------------------------------------------------------------------------------------


async def test_a_repeat_is_kept_and_does_nothing(scene: Scene) -> None:
    """`duplicate`, every time; one outcome, one message."""
    await scene.register("j1")
    sent = [await scene.webhook(completed()) for _ in range(3)]

    assert await verdicts(scene, *sent) == ["accepted", "duplicate", "duplicate"]
    assert len(await scene.told("j1")) == 1
    assert len((await scene.job("j1"))["deliveries"]) == 3


async def test_repeats_in_one_batch_are_repeats_too(scene: Scene) -> None:
    """The unique key decides, not what was read before."""
    await scene.register("j1")
    sent = [await scene.deliver(completed()) for _ in range(4)]
    await scene.read()

    assert await verdicts(scene, *sent) == ["accepted", "duplicate", "duplicate", "duplicate"]


async def test_a_repeat_that_differs_keeps_the_first_and_says_so(scene: Scene) -> None:
    """The first body stands; the difference is noted at the repeat (CONTRACT 10)."""
    await scene.register("j1")
    first = await scene.webhook(completed(categories={"nsfw": True}))
    second = await scene.webhook(completed(categories={"nsfw": False}))

    assert await scene.verdict(second) == ("duplicate", f"body differs from delivery {first.id}")
    assert (await scene.job("j1"))["result"]["categories"] == {"nsfw": True}


async def test_a_repeat_of_a_held_delivery_is_a_duplicate(scene: Scene) -> None:
    """And the held one is matched all the same."""
    sent = [await scene.webhook(completed()) for _ in range(2)]
    await scene.register("j1")
    await scene.read()

    assert await verdicts(scene, *sent) == ["accepted", "duplicate"]


async def test_a_repeat_of_a_quarantined_delivery_is_judged_anew(scene: Scene) -> None:
    """A refused sending claims no key: when the job is known by then, the repeat is acted on."""
    held = [await scene.webhook(completed(f"other{n}"), "few") for n in range(2)]
    over = await scene.webhook(completed(), "few")
    assert await scene.verdict(over) == ("quarantined", "too_many_held")
    await scene.register("j1", "few")
    repeat = await scene.webhook(completed(), "few")

    assert await verdicts(scene, *held, repeat) == ["held", "held", "accepted"]


async def test_another_status_is_another_sending(scene: Scene) -> None:
    """OmniFence: job id and status make the key, in whatever case the word is written."""
    await scene.register("j1")
    sent = [
        await scene.webhook({"job_id": "j1", "status": word})
        for word in ("processing", "completed", "COMPLETED", "Processing", "failed")
    ]

    assert await verdicts(scene, *sent) == ["accepted", "accepted", "duplicate", "duplicate", "accepted"]
    assert (await scene.job("j1"))["history"][-1]["note"].startswith("conflict")


async def test_keys_of_two_sources_never_meet(scene: Scene) -> None:
    """The same words from another sender are another sending."""
    await scene.register("j1", "known")
    await scene.register("j1", "keyless")
    sent = [await scene.webhook(completed(), "known"), await scene.webhook(completed(), "keyless")]

    assert await verdicts(scene, *sent) == ["accepted", "accepted"]


async def test_an_update_is_a_repeat_for_an_hour_only(scene: Scene) -> None:
    """OmniAI lead.updated: equal updates are legitimate later, and each is told then."""
    update = {"event": "lead.updated", "data": {"leadId": "L1", "name": "x"}}
    sent = [await scene.webhook(update, "trusted"), await scene.webhook(update, "trusted")]
    scene.clock.advance(3700)
    sent.append(await scene.webhook(update, "trusted"))

    assert await verdicts(scene, *sent) == ["accepted", "duplicate", "accepted"]
    assert [row["type"] for row in await messages(scene)] == ["event.lead.updated"] * 2


@pytest.mark.parametrize("job_id", ODD_IDS)
async def test_ids_are_compared_as_they_are_written(scene: Scene, job_id: str) -> None:
    """No trimming, folding or normalising, on the way in or when it is looked for."""
    await scene.register(job_id)
    await scene.register(job_id.strip().lower() + "-not")
    delivery = await scene.webhook(completed(job_id))
    near_miss = await scene.webhook(completed(job_id + " "))

    assert await verdicts(scene, delivery, near_miss) == ["accepted", "held"]
    assert [told["data"]["job_id"] for told in await scene.told(job_id)] == [job_id]


async def test_a_number_is_its_text(scene: Scene) -> None:
    """1.0, 1 and "1" are three ids (CONTRACT 4); a JSON number is looked for as it was written."""
    for job_id in ("1", "1.0"):
        await scene.register(job_id)
    sent = [await scene.webhook(b'{"job_id": 1.0, "status": "completed"}'), await scene.webhook(completed(1))]

    assert await verdicts(scene, *sent) == ["accepted", "accepted"]
    assert len(await scene.told("1.0")) == len(await scene.told("1")) == 1


# -- trust -------------------------------------------------------------------------------------------------------


async def test_known_acts_on_a_job_on_record(scene: Scene) -> None:
    """The URL carried the token and the application registered the job: the webhook decides."""
    await scene.register("j1")
    await scene.webhook(completed())

    job = await scene.job("j1")
    assert (job["state"], job["decided_by"]) == ("completed", "webhook")
    assert scene.asked == []


async def test_known_holds_what_is_not_on_record(scene: Scene) -> None:
    """Nothing is told, nothing is put on record."""
    delivery = await scene.webhook(completed())

    assert await scene.verdict(delivery) == ("held", None)
    assert await scene.store.read(lambda view: view.job("known", "j1")) is None


async def test_verify_asks_and_lets_the_answer_decide(scene: Scene) -> None:
    """An untrusted webhook only makes the job due now; whoever asks is woken after the commit, on the loop's thread."""
    woken: list[tuple[threading.Thread, list[dict[str, Any]]]] = []

    def wake(source: str, job_id: str) -> None:
        found = scene.store.read_sync(lambda view: view.job(source, job_id))
        assert found is not None
        woken.append((threading.current_thread(), [found]))

    await scene.register("j1", "verify")
    scene.interpreter = Interpreter(scene.store, scene.settings.sources, scene.ledger, scene.clock, wake)
    delivery = await scene.webhook(failed(), "verify")
    job = await scene.job("j1", "verify")

    assert await scene.verdict(delivery) == ("accepted", None)
    assert (job["state"], job["next_poll_at"]) == ("pending", job["registered_at"])
    assert "webhook says failed" in job["history"][-1]["note"]
    assert [(thread, rows[0]["next_poll_at"]) for thread, rows in woken] == [
        (threading.main_thread(), job["registered_at"])
    ]
    await scene.poll("j1", Claim.COMPLETED, "verify", status="completed")
    assert (await scene.job("j1", "verify"))["decided_by"] == "poll"


async def test_verify_is_not_troubled_by_news_of_progress(scene: Scene) -> None:
    """Only a claim of an end is worth a question; a stranger's "processing" costs no budget."""
    await scene.register("j1", "verify")
    before = await scene.job("j1", "verify")
    delivery = await scene.webhook({"job_id": "j1", "status": "processing"}, "verify")
    job = await scene.job("j1", "verify")

    assert await scene.verdict(delivery) == ("accepted", None)
    assert (job["next_poll_at"], job["provider_status"]) == (before["next_poll_at"], None)
    assert scene.asked == []


async def test_verify_without_a_key_stays_held(scene: Scene) -> None:
    """Trust that is impossible by default: nobody can be asked and the sender proves nothing, so it waits."""
    await scene.register("j1", "nobody")
    delivery = await scene.webhook(completed(), "nobody")

    assert await scene.verdict(delivery) == ("held", None)
    assert (await scene.job("j1", "nobody"))["state"] == "pending"


async def test_payload_puts_a_job_on_record(scene: Scene) -> None:
    """A proven sender is believed about a job nobody registered, as it tells of it."""
    log = {"id": "A1", "type": "MESSAGE", "status": "COMPLETED", "leadId": "L9"}
    delivery = await scene.webhook({"event": "action_log.completed", "actionLog": log}, "trusted")
    job = await scene.job("A1", "trusted")

    assert await scene.verdict(delivery) == ("accepted", None)
    assert (job["state"], job["decided_by"], job["registered_by"]) == ("completed", "webhook", "delivery")
    assert (job["modality"], job["refs"]) == ("message", {"lead_id": "L9"})
    assert len(job["messages"]) == 1


async def test_an_adopted_job_is_settled_by_the_providers_answer(scene: Scene) -> None:
    """A job found in a list is nobody's word: a held or a fresh webhook makes it due, the answer decides."""
    held = await scene.webhook(failed())
    found = Finding("j1", claim=Claim.RUNNING, submitted_at=START - 100, unlisted=True)
    await scene.store.write(lambda tx: scene.judges["known"].adopt(tx, found, 0.0, START))
    await scene.read()

    assert await verdicts(scene, held) == ["accepted"]
    assert (await scene.job("j1"))["state"] == "pending"
    assert scene.asked == [("known", "j1")]
    await scene.poll("j1", Claim.COMPLETED, status="completed")
    late = await scene.webhook(completed())
    job = await scene.job("j1")
    assert (job["state"], job["decided_by"], len(job["messages"])) == ("completed", "poll", 1)
    assert await verdicts(scene, late) == ["accepted"]


async def test_a_job_asked_for_is_not_vouched_for_until_it_is_registered(scene: Scene) -> None:
    """The application's registration is what makes the sender's word count."""
    found = Finding("j1", claim=Claim.RUNNING, submitted_at=START - 100, unlisted=True)
    await scene.store.write(lambda tx: scene.judges["known"].adopt(tx, found, 0.0, START))
    await scene.register("j1", modality=None)
    await scene.webhook(completed())

    assert (await scene.job("j1"))["decided_by"] == "webhook"


async def test_late_truth_by_webhook_follows_the_stale_message(scene: Scene) -> None:
    """Both go out in order, the second supersedes."""
    await scene.register("j1")
    scene.clock.advance(301)
    await scene.poll("j1", Claim.RUNNING, status="processing")
    await scene.webhook(completed())

    told = await scene.told("j1")
    assert [(each["type"], each["data"]["reason"]) for each in told] == [
        ("job.failed", "stale"),
        ("job.completed", None),
    ]
    assert told[1]["data"]["supersedes"] == told[0]["id"]


# -- an outcome without its result ---------------------------------------------------------------------------------


async def test_a_bare_outcome_is_asked_for(scene: Scene) -> None:
    """Omnia without results, with a key: the webhook makes it due, the poll's answer is what is told."""
    await scene.register("gen_1", "insights", modality="insight", poll_url="https://omnia.example.com/api/v1/i/gen_1")
    delivery = await scene.webhook(insight(), "insights")
    job = await scene.job("gen_1", "insights")
    assert await scene.verdict(delivery) == ("accepted", None)
    assert (job["state"], job["messages"], scene.asked) == ("pending", [], [("insights", "gen_1")])
    await scene.poll("gen_1", Claim.COMPLETED, "insights", status="completed", result=[{"answer": 42}])

    (told,) = await scene.told("gen_1", "insights")
    assert (told["data"]["result"], told["data"]["decided_by"]) == ([{"answer": 42}], "poll")


async def test_a_bare_outcome_without_a_key_is_told_as_it_is(scene: Scene) -> None:
    """Nobody can be asked: the outcome itself is the news."""
    await scene.register("gen_1", "bare", modality="insight")
    await scene.webhook(insight(), "bare")

    (told,) = await scene.told("gen_1", "bare")
    assert (told["type"], told["data"]["decided_by"]) == ("job.completed", "webhook")


async def test_an_outcome_with_its_result_needs_no_question(scene: Scene) -> None:
    """`data.results` is the result part, and what is told."""
    await scene.register("gen_1", "insights", modality="insight", poll_url="https://omnia.example.com/api/v1/i/gen_1")
    await scene.webhook(insight(status="completed", results=[1, 2]), "insights")

    (told,) = await scene.told("gen_1", "insights")
    assert (told["data"]["result"], scene.asked) == ([1, 2], [])


# -- the other id --------------------------------------------------------------------------------------------------


async def test_an_id_learned_from_a_delivery_finds_the_job_ever_after(scene: Scene) -> None:
    """A webhook that names both ids teaches the one that was not told."""
    await scene.register("task_1", "insights", modality="insight")
    both = {"event": "insight_generated", "webhookId": "w", "timestamp": "t", "data": {
        "generationId": "gen_1", "taskId": "task_1", "results": [1],
    }}  # fmt: skip
    await scene.webhook(both, "insights")

    assert (await scene.job("gen_1", "insights"))["job_id"] == "task_1"
    assert len(await scene.told("gen_1", "insights")) == 1


async def test_an_id_learned_from_an_answer_matches_what_was_held_under_it(scene: Scene) -> None:
    """The provider's answer names the other id: the delivery that waited under it is read."""
    await scene.register("task_1", "insights", modality="insight")
    held = await scene.webhook(insight("gen_1", results=[1]), "insights")
    assert await verdicts(scene, held) == ["held"]
    await scene.poll("task_1", Claim.COMPLETED, "insights", status="completed", result=[1], alias="gen_1")
    await scene.read()

    assert await verdicts(scene, held) == ["accepted"]
    assert len(await scene.told("task_1", "insights")) == 1


# -- events that belong to no job ----------------------------------------------------------------------------------


async def test_an_event_without_a_job_becomes_a_message_as_it_is(scene: Scene) -> None:
    """`event.<name>` with the document in `data.event`, once."""
    document = {"event": "document.received", "document": {"id": "D1", "name": "ünï"}}
    sent = [await scene.webhook(document, "trusted") for _ in range(2)]
    (row,) = await messages(scene)

    assert await verdicts(scene, *sent) == ["accepted", "duplicate"]
    assert (row["type"], row["job_id"]) == ("event.document.received", None)
    assert row["payload"]["data"]["event"] == document
    assert row["payload"]["data"]["source"] == "trusted"


async def test_an_unknown_event_is_told_too(scene: Scene) -> None:
    """A name nobody has heard of is not a reason to keep quiet."""
    await scene.webhook({"event": "moon.landed", "who": "x"}, "trusted")

    assert [row["type"] for row in await messages(scene)] == ["event.moon.landed"]


async def test_a_test_delivery_is_accepted_and_not_passed_on(scene: Scene) -> None:
    """`webhook.test` is recorded, and that is all."""
    delivery = await scene.webhook(
        {"event": "webhook.test", "webhookId": "w", "timestamp": "t", "data": {}}, "insights"
    )

    assert await scene.verdict(delivery) == ("accepted", None)
    assert await messages(scene) == []


# -- what cannot be acted on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "document", "reason"),
    [
        ("known", {"status": "completed"}, "missing_job_id"),
        ("known", {"job_id": None, "status": "completed"}, "missing_job_id"),
        ("known", {"job_id": {"$ne": 1}, "status": "completed"}, "missing_job_id"),
        ("known", {"job_id": "j1"}, "missing_status"),
        ("trusted", {"data": 1}, "missing_event"),
        ("trusted", {"event": "action_log.completed"}, "missing_job_id"),
        ("removed", completed(), "source_not_configured"),
        ("known", b"[1]", "not an object"),
        ("known", b'{"job_id": "j1"', "malformed"),
    ],
)
async def test_what_cannot_be_understood_is_quarantined_with_its_reason(
    scene: Scene, source: str, document: dict[str, Any] | bytes, reason: str
) -> None:
    """Kept, not acted on, and the reason says what is missing."""
    delivery = await scene.webhook(document, source)
    verdict, why = await scene.verdict(delivery)

    assert verdict == "quarantined"
    assert why == reason or (reason.startswith("missing") and (why or "").startswith("missing"))


async def test_a_flipped_bit_is_noticed(scene: Scene) -> None:
    """Every row has a digest of its body: what was damaged on disk is not acted on."""
    await scene.register("j1")
    delivery = await scene.deliver(completed())

    def flip(tx: Tx) -> None:
        tx.deliveries._c.execute(  # type: ignore[attr-defined]  # what a disk may do
            "UPDATE deliveries SET body = CAST(replace(CAST(body AS TEXT), 'completed', 'comqleted') AS BLOB)"
        )

    await scene.store.write(flip)
    await scene.read()

    assert await scene.verdict(delivery) == ("quarantined", "damaged")
    assert await scene.told("j1") == []


async def test_a_body_that_was_pruned_cannot_be_replayed(scene: Scene) -> None:
    """The row may outlive its body; it says so instead of guessing."""
    await scene.register("j1")
    delivery = await scene.webhook(completed())

    def again(tx: Tx) -> None:
        tx.deliveries._c.execute("UPDATE deliveries SET body = NULL")  # type: ignore[attr-defined]  # as retention may
        registrar.replay(tx, delivery.id, START)

    await scene.store.write(again)
    await scene.read()

    assert await scene.verdict(delivery) == ("quarantined", "body_pruned")


async def test_damaged_columns_hold_nobody_up(scene: Scene) -> None:
    """A header list or a time that cannot be read any more is nothing the others wait for."""
    await scene.register("j1")
    await scene.deliver(completed("x"))

    def damage(tx: Tx) -> None:
        tx.deliveries._c.execute("UPDATE deliveries SET headers = '[[', received_at = 'x'")  # type: ignore[attr-defined]  # what a disk may do

    await scene.store.write(damage)
    after = await scene.webhook(completed())

    assert await verdicts(scene, after) == ["accepted"]


async def test_an_adapter_that_fails_holds_nobody_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider file is anybody's: what it cannot read is quarantined by itself, and a repair may be replayed."""
    await scene.register("j1")
    facts = scene.settings.sources["known"].facts
    sound = facts.read

    def poisoned(request: Any, document: dict[str, Any], source: Any) -> Any:
        if document.get("poison"):
            raise KeyError("an adapter that does not keep its promise")
        return sound(request, document, source)

    monkeypatch.setattr(type(facts), "read", staticmethod(poisoned))
    bad, good = await scene.deliver({"poison": 1}), await scene.deliver(completed())
    await scene.read()

    assert await scene.verdict(bad) == ("quarantined", "internal_error")
    assert await scene.verdict(good) == ("accepted", None)


async def test_a_delivery_that_spoils_its_batch_is_quarantined_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deciding fails for one of many: the others are decided, and it keeps neither a key nor half a job."""
    await scene.register("j1")
    await scene.register("j2")
    sound = scene.ledger.apply

    def spoiled(tx: Tx, seen: Any, now: float, job: Any = None) -> Any:
        applied = sound(tx, seen, now, job)
        if seen.job_id == "j1":
            raise ValueError("after half of the work")
        return applied

    with monkeypatch.context() as patch:
        patch.setattr(scene.ledger, "apply", spoiled)
        sent = [await scene.deliver(completed(job_id)) for job_id in ("j1", "j2")]
        await scene.read()
    repeat = await scene.webhook(completed())

    assert await scene.verdict(sent[0]) == ("quarantined", "internal_error")
    assert await verdicts(scene, sent[1], repeat) == ["accepted", "accepted"]
    assert len(await scene.told("j1")) == len(await scene.told("j2")) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE jobs SET provider_status = CAST(x'61ff62' AS TEXT) WHERE job_id = 'j1'",
        "UPDATE jobs SET state = 'pendinf' WHERE job_id = 'j1'",
        "UPDATE deliveries SET remote = CAST(x'61ff62' AS TEXT) WHERE id = (SELECT min(id) FROM deliveries)",
        "UPDATE deliveries SET headers = CAST(x'5bff5d' AS TEXT) WHERE id = (SELECT min(id) FROM deliveries)",
    ],
)
async def test_text_that_a_flipped_bit_spoiled_holds_up_nothing(scene: Scene, damage: str) -> None:
    """A row whose text is no longer UTF-8 costs at most its own delivery's verdict; the others are read and told."""
    await scene.register_all([f"j{n}" for n in range(1, 5)])
    sent = [await scene.deliver(completed(f"j{n}")) for n in range(1, 5)]
    scene.change_by_hand(damage)
    await scene.read()

    assert (await verdicts(scene, *sent))[1:] == ["accepted"] * 3
    assert (await verdicts(scene, sent[0]))[0] in ("accepted", "quarantined", "held")
    assert [len(await scene.told(f"j{n}")) for n in range(2, 5)] == [1, 1, 1]


async def test_held_deliveries_are_bounded(scene: Scene) -> None:
    """Made-up ids cannot fill the disk with expectations: past `max_held` they are quarantined."""
    sent = [await scene.webhook(completed(f"made-up-{n}"), "few") for n in range(4)]

    assert await verdicts(scene, *sent) == ["held", "held", "quarantined", "quarantined"]
    await scene.register("made-up-0", "few")
    await scene.read()
    assert await verdicts(scene, await scene.webhook(completed("made-up-9"), "few")) == ["held"]


# -- stopping anywhere ---------------------------------------------------------------------------------------------


async def test_a_crash_between_recording_and_reading_loses_nothing(scene: Scene) -> None:
    """Unread deliveries are read by the next life, in order."""
    await scene.register("j1")
    sent = [await scene.deliver(completed()), await scene.deliver(failed())]
    scene.restart()
    await scene.read()

    assert await verdicts(scene, *sent) == ["accepted", "accepted"]
    assert (await scene.job("j1"))["state"] == "completed"


async def test_two_readers_do_no_harm(scene: Scene) -> None:
    """Both read the same batch; each delivery is decided once and each outcome told once."""
    half = BATCH // 2
    await scene.register_all([f"j{n}" for n in range(half)])
    await scene.deliver_all([completed(f"j{n}") for n in range(half)] * 2)
    event = {"event": "document.received", "document": {"id": "D1"}}
    await scene.deliver(event, "trusted")
    second = Interpreter(scene.store, scene.settings.sources, scene.ledger, scene.clock)
    batch = await scene.store.read(lambda view: view.next_unread(BATCH, 1 << 20))
    assert len(batch) == BATCH
    stale = await scene.store.read(lambda view: scene.interpreter._understand(view, BATCH))
    await scene.read()
    for each in stale:  # the slower one comes with what it had read before
        await second._decide_alone(each, scene.clock.now())

    tallies = await scene.store.read(lambda view: view.tallies())
    assert tallies["deliveries", "known", "accepted"] == tallies["deliveries", "known", "duplicate"] == half
    assert tallies["outbox", "known", "pending"] == half
    assert tallies["outbox", "trusted", "pending"] == 1


async def test_a_batch_is_bounded_in_bytes(scene: Scene) -> None:
    """A few large bodies do not become one large transaction; one larger than the bound is read alone."""
    for n in range(3):
        await scene.deliver(completed(f"j{n}", padding="x" * 600))

    sizes = await scene.store.read(lambda view: [len(view.next_unread(10, most)) for most in (10, 1000, 1300)])
    assert sizes == [1, 1, 2]


async def test_a_large_backlog_is_read_in_order(scene: Scene) -> None:
    """More than one batch: the first of two contradicting webhooks of equal rank stands, however far apart."""
    await scene.register("j1")
    await scene.deliver(failed())
    await scene.deliver_all([completed(f"made-up-{n}") for n in range(BATCH)])
    await scene.deliver(completed())
    await scene.read()

    job = await scene.job("j1")
    assert (job["state"], job["reason"]) == ("failed", "provider")
    assert job["history"][-1]["note"].startswith("conflict")
    assert jsontext.dump(job["result"]) == jsontext.dump(failed())
