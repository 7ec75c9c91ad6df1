"""What it costs to run: memory idle, at the peak and with thousands of slow connections; bytes on disk a delivery, also
after retention; and what socket activation costs a kept connection.
"""

import contextlib
import resource
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench import processes, record
from bench.figures import Figure, Plan, Section, at_least, at_most, plain, ratios_by_part, skipped
from bench.processes import HOOK, SECRET, Process

MIB = 1 << 20
BODY_BYTES = 1024
SLOW = 10_000
_SPARE = 200


def memory(plan: Plan) -> Section:
    """Resident memory of `holdfast run`."""
    section = Section("memory", "Memory of `holdfast run`")
    folder = plan.folder / "memory"
    with processes.application(folder / "app") as app, processes.sidecar(folder, "run", app_port=app.port) as product:
        processes.load(product.port, HOOK, count=20, seconds=10, secret=SECRET, prefix="w")
        record.wait_until(folder, "SELECT count(*) FROM outbox WHERE state = 'delivered'", 20, 20.0)
        idle = product.rss_bytes()
        if not idle:
            section.figures.append(skipped("idle", "the system has no /proc"))
            return section
        processes.load(product.port, HOOK, seconds=plan.seconds(4.0, 30.0), secret=SECRET)
        peak = product.rss_bytes(peak=True)
    section.figures = [
        at_most("idle", [idle / MIB], "MiB", 70),
        at_most("most under the peak load", [peak / MIB], "MiB", 150),
    ]
    section.figures += _slow(plan)
    return section


def _slow(plan: Plan) -> list[Figure]:
    """Connections that have sent half a head and dawdle."""
    wanted = plan.count(SLOW, SLOW)
    name, reach = f"with {wanted} slow connections", 300
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted + _SPARE:
        return [skipped(name, f"only {hard} descriptors are allowed here", f"≤ {reach} MiB")]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + _SPARE), hard))
    try:
        with processes.sidecar(plan.folder / "slow", "run") as product, _dawdling(product, wanted) as connected:
            processes.wait_calm(product)  # all are accepted: who comes now waits for nobody's turn
            seen = processes.load(product.port, HOOK, seconds=plan.seconds(2.0, 2.0), rate=200, secret=SECRET)
            used = product.rss_bytes() / MIB
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return [
        at_most(name, [used], "MiB", reach, f"{connected} connected"),
        plain("p99 of the others meanwhile, at 200/s", [seen["p99_ms"]], "ms"),
    ]


@contextlib.contextmanager
def _dawdling(product: Process, count: int) -> Iterator[int]:
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.create_connection(("127.0.0.1", product.port), timeout=10)
            each.sendall(b"POST /in/bench HTTP/1.1\r\nHost: ben")
            opened.append(each)
        yield len(opened)
    finally:
        for each in opened:
            each.close()


def disk(plan: Plan) -> Section:
    """Bytes on disk: a delivery's, and a file's under steady load with retention."""
    section = Section("disk", "Bytes on disk")
    folder, wanted, rounds = plan.folder / "disk", plan.count(4_000, 20_000), 5
    sizes = []
    more = "[retention]\ndeliveries_days = 0.000001\nmessages_days = 0.000001\njobs_days = 0.000001\n"
    with processes.sidecar(folder, "receive", more=more) as product:
        processes.load(product.port, HOOK, count=wanted, seconds=60, secret=SECRET, body_bytes=BODY_BYTES)
    received = record.bytes_on_disk(folder) / record.deliveries(folder) / BODY_BYTES
    for n in range(rounds):
        with processes.application(folder / f"app{n}") as app:
            processes.set_app(folder, app.port)
            with processes.sidecar(folder, "run") as product:
                processes.load(product.port, HOOK, count=wanted, seconds=60, secret=SECRET, prefix=f"r{n}-")
                record.wait_until(folder, "SELECT count(*) FROM outbox WHERE state = 'pending'", 1, 0.5)
                record.wait_until(folder, "SELECT count(*) = 0 FROM deliveries WHERE verdict = 'new'", 1, 60.0)
                record.wait_until(folder, "SELECT count(*) = 0 FROM outbox WHERE state = 'pending'", 1, 60.0)
        processes.command(folder, "prune")
        sizes.append(float(record.bytes_on_disk(folder)))
    growth = sizes[-1] / sizes[1]
    section.series["MiB after each round and retention"] = [size / MIB for size in sizes]
    section.figures = [
        at_most("a delivery of 1 KB, received", [received], "x the body", 2.0),
        at_most("the file after five rounds and retention, against two", [growth], "x", 1.1, "it has stopped growing"),
        plain("rows left after retention", [float(record.deliveries(folder))], ""),
    ]
    return section


def activation(plan: Plan) -> Section:
    """A kept connection through a socket that systemd would hand down, against one we bound. Requests go to one and the
    other in turn, for a machine that others share changes more within a second than the listeners differ."""
    section = Section("activation", "Kept-alive requests through a socket-activated listener")
    rounds, each = plan.count(10, 40), 100
    with processes.sidecar(plan.folder / "bound", "receive") as bound, handed_down(plan.folder / "handed") as handed:
        took = processes.post_in_turn((bound.port, handed.port), HOOK, count=rounds * each)
    note = f"medians of {each} requests each, one after the other"
    section.figures = [
        at_least("against one we bound, one connection", ratios_by_part(took[0], took[1], each), "x", 0.98, note),
        plain("half of them take at most", [statistics.median(took[1]) * 1000], "ms"),
    ]
    return section


@contextlib.contextmanager
def handed_down(folder: Path) -> Iterator[Process]:
    """`holdfast receive` with its listener inherited as systemd hands it down: descriptor 3, named `intake`."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        port = int(listener.getsockname()[1])
        config = folder / "holdfast.toml"
        config.write_text(processes.config_text(folder, {"intake": port, "api": processes.free_port()}))
        script = f'exec 3<&{listener.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=intake exec "$@"'
        words = ["sh", "-c", script, "sh", *processes.python("-m", "holdfast", "--config", str(config), "receive")]
        log = folder / "receive.log"
        process = processes.start(words, port=port, log=log, pass_fds=(listener.fileno(),))
    try:
        processes.wait_ready(process, "/healthz", log)
        yield process
    finally:
        process.stop()
