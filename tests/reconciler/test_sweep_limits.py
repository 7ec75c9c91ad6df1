"""Asking as CONTRACT 5 has it: when nobody is asked, and what proves nothing."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from receiver import clock as clocks
from receiver.providers.base import Reply
from receiver.records import SourceState
from reconciler.outbound import Unanswered
from tests.reconciler.fence import Answer, Asked, Field, in_seconds, reply
from tests.reconciler.test_sweep import completed, register, source_state, verdicts
from tests.support import START

Make = Callable[..., Field]

ODD_IDS = ["../x", "..", ".", "a/b?c#d", "line\nbreak", "x" * 5000, "%2e%2e%2f", " ", "ключ", 'q"uo\\te', "a;b=c&d"]
DOWN = Unanswered("connection refused")


# -- when not ------------------------------------------------------------------------------------------------------


async def test_the_budget_is_kept_whatever_is_due(make: Make) -> None:
    """A burst of 10, then one every five seconds, listings included; every job is asked about in the end."""
    field = make(polls_per_min=12)
    await register(field, *(f"j{n}" for n in range(30)), status="completed")
    await field.ticks(200)
    times = [asked.at for asked in field.fence.asked]

    assert {each for each in field.fence.ids if each} == {f"j{n}" for n in range(30)}
    for index, begin in enumerate(times):
        for count, end in enumerate(times[index:], 1):
            assert count <= 10 + (end - begin) * 12 / 60 + 1e-6


async def test_a_restart_brings_no_fresh_budget(make: Make) -> None:
    """Ten lives in a row ask as much as one."""
    field = make(polls_per_min=12)
    await register(field, *(f"j{n}" for n in range(2)))
    for _ in range(10):
        field.restart()
        await field.passes()

    elapsed = field.clock.now() - START
    assert len(field.fence.asked) <= 10 + elapsed * 12 / 60 + 1
    assert field.waited_s > 0


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [("90", 90), ("date", 91), ("99999999", 300), ("0", 0), ("soon", 0), ("-5", 0), (None, 0)],
)
async def test_nobody_is_asked_before_retry_after(field: Field, header: str | None, wait_s: float) -> None:
    """Seconds or a date, capped at `retry_after_max_s`; nonsense or none means our own backing off."""
    await register(field, "a", "b")

    def limited(asked: Asked) -> Any:
        value = in_seconds(90, asked.at) if header == "date" else header
        return reply({}, 429, **({"retry_after": value} if value else {}))

    field.fence.answers = limited
    await field.passes()
    first = field.fence.asked[0].at
    assert len(field.fence.asked) == 1
    field.fence.answers = lambda asked: None
    await field.ticks(320)

    again = field.fence.asked[1].at - first
    assert again >= (wait_s - 1 if header == "date" else wait_s)
    assert again <= max(wait_s, 60) + 2
    assert (await source_state(field)).fail_streak == 0


async def test_a_retry_after_survives_a_restart(field: Field) -> None:
    """It is in the source's row."""
    await register(field, "a")
    field.fence.answers = lambda asked: reply({}, 429, retry_after="120")
    await field.passes()
    field.restart()
    await field.ticks(100)
    assert len(field.fence.asked) == 1
    await field.ticks(30)

    assert len(field.fence.asked) >= 2


async def test_a_running_answer_may_ask_for_patience(field: Field) -> None:
    """Retry-After of one job holds for that job alone, also past its deadline, also at the start of the next life."""
    await register(field, "a", "b")
    await field.passes()
    field.fence.answers = lambda asked: reply(field.fence.jobs["a"], retry_after="250") if asked.job_id == "a" else None
    await field.ticks(61)
    told = field.fence.asked[field.fence.ids.index("a", 2)].at
    asked_before = len(field.fence.asked)
    field.restart()
    await field.ticks(240)
    later = field.fence.asked[asked_before:]

    assert "b" in {asked.job_id for asked in later}
    assert [asked for asked in later if asked.job_id == "a" and asked.at < told + 250] == []


