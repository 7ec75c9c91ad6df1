"""What a simulator is told before it starts, and what a provider makes of one submission.

Plain values; owns no behaviour beyond refusing settings that make no sense.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.simulator.faults import Faults


class UnusableError(ValueError):
    """A submission the provider refuses with 400; the message is what its error says."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one simulated provider behaves. Equal settings and equal submissions give equal jobs, ids and fates."""

    seed: int | str = 0
    api_key: str | None = None
    """The only key taken; None takes any key of the right form."""
    webhook_url: str | None = None
    """Where webhooks go unless a submission names its own URL."""
    webhook_secret: str | None = None
    """Signing or shared secret, for providers that have one."""
    faults: Faults = field(default_factory=Faults)
    job_duration_s: tuple[float, float] = (0.2, 3.0)
    failed_share: float = 0.1
    """Share of jobs that end badly, 0 to 1."""
    quota_per_min: int | None = None
    """Requests a minute over all endpoints; None is the provider's documented quota, 0 is no quota."""
    quota_window_s: float = 60.0
    """How long the provider's minute is."""
    time_scale: float = 1.0
    """Factor on the waits between webhook attempts; 1.0 is the provider's real schedule."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The provider's own switches, by name; its class documents them in `Options`."""

    def __post_init__(self) -> None:
        low, high = self.job_duration_s
        if not 0 <= low <= high:
            raise ValueError(f"job_duration_s must be a range from small to large, not {self.job_duration_s!r}")
        if not 0 <= self.failed_share <= 1:
            raise ValueError(f"failed_share must be between 0 and 1, not {self.failed_share!r}")
        if self.quota_window_s <= 0 or self.time_scale < 0:
            raise ValueError("quota_window_s must be above 0 and time_scale not below it")


@dataclass(slots=True)
class Plan:
    """What a provider makes of a submission: who the job is and how it will end."""

    job_id: str
    state: str
    word: str
    answer: dict[str, Any]
    facts: dict[str, Any]
    reason: str | None = None
    alias: str | None = None
    refs: dict[str, str] = field(default_factory=dict)
    poll_url: str | None = None
    """Where the provider says it can be read."""
    first_word: str | None = None
    running_word: str | None = None
    """Status words of this job before its end, where they differ from the provider's usual ones."""
