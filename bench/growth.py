"""The same work on an empty file and on one after months: nothing may get slower as the record grows.

The large file is generated. Rates are compared in neighbouring rounds; looks are timed by the statements and functions
the product itself uses, over a connection that has just been opened.
"""

import contextlib
import http.client
import json
from collections.abc import Callable
from pathlib import Path

from bench import processes, record
from bench.figures import Figure, Plan, Section, at_least, at_most, plain, ratios_by_part
from bench.generate import history, open_jobs
from bench.processes import HOOK, SECRET, SOURCE
from bench.record import DATABASE
from holdfast.cli.status import gather
from receiver import clock
from receiver.clock import SystemClock
from receiver.config import load as load_settings
from receiver.store import look
from receiver.store.sqlite import jobs
from receiver.store.sqlite.jobrows import job_of

PAGE_JOBS = 100
PAGE_LOOKS, PAGE_PART = 100, 10
SETTLED = 4
"""Of the jobs one in so many has ended."""


def growth(plan: Plan) -> Section:
    """100,000 jobs and 500,000 deliveries; in the long form 1,000,000 and 5,000,000."""
    job_count, delivery_count = plan.count(100_000, 1_000_000), plan.count(500_000, 5_000_000)
    section = Section("growth", f"A file of {delivery_count:,} deliveries and {job_count:,} jobs against an empty one")
    empty, large = plan.folder / "empty", plan.folder / "large"
    for folder in (empty, large):
        with processes.sidecar(folder, "receive", more=processes.NO_SWEEP_AT_START):
            pass
    began = processes.now()
    pending = job_count - job_count // SETTLED
    history(large, deliveries=delivery_count, settled=job_count // SETTLED, pending=pending)
    plan.say(f"  generated in {processes.now() - began:.0f} s")
    open_jobs(empty, "kept-", PAGE_JOBS)  # nobody delivers for them: a page of the empty file has its rows too
    first = [first_acknowledgement(large) for _ in range(plan.count(3, 5))]
    taken, read = [], []
    for n in range(plan.count(3, 5)):
        both = {folder: _rates(plan, folder, n) for folder in (empty, large)}
        taken.append(both[large][0] / both[empty][0])
        read.append(both[large][1] / both[empty][1])
    section.figures = [
        at_least("intake", taken, "x the empty file's", 0.9),
        at_least("interpretation", read, "x the empty file's", 0.9),
        at_most(f"due sweep: 100 of {pending:,} pending", _due_ms(large), "ms", 5.0),
        at_most("status", _status_ms(large), "ms", 200.0, "the look; the command adds the interpreter's start"),
        plain("status on the empty file", _status_ms(empty), "ms"),
        plain("`holdfast status`, the whole command", [processes.command(large, "status", "--json")[0] * 1000], "ms"),
        *_pages(empty, large),
        at_most("start to first acknowledgement", first, "s", 1.0, "`holdfast receive`, from outside"),
        plain("size of the file", [(large / DATABASE).stat().st_size / (1 << 20)], "MiB"),
    ]
    return section


def _rates(plan: Plan, folder: Path, n: int) -> tuple[float, float]:
    """(acknowledged a second, deliveries read a second)."""
    wanted = plan.count(4_000, 20_000)
    with processes.sidecar(folder, "receive") as product:
        open_jobs(folder, f"n{n}-", wanted)
        taken = processes.load(product.port, HOOK, count=wanted, seconds=60, secret=SECRET, prefix=f"n{n}-")
    unread = "SELECT count(*) = 0 FROM deliveries WHERE verdict = 'new'"
    began = SystemClock().now()
    with processes.sidecar(folder, "reconcile"):
        record.wait_until(folder, unread, 1, 120.0)
    with record.reading(folder) as connection:
        ends = connection.execute(
            "SELECT min(created_at), max(created_at), count(*) FROM outbox WHERE created_at >= ?", (clock.text(began),)
        ).fetchone()
    return taken["per_s"], ends[2] / max(0.001, record.seconds_between(ends[0], ends[1]))


def _timed_ms(work: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(7):
        began = processes.now()
        work()
        taken.append((processes.now() - began) * 1000)
    return taken


def _due_ms(folder: Path) -> list[float]:
    """The question of the sweep for what is due, with 100 due among all."""
    due = clock.text(SystemClock().now() + 86_400.0 * 2)
    with record.reading(folder) as connection:
        return _timed_ms(lambda: [job_of(row) for row in connection.execute(jobs.DUE, (SOURCE, due, 100, 0))])


def _status_ms(folder: Path) -> list[float]:
    settings = load_settings(folder / "holdfast.toml", need="none")
    return _timed_ms(lambda: look(settings, lambda view: gather(view, settings, SystemClock().now())))


def _pages(empty: Path, large: Path) -> list[Figure]:
    """The first page of jobs over the API, asked of one and the other in turn."""
    taken: list[list[float]] = [[], []]
    with processes.sidecar(empty, "reconcile") as one, processes.sidecar(large, "reconcile") as other:
        for _ in range(PAGE_LOOKS):
            for product, seen in zip((one, other), taken, strict=True):
                began = processes.now()
                _page(product.port)
                seen.append((processes.now() - began) * 1000)
    ratios = ratios_by_part(taken[0], taken[1], PAGE_PART)
    return [
        plain("a page of jobs over the API", taken[1], "ms"),
        at_least("a page of jobs", ratios, "x", 0.9, f"medians of {PAGE_PART} each, one after the other"),
    ]


def _page(port: int) -> None:
    status, body = processes.get(port, "/v1/jobs?limit=50&state=pending")
    if status != 200 or "jobs" not in json.loads(body):
        raise RuntimeError(f"a page of jobs was answered {status}")


def first_acknowledgement(folder: Path) -> float:
    """Seconds from the start of `holdfast receive` to its first 200."""
    ports = json.loads((folder / "ports.json").read_text())
    config = str(folder / "holdfast.toml")
    began = processes.now()
    process = processes.start(
        processes.python("-m", "holdfast", "--config", config, "receive"),
        port=ports["intake"],
        log=folder / "receive.log",
    )
    body = b'{"job_id":"first","status":"completed"}'
    try:
        while processes.now() - began < processes.READY_S:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if processes.post(process.port, HOOK, body) == 200:
                    return processes.now() - began
        raise RuntimeError("nothing was acknowledged after the start")
    finally:
        process.stop()