async def test_trouble_met_by_an_urgent_question_stops_the_others(field: Field) -> None:
    """A Retry-After that is met between two questions of a pass rules over the rest of that pass."""
    await register(field, "a", "b", status="processing")

    def answers(asked: Asked) -> Any:
        if len(field.fence.asked) == 1:
            field.sweep.urge("asked", "b")
            return None
        return reply({}, 429, retry_after="100")

    field.fence.answers = answers
    await field.passes()

    assert len(field.fence.asked) == 2


async def test_trouble_met_for_a_job_stops_the_strangers_too(field: Field) -> None:
    """No held delivery is asked about, and no list read, when the provider has just asked to be left alone."""
    await field.passes()
    await register(field, "a")
    await field.webhook(completed("stranger"), "asked")
    field.clock.advance(901)
    field.fence.answers = lambda asked: reply({}, 503, retry_after="100")
    await field.passes()

    assert len(field.fence.asked) == 1


@pytest.mark.parametrize("answer", [DOWN, reply({}, 500), reply({}, 503), reply(b"<html>", 502)])
async def test_a_provider_in_trouble_is_left_alone(field: Field, answer: Answer) -> None:
    """Three failures in a row open the circuit; it is in the row, survives a restart, and proves nothing."""
    await register(field, "a")
    field.fence.answers = lambda asked: answer
    await field.passes()
    await field.ticks(20)
    opened = len(field.fence.asked)
    state = await source_state(field)
    assert (opened, state.fail_streak) == (3, 3)
    assert state.open_until is not None
    field.restart()
    await field.ticks(10)
    assert len(field.fence.asked) == opened
    field.fence.answers = lambda asked: None
    await field.ticks(40)

    state = await source_state(field)
    assert (state.fail_streak, state.open_until, state.last_error) == (0, None, None)
    assert await field.state("a") == ("pending", None)
    assert len(field.fence.asked) > opened


async def test_a_circuit_that_keeps_failing_stays_open_longer(field: Field) -> None:
    """Up to ten times `circuit_open_s`; each time one question looks whether it is over."""
    await register(field, "a", modality="video")
    field.fence.answers = lambda asked: DOWN
    await field.ticks(3000, every_s=5)
    times = [asked.at for asked in field.fence.asked]
    waits = [later - before for before, later in itertools.pairwise(times)]

    assert waits[-1] >= 0.8 * 10 * 30
    assert waits[-1] <= 10 * 30 + 1.2 * 300
    assert len(times) < 20


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_key_that_is_not_taken_stops_the_asking(field: Field, status: int) -> None:
    """At once: asking on with a bad key helps nobody, and proves nothing about any job."""
    await register(field, "a", "b", "c")
    field.fence.answers = lambda asked: reply({"error": "UNAUTHORIZED"}, status)
    await field.passes()
    await field.ticks(20)

    assert len(field.fence.asked) == 1
    assert (await source_state(field)).last_outcome == "auth_blocked"
    assert [await field.state(each) for each in ("a", "b", "c")] == [("pending", None)] * 3


async def test_a_paused_source_is_not_asked(field: Field) -> None:
    """Asking stops, everything else goes on; resumed, it goes on where it was."""
    await register(field, "a", status="completed")
    await field.store.write(lambda tx: tx.sources.put(SourceState("asked", paused=True)))
    report = await field.passes()
    assert (report.blocked, field.fence.asked) == ("paused", [])
    await field.webhook({"job_id": "a", "status": "failed"}, "asked")
    assert await field.state("a") == ("failed", "provider")
    await register(field, "b", status="completed")
    await field.store.write(lambda tx: tx.sources.put(SourceState("asked")))
    await field.ticks(61)

    assert await field.state("b") == ("completed", None)


