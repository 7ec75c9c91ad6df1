"""One pass over one source: pick up what is new, ask about what is due, end what nobody will ever answer.

A pass is single flight for its source and independent of every other source's. The scheduler only ticks; everything
due is found by index, and everything that must survive is in a row. Urgent jobs (a webhook to be verified, an operator
who wants to know) are asked about between the questions of a long pass.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import structlog

from receiver import registrar
from receiver.clock import Clock
from receiver.errors import StoreUnavailable
from receiver.ledger import Ledger
from receiver.providers.base import Finding
from receiver.records import Job, SourceState
from receiver.settings import ReconcileSettings, SourceSettings
from receiver.store.base import Store, Tx
from reconciler.asking import LONGEST_OPEN, Asked, Asker, blocked
from reconciler.endings import STEP, Endings, in_steps
from reconciler.findings import Judge
from reconciler.held import Held
from reconciler.outbound import Outbound

log = structlog.get_logger("holdfast.sweep")

JOBS_A_PASS = 1000
LISTED_JOBS_A_PASS = 10_000
"""Where a list tells of a hundred jobs at once: each pass reads it from its beginning, so few passes read it least."""
BUSY_SPACING = 10
"""While questions are due all the time, the list is read for unregistered jobs so many times less often."""
ADOPTION_GRACE_S = 3600.0
"""Ended jobs nobody registered are adopted when they are younger than the record, or at most so much older."""


@dataclass(slots=True)
class PassReport:
    """What one pass did."""

    picked_up: int = 0
    due: int = 0
    questions: int = 0
    ended: int = 0
    adopted: int = 0
    blocked: str | None = None
    """Why nothing was asked, if so."""


@dataclass(slots=True)
class _Line:
    """What a source's passes remember in memory; losing it costs a look, never a fact."""

    held: Held
    urgent: dict[str, None] = field(default_factory=dict)
    swept: bool = False


