"""What every simulated provider has in common: settings, the life of a job, its truth, its webhooks.

Owns when a job moves on and when something is told. Never knows a provider's paths, words or shapes: one file a
provider does (`omnifence.py` and its neighbours, found by scanning the folder). Real HTTP, invented content; nothing
here is a mock of the sidecar's own code.
"""

import random
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.simulator.faults import JOB_FAULTS, WEBHOOK_FAULTS, Fate, Faults, draw
from holdfast.simulator.gate import Gate, Handler, Kind, Quota
from holdfast.simulator.sender import Sender, SendPolicy, Speaks, Webhook, guessed
from holdfast.simulator.settings import Plan, Settings, UnusableError
from holdfast.simulator.truth import SimulatedJob, new_counters
from holdfast.simulator.workers import Workers
from receiver import clock as clocks
from receiver.clock import Clock, SystemClock

__all__ = ["Faults", "Plan", "Settings", "SimulatedJob", "Simulator", "UnusableError", "Webhook"]

EARLY_FORGOES = frozenset({"delay", "reorder", "hang"})
"""An early webhook cannot also be a late one, and the submit answer waits for it."""


class Simulator(Speaks, ABC):
    """One simulated provider. Subclasses name themselves, list their routes and say what their jobs look like.

    Served by `Simulation`; alone, enter `running()` and mount `app` anywhere (an `httpx.ASGITransport` will do).
    """

    name: ClassVar[str]
    """The provider's name, as in `provider = "…"` of the configuration."""
    modalities: ClassVar[tuple[str, ...]]
    first_word: ClassVar[str] = "queued"
    running_word: ClassVar[str] = "processing"
    base_path: ClassVar[str] = ""
    """What a configured base_url carries after the origin."""
    policy: ClassVar[SendPolicy]
    quota_per_min: ClassVar[int | None] = None
    """The documented quota, if there is one."""
    retry_after: Literal["seconds", "date", "none"] = "none"
    """How this provider's 429 names the wait."""

    @dataclass(frozen=True, slots=True)
    class Options:
        """The provider's own switches."""

    def __init__(self, settings: Settings | None = None, clock: Clock | None = None) -> None:
        """Raises ValueError for an option the provider does not have."""
        self.settings = settings or Settings()
        try:
            self.options: Any = self.Options(**self.settings.options)
        except TypeError as error:
            raise ValueError(f"{self.name}: unknown option in {sorted(self.settings.options)}") from error
        self.label = self.name
        """What this simulator is called where it is served; part of every draw, so that two of one provider differ."""
        self.clock: Clock = clock or SystemClock()
        self.seed = str(self.settings.seed)
        self.faults = self.settings.faults
        self.webhook_url = self.settings.webhook_url
        self.counters = new_counters()
        self.jobs: dict[str, SimulatedJob] = {}
        self._aliases: dict[str, SimulatedJob] = {}
        self.base_url = f"http://{self.name}.invalid{self.base_path}"
        self.trap_url = f"http://{self.name}.invalid/trap"
        self.events: list[Webhook] = []
        self.workers = Workers()
        self.sender = Sender(self.policy, self.clock, self.counters, self.settings.time_scale)
        limit = self.quota_per_min if self.settings.quota_per_min is None else self.settings.quota_per_min or None
        self.quota = Quota(limit, self.settings.quota_window_s, self.clock)
        self._gate = Gate(self)
        self.app = self._build()

    # -- what a provider says of itself -------------------------------------------------------------------------

    @abstractmethod
    def endpoints(self) -> list[tuple[str, str, Kind, Handler]]:
        """(method, path, kind, handler) of every guarded endpoint."""

    @abstractmethod
    def plan(self, number: int, modality: str, fields: Mapping[str, Any], rng: random.Random) -> Plan:
        """Decide who a job is and how it ends, all from `rng`. Raises UnusableError."""

    @abstractmethod
    def announcements(self, job: SimulatedJob) -> list[Webhook]:
        """What is sent when the job has ended, the decisive one last; empty when its end is silent."""

    @abstractmethod
    def forgery(self, job: SimulatedJob, made_up: str | None) -> Webhook:
        """A stranger's webhook: about the made-up id, or (None) the opposite of the truth about this job."""

    @abstractmethod
    def error(self, status: int, message: str = "", code: str | None = None) -> Response:
        """An error in the provider's own shape."""

    def beginnings(self, job: SimulatedJob) -> list[Webhook]:
        """What is sent when the job has just been submitted."""
        return []

    @property
    def secret(self) -> str | None:
        """What webhooks are signed with now, if this provider signs or has been given a secret."""
        return self.settings.webhook_secret

    def address(self, job: SimulatedJob | None) -> str | None:
        """Where a webhook goes that is sent now; None when nobody is to be told."""
        return (job.webhook_url if job is not None else None) or self.webhook_url

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request without a good key; by default a bearer token is wanted."""
        key = bearer(request)
        return None if key is not None and self.takes(key) else self.error(401)

    def takes(self, key: str) -> bool:
        """Whether this is a good key."""
        return bool(key) if self.settings.api_key is None else key == self.settings.api_key

    def charge(self, request: Request) -> float | None:
        """Take one request from the quota: None, or the seconds to wait."""
        return self.quota.take()

    def decorate(self, response: Response) -> Response:
        """Add the headers this provider puts on every answer."""
        return response

    def unguarded(self) -> list[Route]:
        """Endpoints outside key, quota and faults, such as a health check."""
        return []

    # -- the life of a job --------------------------------------------------------------------------------------

    async def submit(self, modality: str, fields: Mapping[str, Any] | None = None) -> SimulatedJob:
        """Accept a job, as if a client had posted it. `fields` may hold `webhook_url`. Raises UnusableError.

        A job whose fate is `early` has ended, and its webhooks were answered, when this returns.
        """
        if modality not in self.modalities:
            raise UnusableError(f"unknown modality {modality!r}; known are {', '.join(self.modalities)}")
        number = self.counters["submitted"] + 1
        rng = random.Random(f"{self.seed}:{self.label}:{number}")
        fate = draw(rng, self.faults, JOB_FAULTS)
        low, high = self.settings.job_duration_s
        duration_s = low + (high - low) * rng.random()
        fields = dict(fields or {})
        if not str(fields.get("webhook_url", "http://")).startswith(("http://", "https://")):
            raise UnusableError("webhook_url must be an http or https URL")
        plan = self.plan(number, modality, fields, rng)
        self.counters["submitted"] += 1
        early, stuck = "early" in fate and "stuck" not in fate, "stuck" in fate
        job = SimulatedJob(
            number=number,
            provider=self.name,
            job_id=plan.job_id,
            modality=modality,
            submitted_at=self.clock.now(),
            duration_s=0.0 if early else self.faults.stuck_s if stuck else duration_s,
            state_at_end=plan.state,
            reason_at_end=plan.reason,
            word_at_end=plan.word,
            status=plan.first_word or self.first_word,
            running_word=plan.running_word or self.running_word,
            answer=plan.answer,
            facts=plan.facts,
            webhook_url=fields.get("webhook_url"),
            poll_url=plan.poll_url,
            alias=plan.alias,
            refs=plan.refs,
            request=fields,
            stuck=stuck,
            ordered=self.faults,
            faults=tuple(sorted(fate.hits)),
        )
        self.jobs[job.job_id] = job
        if job.alias is not None:
            self._aliases[job.alias] = job
        self.counters["early"] += early
        self.counters["stuck"] += stuck
        await self._begin(job, fate, early)
        return job

    async def _begin(self, job: SimulatedJob, fate: Fate, early: bool) -> None:
        if "forged" in fate:
            self.workers.spawn(self._forge, job, fate)
        beginnings = self.beginnings(job)
        if early:
            webhooks = [*beginnings, *self._end(job)]
            self._tell(webhooks, 0, EARLY_FORGOES)
            for webhook in webhooks:
                await webhook.tried.wait()
            return
        self._tell(beginnings, 0)
        if job.duration_s != float("inf"):
            self.workers.spawn(self._live, job, len(beginnings))
        else:
            job.status = job.running_word

    async def _live(self, job: SimulatedJob, told: int) -> None:
        await anyio.sleep(job.duration_s * 0.2)
        job.status = job.running_word
        await anyio.sleep(job.duration_s * 0.8)
        self._tell(self._end(job), told)

    def _end(self, job: SimulatedJob) -> list[Webhook]:
        job.status = job.word_at_end
        job.finished_at = self.clock.now()
        self.counters["finished"] += 1
        webhooks = self.announcements(job)
        self.counters["not_announced"] += not webhooks
        return webhooks

    def _tell(self, webhooks: list[Webhook], first: int, forgone: frozenset[str] = frozenset()) -> None:
        """Send these webhooks of one job at once, each with a fate of its own."""
        for index, webhook in enumerate(webhooks, start=first):
            assert webhook.job is not None, "an event without a job goes by announce()"
            key = f"{webhook.job.number}:webhook:{index}"
            self.workers.spawn(self._send, webhook, key, webhook.job.ordered, forgone)

    def announce(self, webhook: Webhook) -> None:
        """Send an event that belongs to no job; it has a fate of its own and stays in `events`."""
        self.events.append(webhook)
        self.counters["events"] += 1
        self.workers.spawn(self._send, webhook, f"event:{len(self.events)}", self.faults, frozenset[str]())

    async def _send(self, webhook: Webhook, key: str, ordered: Faults, forgone: frozenset[str]) -> None:
        rng = random.Random(f"{self.seed}:{self.label}:{key}")
        fate = draw(rng, ordered, WEBHOOK_FAULTS)
        fate = Fate(fate.hits - forgone, fate.spot, fate.lie, fate.twist)
        webhook.event_id = webhook.event_id or self.new_id(rng)
        webhook.delivery_id = webhook.delivery_id or self.new_id(rng)
        url = self.address(webhook.job)
        if url is None:
            webhook.tried.set()
            return
        if webhook.job is not None:
            webhook.job.faults = tuple(sorted({*webhook.job.faults, *fate.hits}))
        await self.sender.deliver(webhook, url, fate, ordered, self)

    async def _forge(self, job: SimulatedJob, fate: Fate) -> None:
        await anyio.sleep(min(job.duration_s, self.settings.job_duration_s[1]) * fate.spot)
        url = self.address(job)
        if url is None:
            return
        rng = random.Random(f"{self.seed}:{self.label}:{job.number}:forgery")
        webhook = self.forgery(job, None if fate.lie else self.new_id(rng))
        webhook.event_id, webhook.delivery_id = self.new_id(rng), self.new_id(rng)
        stranger = fate.lie and not job.ordered.forged_knows_url
        await self.sender.forge(webhook, guessed(url, fate.twist) if stranger else url, self)

    # -- running ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Simulator"]:
        """Run this provider's jobs and webhooks; leaving stops them where they are."""
        try:
            async with self.workers.running():
                yield self
        finally:
            await self.sender.close()

    @property
    def is_busy(self) -> bool:
        """Whether a job is still to end or a webhook still to be settled."""
        return self.workers.is_busy

    async def idle(self) -> None:
        """Wait until every job that ends has ended and every webhook is delivered or given up."""
        await self.workers.idle()

    # -- truth --------------------------------------------------------------------------------------------------

    def find(self, job_id: str) -> SimulatedJob | None:
        """The job of this id or alias."""
        return self.jobs.get(job_id) or self._aliases.get(job_id)

    def truth(self) -> list[SimulatedJob]:
        """All jobs in the order of submission."""
        return list(self.jobs.values())

    def order(self, changes: Mapping[str, Any]) -> Faults:
        """Change faults while running: for jobs submitted and requests made from now on. Raises ValueError."""
        self.faults = self.faults.changed(changes)
        return self.faults

    def snapshot(self) -> dict[str, Any]:
        """Everything this provider knows, as JSON."""
        return {
            "provider": self.name,
            "base_url": self.base_url,
            "webhook_url": self.webhook_url,
            "webhook_secret": self.secret,
            "counters": dict(self.counters),
            "faults": self.faults.as_dict(),
            "jobs": [job.as_dict() for job in self.jobs.values()],
            "events": [event.as_dict() for event in self.events],
        }

    # -- helpers for providers ----------------------------------------------------------------------------------

    def new_id(self, rng: random.Random) -> str:
        """A fresh id in this provider's form; by default a UUID."""
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    def text(self, instant: float) -> str:
        """An instant as the provider writes it."""
        return clocks.text(instant)

    def ended(self, job: SimulatedJob) -> str | None:
        """When the job ended, as the provider writes it."""
        return None if job.finished_at is None else self.text(job.finished_at)

    def fails(self, rng: random.Random) -> bool:
        """Draw whether a job ends badly."""
        return rng.random() < self.settings.failed_share

    def _build(self) -> Starlette:
        routes: list[Route] = self.unguarded()
        for method, path, kind, handler in self.endpoints():
            routes.append(Route(path, self._gate.guard(kind, handler), methods=[method]))

        async def lost(request: Request, error: Exception) -> Response:
            return self.error(getattr(error, "status_code", 404))

        app = Starlette(routes=routes, exception_handlers={404: lost, 405: lost})
        app.router.redirect_slashes = False
        return app


def bearer(request: Request) -> str | None:
    """The bearer token of a request, if it has one."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" and key else None
