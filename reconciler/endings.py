"""Ends what nobody will ever answer: jobs that cannot be asked about, and jobs whose provider stayed away too long."""

from collections.abc import Callable, Sequence

import structlog

from receiver import timetable
from receiver.clock import Clock
from receiver.ledger import Ledger
from receiver.records import Job
from receiver.settings import SourceSettings
from receiver.states import By, JobState, Reason
from receiver.store.base import Store, Tx
from reconciler.asking import blocked
from reconciler.findings import give_up

log = structlog.get_logger("holdfast.sweep")

STEP = 500
"""Rows a transaction at the most, so that intake never waits long."""


async def in_steps(store: Store, jobs: Sequence[Job], work: Callable[[Tx, Sequence[Job]], None]) -> None:
    """Long work in short transactions: acknowledgements wait for each."""
    for at in range(0, len(jobs), STEP):
        some = jobs[at : at + STEP]
        await store.write(lambda tx, some=some: work(tx, some))  # type: ignore[misc]  # at once


class Endings:
    """Gives jobs up, for every source alike."""

    def __init__(self, store: Store, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock

    async def speechless(self, source: SourceSettings, jobs: list[Job]) -> None:
        """A job nobody can be asked about ends at its deadline, and says so."""
        now = self._clock.now()

        def end(tx: Tx, some: Sequence[Job]) -> None:
            tx.jobs.look_ahead([(source.name, each.job_id) for each in some])
            for old in some:
                job = tx.jobs.find(source.name, old.job_id)
                if job is None:
                    continue
                obstacle = source.facts.cannot_ask(job, source) or "nobody can be asked"
                if job.state is not JobState.PENDING:
                    tx.jobs.change(job, job.with_(next_poll_at=None))
                elif job.deadline_at is not None and now >= job.deadline_at:
                    note = f"cannot be asked about: {obstacle}"
                    give_up(tx, self._ledger, job, now, reason=Reason.STALE, by=By.DEADLINE, note=note)
                else:
                    tx.jobs.change(job, timetable.scheduled(job, source, now, obstacle=obstacle))

        await in_steps(self._store, jobs, end)
        log.info("sweep.speechless", source=source.name, jobs=len(jobs))

    async def unreachable(self, source: SourceSettings) -> None:
        """Jobs past their deadline whose provider gave no answer since, for longer than `give_up_after_s`. One whose
        question is due has its question first: it may be we who were away for so long. One nobody can be asked about
        waits for no answer, so it is stale at its deadline also while the source is paused or left alone."""
        now = self._clock.now()

        def end(tx: Tx) -> None:
            asking = blocked(tx.sources.get(source.name), now) is None
            for job in tx.jobs.overdue(source.name, now, STEP):
                if (obstacle := source.facts.cannot_ask(job, source)) is not None:
                    note = f"cannot be asked about: {obstacle}"
                    give_up(tx, self._ledger, job, now, reason=Reason.STALE, by=By.DEADLINE, note=note)
                    continue
                limit = max(job.deadline_at or now, timetable.started(job) + source.give_up_after_s)
                answered = job.asked_at is not None and job.deadline_at is not None and job.asked_at >= job.deadline_at
                if asking and job.next_poll_at is not None and job.next_poll_at <= now:
                    continue
                if now >= limit and not (answered and now < limit + source.give_up_after_s):
                    note = f"the provider could not be asked: {job.last_error or 'no answer'}"
                    give_up(tx, self._ledger, job, now, reason=Reason.UNREACHABLE, by=By.DEADLINE, note=note)

        await self._store.write(end)