async def test_a_pause_takes_hold_in_the_middle_of_a_pass(make: Make) -> None:
    """A long pass that waits for its budget hears of it before its next question."""
    field = make(polls_per_min=12)
    await register(field, *(f"j{n}" for n in range(40)), status="completed")

    def pause_at_five(asked: Asked) -> None:
        if len(field.fence.asked) == 5:
            field.store.write_sync(lambda tx: tx.sources.put(SourceState("asked", paused=True)))

    field.fence.answers = pause_at_five
    report = await field.passes()

    assert len(field.fence.asked) == 5
    assert report.questions == 5


async def test_a_pass_does_not_last_for_ever(make: Make) -> None:
    """What has become due in the meantime gets its turn: after two minutes the pass ends and the next begins."""
    field = make(polls_per_min=12)
    await register(field, *(f"j{n}" for n in range(100)), status="completed")
    began = field.clock.now()
    await field.passes()

    assert 115 <= field.clock.now() - began <= 140
    assert len([each for each in field.fence.ids if each]) < 50


async def test_one_jobs_trouble_is_not_the_others(field: Field) -> None:
    """A question that is refused, redirected or about a foreign place is put off; the others are asked."""
    await register(field, "a", "b", status="completed")
    field.fence.answers = lambda asked: (
        reply(b"", 302, location="https://evil.example.com/") if asked.job_id == "a" else None
    )
    await field.passes()

    assert [await field.state(each) for each in ("a", "b")] == [("pending", None), ("completed", None)]
    job = await field.job("a", "asked")
    assert "redirect" in job["last_error"]
    assert (await source_state(field)).fail_streak == 0


async def test_one_leads_trouble_is_not_the_others(field: Field) -> None:
    """A listing that speaks of one lead alone (OmniAI) is put off alone: the first in the queue starves nobody."""
    for lead in ("bad", "good"):
        await field.register(f"job-{lead}", "trusted", modality="document", refs={"lead_id": lead})

    def answers(asked: Asked) -> Any:
        if "/bad/" in asked.path:
            return reply({"error": "not a lead"}, 400)
        return reply([{"id": "job-good", "metadata": {"extractionStatus": "completed"}}])

    field.fence.answers = answers
    await field.passes("trusted")

    assert await field.state("job-good", "trusted") == ("completed", None)
    assert await field.state("job-bad", "trusted") == ("pending", None)
    assert "400" in (await field.job("job-bad", "trusted"))["last_error"]


# -- what answers prove --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html><body>Sign in</body></html>"),
        reply(b""),
        reply([1, 2]),
        reply({"job_id": "somebody-else", "status": "completed"}),
        reply({"job_id": "a"}),
        reply({"job_id": "a", "status": {"is": "completed"}}),
        reply({"job_id": "a", "status": "done-ish"}),
        reply({"error": "INVALID_REQUEST"}, 400),
    ],
)
async def test_an_answer_that_says_nothing_decides_nothing(field: Field, answer: Callable[[float], Reply]) -> None:
    """HTML, another job's answer, unknown words: asked again, widening; an unknown word is a running job."""
    await register(field, "a")
    field.fence.answers = lambda asked: answer
    await field.passes()
    await field.ticks(66, every_s=3.0)

    assert await field.state("a") == ("pending", None)
    assert len(field.fence.asked) >= 2
    assert (await field.job("a", "asked"))["messages"] == []


async def test_a_deadline_ends_only_on_an_answer(field: Field) -> None:
    """Past its deadline a job is asked about once more; while nobody answers it is overdue, not stale."""
    await register(field, "a")
    field.fence.answers = lambda asked: DOWN
    await field.ticks(1200, every_s=5)
    assert await field.state("a") == ("pending", None)
    assert (await field.store.read(lambda view: view.overdue(field.clock.now()))) == {"asked": 1}
    field.fence.answers = lambda asked: None
    await field.ticks(400, every_s=5)

    assert await field.state("a") == ("failed", "stale")
    (told,) = await field.told("a", "asked")
    assert (told["data"]["reason"], told["data"]["decided_by"]) == ("stale", "deadline")
    assert "processing" in (await field.job("a", "asked"))["last_error"]


