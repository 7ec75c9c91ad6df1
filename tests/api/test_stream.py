"""The outbox as server-sent events, over the real server."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from receiver.records import Message
from reconciler.api.desk import Limits
from reconciler.api.stream import event
from tests.api.conftest import Open
from tests.api.office import Office
from tests.support import aeventually


class Reader:
    """Reads events as an EventSource does."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.comments = 0

    async def next(self) -> tuple[str, dict[str, Any]]:
        """(id, payload) of the next event."""
        found: dict[str, str] = {}
        async with asyncio.timeout(15):
            async for line in self._lines:
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    assert name not in found, "one line each"
                    found[name] = value
                elif found:
                    return found["id"], json.loads(found["data"])
        raise AssertionError("the stream ended")

    async def jobs(self, count: int) -> list[str]:
        """The jobs that the next events are about."""
        return [(await self.next())[1]["data"]["job_id"] for _ in range(count)]


@contextlib.asynccontextmanager
async def reading(address: str, last_event_id: str | None = None) -> AsyncIterator[Reader]:
    headers = {} if last_event_id is None else {"last-event-id": last_event_id}
    async with (
        httpx.AsyncClient(base_url=address, timeout=20) as client,
        client.stream("GET", "/v1/outbox/stream", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        yield Reader(answer.aiter_lines())


async def test_it_begins_with_what_is_undelivered_and_goes_on(office: Office) -> None:
    """Without Last-Event-ID: first the backlog that is undelivered, in order, then everything new; nothing is acked."""
    await office.told("a", "b", "c")
    messages, _ = await office.store.read(lambda view: view.messages())
    done = next(row["id"] for row in messages if row["job_id"] == "b")
    await office.store.write(lambda tx: tx.outbox.delivered([done], office.clock.now(), pushed=True))

    async with office.served() as address, reading(address) as reader:
        first = [await reader.next(), await reader.next()]
        await office.told("d")
        third = await reader.next()

    assert [payload["data"]["job_id"] for _, payload in [*first, third]] == ["a", "c", "d"]
    assert all(message_id == payload["id"] for message_id, payload in first)
    tallies = await office.store.read(lambda view: view.tallies())
    assert tallies["outbox", "moderation", "pending"] == 3


async def test_last_event_id_goes_on_behind_it(office: Office) -> None:
    """With Last-Event-ID the stream goes on with the very next message, delivered or not."""
    await office.told("a", "b", "c")
    async with office.served() as address:
        async with reading(address) as reader:
            last, _ = await reader.next()
        await office.store.write(lambda tx: tx.outbox.delivered([last], office.clock.now(), pushed=True))
        async with reading(address, last) as reader:
            assert await reader.jobs(2) == ["b", "c"]


async def test_an_id_from_before_a_prune_begins_with_what_is_kept(office: Office) -> None:
    """A Last-Event-ID that retention has removed skips nothing: all that is kept comes."""
    await office.told("a", "b")
    async with office.served() as address, reading(address, "msg_pruned_long_ago") as reader:
        assert await reader.jobs(2) == ["a", "b"]


async def test_many_messages_come_once_each_and_in_order(office: Office) -> None:
    """A backlog larger than one batch, and messages staged while it is read: each once, in order."""
    names = [f"j{n}" for n in range(45)]
    await office.told(*names[:35])
    async with office.served() as address, reading(address) as reader:
        first = await reader.jobs(20)
        await office.told(*names[35:])
        rest = await reader.jobs(25)

    assert first + rest == names


async def test_a_silent_stream_is_kept_alive(open_office: Open) -> None:
    """Comments come while there is nothing to tell."""
    office = open_office(limits=Limits(keep_alive_s=0.05, tick_s=0.05))
    async with office.served() as address, reading(address) as reader:
        asking = asyncio.ensure_future(reader.next())
        await aeventually(lambda: reader.comments >= 4)
        await office.told("a")
        assert (await asking)[1]["data"]["job_id"] == "a"


async def test_a_reader_that_stops_reading_is_dropped(open_office: Open) -> None:
    """Whoever takes nothing is cut off, and costs no more than a connection's buffer until then."""
    office = open_office(limits=Limits(stall_s=0.3))
    for n in range(40):
        await office.register(f"j{n}")
        await office.settle(f"j{n}", result="x" * 1_000_000)
    async with office.served() as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((host, int(port)))
            lazy.sendall(b"GET /v1/outbox/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await aeventually(lambda: office.app.parts.streams.open == 1)
            await aeventually(lambda: office.app.parts.streams.open == 0, 20)
            taken = 0
            with contextlib.suppress(ConnectionResetError):
                while chunk := lazy.recv(65536):
                    taken += len(chunk)

    assert taken < 20_000_000, "the rest was never sent"


async def test_a_reader_that_leaves_is_forgotten(office: Office) -> None:
    """A broken connection ends its stream though nothing is sent."""
    async with office.served() as address:
        async with reading(address):
            assert office.app.parts.streams.open == 1
        await aeventually(lambda: office.app.parts.streams.open == 0)


async def test_stopping_ends_streams_in_order(office: Office) -> None:
    """When the listener stops, a stream comes to its proper end."""
    async with (
        office.served() as address,
        httpx.AsyncClient(base_url=address) as client,
        client.stream("GET", "/v1/outbox/stream") as answer,
    ):
        office.app.stop()
        body = await answer.aread()

    assert body.startswith(b":")


async def test_too_many_streams_are_turned_away(open_office: Open) -> None:
    """Past the bound the answer is 503."""
    office = open_office(limits=Limits(most_streams=1))
    async with office.served() as address, reading(address), httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/v1/outbox/stream")).status_code == 503


@pytest.mark.parametrize("payload", ['{"a":1}', '{\n"a":\r\n1}'])
def test_data_is_one_line(payload: str) -> None:
    """Whatever somebody wrote into the table, one message is one event."""
    written = event("msg_1\nevent: forged", payload).decode()

    lines = written.rstrip("\n").split("\n")
    assert [line.partition(":")[0] for line in lines] == ["id", "data"]
    assert json.loads(lines[1].removeprefix("data: ")) == {"a": 1}


async def test_only_the_outbox_is_read(office: Office) -> None:
    """Reading acknowledges nothing and counts no attempt."""
    await office.told("a")
    async with office.served() as address, reading(address) as reader:
        message_id, _ = await reader.next()

    kept = await office.store.write(lambda tx: tx.outbox.get(message_id))
    assert isinstance(kept, Message)
    assert (kept.state, kept.attempts) == ("pending", 0)
