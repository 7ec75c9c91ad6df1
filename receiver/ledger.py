"""`Ledger.apply`: the one door to a job's state, for webhooks, polls and deadlines alike.

It runs inside the caller's transaction, so the job, its history and the message to the application commit together.
What may change what is the table in `states`; this file carries it out and never decides otherwise. Message ids follow
from the outcome itself: after a lost database the same outcome gets the same id, and the application knows it again.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from receiver import clock, jsontext
from receiver.records import Delivery, HistoryEntry, Job, Message, Observation
from receiver.states import By, Claim, Evidence, JobState, Move, Reason, judge, state_of
from receiver.store.base import Tx

LateLook = Callable[[Job, float], float | None]
"""(stale job, now) -> when to look at it once more, or None."""


class Applied(NamedTuple):
    """What an observation did."""

    move: Move
    job: Job
    message: Message | None = None


class Ledger:
    """Applies observations. `provider_of` names a source's provider for the messages; `late_look` spaces late polls."""

    def __init__(self, provider_of: Callable[[str], str], late_look: LateLook) -> None:
        self._provider_of = provider_of
        self._late_look = late_look

    def apply(self, tx: Tx, seen: Observation, now: float, job: Job | None = None) -> Applied | None:
        """Apply one observation; None when the job is not on record. `job`: as it was read in this transaction."""
        job = job or tx.jobs.find(seen.source, seen.job_id)
        if job is None:
            return None
        move = judge(job.state, job.reason, job.evidence, seen.claim, seen.evidence)
        if move in (Move.SETTLE, Move.CORRECT):
            return self._end(tx, job, seen, move, now)
        if move is Move.CONFLICT:
            self._note_conflict(tx, job, seen, now)
            return Applied(move, job)
        noted = self._noted(job, seen, move)
        if noted != job:
            tx.jobs.change(job, noted)
        return Applied(move, noted)

    def _end(self, tx: Tx, job: Job, seen: Observation, move: Move, now: float) -> Applied:
        state = state_of(seen.claim)
        reason = seen.reason if state is JobState.FAILED else None
        ended = job.with_(
            state=state,
            reason=reason,
            decided_by=seen.by,
            provider_status=seen.provider_status or job.provider_status,
            settled_at=now,
            result=seen.result,
            evidence=Evidence.DEADLINE if seen.claim is Claim.GIVEN_UP else seen.evidence,
            revision=job.revision + 1,
            next_poll_at=None,
            not_before=None,
            last_error=seen.note if seen.claim is Claim.GIVEN_UP else None,
            last_message_id=outcome_id(job, job.revision + 1, state, reason),
        )
        if seen.claim is Claim.GIVEN_UP:
            ended = ended.with_(next_poll_at=self._late_look(ended, now))
        message = outcome_message(ended, self._provider_of(job.source), now, supersedes=job.last_message_id)
        if not tx.jobs.change(job, ended):
            # Somebody was faster. With one writer this cannot happen; with several the loser reads again.
            return self.apply(tx, seen, now) or Applied(Move.IGNORE, job)
        tx.jobs.note(
            HistoryEntry(
                job.source,
                job.job_id,
                now,
                job.state,
                state,
                ended.reason,
                seen.by.value,
                seen.delivery_id,
                seen.poll_id,
                seen.note or (f"corrects {job.state.value}" if move is Move.CORRECT else None),
            )
        )
        tx.outbox.stage(message)
        return Applied(move, ended, message)

    def _note_conflict(self, tx: Tx, job: Job, seen: Observation, now: float) -> None:
        claimed = f"{state_of(seen.claim).value}{f' ({seen.reason.value})' if seen.reason else ''}"
        tx.jobs.note(
            HistoryEntry(
                job.source,
                job.job_id,
                now,
                job.state,
                job.state,
                job.reason,
                seen.by.value,
                seen.delivery_id,
                seen.poll_id,
                f"conflict: {seen.by.value} says {claimed}, on evidence no stronger than that for {job.state.value}",
            )
        )

    @staticmethod
    def _noted(job: Job, seen: Observation, move: Move) -> Job:
        if move is Move.NOTE:
            return job.with_(provider_status=seen.provider_status or job.provider_status)
        if move is Move.CONFIRM:
            return job.with_(
                evidence=max(job.evidence, seen.evidence), result=seen.result if job.result is None else job.result
            )
        return job


def message_id(*parts: str) -> str:
    """An id that follows from what is told. No dots (Standard Webhooks joins id, time and body with dots)."""
    return "msg_" + hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def outcome_id(job: Job, revision: int, state: JobState, reason: Reason | None) -> str:
    """The id of the message about an outcome."""
    return message_id("job", job.source, job.job_id, str(revision), state.value, reason or "")


def outcome_message(job: Job, provider: str, now: float, *, supersedes: str | None) -> Message:
    """What the application is told when a job has ended."""
    name = f"job.{job.state.value}"
    texts = {
        "source": job.source,
        "provider": provider,
        "job_id": job.job_id,
        "alias": job.alias,
        "modality": job.modality,
        "state": job.state.value,
        "reason": job.reason.value if job.reason else None,
        "decided_by": job.decided_by.value if job.decided_by else None,
        "supersedes": supersedes,
    }
    identity = job.last_message_id or outcome_id(job, job.revision, job.state, job.reason)
    result = jsontext.dump_shared(job.result)  # the job's row holds it, too
    data = jsontext.dump_texts(texts, metadata=jsontext.dump(job.metadata), result=result)
    return _message(identity, name, data, now, source=job.source, job_id=job.job_id, supersedes=supersedes)


def event_message(
    delivery: Delivery, event: str, document: dict[str, Any], now: float, *, provider: str, key: str
) -> Message:
    """What the application is told of an event that belongs to no job: the event as it is."""
    data = {
        "source": delivery.source,
        "provider": provider,
        "job_id": delivery.job_id,
        "alias": None,
        "modality": None,
        "state": None,
        "reason": None,
        "decided_by": By.WEBHOOK.value,
        "result": None,
        "metadata": None,
        "supersedes": None,
        "event": document,
        "delivery": str(delivery.id),
    }
    identity = message_id("event", delivery.source, key)
    return _message(identity, f"event.{event}", jsontext.dump(data), now, source=delivery.source)


def alert_message(source: str, name: str, facts: dict[str, Any], now: float, *, provider: str, key: str) -> Message:
    """What the application is told about a source itself (`alert.webhook_loss`), once for each `key`."""
    data = {"source": source, "provider": provider, **facts}
    return _message(message_id("alert", source, name, key), f"alert.{name}", jsontext.dump(data), now, source=source)


def _message(
    identity: str,
    name: str,
    data: str,
    now: float,
    *,
    source: str,
    job_id: str | None = None,
    supersedes: str | None = None,
) -> Message:
    payload = jsontext.dump_texts({"id": identity, "type": name, "timestamp": clock.text(now)}, data=data)
    return Message(identity, source, job_id, name, payload, now, supersedes)
