"""Pushes messages to the application: at least once, in order within a job, nobody holding up anybody else.

A message is leased before it is sent, so a kill in the middle sends it again with the same id. Its schedule is in its
row. When the application cannot be reached at all (not: when it answers 500 to one message) nothing is sent to it for
a short, growing while: its messages would only use up their attempts.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import structlog

from receiver.clock import Clock, retry_after_s
from receiver.providers.signing import sign_standard_webhooks
from receiver.records import Message
from receiver.settings import AppSettings
from receiver.store.base import Store, Tx

log = structlog.get_logger("holdfast.dispatch")

IN_FLIGHT = 32
"""Messages on their way to the application at once."""
FACTOR = 5.0
"""Each wait is so much longer than the one before: 5 s, 25 s, 2 min, 10 min, 52 min, 4 h, then 12 h (by default)."""
JITTER = 0.25
DOWN_AFTER = 3
"""So many calls in a row without any answer: the application is down."""
LONGEST_PAUSE_S = 30.0


class Push(Protocol):
    """Sends one message; `outbound.Pusher` in the product. Raises OSError (TimeoutError is one) without an answer."""

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str]]: ...


@dataclass(slots=True)
class _Target:
    """What is known of one application's health; only in memory."""

    silent: int = 0
    paused_until: float = 0.0


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
        self._flying: set[asyncio.Task[Outcome]] = set()
        self.counters = Counters()

    async def run_once(self) -> int:
        """Send what is due until nothing is; answers how many pushes ended. Raises StoreUnavailable."""
        ended = 0
        while True:
            await self._launch()
            if not self._flying:
                return ended
            done, self._flying = await asyncio.wait(self._flying, return_when=asyncio.FIRST_COMPLETED)
            outcomes = [task.result() for task in done]
            await self._store.write(lambda tx, outcomes=outcomes: self._keep(tx, outcomes))  # type: ignore[misc]
            ended += len(outcomes)

    async def drain(self, timeout_s: float) -> None:
        """Stop sending; wait a while for what is on its way and keep its outcome."""
        if not self._flying:
            return
        done, _ = await asyncio.wait(self._flying, timeout=timeout_s)
        outcomes = [task.result() for task in done]
        self._flying -= done
        if outcomes:
            await self._store.write(lambda tx: self._keep(tx, outcomes))

    async def _launch(self) -> None:
        room = IN_FLIGHT - len(self._flying)
        sources = self._reachable()
        if room < IN_FLIGHT // 2 or not sources:
            return
        now = self._clock.now()
        lease_s = max(self._apps[source].timeout_s for source in sources) + 5.0
        for message in await self._store.write(lambda tx: tx.outbox.claim(now, now + lease_s, room, sources)):
            self._flying.add(asyncio.create_task(self._send(message)))

    def _reachable(self) -> list[str]:
        """Sources whose application is not known to be down. One probe at a time goes to one that was."""
        now = self._clock.monotonic()
        return [
            source
            for source, app in self._apps.items()
            if (target := self._targets.setdefault(app.url, _Target())).paused_until <= now
            and (target.silent < DOWN_AFTER or not self._flying)
        ]

    async def _send(self, message: Message) -> Outcome:
        app = self._apps[message.source]
        body = message.payload.encode()
        now = self._clock.now()
        headers = {
            "content-type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now)),
        }
        if app.secret is not None:
            signatures = [sign_standard_webhooks(key, message.id, int(now), body) for key in app.secret.values()]
            headers["webhook-signature"] = " ".join(signatures)
        target = self._targets.setdefault(app.url, _Target())
        try:
            status, answered = await self._push_for(app).post(app.url, body, headers)
        except OSError as error:
            target.silent += 1
            if target.silent >= DOWN_AFTER:
                pause_s = min(LONGEST_PAUSE_S, 0.25 * 2.0 ** min(20, target.silent - DOWN_AFTER))
                target.paused_until = self._clock.monotonic() + pause_s * self._chance.uniform(0.5, 1.0)
            return Outcome(message, None, str(error) or type(error).__name__)
        target.silent, target.paused_until = 0, 0.0
        after = answered.get("retry-after")
        wait_s = retry_after_s(after, self._clock.now()) if after is not None else None
        error_text = None if 200 <= status < 300 else f"the application answered {status}"
        return Outcome(message, status, error_text, wait_s)

    def _keep(self, tx: Tx, outcomes: list[Outcome]) -> None:
        now = self._clock.now()
        delivered = [outcome.message.id for outcome in outcomes if outcome.error is None]
        if delivered:
            tx.outbox.delivered(delivered, now, pushed=True)
        for outcome in outcomes:
            self._keep_one(tx, outcome, now)

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
            self.counters.count("unreachable" if outcome.status is None else "refused")

    def _wait_s(self, app: AppSettings, attempts: int, asked_s: float | None) -> float:
        wait = min(app.retry_max_s, app.retry_first_s * FACTOR ** (attempts - 1))
        wait *= self._chance.uniform(1 - JITTER, 1 + JITTER)
        return max(wait, min(asked_s, app.retry_max_s)) if asked_s is not None else wait
