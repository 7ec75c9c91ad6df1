"""What a soak plays with: the demo's stage with the sidecar in one process or two, and everything that is done to it.

It starts, disturbs and samples; it judges nothing (`soak.py` does). Every process it started ends with it.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from faults import NotMeasured
from faults.product import pause
from faults.shims import SYNC, WRITE, Injector
from holdfast.demo.stage import Stage
from receiver.clock import SystemClock
from receiver.errors import HoldfastError
from receiver.store.sqlite.driver import sqlite3
from tests.support import clean_environment

PROVIDERS = ("omniai", "omnia", "omnifence", "omnist", "standard")
PLAIN_TOKEN = "a-path-token-of-the-harness"
API_FAULTS = (
    "api_error_5xx", "api_rate_limited", "api_slow", "api_malformed", "api_redirect", "api_not_found",
    "api_unauthorized", "api_unknown_word",
)  # fmt: skip
WEBHOOK_FAULTS = ("drop", "duplicate", "delay", "reorder", "early", "forged", "malformed", "slow", "stale")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process."""

    at: float
    resident_mib: float
    descriptors: int


@dataclass(slots=True)
class Troupe(Stage):
    """The stage; the sidecar is `run`, or `receive` and `reconcile`."""

    chance: random.Random = field(default_factory=random.Random)
    injector: Injector | None = None
    planted: str = ""
    done: Counter[str] = field(default_factory=Counter)
    """How often each disturbance was made."""

    @classmethod
    def made(cls, folder: Path, seed: int, planted: str = "") -> "Troupe":
        """A stage with its configuration still to be written."""
        troupe = cls(folder, PROVIDERS, SystemClock(), chance=random.Random(seed), planted=planted)
        troupe.prepare()
        try:
            troupe.injector = Injector(folder / "shim", folder / "holdfast.db")
        except NotMeasured:
            troupe.injector = None  # no compiler: the disk does not fail then, everything else does
        return troupe

    def start(self, name: str, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start one process of ours; the sidecar's disk can be made to fail."""
        ours = name in ("sidecar", "reconcile")
        shim = self.injector.env if self.injector is not None and ours else {}
        environment = clean_environment(DEMO_APP_SECRET=self.app_secret, **shim)
        if ours and self.planted:
            command = ["faults.planted", self.planted, *command[1:]]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        self._running[name] = process
        return process

    def write_config(self) -> Path:
        path = Stage.write_config(self)
        text = path.read_text("utf-8").replace("retry_max_s = 5\n", "retry_max_s = 5\nmax_attempts = 500\n")
        text = text.replace('holdfast.db"\n', 'holdfast.db"\nspill_after_s = 0.2\n', 1)
        plain = '[sources.plain]\nprovider = "omnifence"\nbase_url = "http://127.0.0.1:1"\ntrust = "payload"\n'
        path.write_text(f'{text}\n{plain}path_token = "{PLAIN_TOKEN}"\n', encoding="utf-8")
        return path

    def raise_sidecar(self, config: Path, *, split: bool) -> None:
        """Start the sidecar, in one process or in two, and wait until both listeners answer."""
        self._running.pop("reconcile", None)
        named = ["--config", str(config)]
        first = self.start("sidecar", ["holdfast", *named, "receive" if split else "run"])
        second = self.start("reconcile", ["holdfast", *named, "reconcile"]) if split else first
        self._await(first, f"http://127.0.0.1:{self.ports['intake']}/healthz", "the sidecar")
        self._await(second, f"{self.api}/healthz", "the sidecar's private listener")

    def _await(self, process: "subprocess.Popen[bytes]", url: str, what: str) -> None:
        try:
            Stage._await(self, process, url, what)
        except HoldfastError as error:
            logs = "".join(
                (self.folder / f"{name}.log").read_text("utf-8", "replace")[-1500:] for name in self._running
            )
            raise AssertionError(f"{error} (exit code {process.poll()}): {logs[-4000:]}") from error

    def end_sidecar(self, number: signal.Signals) -> None:
        """Send a signal to the sidecar's processes and wait for them to end."""
        mine = [self._running[name] for name in ("sidecar", "reconcile") if name in self._running]
        for process in mine:
            process.send_signal(number)
        for process in mine:
            process.wait(60)

    @property
    def split(self) -> bool:
        """Whether the sidecar is two processes now."""
        return "reconcile" in self._running

    def sample(self) -> list[Sample]:
        """One look at each process of the sidecar."""
        found = []
        for name in ("sidecar", "reconcile"):
            if name in self._running:
                place = Path(f"/proc/{self._running[name].pid}")
                pages = int((place / "statm").read_text().split()[1])
                mib = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
                found.append(Sample(time.monotonic(), mib, len(os.listdir(place / "fd"))))
        return found

    # -- what is done to it --------------------------------------------------------------------------------------

    def disturb(self, config: Path, *, kills: bool) -> str:
        """Do one thing, drawn by chance, and undo what has to be undone; its name."""
        ways: dict[str, Callable[[], object]] = {
            "application killed": self._application_away,
            "application frozen": lambda: self._frozen("application", self.chance.uniform(0.5, 6.0)),
            "database locked": self._locked,
            "other provider faults": self.retune,
        }
        if self.injector is not None:
            ways["disk full for the database"] = lambda: self._disk(WRITE, errno.ENOSPC)
            ways["syncs fail"] = lambda: self._disk(SYNC, errno.EIO)
        if kills:
            ways["sidecar killed"] = lambda: self._again(config, signal.SIGKILL)
            ways["sidecar restarted"] = lambda: self._again(config, signal.SIGTERM)
            ways["one of two killed"] = lambda: self._one_of_two(config)
            ways["sidecar frozen"] = lambda: self._frozen("sidecar", self.chance.uniform(0.2, 2.0))
        name = self.chance.choice(sorted(ways))
        ways[name]()
        self.done[name] += 1
        return name

    def _again(self, config: Path, number: signal.Signals) -> None:
        self.end_sidecar(number)
        pause(self.chance.uniform(0.0, 1.0))
        self.raise_sidecar(config, split=self.chance.random() < 0.4)

    def _one_of_two(self, config: Path) -> None:
        """Kill one process of the pair and start it again while the other goes on."""
        if not self.split:
            self.end_sidecar(signal.SIGTERM)
            self.raise_sidecar(config, split=True)
        name, role, url = self.chance.choice(
            [
                ("sidecar", "receive", f"http://127.0.0.1:{self.ports['intake']}/healthz"),
                ("reconcile", "reconcile", f"{self.api}/healthz"),
            ]
        )
        self._running[name].kill()
        self._running[name].wait()
        process = self.start(name, ["holdfast", "--config", str(config), role])
        self._await(process, url, role)

    def _application_away(self) -> None:
        self._running["application"].kill()
        self._running["application"].wait()
        pause(self.chance.uniform(0.2, 10.0))
        self.start_application()

    def _frozen(self, name: str, for_s: float) -> None:
        process = self._running[name]
        process.send_signal(signal.SIGSTOP)
        pause(for_s)
        process.send_signal(signal.SIGCONT)

    def _locked(self) -> None:
        connection = sqlite3.connect(self.database, timeout=10.0, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            pause(self.chance.uniform(0.1, 4.0))
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            pause(0.0)  # somebody else was quicker for ten seconds: then it was busy, not we
        finally:
            connection.close()

    def _disk(self, mask: int, error: int) -> None:
        assert self.injector is not None
        self.injector.hit(mask, error)
        pause(self.chance.uniform(0.1, 2.0))
        self.injector.mend()

    def retune(self) -> None:
        """Other faults at the providers from now on."""
        chance = self.chance
        wanted: dict[str, Any] = {name: round(chance.uniform(0.0, 0.2), 3) for name in WEBHOOK_FAULTS}
        wanted |= {name: round(chance.uniform(0.0, 0.06), 3) for name in API_FAULTS}
        wanted |= {"api_slow_s": 0.5, "slow_s": 0.5, "stuck": 0.01, "retry_after_s": 1}
        httpx.post(f"{self.control}/faults", json=wanted, timeout=10.0, trust_env=False).raise_for_status()

    def calm(self) -> None:
        """No more faults anywhere."""
        nothing = dict.fromkeys((*WEBHOOK_FAULTS, *API_FAULTS, "stuck"), 0.0)
        httpx.post(f"{self.control}/faults", json=nothing, timeout=10.0, trust_env=False).raise_for_status()
