"""What the API works with, handed in by whoever starts it, and the bounds it keeps. It builds nothing itself."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from receiver.clock import Clock
from receiver.settings import Settings
from receiver.store.base import Store


class IntakeCounters(Protocol):
    """What intake counted since this process started; only there when the public door is in the same process."""

    def refused_totals(self) -> Mapping[tuple[str, str], int]:
        """(source or "", reason) -> how many were refused."""
        ...

    def ack_histograms(self) -> Mapping[str, "AckHistogram"]:
        """source -> how long acknowledging took."""
        ...


class AckHistogram(Protocol):
    """One source's acknowledgement latency."""

    @property
    def buckets(self) -> Sequence[tuple[float, int]]:
        """(upper bound in seconds, how many were at most that and above the bound before), in order; the last bound
        may be infinity."""
        ...

    @property
    def total_s(self) -> float:
        """The sum of all latencies."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of the private listener."""

    tick_s: float = 1.0
    """A waiter or a stream that heard of no commit looks all the same after so long (another process may write)."""
    keep_alive_s: float = 15.0
    """A silent stream sends a comment this often, so that no proxy takes it for dead."""
    stall_s: float = 30.0
    """A reader that takes nothing for so long is dropped."""
    most_waiters: int = 20_000
    most_streams: int = 1_000
    answer_bytes: int = 1 << 20
    """Answers to submissions are looked into up to this size; larger ones pass through unrecorded."""
    claim_bytes: int = 32 << 20
    """A claim stops early when its messages are larger together; the rest is claimed by the next one."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts of the running sidecar that the API may touch."""

    store: Store
    settings: Settings
    clock: Clock
    poke: Callable[[str], None]
    """Wake the sweep of a source: something is due, or an operator wants it looked at."""
    poll_now: Callable[[str, str], Awaitable[bool]]
    """(source, job id) -> have the job asked about as soon as budget and Retry-After permit. Returns at once, without
    waiting for the provider; False when the job cannot be asked about."""
    intake_counters: IntakeCounters | None = None
    push_outcomes: Callable[[], Mapping[str, int]] = dict
    """outcome -> pushes of messages since this process started."""
    trouble: Callable[[], Sequence[str]] = tuple
    """Why this process is not ready apart from the store (a scheduler that stands still); empty when it is."""
    limits: Limits = field(default_factory=Limits)
