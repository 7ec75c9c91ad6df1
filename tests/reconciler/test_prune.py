"""Retention through the configuration: by age and outcome, in small steps, and nothing that anybody is still owed."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from receiver.settings import RetentionSettings
from receiver.states import Claim
from reconciler.prune import DAY_S, LEAST_KEY_S, STEP, prune, retention
from tests.reconciler.fence import Field
from tests.support import START

Make = Callable[..., Field]
SHORT = RetentionSettings(deliveries_days=1, messages_days=2, jobs_days=3, polls_days=1)


async def run(field: Field, settings: RetentionSettings = SHORT, **more: Any) -> dict[str, int]:
    return await prune(field.store, settings, field.settings.sources, field.clock, **more)


async def tell(field: Field) -> None:
    """The application takes all its messages."""

    def work(tx: Any) -> None:
        while claimed := tx.outbox.claim(field.clock.now(), field.clock.now() + 60, 1000, pull=True):
            tx.outbox.delivered([each.id for each in claimed], field.clock.now(), pushed=False)

    await field.store.write(work)


def completed(job_id: str) -> dict[str, Any]:
    return {"job_id": job_id, "status": "completed"}


async def test_everything_goes_in_its_own_time(field: Field) -> None:
    """A body after a day, its message after two, the job and its story after three."""
    await field.register("j1", "asked")
    await field.webhook(completed("j1"), "asked")
    await tell(field)
    gone = []
    for _ in range(4):
        gone.append(await run(field))
        field.clock.advance(DAY_S + 1)

    assert gone == [{}, {"deliveries": 1}, {"outbox": 1}, {"jobs": 1}]
    assert await run(field) == {"event_keys": 1}
    assert await field.store.read(lambda view: view.job("asked", "j1")) is None


async def test_nothing_that_is_owed_goes_however_old(field: Field) -> None:
    """A pending job with what came for it, an undelivered message with its job, what was never read, what is held in
    its time."""
    await field.register("open", "asked")
    await field.webhook({"job_id": "open", "status": "processing"}, "asked")
    await field.register("untold", "asked")
    await field.poll("untold", Claim.COMPLETED, "asked", status="completed")
    field.clock.advance(1000 * DAY_S)
    await field.webhook(completed("stranger"), "asked")
    unread = await field.deliver(completed("unread"), "asked")

    assert set(await run(field)) <= {"event_keys"}
    assert await field.state("open") == ("pending", None)
    assert await field.state("untold") == ("completed", None)
    assert [len((await field.job("open", "asked"))[part]) for part in ("deliveries", "history")] == [1, 1]
    assert (await field.verdict(unread))[0] == "new"


async def test_what_was_held_in_vain_goes_too(make: Make) -> None:
    """Past its time and past its days nobody waits for it any more."""
    field = make(hold_s=3600)
    await field.webhook(completed("stranger"), "asked")
    field.clock.advance(DAY_S - 60)
    assert await run(field) == {}
    field.clock.advance(120)

    assert await run(field) == {"deliveries": 1}


async def test_a_repeat_long_after_its_body_is_still_a_repeat(field: Field) -> None:
    """The key lives past the body, for as long as the sender may still repeat itself, and then some."""
    await field.register("j1", "asked")
    await field.webhook(completed("j1"), "asked")
    await tell(field)
    field.clock.advance(2 * DAY_S)
    assert (await run(field))["deliveries"] == 1
    repeat = await field.webhook(completed("j1"), "asked")
    assert await field.verdict(repeat) == ("duplicate", None)
    field.clock.advance(3 * DAY_S)
    await run(field)

    assert (await field.verdict(await field.webhook(completed("j1"), "asked")))[0] == "held"


def test_a_key_lives_as_long_as_its_sender_repeats_itself(field: Field) -> None:
    """Whatever `deliveries_days` says: the provider's horizon and three days, or the body's days if they are more."""
    for days, sources in ((0.01, field.settings.sources), (400.0, field.settings.sources)):
        made = retention(RetentionSettings(deliveries_days=days), sources, START)
        for name, source in sources.items():
            lives_s = START - made.keys_before[name]
            assert lives_s >= source.facts.key_horizon_s + LEAST_KEY_S
            assert lives_s >= days * DAY_S


async def test_a_dead_message_is_kept_from_its_last_attempt(field: Field) -> None:
    """An operator has `messages_days` to find it."""
    await field.register("j1", "asked")
    await field.poll("j1", Claim.COMPLETED, "asked")
    field.clock.advance(10 * DAY_S)
    (told,) = await field.told("j1", "asked")
    await field.store.write(lambda tx: tx.outbox.bury(told["id"], field.clock.now(), "410"))
    field.clock.advance(1.9 * DAY_S)
    assert "outbox" not in await run(field)
    field.clock.advance(0.2 * DAY_S)

    assert (await run(field))["outbox"] == 1


async def test_a_dead_message_does_not_keep_its_job(field: Field) -> None:
    """It is kept by itself; its payload says everything."""
    await field.register("j1", "asked")
    await field.poll("j1", Claim.COMPLETED, "asked")
    (told,) = await field.told("j1", "asked")
    field.clock.advance(9 * DAY_S)
    await field.store.write(lambda tx: tx.outbox.bury(told["id"], field.clock.now(), "410"))
    await run(field)

    assert await field.store.read(lambda view: view.job("asked", "j1")) is None
    assert await field.store.read(lambda view: view.message(told["id"])) is not None


async def test_many_rows_go_in_small_steps(field: Field) -> None:
    """Deliveries come in between two of them; the sum that is told is that of the rows."""
    ids = [f"j{n}" for n in range(3 * STEP + 7)]
    await field.register_all(ids, "asked")
    await field.register("open", "asked")
    await field.deliver_all([completed(each) for each in ids], "asked")
    await field.deliver_all([{"job_id": "open", "status": "processing", "n": n} for n in range(STEP)], "asked")
    await field.read()
    await tell(field)
    field.clock.advance(10 * DAY_S)
    steps: list[dict[str, int]] = []
    gone = await run(field, progress=lambda total: steps.append(dict(total)))

    assert gone == {"deliveries": len(ids), "event_keys": len(ids) + 1, "outbox": len(ids), "jobs": len(ids)}
    assert len(steps) >= 4
    growth = [after[table] - n for before, after in itertools.pairwise(steps) for table, n in before.items()]
    assert max(growth) <= 2 * STEP
    assert steps[-1] == gone
    assert await field.state("open") == ("pending", None)


@pytest.mark.parametrize("days", [0.0001, 30])
async def test_days_take_fractions(field: Field, days: float) -> None:
    """For whoever keeps nothing."""
    await field.webhook({"status": "no id"}, "asked")
    field.clock.advance(10)

    gone = await run(field, RetentionSettings(deliveries_days=days))
    assert gone == ({"deliveries": 1} if days < 1 else {})