async def test_a_job_whose_provider_never_answers_is_unreachable(make: Make) -> None:
    """After `give_up_after_s` from its start; and a late answer still corrects it."""
    field = make(give_up_after_s=1000)
    await register(field, "a", status="completed")
    field.fence.answers = lambda asked: DOWN
    await field.ticks(995, every_s=5)
    assert await field.state("a") == ("pending", None)
    await field.ticks(10, every_s=5)
    assert await field.state("a") == ("failed", "unreachable")
    assert "connection refused" in (await field.job("a", "asked"))["last_error"]
    field.fence.answers = lambda asked: None
    await field.ticks(100_000, every_s=900)

    assert await field.state("a") == ("completed", None)
    told = await field.told("a", "asked")
    assert [each["type"] for each in told] == ["job.failed", "job.completed"]
    assert told[1]["data"]["supersedes"] == told[0]["id"]


async def test_giving_up_needs_no_key_to_the_circuit(make: Make) -> None:
    """An open circuit, or a pause, keeps no job open for ever."""
    field = make(give_up_after_s=500)
    await register(field, "a")
    await field.store.write(lambda tx: tx.sources.put(SourceState("asked", paused=True)))
    await field.ticks(505, every_s=5)

    assert await field.state("a") == ("failed", "unreachable")
    assert field.fence.asked == []


async def test_a_missing_job_is_not_yet_there_at_first(field: Field) -> None:
    """404 in the first minute counts for nothing; then three over five minutes end it."""
    await register(field, "a", status=None, modality="video")
    await field.passes()
    await field.ticks(59, every_s=1)
    early = len(field.fence.asked)
    assert early >= 2
    assert (await field.job("a", "asked"))["misses"] == 0
    await field.ticks(302, every_s=1)
    assert await field.state("a") == ("pending", None)
    await field.ticks(200, every_s=1)

    assert await field.state("a") == ("failed", "not_found")
    missed = [asked.at for asked in field.fence.asked[early:] if asked.at - START >= 60]
    job = await field.job("a", "asked")
    settled = clocks.instant(job["settled_at"])
    assert settled - missed[0] >= 300
    assert len([at for at in missed if at <= settled]) >= 3
    assert job["decided_by"] == "poll"


async def test_misses_must_be_in_a_row(make: Make) -> None:
    """One answer that knows the job begins the count anew."""
    field = make({"poll_max_s": 50})
    await register(field, "a", status=None, modality="video")
    await field.ticks(340, every_s=2)
    assert (await field.job("a", "asked"))["misses"] >= 3
    field.fence.put("a")
    await field.ticks(62, every_s=2)
    del field.fence.jobs["a"]
    await field.ticks(240, every_s=2)

    assert await field.state("a") == ("pending", None)
    assert (await field.job("a", "asked"))["misses"] >= 3


async def test_late_truth_by_poll_supersedes(field: Field) -> None:
    """A stale job is looked at a few more times over a day, widening, and no more."""
    await register(field, "a")
    await field.ticks(301)
    assert await field.state("a") == ("failed", "stale")
    before = len(field.fence.asked)
    await field.ticks(150_000, every_s=400)
    late = [asked.at - START for asked in field.fence.asked[before:]]
    assert len(late) == 3
    assert late[0] == pytest.approx(650, abs=410)
    assert late[2] >= 86_400
    field.fence.put("a", "completed")
    await field.ticks(100_000, every_s=1000)
    assert await field.state("a") == ("failed", "stale")
    field.sweep.urge("asked", "a")
    await field.passes()

    told = await field.told("a", "asked")
    assert [each["data"]["state"] for each in told] == ["failed", "completed"]
    assert told[1]["data"]["supersedes"] == told[0]["id"]


