"""The types an application sees. mypy checks this file with all others; at run time it only has to be importable."""

import contextlib
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, assert_type

import httpx

import holdfast as package
from holdfast import AsyncClient, AsyncTrackingTransport, Client, Message, TrackingTransport, jobs_of_provider


def consume(client: Client) -> None:
    """What the synchronous client takes and answers."""
    with client as same:
        assert_type(same, Client)
    assert_type(client.register("a", "b", modality="image", refs={"lead": 1}, metadata=[1]), dict[str, Any])
    client.register("a", "b", modlity="image")  # type: ignore[call-arg]  # a misspelt fact is found before it is lost
    client.register("a", "b", modality=5)  # type: ignore[arg-type]  # so is a fact of the wrong kind
    assert_type(client.wait("a", "b", timeout_s=1), dict[str, Any])
    assert_type(client.job("a", "b"), dict[str, Any])
    assert_type(client.claim(limit=1, lease_s=1), list[Message])
    assert_type(client.ack("a", "b"), int)
    assert_type(client.messages(idle_s=1), Generator[Message, None, None])
    assert_type(client.submit("a", "path", json={}), httpx.Response)


async def aconsume(client: AsyncClient) -> None:
    """What the asynchronous client takes and answers."""
    async with client as same:
        assert_type(same, AsyncClient)
    assert_type(await client.register("a", "b", alias=None), dict[str, Any])
    assert_type(await client.wait("a", "b"), dict[str, Any])
    assert_type(await client.claim(), list[Message])
    assert_type(await client.ack(), int)
    assert_type(client.messages(), AsyncGenerator[Message, None])
    assert_type(await client.submit("a", "path", method="GET"), httpx.Response)


def read(message: Message) -> None:
    """What a message tells."""
    assert_type(message.id, str)
    assert_type(message.source, str)
    assert_type(message.job_id, str | None)
    assert_type(message.supersedes, str | None)
    assert_type(message.data, Mapping[str, Any])


def wrap(client: Client, aclient: AsyncClient) -> None:
    """What the transports go into."""
    find = jobs_of_provider("a", "omnifence")
    httpx.Client(transport=TrackingTransport(client, "a", find, httpx.HTTPTransport())).close()
    httpx.AsyncClient(transport=AsyncTrackingTransport(aclient, "a", find))
    TrackingTransport(client, "a", lambda request, document: [{"job_id": document["id"]}])


def test_the_public_names_are_there() -> None:
    """Everything that `holdfast` promises can be imported from it, and a name it does not have is an AttributeError."""
    assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with contextlib.suppress(AttributeError):
        assert not package.Server  # there is none
