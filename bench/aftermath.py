"""After an outage: ten thousand open jobs, every webhook lost, and a provider that allows 60 requests a minute.

The simulated provider keeps the quota; its minute is scaled so that the run is short, and the source's budget with it.
What counts is how many questions it takes, for the quota turns questions into minutes.
"""

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

from bench import processes, record
from bench.figures import Figure, Plan, Section, at_most, plain
from bench.generate import known_jobs
from bench.processes import Process

KEY = "bench-key"
QUOTA_PER_MIN = 60
BUDGET_PER_MIN = 50
"""The source's own: with its burst of 10 it keeps to the quota in the first minute too."""
WINDOW_S = 6.0
"""How long a minute takes here."""
SETTLED = "SELECT count(*) FROM jobs WHERE source = 'fence' AND state <> 'pending'"
PAGE_ROWS = 100


def aftermath(plan: Plan) -> Section:
    """All states known, by lists where the provider has them."""
    wanted = plan.count(10_000, 10_000)
    section = Section("aftermath", f"After an outage: {wanted:,} open OmniFence jobs, every webhook lost")
    folder = plan.folder / "aftermath"
    lists = -(-wanted // PAGE_ROWS)
    more = (
        f'[sources.fence]\nprovider = "omnifence"\nbase_url = "{{base}}"\napi_key = "{KEY}"\n'
        f'polls_per_min = {BUDGET_PER_MIN * 60 / WINDOW_S:g}\nbulk_results = "list"\n'
    )
    with _provider(folder) as provider:
        jobs = _submitted(provider, wanted)
        more = more.replace("{base}", f"http://127.0.0.1:{provider.port}/omnifence")
        known_jobs(folder, "fence", jobs)
        with processes.sidecar(folder, "reconcile", more=more):
            began = processes.now()
            settled, _ = record.wait_until(folder, SETTLED, wanted, plan.seconds(240.0, 240.0))
            took = processes.now() - began
    asked = record.count(folder, "SELECT count(*) FROM polls WHERE source = 'fence'")
    single = record.count(folder, "SELECT count(*) FROM polls WHERE source = 'fence' AND request LIKE '%/job/%'")
    limited = record.count(folder, "SELECT count(*) FROM polls WHERE source = 'fence' AND http_status = 429")
    allowed = lists / BUDGET_PER_MIN
    section.figures = [
        Figure("known in the end", settled, "jobs", f"{wanted}", settled == wanted),
        at_most("questions asked", [asked], "", lists * 1.1 + 5, f"{lists} lists of {PAGE_ROWS} rows hold them all"),
        at_most("minutes they take under the budget", [asked / BUDGET_PER_MIN], "min", round(allowed * 1.1 + 0.1, 2)),
        at_most(
            "minutes until all were known, scaled",
            [took / WINDOW_S],
            "min",
            round(allowed * 1.1 + 0.1, 2),
            f"{took:.1f} s here, a minute lasting {WINDOW_S:g} s; settling costs real time",
        ),
        plain("of them single reads", [single], ""),
        plain("answered 429", [limited], ""),
    ]
    return section


@contextlib.contextmanager
def _provider(folder: Path) -> Iterator[Process]:
    folder.mkdir(parents=True, exist_ok=True)
    port, log = processes.free_port(), folder / "provider.log"
    words = ["-m", "holdfast", "simulate", "--listen", f"127.0.0.1:{port}", "--provider", "omnifence", "--drop", "1"]
    words += ["--api-key", f"omnifence={KEY}", "--quota-per-min", str(QUOTA_PER_MIN), "--quota-window-s", str(WINDOW_S)]
    words += ["--job-seconds", "0", "--webhook-url", "omnifence=http://127.0.0.1:9/"]
    process = processes.start(processes.python(*words), port=port, log=log)
    try:
        processes.wait_ready(process, "/_control/", log)
        yield process
    finally:
        process.stop(5.0)


def _submitted(provider: Process, count: int) -> list[str]:
    ask = json.dumps({"provider": "omnifence", "modality": "prompt", "n": count}).encode()
    answer = _call(provider.port, "POST", "/_control/submit", ask)
    return [job["job_id"] for job in answer["jobs"]]


def _call(port: int, method: str, path: str, body: bytes) -> dict[str, list[dict[str, str]]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
    finally:
        connection.close()
    if reply.status >= 300:
        raise RuntimeError(f"{method} {path} was answered {reply.status}: {text[:200]!r}")
    answer: dict[str, list[dict[str, str]]] = json.loads(text)
    return answer
