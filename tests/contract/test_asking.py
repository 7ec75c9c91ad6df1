"""What CONTRACT 5 and 10 promise of asking, waiting and giving up, as the reconciler keeps it on a clock of its own."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from receiver import timetable
from receiver.providers.base import Reply
from receiver.records import Job
from receiver.settings import ReconcileSettings
from tests.reconciler.fence import Field, field_of, reply
from tests.support import START

ASKED: dict[str, Any] = {"provider": "omnifence", "path_token": "tok", "api_key": "key", "adopt_unregistered": False}


@pytest.fixture
def field(fast_folder: Path) -> Iterator[Field]:
    """A source that can be asked, and others that cannot; budget enough."""
    made = field_of(fast_folder / "field", asked={**ASKED, "polls_per_min": 60_000})
    yield made
    made.store.close()


async def pause(field: Field, source: str) -> None:
    """As the operator does it."""
    await field.store.write(lambda tx: tx.sources.put(replace(tx.sources.get(source), paused=True)))


async def test_a_job_nobody_can_be_asked_about_is_stale_at_its_deadline_also_while_paused(field: Field) -> None:
    """`pause` stops asking only: the deadline of a job that nobody is ever asked about passes all the same."""
    await pause(field, "keyless")
    await field.register("a", "keyless")
    await field.passes("keyless")
    assert await field.state("a", "keyless") == ("pending", None)
    field.clock.advance(301)
    await field.passes("keyless")

    assert await field.state("a", "keyless") == ("failed", "stale")
    assert "no api_key" in (await field.job("a", "keyless"))["last_error"]


async def test_a_job_that_can_be_asked_about_waits_while_paused(field: Field) -> None:
    """Nobody was asked, which proves nothing: past its deadline it is overdue, not stale."""
    await pause(field, "asked")
    await field.register("a", "asked")
    field.clock.advance(301)
    await field.passes()

    assert await field.state("a") == ("pending", None)
    assert field.fence.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        reply({"error": "JOB_NOT_FOUND"}, 404, retry_after="90"),
        reply({"error": "INVALID_REQUEST"}, 400, retry_after="90"),
        reply({"error": "CONFLICT"}, 409, retry_after="90"),
        reply(b"", 202, retry_after="90"),
        reply({"job_id": "a", "status": "processing"}, retry_after="90"),
    ],
    ids=["404", "400", "409", "202 without a body", "200 and running"],
)
async def test_a_job_is_never_asked_about_before_its_retry_after(
    field: Field, answer: Callable[[float], Reply]
) -> None:
    """Whatever else the answer that brought it says of the job."""
    await field.register("a", "asked")
    field.clock.advance(60)
    field.fence.answers = lambda asked: answer
    await field.passes()
    asked_at = field.clock.now()
    await field.ticks(180, every_s=5)

    assert [asked.at - asked_at >= 90 for asked in field.fence.asked[1:2]] == [True]


@pytest.mark.parametrize("wait_s", [None, 5.0, 20.0, 199.0, 300.0])
def test_no_wait_is_shorter_than_poll_min_s_or_longer_than_poll_max_s(wait_s: float | None) -> None:
    """Jitter varies the waits between the two, and the first is due after `poll_min_s`."""
    rules, job = ReconcileSettings(), Job("asked", "a", START, wait_s=wait_s)
    waits = [timetable.next_wait_s(job, rules, Random(seed))[1] for seed in range(200)]

    assert rules.poll_min_s <= min(waits) < max(waits) <= rules.poll_max_s


async def test_a_start_asks_once_and_then_poll_after_s_rules_again(field: Field) -> None:
    """Every open job once after a start; without a word, asking begins after `poll_after_s`."""
    await field.register("a", "asked")
    field.fence.put("a")
    await field.ticks(75, every_s=1)
    times = [asked.at - START for asked in field.fence.asked]

    assert times[0] <= 1
    assert 60 <= times[1] <= 61


async def test_a_webhook_to_be_verified_is_asked_about_anew_before_poll_after_s(fast_folder: Path) -> None:
    """A `GET` that still says running leaves the job pending and due after `poll_min_s`, widening, also after a start
    has asked about it already."""
    field = field_of(fast_folder / "field", asked={"provider": "omnifence", "api_key": "key", "polls_per_min": 60_000})
    await field.register("a", "asked", modality="video")
    field.fence.put("a")
    await field.passes()
    await field.webhook({"job_id": "a", "status": "completed"}, "asked")
    await field.ticks(40, every_s=0.5)
    times = [asked.at for asked in field.fence.asked if asked.job_id == "a"]
    waits = [later - before for before, later in itertools.pairwise(times[1:])]
    field.store.close()

    assert widening(waits)
    assert 5 <= waits[0] <= 6.5


def widening(waits: list[float]) -> bool:
    """Whether each wait is longer than the one before."""
    return len(waits) >= 3 and all(later > before for before, later in itertools.pairwise(waits))


async def test_webhook_test_is_accepted_and_told_to_nobody_whoever_sends_it(fast_folder: Path) -> None:
    """`webhook.test` is recorded and not passed on; any other event that belongs to no job is."""
    field = field_of(fast_folder / "field", asked={**ASKED, "provider": "standard", "base_url": "https://x.example"})
    test = await field.webhook({"type": "webhook.test", "data": {}}, "asked")
    other = await field.webhook({"type": "thing.happened", "data": {}}, "asked")
    verdicts = [await field.verdict(test), await field.verdict(other)]
    messages, _ = await field.store.read(lambda view: view.messages(source="asked", limit=10))
    field.store.close()

    assert verdicts == [("accepted", None)] * 2
    assert [message["type"] for message in messages] == ["event.thing.happened"]


async def test_a_held_delivery_stays_held_while_the_provider_answers_nobody(fast_folder: Path) -> None:
    """5xx proves nothing of a job: past `hold_s` it is asked about as soon as there is an answer."""
    field = field_of(fast_folder / "field", asked={**ASKED, "polls_per_min": 60_000})
    delivery = await field.webhook({"job_id": "a", "status": "completed"}, "asked")
    field.clock.advance(901)
    field.fence.answers = lambda asked: reply({"error": "SERVICE_UNAVAILABLE"}, 503)
    await field.ticks(600, every_s=20)
    during = await field.verdict(delivery)
    field.fence.answers = lambda asked: None
    field.fence.put("a", "completed")
    await field.ticks(320, every_s=20)
    after = await field.state("a")
    field.store.close()

    assert during == ("held", None)
    assert after == ("completed", None)


async def test_an_unknown_id_the_provider_fails_over_holds_up_no_other(fast_folder: Path) -> None:
    """Made-up ids are asked about last and given up: the others' deliveries are matched."""
    field = field_of(fast_folder / "field", asked={**ASKED, "polls_per_min": 60_000})
    poison = await field.webhook({"job_id": "poison", "status": "completed"}, "asked")
    await field.webhook({"job_id": "good", "status": "completed"}, "asked")
    field.clock.advance(901)
    field.fence.put("good", "completed")
    field.fence.answers = lambda asked: reply({}, 500) if asked.job_id == "poison" else None
    await field.ticks(600, every_s=20)
    verdict, state = await field.verdict(poison), await field.state("good")
    field.store.close()

    assert state == ("completed", None)
    assert verdict == ("quarantined", "unknown_job")
