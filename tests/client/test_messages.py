"""`messages()`: one by one, acknowledged when the next is asked for, leases renewed, restarts sat out."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

import holdfast.client
from holdfast import AsyncClient, Client, ClientError, Message
from holdfast.calls import Hand
from receiver.listeners import open_listener
from receiver.server import HttpServer, private_limits
from tests.api.office import Office
from tests.client.conftest import Connect
from tests.support import ManualClock, aeventually, eventually, free_port


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty outbox is looked into more often than an application needs."""
    monkeypatch.setattr(holdfast.client, "PAUSE_S", 0.02)


async def delivered(office: Office) -> set[str]:
    """The jobs whose message was acknowledged."""
    rows, _ = await office.store.read(lambda view: view.messages(state="delivered"))
    return {row["job_id"] for row in rows}


async def test_a_message_is_acknowledged_when_the_next_is_asked_for(office: Office, connect: Connect) -> None:
    """While one is worked on it is pending; asking for the next acknowledges it; the loop ends when it is idle."""
    await office.told("a", "b", "c")
    seen: list[str | None] = []
    async with office.served() as address, connect(address) as client:
        async for message in client.messages(limit=2, idle_s=0.05):
            assert await delivered(office) == set(seen)
            seen.append(message.job_id)

    assert seen == ["a", "b", "c"]
    assert await delivered(office) == {"a", "b", "c"}


async def test_what_comes_later_is_heard(office: Office, connect: Connect) -> None:
    """The loop goes on while nothing is there."""
    async with office.served() as address, connect(address) as client:
        messages = client.messages()
        async with aclosing(messages):
            first = asyncio.create_task(anext(messages))
            await aeventually(lambda: not first.done())
            await office.told("a")
            assert (await asyncio.wait_for(first, 10)).job_id == "a"


async def test_one_whose_handling_raised_comes_again(office: Office, connect: Connect) -> None:
    """It is not acknowledged and keeps its lease; those behind it go back at once."""
    await office.told("a", "b", "c")
    async with office.served() as address, connect(address) as client:

        async def work() -> None:
            async with aclosing(client.messages(lease_s=60)) as messages:
                async for message in messages:
                    if message.job_id == "b":
                        raise RuntimeError("failed on b")

        with pytest.raises(RuntimeError, match="on b"):
            await work()
        assert await delivered(office) == {"a"}

        office.clock.advance(1)
        assert [message.job_id for message in await client.claim()] == ["c"]
        office.clock.advance(60)
        assert [message.job_id for message in await client.claim()] == ["b", "c"]


async def test_a_for_loop_that_raises_lets_go(office: Office) -> None:
    """Without closing anything by hand: no thread stays behind to renew the lease of a loop that is gone."""
    await office.told("a")

    def consume(client: Client) -> None:
        for message in client.messages(lease_s=0.2):
            raise RuntimeError(message.job_id)

    async with office.served() as address:
        with Client(address) as client:
            with pytest.raises(RuntimeError, match="a"):
                await asyncio.to_thread(consume, client)
            assert not [each for each in threading.enumerate() if each.name == "holdfast-lease"]
            office.clock.advance(0.3)
            assert len(await asyncio.to_thread(client.claim)) == 1


async def test_leases_are_renewed_while_work_goes_on(office: Office, connect: Connect) -> None:
    """Work that takes many times the lease keeps the message, and the one behind it, from everybody else."""
    await office.told("a", "b")
    extended: list[int] = []
    original = office.store.write

    async def write(work: Any) -> Any:
        answer = await original(work)
        if "extend" in work.__qualname__:
            extended.append(answer)
        return answer

    office.store.write = write  # type: ignore[method-assign]  # a listener at the wall
    seen = []
    async with office.served() as address, connect(address) as client, httpx.AsyncClient(base_url=address) as other:
        async for message in client.messages(lease_s=0.3, idle_s=0.05):
            seen.append(message.job_id)
            for _ in range(3):
                office.clock.advance(0.25)
                count = len(extended)
                await aeventually(lambda count=count: len(extended) > count)  # type: ignore[misc]  # bound for the loop
                assert (await other.post("/v1/outbox/claim", json={})).json() == {"messages": []}

    assert seen == ["a", "b"]
    assert extended[0] == 2
    assert await delivered(office) == {"a", "b"}


