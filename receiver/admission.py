"""How many bytes of bodies may wait in memory at once, and whose: one bound for all, fair between sources.

A cap on one body is no bound: connections times the cap is. Every body holds a claim from its first byte until it is
committed. Three purses share the total: a lane for small bodies alone, a share that is each source's own, and a common
rest. So a source that sends many large bodies slowly can use up the common rest, never what the others live on, and
small deliveries (nearly all there are) find a way even past large ones of their own source. Pure arithmetic on the
event loop: no locks, no clock, no waiting. What finds no room is refused and can come again.
"""

from collections.abc import Iterable

SMALL_BYTES = 65_536
"""What counts as a small body: it may use the reserved lane."""
_LANE_PART = 8
_OWN_PART = 2


class _Purse:
    """What one source holds."""

    __slots__ = ("general", "lane")

    def __init__(self) -> None:
        self.general = 0
        self.lane = 0


class Claim:
    """The room of one body. It grows as bytes arrive and is given back once, however often `release` is called."""

    __slots__ = ("_budget", "_in_lane", "_purse", "held_bytes")

    def __init__(self, budget: "ByteBudget", purse: _Purse) -> None:
        self._budget: ByteBudget | None = budget
        self._purse = purse
        self._in_lane = False
        self.held_bytes = 0

    def cover(self, received_bytes: int) -> bool:
        """Make sure that so many bytes are claimed; False when there is no room, and nothing changes."""
        if received_bytes <= self.held_bytes:
            return True
        return self._budget is not None and self._grow(self._budget, received_bytes)

    def _grow(self, budget: "ByteBudget", size: int) -> bool:
        purse, held = self._purse, self.held_bytes
        if self._in_lane:
            if budget.take_general(purse, size, alone=budget.waiting_bytes == held):
                budget.give_lane(purse, held)
                self._in_lane = False
            elif size > SMALL_BYTES or not budget.take_lane(purse, size - held):
                return False
        elif not budget.take_general(purse, size - held, alone=budget.waiting_bytes == held):
            if size > SMALL_BYTES or not budget.take_lane(purse, size):
                return False
            budget.give_general(purse, held)
            self._in_lane = True
        self.held_bytes = size
        return True

    def release(self) -> None:
        """Give the room back."""
        budget, self._budget = self._budget, None
        if budget is None:
            return
        if self._in_lane:
            budget.give_lane(self._purse, self.held_bytes)
        else:
            budget.give_general(self._purse, self.held_bytes)
        self.held_bytes = 0


class ByteBudget:
    """All claims together. `total_bytes` is `intake.max_waiting_bytes`; `sources` are the configured names."""

    def __init__(self, total_bytes: int, sources: Iterable[str]) -> None:
        self._purses = {name: _Purse() for name in sources}
        count = max(1, len(self._purses))
        self.total_bytes = total_bytes
        self._lane_bytes = total_bytes // _LANE_PART
        general = total_bytes - self._lane_bytes
        self._own_bytes = general // _OWN_PART // count
        self._common_bytes = general - self._own_bytes * count
        self._lane_each = self._lane_bytes if count == 1 else self._lane_bytes // 2
        self._lane_used = 0
        self._common_used = 0
        self.waiting_bytes = 0
        """Bytes claimed now."""

    def claim(self, source: str, announced_bytes: int) -> Claim | None:
        """Room for a body of this source, or None when there is none.

        What is announced is believed up to SMALL_BYTES only: a sender that announces much and sends nothing must not
        sit on room that others could use. The claim grows with what really arrives.
        """
        claim = Claim(self, self._purses[source])
        return claim if claim.cover(min(announced_bytes, SMALL_BYTES)) else None

    def take_general(self, purse: _Purse, size: int, *, alone: bool) -> bool:
        """Take from the source's own share first, then from the common rest.

        `alone`: nothing else waits. Then any body that fits at all is taken, or the largest could never come in.
        """
        over = max(0, purse.general + size - self._own_bytes) - max(0, purse.general - self._own_bytes)
        if self._common_used + over > self._common_bytes and not alone:
            return False
        if self.waiting_bytes + size > self.total_bytes:
            return False
        purse.general += size
        self._common_used += over
        self.waiting_bytes += size
        return True

    def give_general(self, purse: _Purse, size: int) -> None:
        """Give back what `take_general` took."""
        over = max(0, purse.general - self._own_bytes) - max(0, purse.general - size - self._own_bytes)
        purse.general -= size
        self._common_used -= over
        self.waiting_bytes -= size

    def take_lane(self, purse: _Purse, size: int) -> bool:
        """Take from the lane for small bodies; one source never takes all of it from the others."""
        if self._lane_used + size > self._lane_bytes or purse.lane + size > self._lane_each:
            return False
        if self.waiting_bytes + size > self.total_bytes:
            return False
        purse.lane += size
        self._lane_used += size
        self.waiting_bytes += size
        return True

    def give_lane(self, purse: _Purse, size: int) -> None:
        """Give back what `take_lane` took."""
        purse.lane -= size
        self._lane_used -= size
        self.waiting_bytes -= size
