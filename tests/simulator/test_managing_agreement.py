"""Managing webhooks and scanning for gaps, written apart from the simulated Omnist: both must mean the same."""

from collections.abc import Generator
from typing import Any, TypeVar

import httpx

from holdfast.simulator import Simulator
from receiver.providers.base import Accepted, Question, RawRequest, Reply
from receiver.providers.managing import Change, NotDone, Rotated, SetUp, TestSent
from receiver.providers.omnist import PROVIDER
from receiver.settings import SourceSettings

T = TypeVar("T")
OLD = "whsec_demo"


def source_of(simulator: Simulator, *secrets: str) -> SourceSettings:
    """A source that asks this simulator."""
    keys: dict[str, Any] = {
        "base_url": simulator.base_url,
        "api_key": "omni_live_key",
        "secret": list(secrets or (OLD,)),
    }
    return SourceSettings.named("src", provider="omnist", **keys)


async def held(
    simulator: Simulator, talk: Generator[Question | Change, Reply | None, T] | Generator[Question, Reply | None, T]
) -> T:
    """Run a generator against the simulator to its end, changes included."""
    headers = PROVIDER.auth_headers(source_of(simulator))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(simulator.app), headers=headers) as client:
        reply: Reply | None = None
        while True:
            try:
                item = talk.send(reply)
            except StopIteration as ended:
                outcome: T = ended.value
                return outcome
            question = item.question if isinstance(item, Change) else item
            url = simulator.base_url + (question.path or "")
            answer = await client.request(question.method, url, params=dict(question.query) or None, json=question.json)
            reply = Reply(answer.status_code, dict(answer.headers), answer.content, simulator.clock.now())


def ids_of(hook: Any) -> set[str]:
    """The event and delivery ids that arrived, as headers write them."""
    names = ("x-omnist-event-id", "x-omnist-delivery-id")
    return {request.headers[name] for request in hook.received for name in names}


async def test_a_url_is_registered_once_and_its_secret_handed_over(run: Any) -> None:
    """The first registration makes a secret; a second of the same URL sends nothing."""
    simulator = await run.start("omnist")
    source, url = source_of(simulator), "https://hooks.example.com/in/src/token"

    first = await held(simulator, PROVIDER.manage_setup(source, url))
    again = await held(simulator, PROVIDER.manage_setup(source, url))
    moved = await held(simulator, PROVIDER.manage_setup(source, "https://hooks.example.com/in/other"))
    refused = await held(simulator, PROVIDER.manage_setup(source, "http://insecure.example.com/in/other"))

    assert isinstance(first, SetUp)
    assert (first.changed, first.previous_url) == (True, None)
    assert (first.new_secret or "").startswith("whsec_")
    assert again == SetUp(changed=False, url=url, previous_url=url)
    assert isinstance(moved, SetUp)
    assert (moved.previous_url, moved.new_secret) == (url, None)
    assert isinstance(refused, NotDone)


async def test_nothing_is_refused_while_a_secret_is_rotated(run: Any, hook: Any) -> None:
    """With the new secret in front of the old one, what either signed is let in."""
    simulator = await run.start("omnist", webhook_url=hook.url, webhook_secret=OLD, time_scale=0.0)
    await simulator.submit("run")
    await simulator.idle()

    rotated = await held(simulator, PROVIDER.manage_rotate(source_of(simulator)))
    assert isinstance(rotated, Rotated)
    sent = await held(simulator, PROVIDER.manage_test(source_of(simulator)))
    await simulator.submit("run")
    await simulator.idle()

    both = source_of(simulator, rotated.new_secret, OLD)
    judged = [
        PROVIDER.authenticate(
            RawRequest(tuple((name.decode(), value.decode()) for name, value in request.headers.raw), body),
            both,
            simulator.clock.now(),
        )
        for request, body in zip(hook.received, hook.bodies, strict=True)
    ]
    assert judged == [Accepted(proven=True)] * 3
    assert isinstance(sent, TestSent)
    assert (sent.event, sent.status, sent.http_status) == ("webhook.test", "succeeded", 200)


async def test_what_the_log_has_and_we_have_not_is_found(run: Any, hook: Any) -> None:
    """Sixty deliveries on two pages: what arrived is no gap, and what never did is one, however its id is spelled."""
    simulator = await run.start("omnist", webhook_url=hook.url, webhook_secret=OLD, time_scale=0.0)
    for _ in range(60):
        await simulator.submit("run")
    await simulator.idle()
    source, now = source_of(simulator), simulator.clock.now()

    scan = await held(simulator, PROVIDER.gap_scan(source, now - 3600, now + 60))
    stats = await held(simulator, PROVIDER.delivery_stats(source, now - 3600, now + 60))

    assert (len(scan.records), scan.pages, scan.complete) == (60, 2, True)
    assert PROVIDER.gaps(scan, ids_of(hook)) == []
    unseen = {request.headers["x-omnist-event-id"].removeprefix("evt_") for request in hook.received[:5]}
    missed = PROVIDER.gaps(scan, ids_of(type(hook)(received=hook.received[5:])))
    assert {(record.event_id or "").removeprefix("event_") for record in missed} == unseen
    assert stats is not None
    assert sum(bucket.attempts for bucket in stats) == 60
