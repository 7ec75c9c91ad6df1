"""Waiting for commits: many at once, each with a limit, at the price of one timer and one wake-up a batch.

The writer commits many deliveries in one transaction and says so from its own thread. Waking the event loop for each
would cost more than all else about waiting, and so would a future and a timer for each; limits of seconds need no such
precision. Nothing here cancels a commit: it goes on whether or not anybody still waits for it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import structlog

from receiver.admission import Claim
from receiver.errors import StoreUnavailable
from receiver.records import Delivery, DeliveryId

TELLING_FAILED = "intake.telling_failed"

_TICK_S = 0.05
"""How much later than its limit a wait may end."""

Done = Callable[[StoreUnavailable | None], object]
Tell = Callable[[bool | Exception], object]
"""Called once, on the loop: True, it is durable; False, that takes longer than the limit; or why it is not."""

_log = structlog.get_logger("receiver.commits")


class Recorder(Protocol):
    """What intake needs of the store."""

    def next_id(self) -> DeliveryId:
        """A fresh id, greater than all before it."""
        ...

    def submit(self, delivery: Delivery, done: Done) -> None:
        """Queue a delivery. `done` is called once, from any thread: with None when the delivery survives kill -9, in
        the database or in the spill, or with why it does not. Raises StoreUnavailable when it cannot even be queued."""
        ...


class _Waiting:
    """One delivery on its way to the disk."""

    __slots__ = ("claim", "deadline", "delivery", "tell")

    def __init__(self, delivery: Delivery, claim: Claim, deadline: float, tell: Tell) -> None:
        self.delivery = delivery
        self.claim = claim
        self.deadline = deadline
        self.tell = tell


class Commits:
    """All deliveries on their way to the disk. Belongs to one event loop; only `_done` is for other threads."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[_Waiting, None] = {}
        """Whoever still waits, in order of arrival."""
        self._gathered: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._ready: deque[tuple[_Waiting, StoreUnavailable | None]] = deque()
        self._waking = False

    def keep(self, delivery: Delivery, claim: Claim, limit_s: float, tell: Tell) -> None:
        """Have a delivery recorded; `tell` hears how that went, at the latest after `limit_s`.

        `claim` is released when the recorder is through with the body, in time or not.
        """
        loop = self._loop = self._loop or asyncio.get_running_loop()
        waiting = _Waiting(delivery, claim, loop.time() + limit_s, tell)
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(waiting)
        self._waiting[waiting] = None
        if self._timer is None:
            self._timer = loop.call_later(_TICK_S, self._look)

    def _hand_over(self) -> None:
        """Give the recorder what one turn of the loop brought, in one go: woken by the first of them, it would take
        the interpreter's lock from the loop and commit that one alone."""
        gathered, self._gathered = self._gathered, []
        for waiting in gathered:
            try:
                self._recorder.submit(waiting.delivery, partial(self._done, waiting))
            except Exception as error:  # noqa: BLE001 - whoever waits for this one hears it; the others go on
                waiting.claim.release()
                self._tell(waiting, error)

    def _done(self, waiting: _Waiting, error: StoreUnavailable | None) -> None:
        """The recorder is through with a delivery. Any thread; the first of a batch wakes the loop, the rest ride."""
        self._ready.append((waiting, error))
        if not self._waking and self._loop is not None:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False  # first: what is added from here on wakes the loop again, at worst once too often
        while self._ready:
            waiting, error = self._ready.popleft()
            waiting.claim.release()
            self._tell(waiting, error or True)

    def _tell(self, waiting: _Waiting, outcome: bool | Exception) -> None:
        if waiting not in self._waiting:
            return  # it waited too long, and has been told so
        del self._waiting[waiting]
        try:
            waiting.tell(outcome)
        except Exception:  # noqa: BLE001 - one sender's connection must not keep the others from their answers
            _log.exception(TELLING_FAILED, id=waiting.delivery.id)

    def _look(self) -> None:
        """End the waits that are over their limit. The timer runs only while somebody waits."""
        assert self._loop is not None
        now = self._loop.time()
        for waiting in [each for each in self._waiting if each.deadline <= now]:
            self._tell(waiting, False)
        self._timer = self._loop.call_later(_TICK_S, self._look) if self._waiting else None
