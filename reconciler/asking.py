"""Runs one provider's `ask` generator: budget before every question, findings committed as they become known.

The generator decides what to ask; this file decides whether it may be asked now. What an answer proves is applied
before the next question goes out, so that a kill in the middle loses nothing that was learned. Trouble at the provider
(429, 5xx, 401, no answer) ends the run: it proves nothing about any job and is kept in the source's own row.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

import structlog

from receiver.clock import Clock, retry_after_s
from receiver.providers.base import Asking, Finding, Question, Reply, Trouble
from receiver.records import Job, Poll, SourceState
from receiver.settings import ReconcileSettings, SourceSettings
from receiver.states import Claim
from receiver.store.base import Store, Tx
from reconciler.findings import Judge
from reconciler.outbound import Exchange, Outbound, Unanswered

log = structlog.get_logger("holdfast.sweep")

T = TypeVar("T")

STREAK_OPENS = 3
"""So many failures in a row open the circuit."""
LONGEST_RUN_S = 120.0
"""A run asks singly for so long; what is due by then goes into the next one, together with what has become due. A
list is read to where its reader ends it: begun anew each time, a long one would never be read past its first pages."""
_ABOUT_THE_ASKING = ("auth_blocked", "refused", "redirected")
"""Trouble of a question about no job that other questions may not have: a key may lack the right to this one."""
_THE_JOBS_OWN = ("refused", "redirected")
"""Trouble of a question about certain jobs that is theirs alone."""
LONGEST_OPEN = 10.0
"""A circuit that keeps failing stays open up to so many times `circuit_open_s`."""


@dataclass(slots=True)
class Asked:
    """What one run did."""

    questions: int = 0
    answered: set[str] = field(default_factory=set)
    """Job ids a finding spoke of."""
    ended: int = 0
    adopted: int = 0
    trouble: Trouble | None = None
    troubled: frozenset[str] = frozenset()
    """The jobs that the question which met the trouble spoke of; empty when it was a listing of all."""
    stopped: str | None = None
    """Why the run ended before its last question, if so; what was not answered stays due."""


def blocked(state: SourceState, now: float) -> str | None:
    """Why a source may not be asked now; None when it may."""
    if state.paused:
        return "paused"
    if state.open_until is not None and state.open_until > now:
        return "circuit open"
    if state.not_before is not None and state.not_before > now:
        return "asked to wait"
    return None


Apply = Callable[[Tx, Finding, int | None, float], None]
"""What is done with a finding instead of the usual, in the transaction of the poll whose id is handed in."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One run under way."""

    asking: Asking
    wanted: frozenset[str]
    """The jobs it is about."""
    apply: Apply | None
    done: Asked = field(default_factory=Asked)


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks one source's provider. `stop` is looked at between questions; `between` runs there too (urgent jobs)."""

    source: SourceSettings
    rules: ReconcileSettings
    store: Store
    outbound: Outbound
    judge: Judge
    clock: Clock
    adopts_since: float
    adopts: bool = True
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep
    """How to wait for the budget; a test lets its own clock run."""

    async def run(
        self,
        jobs: Sequence[Job],
        *,
        between: Callable[[], Awaitable[None]] | None = None,
        apply: Apply | None = None,
    ) -> Asked:
        """Ask about these jobs (none: look through the list for jobs nobody registered). Raises StoreUnavailable."""
        until = self.clock.monotonic() + LONGEST_RUN_S
        asking = self.source.facts.ask(jobs, self.source, self.clock.now())
        run = _Run(asking, frozenset(job.job_id for job in jobs), apply)
        done = run.done
        try:
            item = next(asking, None)
            while item is not None:
                if isinstance(item, Finding):  # a finding before any question (nothing to ask)
                    item = await self._keep_all(run, item, None)
                    continue
                if between is not None:
                    await between()
                late = self.clock.monotonic() > until and item.job_id is not None
                done.stopped = "the run has lasted long enough" if late else None
                done.stopped = done.stopped or await self._take_token()
                if done.stopped is not None:
                    break
                exchange = await self.outbound.ask(self.source, item, self.rules)
                done.questions += 1
                trouble = self._trouble(exchange)
                if trouble is not None:
                    done.trouble, done.troubled = trouble, frozenset(_spoken_of(item))
                    await self._keep_trouble(item, exchange, trouble)
                    break
                assert isinstance(exchange.outcome, Reply)
                item = await self._keep_all(run, _send(asking, exchange.outcome), (item, exchange))
        finally:
            asking.close()
        return done

    async def converse(self, talk: Generator[Question, Reply | None, T]) -> tuple[T | None, str | None]:
        """Hold a conversation that is about no job (the provider's own delivery log), under the same budget: what it
        ends in, or None and why. That the key is not taken there says nothing of the jobs, and opens no circuit; a
        provider in trouble is left alone as ever. Raises StoreUnavailable."""
        reply: Reply | None = None
        try:
            while True:
                try:
                    question = talk.send(reply)
                except StopIteration as ended:
                    outcome: T = ended.value
                    return outcome, None
                why_not = await self._take_token()
                if why_not is not None:
                    return None, why_not
                exchange = await self.outbound.ask(self.source, question, self.rules)
                trouble = self._trouble(exchange)
                if trouble is not None:
                    await self._keep_trouble(question, exchange, trouble, harmless=trouble.outcome in _ABOUT_THE_ASKING)
                    return None, f"{trouble.outcome}: {trouble.detail}"
                assert isinstance(exchange.outcome, Reply)
                await self._keep_answer((question, exchange))
                reply = exchange.outcome
        finally:
            talk.close()

    async def _keep_answer(self, asked: tuple[Question, Exchange]) -> None:
        now = self.clock.now()
        await self.store.write(lambda tx: self._answered(tx, asked, _outcome(asked[0], []), now))

    async def _take_token(self) -> str | None:
        """Wait for the budget; answers why the source may not be asked now, if so: while we wait, or ask about another
        job, an operator may pause it and the provider may want to be left alone."""
        while True:
            why_not, taken, wait_s = await self.store.write(self._take)
            if taken or why_not is not None:
                return why_not
            await self.pause(min(max(wait_s, 0.005), 5.0))  # a wall clock that steps must not make this long

    def _take(self, tx: Tx) -> tuple[str | None, int, float]:
        now = self.clock.now()
        why_not = blocked(tx.sources.get(self.source.name), now)
        if why_not is not None:
            return why_not, 0, 0.0
        return None, *tx.sources.take_tokens(self.source.name, now, self.source.effective_polls_per_min, 1)

    async def _keep_all(
        self, run: _Run, item: Question | Finding | None, asked: tuple[Question, Exchange] | None
    ) -> Question | Finding | None:
        """Gather the findings up to the next question and commit them with the poll that brought them."""
        findings: list[Finding] = []
        while isinstance(item, Finding):
            findings.append(item if asked is None else _patient(item, *asked))
            item = _send(run.asking, None)
        now = self.clock.now()
        ended, adopted = await self.store.write(lambda tx: self._commit(tx, run, findings, asked, now))
        run.done.answered.update(finding.job_id for finding in findings if not finding.unlisted)
        run.done.ended += ended
        run.done.adopted += adopted
        return item

    def _commit(
        self, tx: Tx, run: _Run, findings: list[Finding], asked: tuple[Question, Exchange] | None, now: float
    ) -> tuple[int, int]:
        """Answers how many jobs ended, and how many were adopted."""
        poll_id = None
        if asked is not None:
            poll_id = self._answered(tx, asked, _outcome(asked[0], findings), now)
        ended = adopted = 0
        tx.jobs.look_ahead([(self.source.name, finding.job_id) for finding in findings])
        for finding in findings:
            if run.apply is not None:
                run.apply(tx, finding, poll_id, now)
            elif finding.unlisted and finding.job_id not in run.wanted:
                adopted += self.adopts and self.judge.adopt(tx, finding, self.adopts_since, now) is not None
            else:
                job = self.judge.apply(tx, finding, poll_id, now)
                ended += job is not None and job.settled_at == now
        return ended, adopted

    def _answered(self, tx: Tx, asked: tuple[Question, Exchange], outcome: str, now: float) -> int:
        """The provider answers: whatever was wrong with it is over. Answers the poll's id."""
        poll_id = tx.jobs.add_poll(_poll(self.source.name, asked[0], asked[1], outcome, now))
        state = tx.sources.get(self.source.name)
        tx.sources.put(
            replace(
                state,
                fail_streak=0,
                open_until=None,
                not_before=None,
                asked_at=now,
                answered_at=now,
                last_outcome=outcome,
                last_error=None,
            )
        )
        return poll_id

    def _trouble(self, exchange: Exchange) -> Trouble | None:
        if isinstance(exchange.outcome, Unanswered):
            return Trouble("refused" if exchange.outcome.unasked else "unreachable", exchange.outcome.detail)
        return self.source.facts.classify(exchange.outcome)

    async def _keep_trouble(
        self, question: Question, exchange: Exchange, trouble: Trouble, *, harmless: bool = False
    ) -> None:
        now = self.clock.now()
        log.warning("poll.trouble", source=self.source.name, outcome=trouble.outcome, detail=trouble.detail)

        def keep(tx: Tx) -> None:
            tx.jobs.add_poll(
                replace(_poll(self.source.name, question, exchange, trouble.outcome, now), error=trouble.detail)
            )
            if harmless:
                return
            state = tx.sources.get(self.source.name)
            whose = _spoken_of(question)
            after = after_trouble(state, trouble, now, of_jobs=bool(whose), rules=self.rules, chance=self.judge.chance)
            tx.sources.put(after)
            said = f"{trouble.outcome}: {trouble.detail}"
            wait_s = trouble.retry_after_s if trouble.outcome in _THE_JOBS_OWN else None  # else the source's row has it
            for job_id in whose:
                self.judge.apply(tx, Finding(job_id, problem=said, retry_after_s=wait_s), None, now)

        await self.store.write(keep)


