"""`alert.webhook_loss`: told once a window, when more than the threshold had to be asked for."""

import math
from typing import Any

import pytest

from receiver.settings import AlertSettings
from receiver.states import Claim
from reconciler.alerts import watch_webhook_loss
from tests.reconciler.fence import Field

RULES = AlertSettings(webhook_loss_min_jobs=10)


async def settle(field: Field, by_webhook: int, by_poll: int, by_deadline: int = 0, source: str = "asked") -> None:
    """So many jobs end now, by these witnesses."""
    first = len((await field.store.read(lambda view: view.jobs(source=source, limit=500)))[0])
    ids = [f"j{first + n}" for n in range(by_webhook + by_poll + by_deadline)]
    await field.register_all(ids, source, submitted_at=field.clock.now() - 400)
    await field.deliver_all([{"job_id": each, "status": "completed"} for each in ids[:by_webhook]], source)
    await field.read()
    for each in ids[by_webhook:]:
        polled = each in ids[by_webhook : by_webhook + by_poll]
        await field.poll(each, Claim.COMPLETED if polled else Claim.RUNNING, source)


async def watch(field: Field, rules: AlertSettings = RULES) -> list[str]:
    return await watch_webhook_loss(field.store, field.settings.sources, rules, field.clock)


async def alerts(field: Field) -> list[dict[str, Any]]:
    rows, _ = await field.store.read(lambda view: view.messages(limit=500))
    return [row["payload"] for row in reversed(rows) if row["type"] == "alert.webhook_loss"]


@pytest.mark.parametrize(
    ("by_webhook", "by_poll", "by_deadline", "share"),
    [
        (9, 0, 0, None),
        (0, 9, 0, None),
        (5, 5, 0, None),
        (4, 6, 0, 0.6),
        (4, 3, 3, 0.6),
        (0, 10, 0, 1.0),
        (0, 0, 10, 1.0),
    ],
)
async def test_a_source_that_loses_its_webhooks_is_told_of(
    field: Field, by_webhook: int, by_poll: int, by_deadline: int, share: float | None
) -> None:
    """More than the share, of enough jobs; exactly the share is not more."""
    await settle(field, by_webhook, by_poll, by_deadline)
    told = await watch(field)

    assert told == (["asked"] if share else [])
    assert [each["data"]["share"] for each in await alerts(field)] == ([share] if share else [])


async def test_the_alert_says_which_source(field: Field) -> None:
    """`data.source` and `data.share` (CONTRACT 10)."""
    await settle(field, 1, 11)
    await watch(field)

    (alert,) = await alerts(field)
    assert alert["type"] == "alert.webhook_loss"
    assert alert["data"]["source"] == "asked"
    assert alert["data"]["provider"] == "omnifence"
    assert math.isclose(alert["data"]["share"], 11 / 12, abs_tol=1e-4)


async def test_it_is_told_once_a_window(field: Field) -> None:
    """However often it is looked at, and after a restart; a loss that lasts is told again in the next window."""
    await settle(field, 0, 20)
    told = [await watch(field)]
    for _ in range(50):
        field.clock.advance(100)
        field.restart()
        await settle(field, 0, 1)
        told.append(await watch(field))

    assert [each for each in told if each] == [["asked"]] * 2
    assert len({each["id"] for each in await alerts(field)}) == 2


async def test_only_the_window_counts(field: Field) -> None:
    """What was lost two hours ago is no news; what arrives well makes up for it."""
    await settle(field, 0, 20)
    field.clock.advance(3601)
    assert await watch(field) == []
    await settle(field, 30, 20)

    assert await watch(field) == []


async def test_sources_are_judged_apart(field: Field) -> None:
    """One that loses everything does not hide behind one that loses nothing."""
    await settle(field, 100, 0, source="known")
    await settle(field, 0, 10, source="asked")

    assert await watch(field) == ["asked"]


async def test_a_share_of_one_never_alerts(field: Field) -> None:
    """For a source that has no webhooks."""
    await settle(field, 0, 20)

    assert await watch(field, AlertSettings(webhook_loss_share=1.0, webhook_loss_min_jobs=1)) == []
