"""How fast deliveries are acknowledged, against what the same server does when it merely answers.

Rounds are interleaved: no-op route, product, commit per request, again and again, each from a fresh load process. All
checks are on: path token, HMAC signature, JSON, masking; every commit is synced. Every acknowledged id is looked for
in the file afterwards.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import disk, processes, record
from bench.figures import Figure, Plan, Section, at_least, plain, skipped
from bench.processes import HOOK, SECRET, Process
from faults import NotMeasured

CONNECTIONS = 64
WANTED_OF_EACH = 8.0
"""How many times a commit for each request."""
SLOW_SYNC_MS = 2.0


def receive(plan: Plan) -> Section:
    """`holdfast receive` alone."""
    section = Section("intake", "Durable acknowledgements, `holdfast receive`, 64 connections, 1 KB bodies")
    section = _measured(plan, section, "receive", 0.8)
    section.figures += _with_a_slower_disk(plan)
    return section


def run(plan: Plan) -> Section:
    """`holdfast run`, which reads the deliveries, settles jobs and pushes meanwhile."""
    section = Section("run", "The same with `holdfast run`: interpretation and pushing go on in the same process")
    return _measured(plan, section, "run", 0.5)


def _measured(plan: Plan, section: Section, command: str, reach: float) -> Section:
    folder, seconds, rounds = plan.folder / section.name, plan.seconds(2.0, 6.0), plan.count(5, 9)
    with ExitStack() as stack:
        no_op = stack.enter_context(processes.yardstick(folder / "noop"))
        each = stack.enter_context(processes.yardstick(folder / "each", commit_each=True))
        app = stack.enter_context(processes.application(folder / "app")) if command == "run" else None
        product = stack.enter_context(
            processes.sidecar(folder / "product", command, app_port=app.port if app else None)
        )
        seen = [
            {
                "noop": _round(no_op, "/in/bench", seconds),
                "product": _round(product, HOOK, seconds, secret=SECRET, prefix=f"r{n}-", ledger=folder / f"{n}.ids"),
                "each": _round(each, "/in/bench", seconds),
            }
            for n in range(rounds)
        ]
    section.figures = _figures(seen, reach, alone=command == "receive") + _counted(folder, seen)
    for name in ("noop", "product", "each"):
        section.series[name] = [each[name]["per_s"] for each in seen]
    return section


def _round(process: Process, path: str, seconds: float, **options: Any) -> dict[str, Any]:
    before = process.cpu_s()
    seen = processes.load(process.port, path, seconds=seconds, connections=CONNECTIONS, **options)
    seen["cpu_us"] = (process.cpu_s() - before) / max(1, seen["requests"]) * 1e6
    return seen


def _figures(seen: list[dict[str, dict[str, Any]]], reach: float, *, alone: bool) -> list[Figure]:
    def ratios(of: str) -> list[float]:
        return [each["product"]["per_s"] / each[of]["per_s"] for each in seen]

    def all_of(name: str, key: str) -> list[float]:
        return [each[name][key] for each in seen]

    against_each = ratios("each")
    note = "the no-op route itself is the ceiling of this one; it is in the next line"
    ceiling = [each["noop"]["per_s"] / each["each"]["per_s"] for each in seen]
    return [
        at_least("against the no-op route", ratios("noop"), "x", reach),
        at_least("against a commit per request", against_each, "x", WANTED_OF_EACH, note)
        if alone
        else plain("against a commit per request", against_each, "x"),
        plain("the no-op route against a commit per request", ceiling, "x"),
        plain("acknowledged", all_of("product", "per_s"), "/s"),
        plain("no-op route", all_of("noop", "per_s"), "/s"),
        plain("commit per request", all_of("each", "per_s"), "/s"),
        plain("p99 at the peak", all_of("product", "p99_ms"), "ms"),
        plain("CPU a delivery, all threads", all_of("product", "cpu_us"), "µs"),
        plain("CPU a request, no-op route", all_of("noop", "cpu_us"), "µs"),
        plain("what the load itself uses", all_of("product", "load_cpu_share"), "cores"),
    ]


def _with_a_slower_disk(plan: Plan) -> list[Figure]:
    """What sharing a sync is worth depends on what one costs. On a disk that takes hardly longer for one than the
    server does for a request, the no-op route itself is not many times a commit per request; so both are measured once
    more where every sync takes as long as on a disk at the other end of a network."""
    name, note = f"against a commit per request, each sync {SLOW_SYNC_MS:g} ms slower", "both with the same delay"
    folder, seconds = plan.folder / "slower", plan.seconds(2.0, 6.0)
    try:
        slower = disk.slower(folder, SLOW_SYNC_MS)
    except NotMeasured as why:
        return [skipped(name, str(why), f"≥ {WANTED_OF_EACH:g}")]
    with ExitStack() as stack:
        each = stack.enter_context(processes.yardstick(folder / "each", commit_each=True, environment=slower))
        product = stack.enter_context(processes.sidecar(folder / "product", "receive", environment=slower))
        seen = [
            (_round(product, HOOK, seconds, secret=SECRET, prefix=f"s{n}-"), _round(each, "/in/bench", seconds))
            for n in range(plan.count(3, 5))
        ]
    ratios = [ours["per_s"] / theirs["per_s"] for ours, theirs in seen]
    return [
        at_least(name, ratios, "x", WANTED_OF_EACH, note),
        plain("acknowledged there", [ours["per_s"] for ours, _ in seen], "/s"),
        plain("commit per request there", [theirs["per_s"] for _, theirs in seen], "/s"),
    ]


def _counted(folder: Path, seen: list[dict[str, dict[str, Any]]]) -> list[Figure]:
    """Every acknowledged delivery is in the file, and nothing was answered otherwise."""
    acknowledged = [id_ for n in range(len(seen)) for id_ in json.loads((folder / f"{n}.ids").read_text())]
    lost = record.missing(folder / "product", acknowledged)
    other = sum(count for each in seen for status, count in each["product"]["statuses"].items() if status != "200")
    note = f"{len(acknowledged)} acknowledged, {record.deliveries(folder / 'product')} rows in the file"
    return [
        Figure("acknowledged and not in the file", lost, "", "0", lost == 0, note=note),
        Figure("answered otherwise than 200", other, "", "0", other == 0),
    ]
