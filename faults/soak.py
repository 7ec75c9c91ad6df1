"""A soak: the real sidecar between simulated providers and a real application for an hour, something done to it every
few seconds. At the end nothing is lost, told twice or told wrong; in its last life neither memory nor descriptors grow.

The account is made from what the providers know, what the senders were answered and what the application wrote down;
nothing is taken from the sidecar's own counts.
"""

import contextlib
import signal
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from faults import Result
from faults.product import pause
from faults.senders import Ledger, Senders
from faults.troupe import PLAIN_TOKEN, PROVIDERS, Sample, Troupe
from holdfast.cli.writing import job_path
from holdfast.demo.ledger import heard_messages, settle
from holdfast.demo.stage import modalities
from receiver.store.sqlite.driver import quoted, sqlite3
from tests.support import eventually

CALM_SHARE = 1 / 3
"""The last part of the time, in which the sidecar itself is left alive: what grows by the hour shows in a long life."""
GROWTH_MIB = 12.0
GROWTH_DESCRIPTORS = 10
SETTLE_S = 120.0
PLAIN_RATE = 20.0


@dataclass(slots=True)
class Submitters:
    """Submit jobs at the providers at a steady rate and register each, as an application does."""

    troupe: Troupe
    rate: float
    keys: set[tuple[str, str]] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, count: int = 6) -> None:
        """Start so many threads."""
        self.threads = [threading.Thread(target=self._work, args=(at, count), daemon=True) for at in range(count)]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """No more; what is submitted is registered first."""
        self.over.set()
        for thread in self.threads:
            thread.join(60.0)
            if thread.is_alive():
                self.failures.append("a registration never came through")

    def _work(self, at: int, count: int) -> None:
        with httpx.Client(timeout=10.0, trust_env=False) as client:
            turn = at
            while not self.over.is_set():
                began = time.monotonic()
                try:
                    self._one(client, turn)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is told at the end
                    self.failures.append(f"{type(error).__name__}: {error}")
                turn += count
                self.over.wait(max(0.0, began + count / self.rate - time.monotonic()))

    def _one(self, client: httpx.Client, turn: int) -> None:
        provider = PROVIDERS[turn % len(PROVIDERS)]
        kinds = modalities(provider)
        modality = kinds[turn // len(PROVIDERS) % len(kinds)]
        made = client.post(f"{self.troupe.control}/submit", json={"provider": provider, "modality": modality})
        job: dict[str, Any] = made.raise_for_status().json()["jobs"][0]
        facts = {"modality": modality} | {name: job[name] for name in ("poll_url", "alias", "refs") if job[name]}
        until = time.monotonic() + 90.0
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = client.put(self.troupe.api + job_path(provider, job["job_id"]), json=facts)
                if answer.status_code in (200, 201):
                    self.keys.add((provider, job["job_id"]))
                    return
                if answer.status_code < 500:
                    raise AssertionError(f"registering {provider} {job['job_id']}: {answer.status_code} {answer.text}")
            if time.monotonic() > until:
                raise AssertionError(f"registering {provider} {job['job_id']}: nobody took it")
            pause(0.1)


def soak(
    folder: Path,
    minutes: float = 60.0,
    *,
    seed: int = 1,
    rate: float = 4.0,
    every_s: float = 5.0,
    planted: str = "",
    progress: bool = True,
) -> Result:
    """So many minutes at `rate` jobs a second and twenty plain deliveries, a disturbance every `every_s` or so."""
    result = Result(f"a soak of {minutes:g} minutes")
    folder.mkdir(parents=True, exist_ok=True)
    troupe = Troupe.made(folder, seed, planted)
    submitters, samples = Submitters(troupe, rate), list[Sample]()
    try:
        troupe.start_simulator(seed, {}, "0.2:3")
        config = troupe.write_config()
        troupe.start_application()
        troupe.raise_sidecar(config, split=False)
        troupe.retune()
        path = f"/in/plain/{PLAIN_TOKEN}"
        with Senders(troupe.ports["intake"], 2, path=path, rate=PLAIN_RATE, close_each=1, patience_s=10.0) as senders:
            submitters.begin()
            _disturb(troupe, config, minutes * 60.0, every_s, samples=samples, say=progress)
            submitters.end()
        _settle(result, troupe, submitters, senders.ledger)
        _growth(result, samples)
        result.figures |= {"seed": seed, "disturbances": sum(troupe.done.values()), **sorted_counts(troupe)}
    finally:
        troupe.clear()
    _kept(result, troupe, senders.ledger)
    return result


def sorted_counts(troupe: Troupe) -> dict[str, int]:
    """How often each thing was done."""
    return dict(sorted(troupe.done.items()))


def _disturb(
    troupe: Troupe, config: Path, lasting_s: float, every_s: float, *, samples: list[Sample], say: bool
) -> None:
    """Disturb it until the time is up; in the last part of it the sidecar lives on and is sampled."""
    began = time.monotonic()
    calm_from, spoke = began + lasting_s * (1 - CALM_SHARE), began
    resting = False
    while (now := time.monotonic()) < began + lasting_s:
        if now >= calm_from and not resting:
            resting = True
            if troupe.split:
                troupe.end_sidecar(signal.SIGTERM)
                troupe.raise_sidecar(config, split=False)
        did = troupe.disturb(config, kills=not resting)
        wait_until = time.monotonic() + troupe.chance.uniform(0.0, 2 * every_s)
        while time.monotonic() < min(wait_until, began + lasting_s):
            pause(1.0 if lasting_s > 120 else 0.1)
            samples += troupe.sample() if resting else []
        if say and time.monotonic() - spoke > min(60.0, lasting_s / 10):
            spoke = time.monotonic()
            look = troupe.sample()[0]
            heard = troupe.heard.stat().st_size if troupe.heard.exists() else 0
            print(
                f"  {spoke - began:.0f} s: {sum(troupe.done.values())} disturbances, the last: {did}; "
                f"{look.resident_mib:.0f} MiB, {look.descriptors} descriptors, application heard {heard >> 10} KiB",
                flush=True,
            )


def _settle(result: Result, troupe: Troupe, submitters: Submitters, ledger: Ledger) -> None:
    """Let everything come to its end, then compare what is known with what was heard."""
    troupe.calm()
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{troupe.control}/idle", json={"timeout_s": 20}, timeout=30.0, trust_env=False)
    began, heard = time.monotonic(), list[dict[str, Any]]()

    def all_told() -> bool:
        pause(1.0)
        heard[:] = heard_messages(troupe.heard)
        told = {(each["data"]["source"], each["data"].get("job_id")) for each in heard}
        owed = httpx.get(f"{troupe.api}/v1/messages", params={"state": "pending", "limit": 1}, trust_env=False)
        plain = {("plain", job) for job in ledger.jobs}
        return submitters.keys | plain <= told and owed.status_code == 200 and not owed.json()["messages"]

    with contextlib.suppress(AssertionError):  # what is missing is counted below
        eventually(all_told, SETTLE_S, ignoring=(AssertionError, httpx.HTTPError))
    account = settle(troupe.truth(), [each for each in heard if each["data"]["source"] != "plain"])
    total = account.total
    by_job: dict[str, set[str]] = defaultdict(set)
    for each in heard:
        if each["data"]["source"] == "plain":
            by_job[each["data"]["job_id"]].add(each["id"])
    untold = len(ledger.jobs - set(by_job))
    twice = sum(len(ids) > 1 for ids in by_job.values())
    result.figures |= {"jobs": total.submitted, "webhooks sent": total.sent, "dropped": total.dropped}
    result.figures |= {"by webhook": total.by_webhook, "by poll": total.by_poll, "by deadline": total.by_deadline}
    result.figures |= {"plain deliveries acknowledged": len(ledger.ids), "lost": total.lost + untold}
    result.figures |= {"told twice": total.told_twice + twice, "told wrong": total.told_wrong}
    result.figures["settled after s"] = round(time.monotonic() - began, 1)
    result.must(total.clean, "; ".join(account.wrongs[:3]))
    result.must(not untold, f"{untold} acknowledged plain deliveries were never told")
    result.must(not twice, f"{twice} plain outcomes were told under two ids")
    result.must(not submitters.failures, f"{len(submitters.failures)} registrations failed: {submitters.failures[:2]}")
    result.must(total.submitted > 10, "next to nothing was submitted: nothing was shown")


def _growth(result: Result, samples: Sequence[Sample]) -> None:
    """Memory and descriptors in the last life: its second quarter against its last."""
    quarter = len(samples) // 4
    if quarter < 3:
        result.must(False, "the last life was too short to be looked at")
        return
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    mib = [statistics.median(each.resident_mib for each in part) for part in (early, late)]
    fds = [statistics.median(each.descriptors for each in part) for part in (early, late)]
    fit = statistics.linear_regression([each.at for each in samples], [each.resident_mib for each in samples])
    result.figures |= {"resident MiB": [round(each, 1) for each in mib], "descriptors": fds}
    result.figures["memory grows MiB an hour"] = round(fit.slope * 3600, 1)
    result.figures["most descriptors"] = max(each.descriptors for each in samples)
    result.must(mib[1] - mib[0] <= GROWTH_MIB, f"memory grew by {mib[1] - mib[0]:.1f} MiB")
    result.must(fds[1] - fds[0] <= GROWTH_DESCRIPTORS, f"descriptors grew by {fds[1] - fds[0]:.0f}")


def _kept(result: Result, troupe: Troupe, ledger: Ledger) -> None:
    """Every acknowledged plain delivery is in the database, and the file is sound."""
    connection = sqlite3.connect(f"file:{quoted(troupe.database)}?mode=ro", uri=True, timeout=10.0)
    try:
        kept = {int(row[0]) for row in connection.execute("SELECT id FROM deliveries WHERE source = 'plain'")}
        sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()
    lost = len(ledger.ids - kept)
    result.figures |= {"acknowledged and gone": lost, "refused": sum(ledger.refused.values())}
    result.must(not lost, f"{lost} acknowledged deliveries are gone")
    result.must(sound == "ok", f"the database is damaged: {sound}")
