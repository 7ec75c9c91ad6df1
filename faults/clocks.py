"""The wall clock stepped under the running sidecar: an hour back, a day on, and right again.

Intervals go by the monotonic clock, deadlines by the wall clock. So whatever the step: open jobs are asked about at
their pace (no stall, no storm), outcomes are told, a refused message is tried again, a job registered after the step
ends at its deadline, and one whose deadline is a week away does not end.
"""

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

from faults import Result
from faults.kills import Application
from faults.misbehaving import KEY, Place, Places, answer, says
from faults.product import Product, pause
from faults.senders import Senders
from faults.shims import WallClock

HOUR_S, DAY_S = 3600.0, 86400.0
STEPS: tuple[float, ...] = (0.0, -HOUR_S, 0.0, DAY_S, 0.0)
"""Where the wall clock stands, phase after phase."""
INTERVAL_S = 1.0
WATCHED = 5
SOON_S = 1.0
"""The deadline of the jobs that are to end."""
LATE_S = 2.0
"""So late at most an outcome is told, or a deadline acted on."""
RULES = f"[reconcile]\npoll_min_s = {INTERVAL_S}\npoll_max_s = {INTERVAL_S}\ntick_s = 0.2\nlate_polls = 0\n"
STANDARD = (
    'provider = "standard"\nverify = "none"\nevent_pointer = "/e"\njob_id_pointer = "/job_id"\n'
    'status_pointer = "/status"\ncompleted = ["completed"]\nfailed = ["failed"]\npolls_per_min = 6000\n'
    'poll_url = "{base_url}/jobs/{job_id}"\npoll_status_pointer = "/status"\n'
)


@dataclass(slots=True)
class Phase:
    """One stretch with the clock standing somewhere."""

    by_s: float
    began: float
    ended: float = 0.0
    soon: str = ""


def _source(name: str, port: int, fail_after_s: float) -> str:
    return (
        f'[sources.{name}]\nbase_url = "http://127.0.0.1:{port}"\napi_key = "{KEY}{name}"\npath_token = "{"x" * 24}"\n'
        f"{STANDARD}timeouts.default = {{ poll_after_s = 0.2, fail_after_s = {fail_after_s} }}\n"
    )


def stepped(folder: Path, *, lasting_s: float = 6.0, steps: tuple[float, ...] = STEPS, planted: str = "") -> Result:
    """Step the wall clock of `holdfast run` through `steps`, each for so long."""
    result = Result("the wall clock is stepped")
    running = says(answer(200, b'{"status":"processing"}'))
    watched, soon = Place("watched", running), Place("soon", running)
    refuses = [True]
    with (
        WallClock(folder / "shim") as clock,
        Places([watched, soon]),
        Application(lambda job: (503 if refuses[0] and job.endswith("-0-1") else 200, 0.0)) as application,
    ):
        more = f'[app]\nurl = "http://127.0.0.1:{application.port}/"\nsecret = "whsec_aG9sZGZhc3QtaGFybmVzcw=="\n'
        more += "retry_first_s = 0.4\nretry_max_s = 0.4\nmax_attempts = 1000\n" + RULES
        sources = _source("watched", watched.port, 7 * DAY_S) + _source("soon", soon.port, SOON_S)
        with Product(folder / "product", more=more, source='trust = "payload"\n' + sources) as product:
            process = product.start("run", env=clock.env, planted=planted)
            _register(product, "watched", [f"week-{number}" for number in range(WATCHED)])
            with Senders(product.port, 2, rate=40) as senders:
                phases = [_phase(product, clock, at, lasting_s) for at in enumerate(steps)]
                refuses[0] = False
                pause(LATE_S / 2)
            escaped = [line for line in process.output.splitlines() if "Traceback" in line or ".failed" in line]
            heard = process.output.count("clock.stepped")
            product.stop()
            result.must(not escaped, f"errors escaped: {escaped[:2]}")
            _pace(result, watched, phases)
            _deadlines(result, product, application, phases)
            _told(result, senders, application, phases)
            result.figures |= {"steps": len(steps) - 1, "noticed": heard}
    return result


