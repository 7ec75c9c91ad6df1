"""The background half, whole and running: who wakes whom, who waits for nobody, and how it stops."""

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

import pytest

from receiver.clock import SystemClock
from receiver.records import Delivery, Registration
from receiver.registrar import register
from receiver.settings import Settings
from receiver.store.base import Tx
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from reconciler import service
from reconciler.service import Reconciler
from tests.reconciler.peer import Peer, Writer, http, listening
from tests.support import aeventually

NEVER_S = 3600.0
"""A tick that does not come while a test runs."""


class House:
    """A record and a reconciler over it, with the machine's own time; providers and applications are raw peers."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.settings = Settings.model_validate(config)
        self.clock = SystemClock()
        self.store = SqliteStore(SqliteOptions(path), self.clock)
        self.reconciler = Reconciler(self.settings, self.store, self.clock, Random(3))

    async def register(self, *job_ids: str, source: str = "src", **facts: Any) -> None:
        told = [Registration(source, each, **({"modality": "prompt"} | facts)) for each in job_ids]
        settings = self.settings.sources[source]
        await self.store.write(lambda tx: [register(tx, each, self.clock.now(), settings) for each in told])

    async def deliver(self, document: dict[str, Any], source: str = "src") -> None:
        body = json.dumps(document).encode()
        digest = hashlib.sha256(body).hexdigest()
        await self.store.record(Delivery(self.store.next_id(), source, self.clock.now(), "192.0.2.1", (), body, digest))

    async def state(self, job_id: str, source: str = "src") -> str | None:
        row = await self.store.read(lambda view: view.job(source, job_id))
        return None if row is None else str(row["state"])

    async def told(self) -> list[dict[str, Any]]:
        rows, _ = await self.store.read(lambda view: view.messages(limit=500))
        return rows


@pytest.fixture
async def build(fast_folder: Path) -> AsyncIterator[Callable[..., House]]:
    """Builds houses with these sources and settings, and takes them apart."""
    async with AsyncExitStack() as stack:
        number = iter(range(99))

        def of(sources: dict[str, Any], **config: Any) -> House:
            house = House(fast_folder / f"{next(number)}.db", {"sources": sources, **config})
            stack.callback(house.store.close)
            stack.push_async_callback(house.reconciler.stop, 2.0)
            return house

        yield of


def omnifence(url: str, **more: Any) -> dict[str, Any]:
    return {
        "provider": "omnifence", "base_url": url, "api_key": "key", "polls_per_min": 60_000,
        "adopt_unregistered": False, **more,
    }  # fmt: skip


def truthful(peer: Peer, status: str = "completed") -> Callable[[Writer], Any]:
    """Answers a question about a job with its status."""

    async def answer(writer: Writer) -> None:
        job_id = unquote(peer.targets[-1].rpartition("/")[2])
        writer.write(http(json.dumps({"job_id": job_id, "status": status}).encode()))

    return answer


async def test_a_webhook_to_be_verified_is_asked_about_between_two_ticks(build: Callable[..., House]) -> None:
    """The interpreter wakes the sweep, the sweep asks, the answer is told: nobody waits for the clock."""
    async with listening() as provider, listening(http()) as app:
        provider.answer = truthful(provider, "failed")
        house = build({"src": omnifence(provider.url)}, reconcile={"tick_s": NEVER_S}, app={"url": app.url})
        house.reconciler.start()
        await aeventually(lambda: not house.reconciler.trouble())
        await house.register("j1")
        await house.deliver({"job_id": "j1", "status": "completed"})
        await aeventually(lambda: app.bodies)

    (told,) = [json.loads(body) for body in app.bodies]
    assert (told["type"], told["data"]["decided_by"]) == ("job.failed", "poll")
    assert len(provider.heads) == 1


async def test_a_provider_that_hangs_delays_no_other(build: Callable[..., House]) -> None:
    """Its own pass waits for it; the other source's jobs are asked about and told meanwhile."""
    hung = asyncio.Event()

    async def hang(writer: Writer) -> None:
        await hung.wait()

    async with listening(hang) as slow, listening() as quick:
        quick.answer = truthful(quick)
        sources = {"slow": omnifence(slow.url), "src": omnifence(quick.url)}
        house = build(sources, reconcile={"tick_s": 0.05, "http_timeout_s": 30})
        await house.register("j1", source="slow")
        await house.register(*(f"j{n}" for n in range(5)))
        house.reconciler.start()
        await aeventually(lambda: slow.heads)
        await aeventually(lambda: _all_are(house, 5, "completed"))

        assert await house.state("j1", "slow") == "pending"