class Sweep:
    """Passes over the sources."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, SourceSettings],
        rules: ReconcileSettings,
        ledger: Ledger,
        *,
        outbound: Outbound,
        clock: Clock,
        chance: Random,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._pause = pause
        self._clock = clock
        self._ledger = ledger
        self._sources = sources
        self._rules = {name: source.reconcile(rules) for name, source in sources.items()}
        self._judges = {name: Judge(source, self._rules[name], ledger, chance) for name, source in sources.items()}
        self._outbound = outbound
        self._endings = Endings(store, ledger, clock)
        self._lines = {name: _Line(Held(store, source, self._judges[name], clock)) for name, source in sources.items()}
        self._adopts_since: float | None = None

    def urge(self, source: str, job_id: str) -> None:
        """Ask about a job at once, ended or not; budget and Retry-After still rule."""
        if source in self._lines:
            self._lines[source].urgent[job_id] = None

    def wants(self, source: str) -> bool:
        """Whether somebody waits for this source's next pass."""
        return bool(self._lines[source].urgent)

    async def pass_once(self, name: str) -> PassReport:
        """One pass over a source. Raises StoreUnavailable when the record takes no writes."""
        report = PassReport()
        source, line = self._sources[name], self._lines[name]
        report.picked_up = await self._pick_up(source)
        if not line.swept:
            line.swept = True
            if self._rules[name].startup_sweep:
                await self._make_all_due(name)
        state = await self._state(name)
        if state.sweep_wanted_at is not None:
            await self._make_all_due(name)
            await self._store.write(lambda tx: tx.sources.put(replace(tx.sources.get(name), sweep_wanted_at=None)))
        report.blocked = blocked(state, self._clock.now())
        if report.blocked is None:
            await self._ask_due(source, report)
            await self._ask_held(source, report)
            await self._adopt(source, report)
        if source.api_key is None:
            await line.held.expire()
        await self._endings.unreachable(source)
        return report

    async def clock_stepped(self) -> None:
        """The wall clock was stepped: instants written by the old one may lie far ahead. Ask about everything open,
        and believe no wait longer than the longest we would have granted."""
        now = self._clock.now()

        def settle(tx: Tx) -> None:
            for name in self._sources:
                rules, state = self._rules[name], tx.sources.get(name)
                latest = now + max(rules.retry_after_max_s, rules.circuit_open_s * LONGEST_OPEN)
                open_until = state.open_until if (state.open_until or 0.0) <= latest else None
                not_before = state.not_before if (state.not_before or 0.0) <= latest else None
                tx.sources.put(replace(state, open_until=open_until, not_before=not_before, sweep_wanted_at=now))

        await self._store.write(settle)

    async def _state(self, name: str) -> SourceState:
        return await self._store.write(lambda tx: tx.sources.get(name))

    # -- picking up ---------------------------------------------------------------------------------------------

    async def _pick_up(self, source: SourceSettings) -> int:
        """Give jobs inserted by SQL their due times, and let the deliveries held for them be read."""
        now = self._clock.now()
        return await self._store.write(lambda tx: self._schedule_new(tx, source, now))

    @staticmethod
    def _schedule_new(tx: Tx, source: SourceSettings, now: float) -> int:
        new = tx.jobs.unscheduled(source.name, STEP)
        for job in new:
            registrar.pick_up(tx, job, source, now)
        return len(new)

    async def _make_all_due(self, name: str) -> None:
        """Every open job is asked about at once; its own Retry-After and the budget still rule."""
        now = self._clock.now()
        until = now + self._rules[name].retry_after_max_s
        after: str | None = None
        while True:
            at = after
            after = await self._store.write(lambda tx, at=at: tx.jobs.make_due(name, now, until, at, STEP))  # type: ignore[misc]
            if after is None:
                return

    # -- asking -------------------------------------------------------------------------------------------------

    def asker(self, name: str) -> Asker:
        """Who asks a source's provider, for questions that are about no job."""
        return self._asker(self._sources[name], self._clock.now())

    def _asker(self, source: SourceSettings, since: float) -> Asker:
        rules = self._rules[source.name]
        judge = self._judges[source.name]
        adopts = source.adopt_unregistered and source.facts.lists
        return Asker(source, rules, self._store, self._outbound, judge, self._clock, since, adopts, self._pause)

    async def _ask_due(self, source: SourceSettings, report: PassReport) -> None:
        due = await self._due(source)
        due += await self._urgent_jobs(source, {job.job_id for job in due})
        report.due = len(due)
        askable = [job for job in due if source.facts.cannot_ask(job, source) is None]
        speechless = [job for job in due if source.facts.cannot_ask(job, source) is not None]
        if speechless:
            await self._endings.speechless(source, speechless)
        asker = self._asker(source, await self._since())
        while askable:
            asked = await asker.run(askable, between=lambda: self._between(source, asker, report))
            self._count(report, asked)
            if asked.stopped is not None or (asked.trouble is not None and not asked.troubled):
                return
            spoken_of = asked.answered | asked.troubled
            silent = [job for job in askable if job.job_id not in spoken_of]
            if asked.trouble is None or len(silent) == len(askable):
                await self._postpone(source, silent)
                return
            askable = silent  # one job's trouble is not the others'

    async def _due(self, source: SourceSettings) -> list[Job]:
        """What is due, taken in steps; one that moves between two steps is met once, or in the next pass."""
        now = self._clock.now()
        found: dict[str, Job] = {}
        for skip in range(0, LISTED_JOBS_A_PASS if source.facts.lists else JOBS_A_PASS, STEP):
            step = await self._store.write(lambda tx, skip=skip: tx.jobs.due(source.name, now, STEP, skip))  # type: ignore[misc]
            found.update((job.job_id, job) for job in step)
            if len(step) < STEP:
                break
        return list(found.values())

    @staticmethod
    def _count(report: PassReport, asked: Asked) -> None:
        report.questions += asked.questions
        report.ended += asked.ended
        report.adopted += asked.adopted

    async def _between(self, source: SourceSettings, asker: Asker, report: PassReport) -> None:
        for job in await self._urgent_jobs(source, set()):
            self._count(report, await asker.run([job]))

    async def _urgent_jobs(self, source: SourceSettings, already: set[str]) -> list[Job]:
        urgent, self._lines[source.name].urgent = self._lines[source.name].urgent, {}
        wanted = [job_id for job_id in urgent if job_id not in already]
        if not wanted:
            return []
        found = await self._store.write(lambda tx: [tx.jobs.find(source.name, job_id) for job_id in wanted])
        now = self._clock.now()
        return [
            job
            for job in found
            if job is not None
            and (job.not_before is None or job.not_before <= now)
            and source.facts.cannot_ask(job, source) is None
        ]

    async def _postpone(self, source: SourceSettings, jobs: list[Job]) -> None:
        """Jobs the provider's answers did not speak of are asked about later, not at once for ever."""
        if not jobs:
            return
        now, judge = self._clock.now(), self._judges[source.name]

        def postpone(tx: Tx, some: Sequence[Job]) -> None:
            tx.jobs.look_ahead([(job.source, job.job_id) for job in some])
            for job in some:
                judge.apply(
                    tx, Finding(job.job_id, problem="the provider's answers did not speak of the job"), None, now
                )

        await in_steps(self._store, jobs, postpone)

    # -- held deliveries and orphans ----------------------------------------------------------------------------

    async def _ask_held(self, source: SourceSettings, report: PassReport) -> None:
        """Ask about jobs that only held deliveries speak of, after those on record."""
        if source.api_key is None:
            return
        asker = self._asker(source, self._clock.now())
        async for asked in self._lines[source.name].held.ask(asker, lambda: self._real_job_waits(source)):
            self._count(report, asked)

    async def _real_job_waits(self, source: SourceSettings) -> bool:
        due_at = await self._store.write(lambda tx: tx.jobs.next_due_at(source.name))
        return self.wants(source.name) or (due_at is not None and due_at <= self._clock.now())

    async def _adopt(self, source: SourceSettings, report: PassReport) -> None:
        """Look through the list for jobs nobody registered: seldom, and only when no question is due."""
        if not (source.adopt_unregistered and source.facts.lists and source.api_key):
            return
        rules, now = self._rules[source.name], self._clock.now()
        state = await self._state(source.name)
        spacing_s = max(rules.not_yet_s, 5 * rules.tick_s) * (BUSY_SPACING if report.due else 1)
        if state.adopted_at is not None and abs(now - state.adopted_at) < spacing_s:
            return
        await self._store.write(lambda tx: tx.sources.put(replace(tx.sources.get(source.name), adopted_at=now)))
        asked = await self._asker(source, await self._since()).run([])
        self._count(report, asked)
        if asked.adopted:
            log.info("sweep.adopted", source=source.name, jobs=asked.adopted)

    async def _since(self) -> float:
        """From when on ended jobs count as ours: the beginning of the record, less an hour."""
        if self._adopts_since is None:
            now = self._clock.now()

            def begin(tx: Tx) -> float:
                kept = tx.meta.get("began_at")
                if kept is None:
                    tx.meta.put("began_at", repr(now))
                    return now
                return float(kept)

            self._adopts_since = await self._store.write(begin) - ADOPTION_GRACE_S
        return self._adopts_since


async def pass_safely(sweep: Sweep, name: str) -> PassReport | None:
    """A pass whose failure is logged and tried again at the next tick."""
    try:
        return await sweep.pass_once(name)
    except StoreUnavailable as error:
        log.warning("sweep.store_unavailable", source=name, error=str(error))
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("sweep.failed", source=name)
    return None
