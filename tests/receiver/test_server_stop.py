"""A planned stop under load: nobody who was accepted goes unheard, and nothing hangs."""

import asyncio
import socket

from receiver.connections import Limits
from receiver.listeners import Listener
from tests.receiver.wire import MemoryRecorder, Wire, request, serving, statuses
from tests.support import aeventually


async def stop(wire: Wire, grace_s: float = 5.0) -> float:
    """Stop the listener; how long it took, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wire.server.stop(grace_s)
    return loop.time() - began


async def test_what_is_being_committed_is_answered_before_the_end() -> None:
    """A stop waits for the answer, and says in it that it is the last."""
    async with serving() as wire, await wire.connect() as caller:
        wire.recorder.holding = True
        await caller.send(request("/in/plain"))
        await aeventually(lambda: wire.recorder.waiting == 1)
        stopping = asyncio.ensure_future(stop(wire))
        await aeventually(lambda: wire.server.floor.draining)
        wire.recorder.let_go()

        got = await caller.rest()
        assert statuses(got) == [200]
        assert b"connection: close" in got
        assert await stopping < 2.0


async def test_who_was_accepted_and_has_not_spoken_is_heard() -> None:
    """uvicorn alone drops about two of these a restart."""
    async with serving() as wire, await wire.connect() as caller:
        await aeventually(lambda: wire.server.open_connections == 1)
        stopping = asyncio.ensure_future(stop(wire))
        await aeventually(lambda: wire.server.floor.draining)

        assert (await caller.ask("/in/plain")).status == 200
        await stopping
        assert len(wire.kept) == 1


async def test_who_waits_in_the_kernels_queue_is_accepted_before_the_listener_closes() -> None:
    """Connected, request sent, not yet accepted: still answered."""
    async with serving() as wire:
        callers = []
        for _ in range(20):
            each = socket.create_connection(("127.0.0.1", wire.port))  # blocking: the loop must not turn
            each.sendall(request("/in/plain", headers={"Connection": "close"}))
            callers.append(each)
        await stop(wire)

        answers = []
        for each in callers:
            with each:
                each.settimeout(2.0)
                answers.append(each.recv(15))
        assert answers == [b"HTTP/1.1 200 OK"] * 20


async def test_an_idle_connection_does_not_hold_up_a_stop() -> None:
    """Kept and silent connections are closed, quietly and soon."""
    async with serving() as wire, await wire.connect() as kept, await wire.connect() as fresh:
        await kept.ask("/in/plain")

        assert await stop(wire) < 2.0
        assert (await kept.rest(1.0), await fresh.rest(1.0)) == (b"", b"")


async def test_a_request_that_is_on_its_way_is_taken_to_its_end() -> None:
    """A body that is still coming when the stop begins is read, recorded and answered."""
    async with serving() as wire, await wire.connect() as caller:
        whole = request("/in/plain", b'{"a":"' + b"x" * 1000 + b'"}')
        await caller.send(whole[:500])
        await aeventually(lambda: wire.intake.budget.waiting_bytes > 0)
        stopping = asyncio.ensure_future(stop(wire))
        await aeventually(lambda: wire.server.floor.draining)
        await caller.send(whole[500:])

        assert statuses(await caller.rest()) == [200]
        await stopping


async def test_a_stop_ends_in_its_grace_whatever_hangs() -> None:
    """A body that never comes and a commit that never ends are cut off; the commit itself is not cancelled."""
    recorder = MemoryRecorder()
    async with serving(recorder=recorder, ack_budget_s=30.0) as wire:
        recorder.holding = True
        async with await wire.connect() as slow, await wire.connect() as waiting:
            await slow.send(b"POST /in/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
            await waiting.send(request("/in/plain"))
            await aeventually(lambda: recorder.waiting == 1)

            assert await stop(wire, grace_s=0.3) < 1.5
            assert wire.server.open_connections == 0
            assert statuses(await slow.rest(1.0)) == statuses(await waiting.rest(1.0)) == [503]
        recorder.let_go()
        assert len(wire.kept) == 1


async def test_stopping_twice_is_stopping_once() -> None:
    """And starting elsewhere is not disturbed by it."""
    async with serving() as wire:
        await stop(wire)
        await stop(wire)
        async with serving() as other:
            assert (await other.ask("/in/plain")).status == 200


async def test_a_socket_handed_down_keeps_its_queue_between_two_of_us() -> None:
    """Who connects while nobody serves waits in the kernel, and is answered by the next."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as held:
        port = held.getsockname()[1]

        def ours() -> Listener:
            return Listener([held.dup()], f"http://127.0.0.1:{port}", inherited=True)

        async with serving(listener=ours()) as first:
            assert (await first.ask("/in/plain")).status == 200
        with socket.create_connection(("127.0.0.1", port)) as between:
            between.sendall(request("/in/plain", headers={"Connection": "close"}))
            async with serving(listener=ours()) as second:
                await aeventually(lambda: len(second.kept) == 1)
            between.settimeout(2.0)
            assert between.recv(15) == b"HTTP/1.1 200 OK"


async def test_restarts_under_load_fail_no_delivery() -> None:
    """Senders with one connection a delivery, ten restarts on a held socket: every one is answered 200."""
    recorder = MemoryRecorder()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as held:
        port = held.getsockname()[1]
        stopped = asyncio.Event()
        sent: list[int] = []

        async def sender() -> None:
            while not stopped.is_set():
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request("/in/plain", headers={"Connection": "close"}))
                sent.extend(statuses(await reader.read()) or [0])
                writer.close()

        async def restart() -> None:
            for _ in range(10):
                listener = Listener([held.dup()], "", inherited=True)
                async with serving(listener=listener, recorder=recorder, limits=Limits()):
                    before = len(sent)
                    await aeventually(lambda: len(sent) > before + 20)  # noqa: B023 - awaited in this turn
            listener = Listener([held.dup()], "", inherited=True)
            async with serving(listener=listener, recorder=recorder):
                stopped.set()
                await asyncio.wait(senders, timeout=5.0)

        senders = [asyncio.ensure_future(sender()) for _ in range(8)]
        await restart()
        await asyncio.gather(*senders)

    assert len(sent) > 200
    assert set(sent) == {200}
    assert len(recorder.kept) == len(sent)
