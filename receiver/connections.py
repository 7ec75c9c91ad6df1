"""Who is connected, in which phase, since when: deadlines for every phase, and who goes when there are too many.

Every phase has one time limit and a queue in order of arrival, so the first of each queue is the first to be late:
a look costs the same for ten connections and for ten thousand. Pure: no sockets, no clock; whoever is late is told to
go by the caller.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from receiver.shortcut import AnswersAtOnce


MOST_LATE = 250
"""Connections ended in one look: ten thousand that came together are late together, and ending each takes its time,
while nobody else is heard. The next look, a tenth of a second later, ends the next ones."""


class Phase(IntEnum):
    """What a connection is doing, in the order in which they give way when there are too many."""

    IDLE = 0
    """Between two requests."""
    FRESH = 1
    """Connected, nothing said yet."""
    HEAD = 2
    """A request line or headers have begun."""
    BODY = 3
    """The head is complete, the body is not."""
    STUCK = 4
    """The other side does not read what we answer."""
    CLOSING = 5
    """Being closed: what is still to go out goes out, what still comes in is thrown away."""
    BUSY = 6
    """A whole request is being answered. Never late here, and never sent away: it may be committing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one listener. None: no limit."""

    header_timeout_s: float = 10.0
    """From the connection, or from a request's first byte, to the end of its headers."""
    body_timeout_s: float | None = None
    """From the end of the headers to the end of the body, whether the application reads it or not."""
    keep_alive_s: float = 75.0
    """Between two requests. Long: a sender that finds its connection closed may never send again."""
    write_timeout_s: float = 30.0
    """How long the other side may leave our answer unread."""
    linger_s: float = 2.0
    """How long a sender that was answered early may go on sending before the connection is cut."""
    max_head_bytes: int = 32_768
    max_connections: int = 10_000
    """Past it the longest idle connection is closed; a new one is never refused."""
    half_close: bool = False
    """Answer a sender that closed its own direction after sending. Not for long waits: leaving would go unnoticed."""

    def of(self, phase: Phase) -> float | None:
        """The time limit of a phase."""
        return {
            Phase.IDLE: self.keep_alive_s,
            Phase.FRESH: self.header_timeout_s,
            Phase.HEAD: self.header_timeout_s,
            Phase.BODY: self.body_timeout_s,
            Phase.STUCK: self.write_timeout_s,
            Phase.CLOSING: self.linger_s,
            Phase.BUSY: None,
        }[phase]


class Guarded(Protocol):
    """A connection, as far as it is told to go from here."""

    def too_late(self, phase: Phase) -> None:
        """The limit of this phase has passed."""
        ...


C = TypeVar("C", bound=Guarded)


class Connections(Generic[C]):
    """All connections of one listener by phase."""

    def __init__(self, limits: Limits) -> None:
        self._queues: list[OrderedDict[C, float]] = [OrderedDict() for _ in Phase]
        self._phases: dict[C, Phase] = {}
        self._timed = [(phase, limit) for phase in Phase if (limit := limits.of(phase)) is not None]

    def __len__(self) -> int:
        return len(self._phases)

    def enter(self, connection: C, phase: Phase, now: float) -> None:
        """A connection is in this phase; its time starts now unless it was there already."""
        before = self._phases.get(connection)
        if before is phase:
            return
        if before is not None:
            del self._queues[before][connection]
        self._queues[phase][connection] = now
        self._phases[connection] = phase

    def leave(self, connection: C) -> None:
        """A connection is gone."""
        phase = self._phases.pop(connection, None)
        if phase is not None:
            del self._queues[phase][connection]

    def phase(self, connection: C) -> Phase | None:
        """Where a connection is; None when it is not ours."""
        return self._phases.get(connection)

    def count(self, *phases: Phase) -> int:
        """How many connections are in these phases."""
        return sum(len(self._queues[phase]) for phase in phases)

    def within(self, phase: Phase) -> list[C]:
        """The connections in a phase, longest there first."""
        return list(self._queues[phase])

    def since(self, phase: Phase, moment: float) -> int:
        """How many connections entered a phase after a moment."""
        count = 0
        for entered in reversed(self._queues[phase].values()):
            if entered <= moment:
                break
            count += 1
        return count

    def late(self, now: float) -> list[tuple[C, Phase]]:
        """Connections past the limit of their phase, at most MOST_LATE."""
        found: list[tuple[C, Phase]] = []
        for phase, limit in self._timed:
            for connection, entered in self._queues[phase].items():
                if now - entered < limit or len(found) == MOST_LATE:
                    break
                found.append((connection, phase))
        return found

    def dispensable(self) -> C | None:
        """Who goes first when there are too many: the longest silent one between requests or before its first;
        without any, the slowest head, then the slowest body, then whoever does not read. Never one that is answered."""
        silent = [next(iter(self._queues[phase].items())) for phase in (Phase.IDLE, Phase.FRESH) if self._queues[phase]]
        if silent:
            return min(silent, key=lambda item: item[1])[0]
        for phase in (Phase.CLOSING, Phase.HEAD, Phase.BODY, Phase.STUCK):
            for connection in self._queues[phase]:
                return connection
        return None


class Floor(Generic[C]):
    """What all connections of one listener share."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections: Connections[C] = Connections(limits)
        self.application: AnswersAtOnce | None = None
        """The application, when it can do without tasks (`receiver.shortcut`)."""
        self.draining = False
        """The listener stops: every answer is the last on its connection."""
        self.cut: dict[str, int] = {}
        """Connections ended by us, by why: a phase's name, `bad_request`, `head_too_large`, `trailers`, `too_many`."""

    def count(self, why: str) -> None:
        """Count a connection ended by us."""
        self.cut[why] = self.cut.get(why, 0) + 1

    def sweep(self, now: float) -> None:
        """End every connection that is past the limit of its phase."""
        for connection, phase in self.connections.late(now):
            self.count(phase.name.lower())
            connection.too_late(phase)
