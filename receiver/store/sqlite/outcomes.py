"""From the writer's thread back to whoever waits on an event loop."""

import asyncio
import contextlib
from typing import Any


def tell(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", value: Any, error: BaseException | None
) -> None:
    """Hand an outcome to its event loop, if that still runs: the writer must outlive whoever asked."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_resolve, future, value, error)


def _resolve(future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if future.done():  # the caller stopped waiting; what was committed stays committed
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
