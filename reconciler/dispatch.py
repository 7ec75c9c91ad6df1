"""Pushes messages to the application: at least once, in order within a job, nobody holding up anybody else.

A message is leased before it is sent, so a kill in the middle sends it again with the same id. Its schedule is in its
row. When the application cannot be reached at all (not: when it answers 500 to one message) nothing is sent to it for
a short, growing while: its messages would only use up their attempts. When it answers again, what has waited for it is
sent at once (so many together as ever): what was tried while it was down may have to wait half a day by its schedule.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import structlog

from receiver.clock import Clock, retry_after_s
from receiver.providers.signing import sign_for_any_reader
from receiver.records import Message
from receiver.settings import AppSettings
from receiver.store.base import Store, Tx

log = structlog.get_logger("holdfast.dispatch")

IN_FLIGHT = 32
"""Messages on their way to one application at once."""
LEAST_CLAIM = IN_FLIGHT // 4
"""So many at least are claimed together: a claim is a transaction."""
FACTOR = 5.0
"""Each wait is so much longer than the one before: 5 s, 25 s, 2 min, 10 min, 52 min, 4 h, then 12 h (by default)."""
JITTER = 0.25
ANSWERED = "the application answered "
"""What was told to wait by an answer waits, also when the application was down meanwhile."""
ASKED_TO_WAIT = f"{ANSWERED}with a time to wait: "
"""What the application named a time for waits that long, whatever else it says."""
FAILED_FROM = 500
FAILED_FOR_S = 60.0
"""An application (or the proxy before it) that answers so many jobs (`DOWN_AFTER`) with such a status, for so long and
none with success between, was not there: when it takes a message again, what was tried meanwhile need not wait on."""
DOWN_AFTER = 3
"""So many jobs whose calls got no answer, none answered between them: the application is down. One job alone proves
nothing but its own trouble, and holds up no other."""
LOOK_S = 0.2
"""While pushes are on their way, what has become due meanwhile is looked for this often."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
SHORT_WAIT_S = 60.0
"""A longer wait is not made exact: the rows are looked into every second."""
WAKE_SLACK_S = 0.002
"""Rows know milliseconds: so much later, what is due is due by its row."""
LEASE_SLACK_S = 5.0
"""A message is leased so much longer than its push may last."""


class Push(Protocol):
    """Sends one message; `pushing.Pusher` in the product. Raises OSError (TimeoutError is one) without an answer."""

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str]]: ...