async def test_a_late_look_that_nobody_answers_is_made_up_for(make: Make) -> None:
    """It does not count against the few there are."""
    field = make({"late_polls": 1})
    await register(field, "a")
    await field.ticks(301)
    field.fence.answers = lambda asked: DOWN
    await field.ticks(2000, every_s=10)
    field.fence.answers = lambda asked: None
    field.fence.put("a", "completed")
    await field.ticks(1000, every_s=10)

    assert await field.state("a") == ("completed", None)


async def test_a_job_nobody_can_be_asked_about_ends_at_its_deadline(field: Field) -> None:
    """Without a key: `stale` at `fail_after_s`, and `last_error` says why."""
    await field.register("a", "keyless")
    await field.ticks(299, "keyless", every_s=10)
    assert await field.state("a", "keyless") == ("pending", None)
    await field.ticks(2, "keyless")

    assert await field.state("a", "keyless") == ("failed", "stale")
    assert "no api_key" in (await field.job("a", "keyless"))["last_error"]
    assert field.fence.asked == []
    await field.ticks(100_000, "keyless", every_s=1000)
    assert len(await field.told("a", "keyless")) == 1


@pytest.mark.parametrize("job_id", ODD_IDS)
async def test_odd_ids_are_asked_about_like_any_other(field: Field, job_id: str) -> None:
    """One escaped path segment each; the answer finds its job."""
    await register(field, job_id, status="completed")
    await field.passes()

    (asked,) = field.fence.asked
    assert asked.path.count("/") == 4
    assert not set(asked.path) & set("?#\n ")
    assert asked.job_id == job_id
    assert await field.state(job_id) == ("completed", None)


# -- strangers -----------------------------------------------------------------------------------------------------


async def test_a_held_delivery_is_asked_about_once_when_its_time_is_over(field: Field) -> None:
    """The provider knows it: it is put on record and the answer decides; it does not: `unknown_job`."""
    await field.passes()
    field.fence.put("real", "failed")
    for job_id in ("real", "made-up"):
        await field.webhook(completed(job_id), "asked")
    await field.ticks(899, every_s=100)
    assert field.fence.asked == []
    await field.ticks(10)

    assert sorted(field.fence.ids, key=str) == ["made-up", "real"]
    assert await verdicts(field) == {"real": ("accepted", None), "made-up": ("quarantined", "unknown_job")}
    job = await field.job("real", "asked")
    assert (job["state"], job["decided_by"], job["registered_by"]) == ("failed", "poll", "asked")
    assert len(job["messages"]) == 1


@pytest.mark.parametrize(
    "answer", [reply({}, 400), reply(b"<html>"), reply({}, 302), reply({"job_id": "x", "status": "s"})]
)
async def test_an_id_the_provider_cannot_speak_of_is_asked_about_once(
    field: Field, answer: Callable[[float], Reply]
) -> None:
    """Whatever the answer is, short of trouble of the provider's own: no second question (CONTRACT 5)."""
    await field.passes()
    await field.webhook(completed("../made up"), "asked")
    field.fence.answers = lambda asked: answer
    await field.ticks(1000, every_s=50)

    assert len(field.fence.asked) == 1
    assert await verdicts(field) == {"../made up": ("quarantined", "unknown_job")}


async def test_an_id_the_provider_fails_over_does_not_block_the_others(field: Field) -> None:
    """A made-up id that makes the provider answer 500 is given up after three times; the one behind gets its turn."""
    await field.passes()
    field.fence.put("real", "completed")
    for job_id in ("poison", "real"):
        await field.webhook(completed(job_id), "asked")
    field.fence.answers = lambda asked: reply({}, 500) if asked.job_id == "poison" else None
    await field.ticks(1300, every_s=5)

    assert field.fence.ids.count("poison") == 3
    assert await verdicts(field) == {"real": ("accepted", None), "poison": ("quarantined", "unknown_job")}


