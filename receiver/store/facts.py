"""What a store is told and tells of itself."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept, as instants: what is older may go. None: keep."""

    deliveries_before: float | None
    messages_before: float | None
    jobs_before: float | None
    polls_before: float | None
    keys_before: dict[str, float] = field(default_factory=dict)
    """source -> instant: event keys claimed before it may go."""
    held_before: dict[str, float] = field(default_factory=dict)
    """source -> instant: deliveries held since before it are no longer in their time; without one they all are."""


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How the store is, for /readyz, metrics, status and check."""

    takes_writes: bool
    why_not: str | None
    sqlite_version: str
    journal_mode: str
    synchronous: str
    file_system: str
    file_bytes: int
    wal_bytes: int
    spill_records: int
    spill_bytes: int
    spill_damaged: int
    waiting_bytes: int
    missing: int
    """Rows missing against the high-water mark; 0 when none."""
    quarantined_file: str | None
    """Where a damaged database was moved at start; None when it was sound."""