def _register(product: Product, source: str, jobs: list[str]) -> None:
    asked = [{"source": source, "job_id": job, "modality": "default"} for job in jobs]
    status, said = product.send("POST", "/v1/jobs", json.dumps(asked).encode())
    assert status == 200, said


def _phase(product: Product, clock: WallClock, at: tuple[int, float], lasting_s: float) -> Phase:
    number, by_s = at
    clock.stand(by_s)
    phase = Phase(by_s, time.time(), soon=f"soon-{number}")
    _register(product, "soon", [phase.soon])
    pause(lasting_s)
    phase.ended = time.time()
    return phase


def _pace(result: Result, watched: Place, phases: list[Phase]) -> None:
    """No job waits longer than two intervals, none is asked about without end."""
    began, ended = phases[0].began, phases[-1].ended
    worst_s = 0.0
    for times in watched.of.values():
        marks = [began, *(at for at in times if at < ended), ended]
        worst_s = max(worst_s, *(later - earlier for earlier, later in itertools.pairwise(marks)))
    result.must(len(watched.of) == WATCHED, "a job was never asked about")
    counts = [sum(phase.began <= at < phase.ended for at in watched.asked) for phase in phases]
    expected = (phases[0].ended - phases[0].began) / INTERVAL_S * WATCHED
    result.figures |= {"longest pause s": round(worst_s, 2), "questions in each phase": counts}
    result.must(worst_s <= 2 * INTERVAL_S, f"a job was not asked about for {worst_s:.1f} s: a stall")
    result.must(max(counts) <= 1.5 * expected + 2 * WATCHED, f"questions in each phase: {counts}: a storm")


def _deadlines(result: Result, product: Product, application: Application, phases: list[Phase]) -> None:
    wrong = product.rows("SELECT job_id, state FROM jobs WHERE source = 'watched' AND state != 'pending'")
    result.must(not wrong, f"a deadline a week away was taken for over: {wrong}")
    heard = {job: at for at, job, _, status in reversed(application.order) if status == 200}
    real = time.time() - time.monotonic()
    late = []
    for phase in phases:
        at = heard.get(phase.soon)
        took_s = at + real - phase.began if at is not None else float("inf")
        late.append(round(took_s - SOON_S, 2))
    result.figures["deadlines acted on after s"] = late
    result.must(all(-0.3 <= each <= LATE_S for each in late), f"deadlines were acted on {late} s after their time")


def _told(result: Result, senders: Senders, application: Application, phases: list[Phase]) -> None:
    """Every outcome soon after its webhook, whatever the clock says."""
    first = {job: at for at, job, _, status in reversed(application.order) if status == 200}
    acknowledged = senders.ledger.acknowledged
    took = {each.job: first.get(each.job, float("inf")) - each.at for each in acknowledged}
    refused = [job for job in took if job.endswith("-0-1")]
    tries = sorted(at for at, job, _, status in application.order if job in refused)
    took = {job: waited for job, waited in took.items() if job not in refused}
    pause_s = max((b - a for a, b in itertools.pairwise(tries)), default=float("inf"))
    result.figures["longest pause of a message that is refused s"] = round(pause_s, 2)
    result.must(pause_s <= LATE_S, f"a refused message was not tried again for {pause_s:.1f} s")
    result.must(all(job in first for job in refused), "the message that was refused was not told in the end")
    slowest_s = max(took.values(), default=float("inf"))
    result.figures |= {"outcomes": len(took), "slowest told after s": round(slowest_s, 2)}
    result.figures["slowest acknowledgement s"] = round(senders.ledger.slowest_s(), 2)
    result.must(slowest_s <= LATE_S, f"an outcome was told after {slowest_s:.1f} s")
    result.must(senders.ledger.slowest_s() <= 1.0, "intake felt the step")
    result.must(not senders.ledger.refused and not senders.ledger.failed, "intake refused because of the step")
    several = [job for job, ids in application.heard.items() if len(set(ids)) > 1]
    result.must(not several, f"{len(several)} outcomes were told under more than one id")
