"""What is outside of the simulated months: what is true of each job, and how provider and application misbehave."""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import blake2b
from random import Random
from typing import Any

from faults.simtime import InlineStore, SimLoop
from receiver import clock
from receiver.providers.base import Question, Reply
from reconciler.outbound import Exchange, Unanswered
from tests.support import START

DAY_S = 86400.0
NAME = "plain"


@dataclass(slots=True)
class World:
    """Everything outside: what is true of each job, and who misbehaves when."""

    seed: int
    days: float
    loop: SimLoop
    store: InlineStore
    bug: str = ""
    truth: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    """Job -> (when it ends, how; None when it never does)."""
    told: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=lambda: defaultdict(list))
    history: Any = field(default_factory=lambda: blake2b(digest_size=16))
    early: int = 0
    questions: int = 0
    pushes: int = 0
    crashes: int = 0
    worst_s: float = 0.0
    not_before: float = 0.0
    left_alone_until: float = 0.0
    """Until when the source was to be left alone, as last seen: the first question after it ends that for all jobs."""
    woken: float = 0.0
    """When the reconciler last began: nobody asks while it is gone."""
    number: int = 0
    failures: list[str] = field(default_factory=list)
    """What the product logged of its own mistakes."""

    def note(self, *what: object) -> None:
        """One more thing happened: it is part of the history that a seed stands for."""
        self.history.update(repr((round(self.loop.at, 6), *what)).encode())

    def chance(self, what: str) -> Random:
        """Chance of its own for each kind of thing, so that one decision does not shift all others."""
        return Random(f"{self.seed}/{what}")

    def calm(self) -> bool:
        """Towards the end nothing fails any more, so that everything can come to its end."""
        return self.loop.at > self.days * DAY_S

    def spell(self, what: str, share: float, hours: float) -> bool:
        """Whether a bad spell of this kind is on: some of the stretches of so many hours are."""
        stretch = int(self.loop.at // (hours * 3600))
        return not self.calm() and self.chance(f"{what}/{stretch}").random() < share


class Provider:
    """The provider's side of `Outbound.ask`."""

    def __init__(self, world: World, chance: Random) -> None:
        self._world = world
        self._chance = chance

    async def ask(self, source: Any, question: Question, rules: Any) -> Exchange:
        world, chance = self._world, self._chance
        now = world.loop.at
        world.questions += 1
        world.early += now < world.not_before
        job_id = question.job_id or ""
        self._measure(job_id, now)
        world.note("asked", job_id)
        outcome = await self._answer(job_id, chance, rules)
        return Exchange(f"GET {job_id}", 10, outcome)

    def _measure(self, job_id: str, now: float) -> None:
        """How late the question is: after it was due, the source could be asked, and there was somebody to ask it."""
        store = self._world.store
        state, job = (
            store.source(NAME),
            store.rows("SELECT next_poll_at, not_before FROM jobs WHERE job_id = ?", job_id),
        )
        times = [clock.instant(each) for each in job[0] if each] if job else []
        world = self._world
        world.left_alone_until = max(world.left_alone_until, state.open_until or 0.0, state.not_before or 0.0)
        if times:
            due = max(*times, world.left_alone_until, START + world.woken)
            self._world.worst_s = max(self._world.worst_s, START + now - due)

    async def _answer(self, job_id: str, chance: Random, rules: Any) -> Reply | Unanswered:
        world = self._world
        await asyncio.sleep(chance.uniform(0.01, 1.0))
        if world.spell("provider down", 0.05, 5.0):
            return Unanswered("nobody answers")
        luck = 1.0 if world.calm() else chance.random()
        if luck < 0.03:
            await asyncio.sleep(rules.http_timeout_s)
            return Unanswered(f"no answer within {rules.http_timeout_s:g} s")
        now = START + world.loop.at
        if luck < 0.08:
            wait_s = chance.choice([1, 7, 60, 290])
            world.not_before = world.loop.at + wait_s
            said = str(wait_s) if chance.random() < 0.5 else formatdate(int(now) + wait_s, usegmt=True)
            if "GMT" in said:
                world.not_before = float(int(now) + wait_s) - START
            return Reply(429, {"retry-after": said}, b"{}", now)
        if luck < 0.12:
            return Reply(chance.choice([500, 502, 503, 401]), {}, b"broken", now)
        ends, how = world.truth[job_id]
        status = how if how and world.loop.at >= ends else "running"
        return Reply(200, {}, json.dumps({"status": status, "result": {"of": job_id}}).encode(), now)


class Application:
    """The application's side of `Pusher.post`."""

    def __init__(self, world: World, chance: Random) -> None:
        self._world = world
        self._chance = chance

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        world = self._world
        world.pushes += 1
        message = json.loads(body)
        await asyncio.sleep(self._chance.uniform(0.001, 0.2))
        if world.spell("application down", 0.08, 7.0):
            raise OSError("refused")
        luck = 1.0 if world.calm() else self._chance.random()
        if luck < 0.02:
            await asyncio.sleep(15.0)
            raise TimeoutError("no answer within 15 s")
        if luck < 0.08:
            return 500, {}
        data = message["data"]
        world.told[data["job_id"]].append((headers["webhook-id"], data))
        world.note("told", data["job_id"], data["state"], data["reason"])
        return 200, {}
