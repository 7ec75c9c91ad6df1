"""How long an acknowledgement takes at a steady pace, and with a disk that stands still for two seconds at a time.

The load is open: requests are due at fixed moments and latency counts from then, so a queue cannot hide.
"""

import os
import statistics
from pathlib import Path

from bench import disk, processes, record
from bench.figures import Figure, Plan, Section, at_most, plain, skipped
from bench.processes import HOOK, SECRET
from faults import NotMeasured

SYNC_SAMPLES = 200
PACE_PER_S = 300


def paced(plan: Plan) -> Section:
    """Latency at 300 a second, and at half of what this machine takes at its peak."""
    section = Section("latency", "Acknowledgement latency, open loop")
    seconds, rounds = plan.seconds(4.0, 20.0), plan.count(3, 5)
    quiet: list[float] = []
    with processes.sidecar(plan.folder / "latency", "receive") as product:
        peak = processes.load(product.port, HOOK, seconds=plan.seconds(2.0, 5.0), secret=SECRET)["per_s"]
        paces = {PACE_PER_S: 10.0, round(peak / 2): 25.0}
        seen = {
            rate: [
                processes.load(product.port, HOOK, seconds=seconds, rate=rate, secret=SECRET, prefix=f"{rate}-{n}-")
                for n in range(rounds)
            ]
            for rate in paces
        }
        quiet = [sync_ms(plan.folder) for _ in range(3)]
    for rate, reach in paces.items():
        what = f"{rate}/s" if rate == PACE_PER_S else f"half of the peak ({rate}/s)"
        section.figures.append(at_most(f"p99 at {what}", [each["p99_ms"] for each in seen[rate]], "ms", reach))
        section.figures.append(plain(f"p50 at {what}", [each["p50_ms"] for each in seen[rate]], "ms"))
        section.figures.append(plain(f"slowest at {what}", [each["max_ms"] for each in seen[rate]], "ms"))
    section.figures.append(plain("one fdatasync of 4 KiB beside it, p50", quiet, "ms"))
    return section


def sync_ms(folder: Path) -> float:
    """The median of some syncs of one page, in milliseconds."""
    file = os.open(folder / "sync.probe", os.O_RDWR | os.O_CREAT, 0o600)
    taken = []
    try:
        for _ in range(SYNC_SAMPLES):
            os.pwrite(file, b"x" * 4096, 0)
            began = processes.now()
            os.fdatasync(file)
            taken.append((processes.now() - began) * 1000)
    finally:
        os.close(file)
    return statistics.median(taken)


def stalled(plan: Plan) -> Section:
    """A disk that stands still for 2 s in every 4 s: syncs of the database do not return until it moves on."""
    section = Section("stall", "Acknowledgement latency while the disk of the database stands still for 2 s at a time")
    folder, seconds = plan.folder / "stall", plan.seconds(8.0, 30.0)
    control = plan.folder / "stall.on"
    try:
        environment = disk.standing_still(plan.folder, control)
    except NotMeasured as why:
        section.figures.append(skipped("slowest acknowledgement", str(why), "≤ 1000 ms"))
        return section
    with processes.sidecar(folder, "receive", environment=environment) as product:
        control.touch()
        seen = processes.load(product.port, HOOK, seconds=seconds, rate=PACE_PER_S, secret=SECRET)
        control.unlink()
        wanted = seen["acknowledged"]
        rows, after_s = record.wait_until(folder, "SELECT count(*) FROM deliveries", wanted, 30.0)
    other = sum(count for status, count in seen["statuses"].items() if status != "200")
    section.figures = [
        at_most("slowest acknowledgement", [seen["max_ms"]], "ms", 1000.0, "spill_after_s at its default, 1 s"),
        plain("p50", [seen["p50_ms"]], "ms"),
        plain("p99", [seen["p99_ms"]], "ms"),
        Figure("refused", other, "", "0", other == 0),
        Figure("acknowledged and not in the file once it moves", wanted - rows, "", "0", wanted == rows),
        plain("until all spilled rows are in the database", [after_s], "s"),
    ]
    return section
