"""The stage of the demo: its folder, its configuration, its three processes. It starts and stops them, nothing more."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from receiver.clock import Clock
from receiver.errors import HoldfastError

API_KEY = "demo-provider-key"
SECRETS = {
    "omniai": "demo-shared-secret",
    "omnist": "whsec_demo_signing_secret",
    "standard": "whsec_aG9sZGZhc3QtZGVtby1zZWNyZXQtMjQ=",
}
EXTRA = {
    "omniai": 'secret_header = "x-webhook-secret"\n',
    "standard": (
        'verify = "standard-webhooks"\nevent_pointer = "/type"\njob_id_pointer = "/data/id"\n'
        'status_pointer = "/data/status"\nresult_pointer = "/data/result"\ncompleted = ["completed"]\n'
        'failed = ["failed"]\npoll_url = "{base_url}/jobs/{job_id}"\npoll_status_pointer = "/status"\n'
        'poll_result_pointer = "/result"\n'
    ),
}


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Stage:
    """Where the demo plays. Every process it started is ended by `clear`."""

    folder: Path
    providers: Sequence[str]
    clock: Clock
    app_secret: str = field(
        default_factory=lambda: "whsec_" + secrets.token_urlsafe(24).replace("-", "A").replace("_", "B")
    )
    ports: dict[str, int] = field(default_factory=dict)
    base_urls: dict[str, str] = field(default_factory=dict)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Choose ports."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports = {name: free_port() for name in ("intake", "api", "app", "simulator")}

    @property
    def api(self) -> str:
        """The sidecar's private listener."""
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def control(self) -> str:
        """The simulator's desk."""
        return f"http://127.0.0.1:{self.ports['simulator']}/_control"

    @property
    def database(self) -> Path:
        """The record."""
        return self.folder / "holdfast.db"

    @property
    def heard(self) -> Path:
        """What the application heard."""
        return self.folder / "heard.jsonl"

    def webhook_url(self, provider: str) -> str:
        """Where a provider posts to: unsigned ones to a URL with a token in it."""
        return f"http://127.0.0.1:{self.ports['intake']}/in/{provider}/demo-path-token-{provider}"

    def write_config(self) -> Path:
        """The sidecar's configuration: everything a minute long is a second long here."""
        lines = [
            '[store]\nurl = "sqlite:///holdfast.db"\n',
            f'[intake]\nlisten = "127.0.0.1:{self.ports["intake"]}"\n',
            f'[api]\nlisten = "127.0.0.1:{self.ports["api"]}"\n',
            f'[app]\nurl = "http://127.0.0.1:{self.ports["app"]}/holdfast"\nsecret = "env:DEMO_APP_SECRET"\n'
            "retry_first_s = 0.2\nretry_max_s = 5\n",
            "[reconcile]\ntick_s = 0.1\npoll_min_s = 0.5\npoll_max_s = 3\nnot_yet_s = 2\ncircuit_open_s = 1\n",
        ]
        for provider in self.providers:
            lines.append(
                f'[sources.{provider}]\nprovider = "{provider}"\nbase_url = "{self.base_urls[provider]}"\n'
                f'api_key = "{API_KEY}"\npath_token = "demo-path-token-{provider}"\npolls_per_min = 1200\nhold_s = 10\n'
                + EXTRA.get(provider, "")
                + (f'secret = "{SECRETS[provider]}"\n' if provider in SECRETS else "")
                + "timeouts.default = { poll_after_s = 2, fail_after_s = 20 }\n"
                + "".join(
                    f"timeouts.{modality} = {{ poll_after_s = 2, fail_after_s = 20 }}\n"
                    for modality in modalities(provider)
                )
            )
        path = self.folder / "holdfast.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start one process of ours; its output goes to a file in the folder."""
        environment = {**os.environ, "DEMO_APP_SECRET": self.app_secret, "PYTHONUNBUFFERED": "1"}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
                [sys.executable, "-m", *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        self._running[name] = process
        return process

    def start_simulator(self, seed: int, faults: dict[str, float], job_seconds: str) -> None:
        """The providers."""
        command = ["holdfast", "simulate", "--listen", f"127.0.0.1:{self.ports['simulator']}", "--json"]
        command += ["--seed", str(seed), "--job-seconds", job_seconds, "--quota-per-min", "0", "--time-scale", "0.01"]
        for provider in self.providers:
            command += ["--provider", provider, "--webhook-url", f"{provider}={self.webhook_url(provider)}"]
            command += ["--api-key", f"{provider}={API_KEY}"]
            if provider in SECRETS:
                command += ["--secret", f"{provider}={SECRETS[provider]}"]
        for fault, share in faults.items():
            command += [f"--{fault}", str(share)]
        process = self.start("simulator", command)
        self._await(process, f"{self.control}/", "the simulated providers")
        where = httpx.get(f"{self.control}/", trust_env=False).json()
        self.base_urls = {name: where["providers"][name]["base_url"] for name in self.providers}

    def start_application(self) -> None:
        """The sample application."""
        command = ["holdfast.demo.application", "--port", str(self.ports["app"]), "--heard", str(self.heard)]
        process = self.start("application", command)
        self._await(process, f"http://127.0.0.1:{self.ports['app']}/", "the sample application")

    def start_sidecar(self, config: Path, *, wait: bool = True) -> None:
        """The sidecar itself."""
        process = self.start("sidecar", ["holdfast", "run", "--config", str(config)])
        if wait:
            self._await(process, f"{self.api}/healthz", "the sidecar")

    def kill_sidecar(self) -> None:
        """SIGKILL: no warning, no cleaning up."""
        process = self._running["sidecar"]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _await(self, process: subprocess.Popen[bytes], url: str, what: str) -> None:
        end = self.clock.monotonic() + 30.0
        with httpx.Client(trust_env=False, timeout=2.0) as client:
            while self.clock.monotonic() < end:
                if process.poll() is not None:
                    break
                try:
                    client.get(url)
                except httpx.TransportError:
                    _pause(0.05)
                else:
                    return
        raise HoldfastError(f"starting {what}: it did not answer; its output is in {self.folder}")

    def truth(self) -> dict[str, Any]:
        """What the providers know."""
        answer = httpx.get(f"{self.control}/truth", timeout=30.0, trust_env=False)
        document: dict[str, Any] = json.loads(answer.content)
        return document

    def clear(self) -> None:
        """End every process."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        for process in self._running.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def modalities(provider: str) -> tuple[str, ...]:
    """The kinds of job the demo submits to a provider."""
    from holdfast.simulator import SIMULATORS

    return SIMULATORS[provider].modalities[:3]


def _pause(seconds: float) -> None:
    import threading

    threading.Event().wait(seconds)