async def _all_are(house: House, n: int, state: str) -> bool:
    return {await house.state(f"j{number}") for number in range(n)} == {state}


async def _is(house: House, job_id: str, state: str) -> bool:
    return await house.state(job_id) == state


async def test_one_job_is_asked_about_once_at_a_time(build: Callable[..., House]) -> None:
    """However many want to know: ticks, wishes and webhooks together make one question under way."""
    under_way, most = Counter[str](), Counter[str]()

    async with listening() as provider:

        async def slowly(writer: Writer) -> None:
            target = provider.targets[-1]
            under_way[target] += 1
            most[target] = max(most[target], under_way[target])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.05)
            under_way[target] -= 1
            writer.write(http(b'{"status": "processing"}'))

        provider.answer = slowly
        house = build({"src": omnifence(provider.url)}, reconcile={"tick_s": 0.01, "poll_min_s": 0.01})
        await house.register("j1", "j2")
        house.reconciler.start()
        for n in range(20):
            house.reconciler.urge("src", "j1")
            house.reconciler.poke("src")
            await house.deliver({"job_id": "j1", "status": "completed", "n": n})
        await aeventually(lambda: len(provider.heads) >= 10)

    assert max(most.values()) == 1


async def test_a_source_ticks_at_its_own_pace(build: Callable[..., House]) -> None:
    """`tick_s` of a source rules over `[reconcile]`."""
    async with listening(http(b'{"status": "processing"}')) as provider:
        soon = {"prompt": {"poll_after_s": 0}}
        quick = omnifence(provider.url, tick_s=0.02, poll_min_s=0.02, poll_max_s=0.02, timeouts=soon)
        sources = {"src": quick, "lazy": omnifence(provider.url)}
        house = build(sources, reconcile={"tick_s": NEVER_S})
        await house.register("j1")
        await house.register("j2", source="lazy")
        house.reconciler.start()
        await aeventually(lambda: len(provider.heads) >= 8)

    assert Counter(provider.targets)["/api/v1/job/j2"] <= 1


async def test_one_full_pass_does_everything_once(build: Callable[..., House]) -> None:
    """`reconcile --once`: read, ask (also for what was just read), tell; no loop is left running."""
    async with listening() as provider, listening(http()) as app:
        provider.answer = truthful(provider)
        house = build({"src": omnifence(provider.url, startup_sweep=False)}, app={"url": app.url})
        await house.register("j1")
        await house.deliver({"job_id": "j1", "status": "completed"})
        before = asyncio.all_tasks()
        reports = await house.reconciler.once()

        assert (reports["src"].questions, reports["src"].ended) == (1, 1)
        assert await house.state("j1") == "completed"
        assert [row["state"] for row in await house.told()] == ["delivered"]
        assert {task.get_name() for task in asyncio.all_tasks() - before if "holdfast" in task.get_name()} == set()


async def test_stopping_leaves_nothing_running_and_nothing_lost(build: Callable[..., House]) -> None:
    """In the middle of everything: what was learned is kept, what was not is due again."""
    async with listening() as provider, listening(http()) as app:
        provider.answer = truthful(provider)
        config: dict[str, Any] = {"reconcile": {"tick_s": 0.02}, "app": {"url": app.url}}
        sources = {"src": omnifence(provider.url, polls_per_min=600)}
        house = build(sources, **config)
        await house.register(*(f"j{n}" for n in range(30)))
        before = asyncio.all_tasks()
        house.reconciler.start()
        await aeventually(lambda: len(provider.heads) >= 5)
        await house.reconciler.stop(5.0)
        await aeventually(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})
        asked = len(provider.heads)
        states = Counter([await house.state(f"j{n}") for n in range(30)])
        assert states["completed"] + states["pending"] == 30
        assert states["completed"] >= asked - 3
        again = build(sources, **config)
        again.store, house.store = house.store, again.store
        again.reconciler = Reconciler(again.settings, again.store, again.clock, Random(4))
        again.reconciler.start()
        try:
            await aeventually(lambda: _all_told(again, 30))
        finally:
            await again.reconciler.stop(5.0)

    assert Counter(json.loads(body)["id"] for body in app.bodies).most_common(1)[0][1] <= 2


