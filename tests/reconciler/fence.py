"""A simulated OmniFence at the edge of our own `Outbound`: no network, no time of its own, everything on record.

What it answers is its truth (`jobs`) unless a test puts something in its way (`answers`). It keeps every question with
the instant it was asked, so that a test can say what was asked when, and what was not.
"""

import email.utils
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

from receiver import clock as clocks
from receiver.clock import Clock
from receiver.providers.base import Question, Reply
from receiver.settings import ReconcileSettings, SourceSettings
from reconciler.outbound import Exchange, Outbound, Unanswered
from reconciler.sweep import PassReport, Sweep
from tests.receiver.scene import Scene

Answer = Reply | Unanswered


@dataclass(frozen=True)
class Asked:
    """One question that was put."""

    at: float
    source: str
    path: str
    query: Mapping[str, str]

    @property
    def job_id(self) -> str | None:
        """The job of a single question; None for a listing."""
        head = "/api/v1/job/"
        return unquote(self.path.removeprefix(head)) if self.path.startswith(head) else None


def reply(document: Any = None, status: int = 200, **headers: str) -> Callable[[float], Reply]:
    """An answer to be given at any time; `retry_after="5"` becomes a header."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda now: Reply(status, named, body, now)


def in_seconds(seconds: float, now: float) -> str:
    """An HTTP date so many seconds ahead."""
    return email.utils.formatdate(now + seconds, usegmt=True)


class Fence(Outbound):
    """The provider. `answers` is asked first and may answer instead of the truth, or change it, or answer None."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.clock = clock
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: list[Asked] = []
        self.answers: Callable[[Asked], Answer | Callable[[float], Answer] | None] = lambda asked: None

    def put(self, job_id: str, status: str = "processing", **facts: Any) -> None:
        """What the provider knows of a job."""
        self.jobs[job_id] = {
            "job_id": job_id, "type": "prompt", "status": status, "created_at": clocks.text(self.clock.now()), **facts,
        }  # fmt: skip

    @property
    def ids(self) -> list[str | None]:
        """The jobs asked about so far, None for a listing, in order."""
        return [asked.job_id for asked in self.asked]

    async def ask(self, source: SourceSettings, question: Question, rules: ReconcileSettings) -> Exchange:
        asked = Asked(self.clock.now(), source.name, question.path or question.url or "", dict(question.query))
        self.asked.append(asked)
        answer = self.answers(asked) or self._truth(asked)
        return Exchange(f"GET {asked.path}", 1, answer(self.clock.now()) if callable(answer) else answer)

    def _truth(self, asked: Asked) -> Callable[[float], Answer]:
        if asked.path == "/api/v1/jobs":
            wanted = asked.query["status"].split(",")
            since = asked.query.get("from", "")
            rows = [job for job in self.jobs.values() if job["status"] in wanted and job["created_at"] >= since]
            offset, limit = int(asked.query["offset"]), int(asked.query["limit"])
            return reply({"jobs": rows[offset : offset + limit], "total": len(rows)})
        found = self.jobs.get(asked.job_id or "")
        return reply({"error": "JOB_NOT_FOUND"}, 404) if found is None else reply(found)


@dataclass
class Field(Scene):
    """A scene with somebody to ask. Waiting for the budget lets the clock run, so that nothing here takes time."""

    waited_s: float = 0.0
    fence: Fence = field(init=False)
    sweep: Sweep = field(init=False)

    def __post_init__(self) -> None:
        self.fence = Fence(self.clock)
        super().__post_init__()

    def restart(self) -> None:
        """As after a crash: the file alone is left, and the provider, which knows nothing of crashes."""
        super().restart()
        self.sweep = Sweep(
            self.store,
            self.settings.sources,
            self.settings.reconcile,
            self.ledger,
            outbound=self.fence,
            clock=self.clock,
            chance=Random(7),
            pause=self._pause,
        )

    def wake(self, source: str, job_id: str) -> None:
        """As in the product: the next pass asks about it."""
        super().wake(source, job_id)
        self.sweep.urge(source, job_id)

    async def _pause(self, seconds: float) -> None:
        self.waited_s += seconds
        self.clock.advance(seconds)

    async def passes(self, source: str = "asked", times: int = 1) -> PassReport:
        """So many passes, one after the other, and everything new is read; the last one's report."""
        for _ in range(times):
            report = await self.sweep.pass_once(source)
            await self.read()
        return report

    async def ticks(self, seconds: float, source: str = "asked", every_s: float = 1.0) -> None:
        """Time passes, with a pass every so often."""
        until = self.clock.now() + seconds
        while self.clock.now() < until:
            self.clock.advance(min(every_s, until - self.clock.now()))
            await self.passes(source)

    async def state(self, job_id: str, source: str = "asked") -> tuple[str, str | None]:
        """(state, reason) of a job."""
        job = await self.job(job_id, source)
        return job["state"], job["reason"]


def field_of(path: Path, reconcile: dict[str, Any] | None = None, **sources: dict[str, Any]) -> Field:
    """A field with these sources besides the usual ones, and these rules, in a folder of its own."""
    path.mkdir()
    return Field(path / "record.db", sources, config={"reconcile": reconcile or {}})
