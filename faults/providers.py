"""Providers that misbehave, each in its own way and all at once, while the real sidecar asks them about open jobs.

What must hold: nothing is decided by what proves nothing, nobody is asked before the time they named, no key leaves
its origin, no error escapes, other sources are asked as fast as ever, and intake notices nothing. When the providers
are well again every job ends as they say.
"""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from faults import Result
from faults.misbehaving import BEHAVIOUR, KEY, LONGEST_WAIT_S, Behave, Place, Places, completed, redirecting, says
from faults.product import Product, pause
from faults.senders import Senders
from faults.shims import compiled
from tests.support import RunningProcess, eventually

HTTP_TIMEOUT_S = 1.0
SLOWER = 0.10
"""By so much the questions of other sources may take longer."""
GROWTH_MIB = 64.0
STOPPED_S = 15.0
BACK_S = 30.0
"""Within this after the providers are well every job has ended."""
RULES = f"""[reconcile]
http_timeout_s = {HTTP_TIMEOUT_S}
max_answer_bytes = 1000000
retry_after_max_s = {LONGEST_WAIT_S}
poll_min_s = 0.5
poll_max_s = 2
circuit_open_s = 0.5
tick_s = 0.5
"""
TIMES = "timeouts.default = { poll_after_s = 0.1, fail_after_s = 3600 }\n"
GOOD = (
    'provider = "standard"\nverify = "none"\nevent_pointer = "/e"\njob_id_pointer = "/job_id"\n'
    'status_pointer = "/status"\ncompleted = ["completed"]\nfailed = ["failed"]\npolls_per_min = 60000\n'
    'poll_url = "{base_url}/jobs/{job_id}"\npoll_status_pointer = "/status"\n'
)


def _slowly(answer_s: float) -> Behave:
    async def behave(place: Place, writer: object, job_id: str) -> None:
        await asyncio.sleep(answer_s)
        writer.write(completed(job_id))  # type: ignore[attr-defined]  # a StreamWriter

    return behave


def _places(kinds: tuple[str, ...]) -> tuple[list[Place], Place, list[Place]]:
    """(those that misbehave, the trap to which some of them send, the good ones)."""
    trap = Place("trap", says())
    bad = [Place(kind, BEHAVIOUR[kind]) for kind in kinds]
    bad.append(Place("redirects to another port", redirecting("http://127.0.0.1", trap)))
    bad.append(Place("redirects to another host", redirecting("http://localhost", trap)))
    bad.append(Place("speaks no TLS", says(b"HTTP/1.1 400 no\r\n\r\n"), heals=False))
    good = [Place(f"good {number}", _slowly(0.03)) for number in (1, 2)]
    return bad, trap, good


