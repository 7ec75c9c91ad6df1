"""The states of a job, the strength of evidence, and the one table that says what may change what.

Pure: no I/O, no clock. The ledger asks `judge` and the store enforces the answer with a guarded update.

    pending ──► completed      said by a webhook or a poll
       │  └───► failed         by the provider (`provider`, `cancelled`)
       └──────► failed         by us (`stale`, `not_found`, `unreachable`): we stopped waiting

What we decided for lack of an answer gives way to any answer. What a provider said gives way only to stronger
evidence: deadline < webhook trusted as `known` < webhook trusted as `payload` < poll.
"""

from enum import IntEnum, StrEnum


class JobState(StrEnum):
    """Where a job stands."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a job failed."""

    PROVIDER = "provider"
    CANCELLED = "cancelled"
    STALE = "stale"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"


class By(StrEnum):
    """Which witness decided."""

    WEBHOOK = "webhook"
    POLL = "poll"
    DEADLINE = "deadline"


class Verdict(StrEnum):
    """What became of a delivery."""

    NEW = "new"
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    HELD = "held"
    QUARANTINED = "quarantined"


class Evidence(IntEnum):
    """How strong a claim is. Stored by number, so that a stronger one compares greater."""

    NONE = 0
    DEADLINE = 1
    KNOWN = 2
    PAYLOAD = 3
    POLL = 4


class Claim(StrEnum):
    """What an observation says of a job."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    GIVEN_UP = "given_up"


class Move(StrEnum):
    """What the table answers."""

    SETTLE = "settle"
    """Pending becomes terminal: the application is told."""
    CORRECT = "correct"
    """One terminal state becomes another on stronger evidence: a superseding message goes out."""
    CONFIRM = "confirm"
    """The same outcome again: nothing is told; the evidence may have grown stronger."""
    CONFLICT = "conflict"
    """It contradicts, and is not strong enough: recorded, nothing changes."""
    NOTE = "note"
    """Still running: what the provider said is noted."""
    IGNORE = "ignore"
    """Nothing new: an old 'running' after the end, or our own deadline after an answer."""


OURS = frozenset({Reason.STALE, Reason.NOT_FOUND, Reason.UNREACHABLE})
"""Reasons that mean we stopped waiting; the provider never said so."""


TABLE: dict[tuple[Claim, Claim], Move] = {
    (Claim.RUNNING, Claim.RUNNING): Move.NOTE,
    (Claim.RUNNING, Claim.COMPLETED): Move.SETTLE,
    (Claim.RUNNING, Claim.FAILED): Move.SETTLE,
    (Claim.RUNNING, Claim.GIVEN_UP): Move.SETTLE,
    (Claim.COMPLETED, Claim.RUNNING): Move.IGNORE,
    (Claim.COMPLETED, Claim.COMPLETED): Move.CONFIRM,
    (Claim.COMPLETED, Claim.FAILED): Move.CORRECT,
    (Claim.COMPLETED, Claim.GIVEN_UP): Move.IGNORE,
    (Claim.FAILED, Claim.RUNNING): Move.IGNORE,
    (Claim.FAILED, Claim.COMPLETED): Move.CORRECT,
    (Claim.FAILED, Claim.FAILED): Move.CONFIRM,
    (Claim.FAILED, Claim.GIVEN_UP): Move.IGNORE,
    (Claim.GIVEN_UP, Claim.RUNNING): Move.NOTE,
    (Claim.GIVEN_UP, Claim.COMPLETED): Move.CORRECT,
    (Claim.GIVEN_UP, Claim.FAILED): Move.CORRECT,
    (Claim.GIVEN_UP, Claim.GIVEN_UP): Move.IGNORE,
}
"""(what is on record, what is claimed) -> the move. A `CORRECT` still needs stronger evidence; see `judge`."""


def standing(state: JobState, reason: Reason | None) -> Claim:
    """What the record holds, in the words of a claim."""
    if state is JobState.PENDING:
        return Claim.RUNNING
    if state is JobState.COMPLETED:
        return Claim.COMPLETED
    return Claim.GIVEN_UP if reason in OURS else Claim.FAILED


def judge(state: JobState, reason: Reason | None, held: Evidence, claim: Claim, offered: Evidence) -> Move:
    """What a claim with this evidence may do to a job that stands so."""
    move = TABLE[standing(state, reason), claim]
    if move is Move.CORRECT and offered <= held:
        return Move.CONFLICT
    return move


def state_of(claim: Claim) -> JobState:
    """The state a claim leads to."""
    return _LEADS_TO[claim]


_LEADS_TO = {
    Claim.RUNNING: JobState.PENDING,
    Claim.COMPLETED: JobState.COMPLETED,
    Claim.FAILED: JobState.FAILED,
    Claim.GIVEN_UP: JobState.FAILED,
}