@dataclass(slots=True)
class _Target:
    """One application, by its URL, and what is known of its health; only in memory."""

    app: AppSettings
    sources: list[str] = field(default_factory=list)
    flying: int = 0
    silent: set[tuple[str, str]] = field(default_factory=set)
    """Jobs (no more than prove it down) whose calls got no answer since the last one that did."""
    probes: int = 0
    """How many probes in a row were not answered, since it is taken for down."""
    paused_until: float = 0.0
    back: bool = False
    """It was taken for down and has answered: what waits for it need not wait on."""
    failed: set[tuple[str, str]] = field(default_factory=set)
    """Jobs (no more than prove it) that were answered with a failure of its own since its last success."""
    failed_since: float = 0.0
    well_since: float | None = None
    """It failed everybody since then and takes messages again: what was tried since then need not wait on."""

    @property
    def is_down(self) -> bool:
        """Whether it is taken for down."""
        return len(self.silent) >= DOWN_AFTER

    def room(self, now: float) -> int:
        """How many messages may be sent to it now; one at a time while it is taken for down."""
        if self.paused_until > now:
            return 0
        if self.is_down:
            return 0 if self.flying else 1
        free = IN_FLIGHT - self.flying
        return free if free >= LEAST_CLAIM else 0

    def answered(self, message: Message, status: int, now: float) -> None:
        """It is there, whatever it said."""
        self.back |= self.is_down
        self.silent.clear()
        self.probes = 0
        self.paused_until = 0.0
        if 200 <= status < 300:
            if len(self.failed) >= DOWN_AFTER and now - self.failed_since >= FAILED_FOR_S:
                self.well_since = self.failed_since
            self.failed.clear()
        elif status >= FAILED_FROM and len(self.failed) < DOWN_AFTER:
            self.failed_since = min(now, self.failed_since) if self.failed else now
            self.failed.add((message.source, message.job_id or message.id))

    def stayed_silent(self, message: Message, now: float, share: float, *, probe: bool) -> None:
        """No answer. `share` (of the pause, for jitter) keeps several senders from knocking together."""
        was_down = self.is_down
        if not was_down:
            self.silent.add((message.source, message.job_id or message.id))
        if probe or self.is_down > was_down:
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(20, self.probes))
            self.probes += probe
            self.paused_until = now + pause_s * share


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one push ended."""

    message: Message
    status: int | None
    error: str | None
    retry_after_s: float | None = None


@dataclass(slots=True)
class Counters:
    """Pushes by outcome since the process started: `delivered`, `refused`, `unreachable`, `gone`, `dead`."""

    pushes: dict[str, int] = field(default_factory=dict)

    def count(self, outcome: str) -> None:
        self.pushes[outcome] = self.pushes.get(outcome, 0) + 1


class Dispatch:
    """The pushing side of the outbox. `apps` maps a source to where its messages go; a source not in it is pulled."""

    def __init__(
        self,
        store: Store,
        apps: Mapping[str, AppSettings],
        push: Callable[[AppSettings], Push],
        clock: Clock,
        chance: Random,
    ) -> None:
        self._store = store
        self._apps = apps
        self._push_for = push
        self._clock = clock
        self._chance = chance
        self._targets: dict[str, _Target] = {}
        for source, app in apps.items():
            self._targets.setdefault(app.url, _Target(app)).sources.append(source)
        self._flying: set[asyncio.Task[Outcome]] = set()
        self._turn = asyncio.Lock()
        self._closing = False
        self._retries_at: list[float] = []
        """When what was put off here is due, a heap; a hint, in memory only: the rows are looked into all the same."""
        self.counters = Counters()

    async def run_once(self) -> int:
        """Send what is due until nothing is; answers how many pushes ended. Raises StoreUnavailable."""
        ended = 0
        async with self._turn:
            while True:
                await self._launch()
                if not self._flying:
                    return ended
                ended += await self._land()

    def rest_s(self, longest_s: float) -> float:
        """How long nothing put off here becomes due, at most `longest_s`: a wait of half a second is not one of two."""
        now = self._clock.now()
        while self._retries_at and self._retries_at[0] <= now:
            heapq.heappop(self._retries_at)
        soonest = self._retries_at[0] if self._retries_at else now + longest_s
        return min(longest_s, soonest - now + WAKE_SLACK_S)

    async def drain(self, timeout_s: float) -> None:
        """Send no more; wait a while for what is on its way and keep its outcome. What is cut off is sent again, with
        its id, when its lease has run out. Raises StoreUnavailable."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._turn:
                while self._flying:
                    await self._land()
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)

    async def _launch(self) -> None:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        rooms = [(target, room) for target in self._targets.values() if (room := target.room(monotonic))]
        if not rooms or self._closing:
            return

        def claim(tx: Tx) -> list[tuple[_Target, Message]]:
            return [
                (target, message)
                for target, room in rooms
                for message in tx.outbox.claim(now, now + target.app.timeout_s + LEASE_SLACK_S, room, target.sources)
            ]

        for target, message in await self._store.write(claim):
            target.flying += 1
            self._flying.add(asyncio.create_task(self._send(target, message)))

    async def _land(self) -> int:
        """Wait a moment for pushes to end and keep their outcomes; no longer, for others may have become due."""
        done, self._flying = await asyncio.wait(self._flying, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        outcomes = [task.result() for task in done]
        if outcomes:
            back = [target for target in self._targets.values() if target.back or target.well_since is not None]
            await self._store.write(lambda tx: self._keep(tx, outcomes, back))
            for target in back:
                target.back, target.well_since = False, None
        return len(outcomes)

    async def _send(self, target: _Target, message: Message) -> Outcome:
        app, probe = self._apps[message.source], target.is_down
        body = message.payload.encode()
        try:
            status, answered = await self._push_for(app).post(app.url, body, self._headers(app, message, body))
        except Exception as error:  # noqa: BLE001 - whatever one message meets, the others go on
            share = self._chance.uniform(0.5, 1.0)
            target.stayed_silent(message, self._clock.monotonic(), share, probe=probe)
            return Outcome(message, None, str(error) or type(error).__name__)
        finally:
            target.flying -= 1
        now = self._clock.now()
        target.answered(message, status, now)
        after = answered.get("retry-after")
        wait_s = retry_after_s(after, now) if after is not None else None
        error_text = None if 200 <= status < 300 else f"{ANSWERED if wait_s is None else ASKED_TO_WAIT}{status}"
        return Outcome(message, status, error_text, wait_s)

    def _headers(self, app: AppSettings, message: Message, body: bytes) -> dict[str, str]:
        """Standard Webhooks: the id is the same on every attempt, the time and so the signature are this one's."""
        now = int(self._clock.now())
        headers = {"content-type": "application/json", "webhook-id": message.id, "webhook-timestamp": str(now)}
        if app.secret is not None:
            keys = app.secret.values()
            signatures = [one for key in keys for one in sign_for_any_reader(key, message.id, now, body)]
            headers["webhook-signature"] = " ".join(signatures)
        return headers

    def _keep(self, tx: Tx, outcomes: list[Outcome], back: list[_Target]) -> None:
        now = self._clock.now()
        delivered = [outcome.message.id for outcome in outcomes if outcome.error is None]
        if delivered:
            tx.outbox.delivered(delivered, now, pushed=True)
        for outcome in outcomes:
            self._keep_one(tx, outcome, now)
        for target in back:
            if target.back:
                tx.outbox.bring_forward(now, target.sources, but=ANSWERED)
            if target.well_since is not None:
                tx.outbox.bring_forward(now, target.sources, but=ASKED_TO_WAIT, tried_since=target.well_since)

    def _keep_one(self, tx: Tx, outcome: Outcome, now: float) -> None:
        message, app = outcome.message, self._apps[outcome.message.source]
        if outcome.error is None:
            self.counters.count("delivered")
            return
        attempts = message.attempts + 1
        if outcome.status == 410:
            tx.outbox.bury(message.id, now, "the application answered 410 Gone")
            self.counters.count("gone")
        elif attempts >= app.max_attempts:
            tx.outbox.bury(message.id, now, f"{outcome.error}; attempt {attempts} was the last")
            self.counters.count("dead")
            log.error("message.dead", message=message.id, source=message.source, attempts=attempts, error=outcome.error)
        else:
            wait_s = self._wait_s(app, attempts, outcome.retry_after_s)
            tx.outbox.retry(message.id, now, now + wait_s, outcome.error)
            if wait_s < SHORT_WAIT_S:
                heapq.heappush(self._retries_at, now + wait_s)
            self.counters.count("unreachable" if outcome.status is None else "refused")

    def _wait_s(self, app: AppSettings, attempts: int, asked_s: float | None) -> float:
        wait = min(app.retry_max_s, app.retry_first_s * FACTOR ** (attempts - 1))
        wait *= self._chance.uniform(1 - JITTER, 1 + JITTER)
        return max(wait, min(asked_s, app.retry_max_s)) if asked_s is not None else wait
