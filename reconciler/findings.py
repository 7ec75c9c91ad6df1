"""What one finding of a poll does to one job, inside the caller's transaction. No network, no clock.

A provider's answer is the strongest evidence there is; that it could not be asked is no evidence at all. A missing job
(404) is believed only after several answers spread over time, for a provider may not know yet what it just took.
"""

from dataclasses import dataclass
from random import Random

from receiver import registrar, timetable
from receiver.ledger import Ledger
from receiver.providers.base import Finding
from receiver.records import Job, Observation
from receiver.settings import ReconcileSettings, SourceSettings
from receiver.states import By, Claim, Evidence, JobState, Reason
from receiver.store.base import Tx


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was found out about a job, by which poll, and when."""

    finding: Finding
    poll_id: int | None
    now: float


@dataclass(frozen=True, slots=True)
class Judge:
    """Applies findings of one source."""

    source: SourceSettings
    rules: ReconcileSettings
    ledger: Ledger
    chance: Random

    def apply(self, tx: Tx, finding: Finding, poll_id: int | None, now: float) -> Job | None:
        """Apply a finding about a job on record; answers the job as it stands then, None when it is not on record."""
        job = tx.jobs.find(self.source.name, finding.job_id)
        if job is None:
            return None
        asked = self._learned(tx, job, finding, now).with_(polls=job.polls + 1)
        if finding.problem is not None:
            return self._save(tx, job, self._again(asked.with_(last_error=finding.problem), now, finding))
        asked = asked.with_(asked_at=now)
        answer = _Answer(finding, poll_id, now)
        if finding.missing:
            return self._missing(tx, job, asked, answer)
        asked = asked.with_(misses=0, first_miss_at=None, last_error=None)
        if finding.claim is Claim.RUNNING:
            return self._running(tx, job, asked, answer)
        done = self._save(tx, job, asked.with_(next_poll_at=None) if job.state is not JobState.PENDING else asked)
        return self._observe(tx, done, answer)

    def _observe(self, tx: Tx, job: Job, answer: _Answer) -> Job:
        finding = answer.finding
        seen = Observation(
            source=job.source,
            job_id=job.job_id,
            claim=finding.claim or Claim.RUNNING,
            by=By.POLL,
            evidence=Evidence.POLL,
            reason=finding.reason or (Reason.PROVIDER if finding.claim is Claim.FAILED else None),
            provider_status=finding.status,
            result=finding.result,
            poll_id=answer.poll_id,
            note="told from a list row: partial" if finding.partial else None,
        )
        applied = self.ledger.apply(tx, seen, answer.now)
        return applied.job if applied else job

    def _running(self, tx: Tx, job: Job, asked: Job, answer: _Answer) -> Job:
        finding, now = answer.finding, answer.now
        asked = asked.with_(provider_status=finding.status or asked.provider_status)
        if job.state is not JobState.PENDING:
            return self._save(tx, job, self._late(asked, now))
        asked = timetable.frozen(asked, now, stands_still=finding.freezes)
        if asked.deadline_at is not None and now >= asked.deadline_at:
            self._save(tx, job, asked)
            note = f"the provider still says {finding.status or 'running'}"
            return give_up(
                tx, self.ledger, asked, now, reason=Reason.STALE, by=By.DEADLINE, note=note, poll_id=answer.poll_id
            )
        spaced = self._again(asked, now, finding)
        first = timetable.first_question_at(asked, self.source)
        ahead = asked.wait_s is None and now < first  # a start or an operator asked: its time still comes
        if ahead and finding.retry_after_s is None:
            spaced = spaced.with_(wait_s=None, next_poll_at=max(spaced.next_poll_at or first, first))
        return self._save(tx, job, spaced)

    def _missing(self, tx: Tx, job: Job, asked: Job, answer: _Answer) -> Job:
        finding, now = answer.finding, answer.now
        asked = asked.with_(last_error="the provider does not know the job (404)")
        if job.state is not JobState.PENDING:
            return self._save(tx, job, self._late(asked, now))
        if now - timetable.started(job) < self.rules.not_yet_s:
            return self._save(tx, job, self._soon(asked, now, finding))
        first = job.first_miss_at if job.first_miss_at is not None else now
        asked = asked.with_(misses=job.misses + 1, first_miss_at=first)
        if asked.misses >= self.rules.not_found_polls and now - first >= self.rules.not_found_after_s:
            self._save(tx, job, asked)
            note = f"{asked.misses} answers over {now - first:.0f} s say the provider does not know the job"
            return give_up(
                tx, self.ledger, asked, now, reason=Reason.NOT_FOUND, by=By.POLL, note=note, poll_id=answer.poll_id
            )
        return self._save(tx, job, self._soon(asked, now, finding))

    def _again(self, job: Job, now: float, finding: Finding) -> Job:
        if job.state is not JobState.PENDING:
            return self._late_again(job, now)
        return timetable.postponed(job, self.rules, now, self.chance, retry_after_s=finding.retry_after_s)

    def _soon(self, job: Job, now: float, finding: Finding) -> Job:
        """The next look at a job that seems missing: often enough that the misses can be counted in their time."""
        spaced = self._again(job, now, finding)
        gap = self.rules.not_found_after_s / max(1, self.rules.not_found_polls - 1)
        latest = now + max(self.rules.poll_min_s, gap)
        return spaced.with_(next_poll_at=max(min(spaced.next_poll_at or latest, latest), spaced.not_before or 0.0))

    def _late(self, job: Job, now: float) -> Job:
        looked = job.with_(late_polls=job.late_polls + 1)
        return looked.with_(next_poll_at=timetable.late_look_at(looked, self.rules, now))

    def _late_again(self, job: Job, now: float) -> Job:
        """A late look that was not answered does not count as one; it is made up for while late truth is looked for."""
        if job.next_poll_at is None or now - (job.settled_at or now) > 2 * timetable.LATE_WATCH_S:
            return job.with_(next_poll_at=None)
        return job.with_(next_poll_at=now + self.rules.poll_max_s)

    def _learned(self, tx: Tx, job: Job, finding: Finding, now: float) -> Job:
        learned = job.with_(
            modality=job.modality or finding.modality,
            alias=job.alias or (finding.alias if finding.alias != job.job_id else None),
            refs={**(finding.refs or {}), **(job.refs or {})} or None,
        )
        if learned.alias != job.alias and learned.alias is not None:
            tx.deliveries.welcome(job.source, [learned.alias])  # it was held under the id we did not know
        if learned.modality != job.modality and job.state is JobState.PENDING:
            timed = registrar.schedule(learned, self.source, now)
            learned = learned.with_(deadline_at=timed.deadline_at)  # the modality sets the timeouts
        return learned

    @staticmethod
    def _save(tx: Tx, old: Job, new: Job) -> Job:
        tx.jobs.change(old, new)
        return new

    def adopt(self, tx: Tx, finding: Finding, since: float, now: float) -> Job | None:
        """Put a job on record that a list tells of and nobody registered. Young ones are left alone: their
        registration may be on its way. Ended ones from before `since` are not ours."""
        born = finding.submitted_at
        if born is not None and now - born < self.rules.not_yet_s:
            return None
        if born is not None and born < since and finding.claim is not Claim.RUNNING:
            return None
        if tx.jobs.find(self.source.name, finding.job_id) is not None:
            return None
        return registrar.adopt(tx, found_job(self.source.name, finding, "adopted", now), self.source, now)


def found_job(source: str, finding: Finding, by: str, now: float) -> Job:
    """A job as a finding tells of it."""
    return Job(
        source=source,
        job_id=finding.job_id,
        registered_at=now,
        alias=finding.alias,
        modality=finding.modality,
        submitted_at=finding.submitted_at,
        refs=finding.refs,
        registered_by=by,
    )


def give_up(
    tx: Tx, ledger: Ledger, job: Job, now: float, *, reason: Reason, by: By, note: str, poll_id: int | None = None
) -> Job:
    """We stop waiting for a job; an answer that comes later still corrects it."""
    seen = Observation(
        source=job.source,
        job_id=job.job_id,
        claim=Claim.GIVEN_UP,
        by=by,
        evidence=Evidence.DEADLINE,
        reason=reason,
        provider_status=job.provider_status,
        poll_id=poll_id,
        note=note,
    )
    applied = ledger.apply(tx, seen, now)
    return applied.job if applied else job