async def test_a_message_whose_lease_ran_out_is_not_handed_out(office: Office) -> None:
    """What somebody else may hold by now is left out, and is not renewed: it comes again."""
    clock = ManualClock()
    hand = Hand(10.0, None, clock)
    messages = [Message(name, "job.completed", "", {"source": "s"}) for name in "abc"]
    hand.take(messages, clock.monotonic())
    assert hand.next() is messages[0]
    clock.advance(9)
    assert hand.leased() == ["a", "b", "c"]
    hand.extended(["a", "b"], clock.monotonic())
    clock.advance(2)

    assert hand.leased() == ["a", "b"]
    hand.handled(messages[0])
    assert hand.next() is messages[1]
    assert hand.next() is None
    assert (hand.done, hand.unseen()) == (["a"], [])


async def test_what_somebody_else_may_hold_is_not_given_back() -> None:
    """Leaving a loop gives back only what is still leased: giving back more would end another consumer's lease."""
    clock = ManualClock()
    hand = Hand(10.0, None, clock)
    hand.take([Message(name, "job.completed", "", {"source": "s"}) for name in "ab"], clock.monotonic())
    clock.advance(9)
    hand.extended(["b"], clock.monotonic())
    clock.advance(2)

    assert hand.unseen() == ["b"]
    assert hand.next() is None


@asynccontextmanager
async def listening(office: Office, port: int) -> AsyncIterator[None]:
    """The office's API on this port for a while."""
    server = HttpServer(office.app, open_listener(f"127.0.0.1:{port}"), private_limits())
    await server.start()
    try:
        yield
    finally:
        office.app.stop()
        await server.stop(2.0)


async def test_a_restart_of_the_sidecar_is_sat_out(office: Office, connect: Connect) -> None:
    """The loop goes on where it was; what was handled while nobody listened is acknowledged later, not repeated."""
    await office.told("a", "b", "c")
    port, seen = free_port(), []
    async with connect(f"http://127.0.0.1:{port}") as client:
        messages = client.messages(limit=2, idle_s=20)
        async with aclosing(messages):
            async with listening(office, port):
                seen.append((await anext(messages)).job_id)
            seen.append((await anext(messages)).job_id)
            third = asyncio.create_task(anext(messages))
            office.restart()
            assert await delivered(office) == set()
            async with listening(office, port):
                seen.append((await asyncio.wait_for(third, 10)).job_id)
                assert await delivered(office) == {"a", "b"}

    assert seen == ["a", "b", "c"]


async def test_a_sidecar_that_stays_away_ends_a_loop_with_an_end(office: Office, connect: Connect) -> None:
    """With `idle_s` the error comes out once that time has passed without a word."""
    await office.told("a")
    port = free_port()
    async with connect(f"http://127.0.0.1:{port}") as client:
        messages = client.messages(idle_s=0.2)
        async with listening(office, port):
            await anext(messages)
        with pytest.raises(httpx.TransportError):
            await anext(messages)


async def test_a_refusal_is_not_sat_out(office: Office, connect: Connect) -> None:
    """A request that will never be taken ends the loop at once."""
    async with office.served() as address, connect(address) as client:
        with pytest.raises(ClientError) as refused:
            await anext(client.messages(limit=100_000))
    assert refused.value.status == 400


async def test_a_message_that_was_acknowledged_by_hand_is_no_trouble(office: Office) -> None:
    """Acknowledging inside the loop, to leave it at once, and acknowledging twice, do no harm."""
    await office.told("a", "b")
    async with office.served() as address, AsyncClient(address) as client:
        async for message in client.messages(limit=1, idle_s=0.05):
            assert await client.ack(message.id) == 1
    assert await delivered(office) == {"a", "b"}


def test_leaving_a_loop_ends_its_thread() -> None:
    """`break` is enough, also when nothing could be given back."""
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(httpx.ConnectError):
        next(iter(client.messages()))
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "holdfast-lease"])