def after_trouble(
    state: SourceState, trouble: Trouble, now: float, *, of_jobs: bool, rules: ReconcileSettings, chance: Random
) -> SourceState:
    """The source's row after trouble: how long to leave it alone. A refused question (400) about certain jobs is their
    trouble alone; everything else is the source's."""
    state = replace(state, asked_at=now, last_outcome=trouble.outcome, last_error=trouble.detail)
    if trouble.outcome in _THE_JOBS_OWN and of_jobs:
        return state
    streak = state.fail_streak + 1
    wait_s = trouble.retry_after_s
    if wait_s is not None:
        wait_s = min(wait_s, rules.retry_after_max_s)
    if trouble.outcome == "rate_limited":
        backoff = min(60.0, 2.0**streak) * chance.uniform(0.5, 1.0)
        return replace(state, fail_streak=streak, not_before=now + max(wait_s or 0.0, 0.0 if wait_s else backoff))
    if trouble.outcome == "auth_blocked" or streak >= STREAK_OPENS:
        longer = min(LONGEST_OPEN, 2.0 ** max(0, streak - STREAK_OPENS))
        open_s = max(rules.circuit_open_s * longer * chance.uniform(0.8, 1.0), wait_s or 0.0)
        return replace(state, fail_streak=streak, open_until=now + open_s, not_before=now + wait_s if wait_s else None)
    return replace(state, fail_streak=streak, not_before=now + wait_s if wait_s else state.not_before)


