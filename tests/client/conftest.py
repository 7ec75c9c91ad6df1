"""The clients against a real private listener: each test of what both promise runs with both."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from holdfast import AsyncClient, Client, Message
from tests.api.conftest import Open, open_office
from tests.api.office import Office

__all__ = ["Connect", "Threaded", "open_office"]

Connect = Callable[..., AbstractAsyncContextManager[Any]]
"""`async with connect(address, token) as client`: an AsyncClient, or a Client that is driven from threads."""


@pytest.fixture
def office(open_office: Open) -> Office:
    """An office without a token."""
    return open_office()


class Threaded:
    """A `Client` with the face of an `AsyncClient`: every call runs on a thread."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            return await asyncio.to_thread(method, *arguments, **named)

        return call

    async def messages(self, **options: Any) -> AsyncIterator[Message]:
        """Asks for the next one when it is asked for the next one."""
        iterator = self.client.messages(**options)
        try:
            while (message := await asyncio.to_thread(next, iterator, None)) is not None:
                yield message
        finally:
            await asyncio.to_thread(iterator.close)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Both clients, one after the other."""

    @contextlib.asynccontextmanager
    async def opened(address: str, token: str | None = None) -> AsyncIterator[Any]:
        if request.param == "async":
            async with AsyncClient(address, token) as client:
                yield client
        else:
            with Client(address, token) as client:
                yield Threaded(client)

    return opened