@contextlib.contextmanager
def _unaccepting() -> Iterator[int]:
    """The port of a listener whose queue is full: connecting to it hangs."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            jam = stack.enter_context(socket.socket())
            jam.setblocking(False)
            jam.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def _source(name: str, base_url: str, body: str) -> str:
    rest = f'[sources.{name}]\nbase_url = "{base_url}"\napi_key = "{KEY}{name}"\npath_token = "{"x" * 24}"\n'
    return rest + body + TIMES


def _sources(bad: list[Place], good: list[Place], hanging_port: int) -> str:
    fence = 'provider = "omnifence"\nadopt_unregistered = false\npolls_per_min = 600\n'
    text = "".join(_source(each.source, f"http://localhost:{each.port}", GOOD) for each in good)
    for each in bad:
        scheme = "https" if each.name == "speaks no TLS" else "http"
        text += _source(each.source, f"{scheme}://127.0.0.1:{each.port}", fence)
    text += _source("hanging_name", "http://api.hangs.test", fence)
    text += _source("no_such_name", "http://api.nowhere.test", fence)
    text += _source("refuses", "http://127.0.0.1:1", fence)
    return text + _source("never_accepts", f"http://127.0.0.1:{hanging_port}", fence)


UNREACHABLE = ("hanging_name", "no_such_name", "refuses", "never_accepts")


def misbehaving(
    folder: Path, *, lasting_s: float = 10.0, rounds: int = 3, kinds: tuple[str, ...] = (), planted: str = ""
) -> Result:
    """All of them at once for so long, then well. The pace of two good sources is taken `rounds` times while the bad
    ones are asked and as often while they are paused (0: it is not)."""
    result = Result("providers that misbehave")
    bad, trap, good = _places(kinds or tuple(BEHAVIOUR))
    shim = compiled("resolver", folder / "shim")
    with Places([*bad, trap, *good]) as places, _unaccepting() as hanging_port:
        more = _sources(bad, good, hanging_port)
        with Product(folder / "product", more=RULES, source='trust = "payload"\n' + more) as product:
            process = product.start("run", env={"LD_PRELOAD": str(shim)}, planted=planted)
            names = [*(each.source for each in bad), *UNREACHABLE]
            _register(product, [(name, f"job-{name}") for name in names])
            with Senders(product.port, 2, rate=50) as senders:
                began, resident = time.monotonic(), _resident_mib(process)
                _pace(result, product, good, names, rounds)
                pause(max(0.0, lasting_s - (time.monotonic() - began)))
                _decided_nothing(result, product, names)
                grown, lasted_s = _resident_mib(process) - resident, time.monotonic() - began
                _asked(result, [each for each in bad if each.heals], lasted_s)
                places.heal()
                _all_end(result, product, [each.source for each in bad if each.heals])
            _intake(result, senders)
            escaped = [line for line in process.output.splitlines() if "Traceback" in line or ".failed" in line]
            stopping = time.monotonic()
            product.stop()
            result.figures["stopped after s"] = round(time.monotonic() - stopping, 1)
            result.must(time.monotonic() - stopping <= STOPPED_S, "a name that hangs held up the stop")
            result.figures |= {"kinds": len(names), "grown MiB": round(grown, 1), "escaped errors": len(escaped)}
            result.must(not escaped, f"errors escaped: {escaped[:2]}")
            result.must(grown <= GROWTH_MIB, f"memory grew by {grown:.0f} MiB")
        _keys(result, [*bad, *good], trap)
    return result


def _register(product: Product, jobs: list[tuple[str, str]]) -> None:
    asked = [{"source": source, "job_id": job_id, "modality": "default"} for source, job_id in jobs]
    status, answered = product.send("POST", "/v1/jobs", json.dumps(asked).encode())
    assert status == 200, answered
    assert {each["status"] for each in json.loads(answered)["jobs"]} <= {200, 201}, answered


def _resident_mib(process: RunningProcess) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _pace(result: Result, product: Product, good: list[Place], bad: list[str], rounds: int) -> None:
    """How long the good sources take for forty questions each, with the bad ones asked beside them and without."""
    best = {"resume": float("inf"), "pause": float("inf")}
    for turn in range(2 * rounds):
        verb = ("resume", "pause")[turn % 2]
        for name in bad:
            product.send("POST", f"/v1/sources/{name}/{verb}")
        pause(HTTP_TIMEOUT_S * 1.5)  # what was under way has ended
        jobs = [(each.source, f"pace-{turn}-{number}") for each in good for number in range(40)]
        asked_before = [len(each.asked) for each in good]
        _register(product, jobs)
        marks = [(each, before + 40) for each, before in zip(good, asked_before, strict=True)]
        eventually(lambda marks=marks: all(len(place.asked) >= until for place, until in marks), 60.0)  # type: ignore[misc]  # bound now
        spans = [place.asked[until - 1] - place.asked[until - 40] for place, until in marks]
        best[verb] = min(best[verb], max(spans))
    for name in bad:
        product.send("POST", f"/v1/sources/{name}/resume")
    if rounds:
        slower = best["resume"] / best["pause"] - 1.0
        result.figures |= {"40 questions s": round(best["pause"], 2), "beside bad ones s": round(best["resume"], 2)}
        result.figures["slowed by"] = f"{max(0.0, slower):.0%}"
        result.must(slower <= SLOWER, f"other sources were slowed by {slower:.0%}")


def _decided_nothing(result: Result, product: Product, names: list[str]) -> None:
    asked: set[str] = set()

    def all_asked() -> bool:
        asked.update(row[0] for row in product.rows("SELECT DISTINCT source FROM polls"))
        return set(names) <= asked

    with contextlib.suppress(AssertionError):  # on a busy machine the first question may end late; below it is said
        eventually(all_asked, BACK_S)
    ended = product.rows("SELECT source, state, reason FROM jobs WHERE state != 'pending' AND job_id LIKE 'job-%'")
    result.figures["decided wrongly"] = len(ended)
    result.must(not ended, f"jobs ended by what proves nothing: {ended[:3]}")
    result.must(set(names) <= asked, f"never asked: {sorted(set(names) - asked)}: nothing was shown")


def _asked(result: Result, bad: list[Place], lasted_s: float) -> None:
    """Nobody early, nobody hammered."""
    early = {each.name: each.early for each in bad if each.early}
    most = max(bad, key=lambda each: len(each.asked))
    result.figures |= {"early questions": sum(early.values()), "questions to bad ones": sum(len(b.asked) for b in bad)}
    result.figures["most to one"] = len(most.asked)
    result.must(not early, f"asked before the time they had named: {early}")
    result.must(len(most.asked) <= lasted_s / 0.4 + 3, f"{most.name} was asked {len(most.asked)} times: a storm")


def _all_end(result: Result, product: Product, names: list[str]) -> None:
    began = time.monotonic()
    missing: set[str] = set()

    def ended() -> bool:
        rows = product.rows("SELECT source FROM jobs WHERE state = 'completed' AND decided_by = 'poll'")
        missing.clear()
        missing.update(set(names) - {row[0] for row in rows})
        return not missing

    try:
        eventually(ended, BACK_S)
    except AssertionError:
        result.faults.append(f"well again, but their jobs do not end: {sorted(missing)}")
    result.figures["all ended after s"] = round(time.monotonic() - began, 1)


def _intake(result: Result, senders: Senders) -> None:
    ledger = senders.ledger
    result.figures["slowest acknowledgement s"] = round(ledger.slowest_s(), 2)
    result.must(ledger.slowest_s() <= 1.0, "intake felt that providers misbehave")
    result.must(not ledger.refused and not ledger.failed, "intake refused because providers misbehave")
    result.must(len(ledger.ids) > 20, "next to nothing was acknowledged: nothing was shown")


def _keys(result: Result, places: list[Place], trap: Place) -> None:
    foreign = sum(each.foreign_keys for each in places)
    result.figures |= {"redirects followed": len(trap.asked), "keys that left their origin": foreign}
    result.must(not trap.asked, f"{len(trap.asked)} redirects were followed")
    result.must(not foreign, f"{foreign} keys were shown to another origin")
