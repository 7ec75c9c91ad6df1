"""Rows with every field defaulted, for the conformance suite."""

import hashlib
from typing import Any

from receiver.records import Delivery, HistoryEntry, Job, Message, Poll
from receiver.states import By, Evidence, JobState, Reason
from receiver.store.base import Store, Tx
from tests.support import START

SOURCE = "src"


def delivery(store: Store, **facts: Any) -> Delivery:
    """A delivery with the next id, not recorded yet."""
    body = facts.pop("body", b'{"job_id":"j1"}')
    given: dict[str, Any] = {
        "id": store.next_id(),
        "source": SOURCE,
        "received_at": START,
        "remote": "192.0.2.1",
        "headers": (("content-type", "application/json"), ("x-twice", "a"), ("x-twice", "b")),
        "body": body,
        "body_sha256": hashlib.sha256(body or b"").hexdigest(),
    }
    return Delivery(**(given | facts))


def job(job_id: str = "j1", **facts: Any) -> Job:
    """A pending job, due in a minute, with its deadline in five."""
    given: dict[str, Any] = {
        "registered_at": START,
        "next_poll_at": START + 60,
        "deadline_at": START + 300,
        "modality": "prompt",
    }
    return Job(facts.pop("source", SOURCE), job_id, **(given | facts))


def ended(one: Job, **facts: Any) -> Job:
    """The job, completed by a poll."""
    given: dict[str, Any] = {
        "state": JobState.COMPLETED,
        "reason": None,
        "decided_by": By.POLL,
        "settled_at": START + 10,
        "evidence": Evidence.POLL,
        "next_poll_at": None,
        "revision": one.revision + 1,
    }
    return one.with_(**(given | facts))


def failed(one: Job, **facts: Any) -> Job:
    """The job, failed as stale."""
    return ended(one, state=JobState.FAILED, decided_by=By.DEADLINE, reason=Reason.STALE, evidence=1, **facts)


def message(message_id: str = "msg_1", job_id: str | None = "j1", **facts: Any) -> Message:
    """A message staged at START."""
    given: dict[str, Any] = {
        "source": SOURCE,
        "type": "job.completed",
        "payload": f'{{"id":"{message_id}"}}',
        "created_at": START,
    }
    return Message(message_id, job_id=job_id, **(given | facts))


def history(job_id: str = "j1", **facts: Any) -> HistoryEntry:
    """A row of a job's story."""
    given: dict[str, Any] = {
        "at": START,
        "from_state": None,
        "to_state": JobState.PENDING,
        "reason": None,
        "by": "application",
    }
    return HistoryEntry(facts.pop("source", SOURCE), job_id, **(given | facts))


def poll(job_id: str | None = "j1", **facts: Any) -> Poll:
    """A question and its outcome."""
    given: dict[str, Any] = {
        "at": START,
        "request": "GET /j",
        "http_status": 200,
        "outcome": "running",
        "latency_ms": 12,
    }
    return Poll(facts.pop("source", SOURCE), job_id, **(given | facts))


def add_jobs(store: Store, *jobs: Job) -> None:
    """Put jobs on record; all of them are new."""

    def work(tx: Tx) -> list[bool]:
        return [tx.jobs.add(each) for each in jobs]

    assert store.write_sync(work) == [True] * len(jobs)


def add_messages(store: Store, *messages: Message) -> None:
    """Stage messages in this order; all of them are new."""

    def work(tx: Tx) -> list[bool]:
        return [tx.outbox.add(each) for each in messages]

    assert store.write_sync(work) == [True] * len(messages)
