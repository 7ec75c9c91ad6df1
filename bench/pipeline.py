"""From a delivery to the message in the outbox, and from there to the application.

The pipeline is measured end to end by the times in the tables, while intake goes on at a fixed pace: the pace it bears
is the highest at which no backlog grows. Jobs are on record before, as an application that registers them would have
it.
"""

import json
from pathlib import Path
from typing import Any

from bench import processes, record
from bench.figures import Figure, Plan, Section, at_least, at_most, plain
from bench.generate import open_jobs, pending_messages
from bench.processes import HOOK, SECRET

WANTED_PER_S = 4000
UNREAD = "SELECT count(*) FROM deliveries WHERE verdict = 'new'"
STAGED = "SELECT count(*) FROM outbox"
DELIVERED = "SELECT count(*) FROM outbox WHERE state = 'delivered'"


def pipeline(plan: Plan) -> Section:
    """`holdfast run` at a rising pace, then the backlog's own rate."""
    section = Section("pipeline", "Delivery → job settled → message in the outbox")
    backlog = _backlog(plan)
    section.figures = [
        at_least("a backlog is read at", [backlog.per_s], "/s", WANTED_PER_S, f"{backlog.staged} deliveries waiting"),
    ]
    seconds = plan.seconds(4.0, 60.0)
    held = 0.0
    step = 1.0
    for share in (0.25, 0.35, 0.45, 0.55, 0.65, 0.8):
        rate = max(50, round(backlog.per_s * share))
        seen = _paced(plan, rate, seconds)
        plan.say(f"  pipeline at {rate}/s: {seen['oldest_s']:.2f} s behind")
        section.series.setdefault("pace", []).append(rate)
        section.series.setdefault("behind_s", []).append(seen["oldest_s"])
        if seen["oldest_s"] < 1.0 and seen["per_s"] >= rate * 0.95:
            held, best = float(rate), seen
            step = share
        else:
            break
    section.figures.append(
        at_least(
            "sustained while intake runs at the same pace", [held], "/s", WANTED_PER_S, f"for {seconds:.0f} s each"
        )
    )
    if step < 1.0 and held:
        section.figures += [
            at_most("longest from arrival to the outbox, at that pace", [best["oldest_s"]], "s", 1.0),
            plain("p50 from arrival to the outbox", [best["p50_ms"]], "ms"),
            plain("p99 from arrival to the outbox", [best["p99_ms"]], "ms"),
            plain("p99 of the acknowledgement meanwhile", [best["ack_p99_ms"]], "ms"),
        ]
    return section


def _backlog(plan: Plan) -> record.Flow:
    """Deliveries recorded while nobody reads them, then `holdfast reconcile` from its start. Its sweep over all open
    jobs, which comes with every start, is left out: it is another work than reading."""
    folder, wanted = plan.folder / "backlog", plan.count(12_000, 60_000)
    with processes.sidecar(folder, "receive", more=processes.NO_SWEEP_AT_START) as product:
        open_jobs(folder, "b", wanted)
        processes.load(product.port, HOOK, count=wanted, seconds=120, secret=SECRET, prefix="b")
    with processes.sidecar(folder, "reconcile"):
        record.wait_until(folder, STAGED, wanted, 120.0)
    return record.flow(folder)


def _paced(plan: Plan, rate: int, seconds: float) -> dict[str, float]:
    """A pace that goes on: the sweep that comes with a start is over before it begins."""
    folder = plan.folder / f"paced-{rate}"
    open_jobs(folder, "p", round(rate * seconds) + 10)
    with processes.sidecar(folder, "run") as product:
        processes.wait_calm(product)
        seen = processes.load(product.port, HOOK, seconds=seconds, rate=rate, secret=SECRET, prefix="p")
        record.wait_until(folder, STAGED, seen["acknowledged"], 60.0)
    flow = record.flow(folder, skip_s=min(1.0, seconds / 4))
    return {
        "per_s": flow.per_s,
        "oldest_s": flow.max_ms / 1000,
        "p50_ms": flow.p50_ms,
        "p99_ms": flow.p99_ms,
        "ack_p99_ms": seen["p99_ms"],
    }


def push(plan: Plan) -> Section:
    """Messages to a fast application on loopback, several a job, order kept."""
    section = Section("push", "Push to a fast local application")
    folder, wanted = plan.folder / "push", plan.count(6_000, 60_000)
    with processes.application(folder / "app") as app, processes.sidecar(folder, "receive", app_port=app.port):
        pending_messages(folder, jobs=wanted // 3, each=3)
    with processes.application(folder / "app2") as app:
        processes.set_app(folder, app.port)
        with processes.sidecar(folder, "reconcile") as product:
            began, cpu = processes.now(), product.cpu_s()
            done, _ = record.wait_until(folder, DELIVERED, wanted // 3 * 3, 120.0)
            took, used = processes.now() - began, product.cpu_s() - cpu
            told = _told(app.port)
    section.figures = [
        at_least("pushed and recorded as delivered", [_rate(folder) or done / took], "/s", 1500),
        Figure("out of order within a job", told["disordered"], "", "0", told["disordered"] == 0),
        Figure("pushed twice", told["repeats"], "", "0", told["repeats"] == 0),
        Figure("not pushed", wanted // 3 * 3 - told["messages"], "", "0", told["messages"] == wanted // 3 * 3),
        plain("CPU a message", [used / max(1, done) * 1e6], "µs"),
    ]
    return section


def _rate(folder: Path) -> float:
    """Messages a second by the times in the table."""
    with record.reading(folder) as connection:
        first, last, number = connection.execute(
            "SELECT min(delivered_at), max(delivered_at), count(*) FROM outbox WHERE state = 'delivered'"
        ).fetchone()
    took = record.seconds_between(first, last)
    return float(number / took) if took else 0.0


def _told(port: int) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(processes.get(port, "/")[1])
    return answer
