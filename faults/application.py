"""An application that is away, and back takes all but one message for ever: the rest flows, nothing stampedes."""

import threading
import time
from pathlib import Path

from faults import Result
from faults.kills import Application
from faults.product import Product, pause
from faults.senders import Senders
from tests.support import eventually

TOGETHER = 32
"""How many pushes may be on their way to one application."""


class _Moods:
    """How the application feels; it counts who is with it at the same time."""

    def __init__(self) -> None:
        self.away = True
        self.poisoned = ""
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, job: str) -> tuple[int, float]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        pause(0.005)
        with self._lock:
            self._now -= 1
        return (503 if self.away else 500 if job == self.poisoned else 200), 0.0


def away(folder: Path, *, away_s: float = 2.0, planted: bool = False) -> Result:
    """Away for a while under load, then back with one message it never takes. `planted`: it never comes back."""
    result = Result("an application that is away")
    moods = _Moods()
    with Application(moods) as application:
        more = f'[app]\nurl = "http://127.0.0.1:{application.port}/"\nsecret = "whsec_aG9sZGZhc3QtaGFybmVzcw=="\n'
        more += "retry_first_s = 0.5\nretry_max_s = 2\nmax_attempts = 50\n"
        with Product(folder, more=more, source='trust = "payload"\n') as product:
            product.start("run")
            with Senders(product.port, 4, rate=100) as senders:
                eventually(lambda: senders.ledger.acknowledged)
                moods.poisoned = senders.ledger.acknowledged[0].job
                pause(away_s)
                moods.away = planted
                pause(0.5)
            jobs, back = senders.ledger.jobs - {moods.poisoned}, time.monotonic()
            try:
                eventually(lambda: jobs <= set(application.heard), 2.0 if planted else 30.0)
            except AssertionError:
                result.faults.append(f"{len(jobs - set(application.heard))} outcomes were never told")
            result.figures |= {"outcomes": len(jobs), "caught up after s": round(time.monotonic() - back, 1)}
            result.figures |= {"most pushes at once": moods.most, "slowest acknowledgement s": 0.0}
            result.figures["slowest acknowledgement s"] = round(senders.ledger.slowest_s(), 2)
            result.must(moods.most <= TOGETHER, f"{moods.most} pushes at once: a stampede")
            result.must(senders.ledger.slowest_s() <= 1.0, "intake felt that the application was away")
            result.must(not senders.ledger.refused, "intake refused because the application was away")
            owed = product.rows("SELECT count(*) FROM outbox WHERE job_id = ? AND state = 'pending'", moods.poisoned)
            result.must(owed[0][0] == 1, "the message nobody takes is no longer owed")
            several = [job for job, ids in application.heard.items() if len(set(ids)) > 1]
            result.must(not several, f"{len(several)} outcomes were told under more than one id")
            product.stop()
    return result
