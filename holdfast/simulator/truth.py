"""What a simulated provider knows to be true: its jobs, how they end, and what it did about telling.

Owns the record of one job, the counters, and the judgement whether somebody's account of a job agrees with the truth.
Never reads anything of the sidecar: the demo's ledger compares both sides from outside.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from holdfast.simulator.faults import Faults
from receiver import clock

COUNTERS: tuple[str, ...] = (
    "submitted",
    "events",
    "finished",
    "early",
    "stuck",
    "sent",
    "acknowledged",
    "refused",
    "dropped",
    "duplicated",
    "retried",
    "given_up",
    "late",
    "reordered",
    "wrong_id",
    "malformed",
    "slow",
    "hung",
    "stale",
    "forged",
    "forged_acknowledged",
    "not_announced",
    "api_requests",
    "api_faults",
    "api_over_quota",
    "redirects_followed",
    "redirects_with_credentials",
)
"""Every counter a simulator keeps; `sent` counts attempts, retries and second copies included, forgeries not."""


@dataclass(slots=True)
class Attempt:
    """One webhook request that went out (or was meant to). `http_status` is None when no answer came."""

    at: float
    event: str
    kind: str
    """`genuine`, `duplicate`, `retry`, `forged` or `dropped`."""
    http_status: int | None
    error: str | None
    latency_s: float

    def as_dict(self) -> dict[str, Any]:
        """JSON form, times as UTC text."""
        return {
            "at": clock.text(self.at),
            "event": self.event,
            "kind": self.kind,
            "http_status": self.http_status,
            "error": self.error,
            "latency_s": round(self.latency_s, 4),
        }


@dataclass(slots=True)
class SimulatedJob:
    """One job as its provider knows it. Outcome and results are fixed at submission, shown only when finished."""

    number: int
    provider: str
    job_id: str
    modality: str
    submitted_at: float
    duration_s: float
    state_at_end: str
    """`completed` or `failed`, in the words Holdfast uses."""
    reason_at_end: str | None
    """Why it fails: `provider` or `cancelled`."""
    word_at_end: str
    """The provider's own last status word."""
    status: str
    """The provider's status word now."""
    running_word: str = "processing"
    answer: dict[str, Any] = field(default_factory=dict)
    """The provider's record of the finished job: what is read once it has ended."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Keys and values that no true account of this job may contradict."""
    webhook_url: str | None = None
    """The address the submission named, if it did."""
    poll_url: str | None = None
    alias: str | None = None
    refs: dict[str, str] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    stuck: bool = False
    finished_at: float | None = None
    ordered: Faults = field(default_factory=Faults)
    """The faults in force when it was submitted; a later change does not touch this job."""
    faults: tuple[str, ...] = ()
    """The job and webhook faults its fate holds."""
    counts: Counter[str] = field(default_factory=Counter)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the provider shows an end."""
        return self.finished_at is not None

    @property
    def state(self) -> str:
        """`pending`, `completed` or `failed`: what Holdfast should have found out by asking now."""
        return self.state_at_end if self.finished else "pending"

    @property
    def reason(self) -> str | None:
        """Why it failed, once it has."""
        return self.reason_at_end if self.finished else None

    def as_dict(self) -> dict[str, Any]:
        """JSON form, times as UTC text; what the control API hands out as the truth."""
        return {
            "number": self.number,
            "provider": self.provider,
            "job_id": self.job_id,
            "alias": self.alias,
            "poll_url": self.poll_url,
            "refs": self.refs,
            "modality": self.modality,
            "state": self.state,
            "reason": self.reason,
            "provider_status": self.status,
            "facts": self.facts if self.finished else {},
            "stuck": self.stuck,
            "submitted_at": clock.text(self.submitted_at),
            "finished_at": None if self.finished_at is None else clock.text(self.finished_at),
            "duration_s": round(self.duration_s, 4) if math.isfinite(self.duration_s) else None,
            "webhook_url": self.webhook_url,
            "faults": list(self.faults),
            "counts": dict(self.counts),
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }


def new_counters() -> Counter[str]:
    """All counters at 0, so that each is present in JSON."""
    return Counter(dict.fromkeys(COUNTERS, 0))


def disagreement(truth: dict[str, Any], state: str, result: Any) -> str | None:
    """Say how an account of a job contradicts the truth, or None when it does not.

    `truth` is a job as in `SimulatedJob.as_dict()`, `state` and `result` what somebody was told. The state must be the
    true one; anywhere inside `result`, a key that is one of the job's facts must carry the true value.
    """
    if state != truth["state"]:
        return f"told {state}, but it is {truth['state']}"
    for key, value in _pairs(result):
        if key in truth["facts"] and truth["facts"][key] != value:
            return f"told {key} = {value!r}, but it is {truth['facts'][key]!r}"
    return None


def _pairs(document: Any) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    waiting = [document]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            pairs.extend(part.items())
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return pairs