def _send(asking: Asking, reply: Reply | None) -> Question | Finding | None:
    try:
        return asking.send(reply)
    except StopIteration:
        return None


def _spoken_of(question: Question) -> tuple[str, ...]:
    return (question.job_id,) if question.job_id is not None else tuple(question.about)


def _patient(finding: Finding, question: Question, exchange: Exchange) -> Finding:
    """With the Retry-After of the answer about this job: it rules whatever else the answer said (a 404, a 400, nothing
    readable), unless the job has ended."""
    reply = exchange.outcome
    if not isinstance(reply, Reply) or finding.job_id != question.job_id or finding.retry_after_s is not None:
        return finding
    told = reply.headers.get("retry-after")
    if told is None or finding.claim not in (None, Claim.RUNNING):
        return finding
    return replace(finding, retry_after_s=retry_after_s(told, reply.now))


def _outcome(question: Question, findings: list[Finding]) -> str:
    if question.job_id is None:
        return "listed"
    mine = next((finding for finding in findings if finding.job_id == question.job_id), None)
    if mine is None or mine.problem is not None:
        return "unreadable"
    if mine.missing:
        return "missing"
    return mine.claim.value if mine.claim else "unreadable"


def _poll(source: str, question: Question, exchange: Exchange, outcome: str, now: float) -> Poll:
    status = exchange.outcome.status if isinstance(exchange.outcome, Reply) else None
    return Poll(source, question.job_id, now, exchange.request, status, outcome, exchange.latency_ms)