async def _all_told(house: House, n: int) -> bool:
    return [row["state"] for row in await house.told()] == ["delivered"] * n


async def test_a_loop_that_fails_goes_on(build: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad round of reading is one bad round; the process says nothing is wrong with it afterwards."""
    house = build({"src": {"provider": "omnifence", "path_token": "tok"}}, reconcile={"tick_s": 0.05})
    failures = iter([RuntimeError("once"), OSError("twice")])
    sound = house.reconciler.interpreter.run_once

    async def run_once() -> int:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return await sound()

    monkeypatch.setattr(house.reconciler.interpreter, "run_once", run_once)
    await house.register("j1")
    house.reconciler.start()
    await house.deliver({"job_id": "j1", "status": "completed"})
    await aeventually(lambda: _is(house, "j1", "completed"))

    assert house.reconciler.trouble() == []


async def test_a_clock_that_stepped_back_holds_up_no_message(build: Callable[..., House]) -> None:
    """What the old clock put off until an hour from now goes out at once."""
    async with listening(http()) as app:
        house = build({"src": {"provider": "omnifence", "path_token": "tok"}}, app={"url": app.url})
        await house.register("j1")
        await house.deliver({"job_id": "j1", "status": "completed"})
        while await house.reconciler.interpreter.run_once():
            pass
        (told,) = await house.told()
        later = house.clock.now() + 3600

        def put_off(tx: Tx) -> None:
            tx.outbox.retry(told["id"], later, later, "the old clock")

        await house.store.write(put_off)
        await house.reconciler.dispatch.run_once()
        assert app.bodies == []
        await house.reconciler._clock_stepped(-3600.0)
        await house.reconciler.dispatch.run_once()

        assert len(app.bodies) == 1


async def test_what_is_owed_is_told_though_its_source_is_gone(build: Callable[..., House]) -> None:
    """A source was taken out of the configuration while a message of it waited: it goes to `[app]`."""
    sources: dict[str, Any] = {"src": {"provider": "omnifence", "path_token": "tok"}}
    house = build(sources)
    await house.register("j1")
    await house.deliver({"job_id": "j1", "status": "completed"})
    while await house.reconciler.interpreter.run_once():
        pass
    async with listening(http()) as app:
        settings = Settings.model_validate({"sources": {"other": sources["src"]}, "app": {"url": app.url}})
        later = Reconciler(settings, house.store, house.clock, Random(4))
        await later.dispatch.run_once()
        await later.stop(1.0)

    assert [json.loads(body)["data"]["source"] for body in app.bodies] == ["src"]
    assert [row["state"] for row in await house.told()] == ["delivered"]


@pytest.mark.parametrize(
    ("sizes", "passes"), [([0], 1), ([1, 128], 1), ([128, 128, 3, 9], 3), ([32, 0], 2), ([31, 40], 1)]
)
async def test_few_deliveries_are_gathered_before_the_next_pass(
    build: Callable[..., House], monkeypatch: pytest.MonkeyPatch, sizes: list[int], passes: int
) -> None:
    """A pass that found a crowd is followed by another at once; behind a few, the next share one transaction."""
    house = build({"src": {"provider": "omnifence", "path_token": "tok"}})
    left = iter(sizes)

    async def run_once() -> int:
        return next(left)

    monkeypatch.setattr(house.reconciler.interpreter, "run_once", run_once)
    await house.reconciler._interpret_all()

    assert len(sizes) - len(list(left)) == passes


async def test_what_another_process_recorded_is_found_without_a_bell(
    build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from the receiver nothing tells of a delivery, so it is looked for, and far more often than otherwise."""
    monkeypatch.setattr(service, "LOOK_S", 3600.0)
    house = build({"src": {"provider": "omnifence", "path_token": "tok"}})
    await house.register("j1")
    apart = Reconciler(house.settings, house.store, house.clock, Random(3), apart=True)
    monkeypatch.setattr(house.store, "on_commit", lambda hook: None)
    looks, look = [0], apart.interpreter.run_once

    async def run_once() -> int:
        found = await look()
        looks[0] += 1
        return found

    monkeypatch.setattr(apart.interpreter, "run_once", run_once)
    apart.start()
    await aeventually(lambda: looks[0] > 0)
    await house.deliver({"job_id": "j1", "status": "completed"})
    await aeventually(lambda: _is(house, "j1", "completed"))

    await apart.stop()
