"""The way out for an answer: bounded in what waits for a slow reader, and cut off when the reader takes nothing."""

import asyncio
from typing import Any

from starlette.types import Message, Send

PIECE_BYTES = 65_536
"""What is handed to the connection at once; with its own buffer this bounds what one slow reader costs."""


class ReaderStalledError(Exception):
    """The reader took nothing for too long."""


class BrokenOffError(Exception):
    """The answer cannot be brought to its end; the reader must see that it is not whole."""


class Outlet:
    """An ASGI `send` that knows whether the answer has begun and can cut the connection."""

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self.started = False

    async def __call__(self, message: Message) -> None:
        """Send one message. Raises ReaderStalledError when the connection takes nothing for `stall_s`."""
        self.started = True
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send(message)
        except TimeoutError:
            raise ReaderStalledError from None

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of the body, in pieces."""
        for at in range(0, len(data), PIECE_BYTES):
            await self({"type": "http.response.body", "body": data[at : at + PIECE_BYTES], "more_body": True})
        if not more:
            await self({"type": "http.response.body", "body": b"", "more_body": False})

    async def cut(self) -> None:
        """End the connection at once. Closing it in order would wait for the reader to take what is buffered."""
        transport: Any = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is None:  # another server: leaving the answer unfinished makes it close the connection
            return
        transport.abort()
        await asyncio.sleep(0)  # let the server hear of it before the application returns
        await asyncio.sleep(0)