async def test_a_provider_that_cannot_be_asked_refuses_nobody(field: Field) -> None:
    """While it is unreachable or asks for patience a held delivery stays held."""
    await field.passes()
    field.fence.put("real", "completed")
    await field.webhook(completed("real"), "asked")
    field.fence.answers = lambda asked: DOWN
    await field.ticks(3000, every_s=10)
    assert await verdicts(field) == {"real": ("held", None)}
    field.fence.answers = lambda asked: None
    await field.ticks(600, every_s=10)

    assert await verdicts(field) == {"real": ("accepted", None)}


async def test_made_up_ids_do_not_use_up_the_budget(make: Make) -> None:
    """A flood of them is asked about bit by bit, and a job on record waits for one of them at the most."""
    field = make(polls_per_min=12)
    await field.passes()
    await field.deliver_all([completed(f"made-up-{n}") for n in range(200)], "asked")
    await field.read()
    field.clock.advance(901)
    await field.ticks(60)
    await register(field, "real", status="completed", modality="prompt", submitted_at=field.clock.now() - 59)
    registered = field.clock.now()
    await field.ticks(20)

    asked = next(asked for asked in field.fence.asked if asked.job_id == "real")
    assert asked.at - registered <= 1 + 2 * 5 + 1
    assert await field.state("real") == ("completed", None)


async def test_without_a_key_what_is_held_in_vain_is_quarantined(field: Field) -> None:
    """Nobody can be asked: after `hold_s` it is `unknown_job`, and a repeat is judged anew."""
    await field.webhook(completed("a"), "keyless")
    await field.ticks(899, "keyless", every_s=100)
    assert await verdicts(field, "keyless") == {"a": ("held", None)}
    await field.ticks(2, "keyless")
    assert await verdicts(field, "keyless") == {"a": ("quarantined", "unknown_job")}
    await field.register("a", "keyless")
    await field.webhook(completed("a"), "keyless")

    assert await field.state("a", "keyless") == ("completed", None)


async def test_what_waits_for_somebody_to_ask_stays_held(make: Make) -> None:
    """No trust and no key: the delivery of a job on record is not of an unknown job, and is not called that."""
    field = make(path_token=None, api_key=None)
    await field.register("a", "asked")
    await field.webhook(completed("a"), "asked")
    await field.webhook(completed("stranger"), "asked")
    await field.ticks(2000, every_s=100)

    assert await verdicts(field) == {"a": ("held", None), "stranger": ("quarantined", "unknown_job")}


async def test_a_stranger_is_asked_about_with_what_the_delivery_tells(make: Make) -> None:
    """OmniAI is asked by lead: the held delivery names it."""
    field = make(provider="omniai")
    log = {"id": "A1", "type": "MESSAGE", "status": "COMPLETED", "leadId": "L9"}
    await field.webhook({"event": "action_log.completed", "actionLog": log}, "asked")
    field.fence.answers = lambda asked: reply([{**log, "status": "FAILED"}])
    await field.ticks(902, every_s=50)

    assert [asked.path for asked in field.fence.asked] == ["/api/v1/leads/L9/action-logs"]
    job = await field.job("A1", "asked")
    assert (job["state"], job["decided_by"], job["refs"]) == ("failed", "poll", {"lead_id": "L9"})


# -- orphans -------------------------------------------------------------------------------------------------------


async def test_a_job_nobody_registered_is_adopted_from_the_list(make: Make) -> None:
    """A crash between the provider's answer and the registration loses nothing: it is found, asked about, and told."""
    field = make(adopt_unregistered=True)
    await field.passes()
    field.fence.put("orphan", type="video")
    await field.ticks(59)
    assert await field.store.read(lambda view: view.job("asked", "orphan")) is None
    await field.ticks(70)
    job = await field.job("orphan", "asked")
    assert (job["registered_by"], job["modality"], job["submitted_at"]) == ("adopted", "video", clocks.text(START))
    field.fence.put("orphan", "completed", created_at=clocks.text(START))
    await field.ticks(310)

    assert await field.state("orphan") == ("completed", None)
    assert len(await field.told("orphan", "asked")) == 1


