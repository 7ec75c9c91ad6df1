"""Time that jumps and a record without threads: what makes months of the product fit into seconds, and replay.

An event loop whose clock goes to the next timer when nothing is ready; the product's clock on it; the store's promises
kept inline, each piece of work one transaction of the product's own statements on a real file.
"""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from structlog.testing import capture_logs

from receiver.store.sqlite import driver, schema
from receiver.store.sqlite.transaction import SqliteTx
from receiver.store.sqlite.views import SqliteView
from tests.support import START

T = TypeVar("T")


class SimTask(asyncio.Task):  # type: ignore[type-arg]  # a task of whatever its coroutine answers
    """A task whose place in a set does not depend on where in memory it lies."""

    made = 0

    def __init__(self, *given: Any, **named: Any) -> None:
        SimTask.made += 1
        self.number = SimTask.made
        super().__init__(*given, **named)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0
        SimTask.made = 0
        self.set_task_factory(lambda loop, coro, **named: SimTask(coro, loop=loop, **named))

    def time(self) -> float:
        return self.at

    def _run_once(self) -> None:
        inner = cast("Any", self)
        while inner._scheduled and inner._scheduled[0]._cancelled:  # or it would wait for a timer nobody wants
            inner._timer_cancelled_count -= 1
            heapq.heappop(inner._scheduled)._scheduled = False
        if not inner._ready and inner._scheduled:
            self.at = max(self.at, inner._scheduled[0]._when)
        cast("Any", super())._run_once()


class SimClock:
    """The product's clock on the loop's time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return START + self._loop.at

    def monotonic(self) -> float:
        return self._loop.at


class InlineStore:
    """The store's promises kept without threads: each piece of work is one transaction, at once."""

    def __init__(self, path: Path) -> None:
        self._connection = driver.open_writer(path)
        self._connection.execute("PRAGMA synchronous=OFF")  # nobody pulls the plug here; power.py does
        with capture_logs():
            schema.migrate(self._connection)
        self.hook: Callable[[], None] = lambda: None

    async def write(self, work: Callable[[Any], T]) -> T:
        await asyncio.sleep(0)  # as on a thread: whoever is cut off here had nothing done
        changes = self._connection.total_changes
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            tx = SqliteTx(self._connection)
            value = work(tx)
            tx.flush()
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        if self._connection.total_changes != changes:
            self.hook()
        await asyncio.sleep(0)  # or had it done, and was not told
        return value

    async def read(self, look: Callable[[Any], T]) -> T:
        return self.read_sync(look)

    def read_sync(self, look: Callable[[Any], T]) -> T:
        return look(SqliteView(self._connection))

    def on_commit(self, hook: Callable[[frozenset[str]], None]) -> None:
        """Nobody listens: the loops here are woken by `hook`."""

    def rows(self, statement: str, *given: object) -> list[Any]:
        return list(self._connection.execute(statement, given))

    def waiting(self) -> int:
        """Nothing is ever on its way."""
        return 0

    def source(self, name: str) -> Any:
        return SqliteTx(self._connection).sources.get(name)

    def forget_waits(self, name: str) -> None:
        """Part of a planted bug."""
        SqliteTx(self._connection).sources.put(replace(self.source(name), not_before=None, open_until=None))

    def close(self) -> None:
        self._connection.close()
