"""Takes over deliveries that the database did not take in time: writes them to the spill journal and answers them.

Its own thread, because the writer may be stuck inside a sync that does not return. It looks at the oldest delivery
nobody has answered; before that is `spill_after_s` old (at once, from then until a commit works again) everything that
waits goes to the journal in one sync. The writer drains the journal when the database takes commits again.
"""

import threading
from collections.abc import Callable, Sequence

import structlog

from receiver.clock import Clock
from receiver.errors import StoreUnavailable
from receiver.spill import SpillFailed, SpillJournal
from receiver.store.sqlite.writer import Pending

log = structlog.get_logger("holdfast.store")

_GROUP_S = 0.02
"""Until a commit works again, deliveries are gathered this long so that one sync covers them."""
_EARLY = 0.8
"""Part of `spill_after_s` after which a delivery is taken over: the journal's own sync is to end in time, too."""
_FAILED_S = 0.25
"""What a delivery waits when a commit has failed already: somebody holding the file for a moment is waited for."""


class Spiller:
    """Watches deliveries until somebody answers them. Every method may be called from any thread."""

    def __init__(
        self,
        journal: SpillJournal,
        clock: Clock,
        spill_after_s: float,
        *,
        failing: Callable[[], str | None],
        commits: Callable[[], int],
    ) -> None:
        """`failing`: why the last commit did not work, if so. `commits`: how many have worked."""
        self._journal = journal
        self._clock = clock
        self._after_s = spill_after_s * _EARLY
        self._failing = failing
        self._commits = commits
        self._stuck_at = -1
        """How many commits had worked when deliveries were taken over last."""
        self._waiting: dict[int, Pending] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self.waiting_bytes = 0
        self._thread = threading.Thread(target=self._run, name="holdfast-spill", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching; what still waits is for the writer to answer."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=10.0)

    def watch(self, pending: Pending) -> None:
        """Begin to watch a delivery."""
        with self._lock:
            first = not self._waiting
            self._waiting[pending.delivery.id] = pending
            self.waiting_bytes += len(pending.delivery.body or b"")
        if first:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """How many deliveries nobody has answered yet."""
        return len(self._waiting)

    def settle(self, group: Sequence[Pending]) -> list[Pending]:
        """Somebody is about to answer deliveries: those of them that nobody answered before, and nobody else may."""
        with self._lock:
            first = [pending for pending in group if not pending.over]
            for pending in first:
                pending.over = True
                if self._waiting.pop(pending.delivery.id, None) is not None:
                    self.waiting_bytes -= len(pending.delivery.body or b"")
            return first

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(0.5)
            wait_s = self._look()
            if wait_s is None:
                self._wake.clear()
                if self._waiting:
                    self._wake.set()  # one arrived between the look and the clearing
            else:
                threading.Event().wait(wait_s)

    def _look(self) -> float | None:
        """Spill what waited too long. Answers the seconds until the next look, None when nothing waits."""
        with self._lock:
            oldest = next(iter(self._waiting.values()), None)
        if oldest is None:
            return None
        commits = self._commits()
        if commits == self._stuck_at:
            patience_s = _GROUP_S  # a database that took nothing a moment ago is not waited for again
        else:
            patience_s = self._after_s if self._failing() is None else min(self._after_s, _FAILED_S)
        age_s = self._clock.monotonic() - oldest.since
        if age_s < patience_s:
            return min(patience_s - age_s, 0.05)
        with self._lock:
            group = list(self._waiting.values())
        self._stuck_at = commits
        self._spill(group)
        return 0.0 if self._waiting else None

    def _spill(self, group: list[Pending]) -> None:
        try:
            self._journal.append([pending.delivery for pending in group])
        except (SpillFailed, OSError) as error:
            log.error("spill.failed", error=str(error), deliveries=len(group))
            failure = StoreUnavailable(
                f"keeping a delivery: neither the database ({self._failing()}) nor the spill journal ({error}) "
                "takes it; free space or mend the disk"
            )
            for pending in self.settle(group):
                pending.done(failure)
            return
        log.warning("spill.appended", deliveries=len(group), records=self._journal.records)
        for pending in self.settle(group):
            pending.done(None)