async def test_a_job_found_beside_others_is_adopted_too(make: Make) -> None:
    """The list that was read for the jobs due tells of it as well, ended or not."""
    field = make(adopt_unregistered=True)
    await register(field, *(f"j{n}" for n in range(5)))
    field.fence.put("orphan")
    field.clock.advance(61)
    await field.passes(times=2)

    assert (await field.job("orphan", "asked"))["registered_by"] == "adopted"
    assert "orphan" in field.fence.ids


async def test_what_ended_before_our_time_is_not_ours(make: Make) -> None:
    """The account's history is not told as news; what runs is looked after, however old."""
    field = make(adopt_unregistered=True)
    long_ago = clocks.text(START - 90_000)
    field.fence.put("ancient", "completed", created_at=long_ago)
    field.fence.put("slow", created_at=long_ago)
    field.fence.put("recent", "completed", created_at=clocks.text(START - 1800))
    await field.passes(times=3)

    jobs, _ = await field.store.read(lambda view: view.jobs(source="asked"))
    assert {job["job_id"] for job in jobs} == {"slow", "recent"}
    assert await field.state("recent") == ("completed", None)
    assert await field.state("slow") == ("failed", "stale")


async def test_adoption_may_be_switched_off(field: Field) -> None:
    """`adopt_unregistered = false`: neither looked for nor taken when seen."""
    field.fence.put("orphan")
    await register(field, *(f"j{n}" for n in range(5)))
    field.clock.advance(200)
    await field.ticks(200, every_s=5)

    assert await field.store.read(lambda view: view.job("asked", "orphan")) is None


async def test_looking_around_is_seldom(make: Make) -> None:
    """Once in a while when nothing is due, and still now and then when something always is."""
    field = make({"not_yet_s": 5}, adopt_unregistered=True)
    await field.ticks(60)
    quiet = len(field.fence.asked)
    assert 2 * 10 <= quiet <= 2 * 13

    field.fence.answers = lambda asked: reply({}, 404) if asked.job_id else None
    for n in range(60):
        await field.register(f"busy{n}", "asked", submitted_at=field.clock.now() - 299, modality="video")
        await field.ticks(1)
    assert None in [asked.job_id for asked in field.fence.asked[quiet + 2 :]]


async def test_who_was_away_asks_before_giving_up(field: Field) -> None:
    """After a weekend without a sidecar all deadlines have passed long ago: each job has its question first."""
    await register(field, "done", "running")
    field.fence.put("done", "completed")
    field.clock.advance(3 * 86_400)
    field.restart()
    await field.passes()

    assert await field.state("done") == ("completed", None)
    assert await field.state("running") == ("failed", "stale")
    assert [len(await field.told(each, "asked")) for each in ("done", "running")] == [1, 1]


# -- steps of the clock ------------------------------------------------------------------------------------------------


async def test_a_clock_that_steps_back_strands_no_job(field: Field) -> None:
    """Due times, circuits and waits written by the old clock may lie far ahead: everything open is asked about."""
    field.clock.step(7200)
    await register(field, "a")
    await field.passes()
    field.fence.answers = lambda asked: reply({}, 429, retry_after="200")
    await field.ticks(61)
    field.clock.step(-7200)
    field.fence.answers = lambda asked: None
    before = len(field.fence.asked)
    await field.sweep.clock_stepped()
    field.fence.put("a", "completed")
    await field.passes()

    assert len(field.fence.asked) == before + 1
    assert await field.state("a") == ("completed", None)


async def test_a_clock_that_leaps_ahead_ends_nobody_unasked(field: Field) -> None:
    """Every deadline has passed: each job gets its last question, and what has ended well is told as that."""
    await register(field, "slow", modality="video")
    await register(field, "done", modality="video")
    await field.passes()
    field.fence.put("done", "completed")
    field.clock.step(40_000)
    await field.sweep.clock_stepped()
    await field.passes()

    assert await field.state("done") == ("completed", None)
    assert await field.state("slow") == ("failed", "stale")
