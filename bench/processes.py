"""Real processes for the benchmark: the product, the yardsticks, the load and the fast application.

Each is a process of its own with a free port and a folder of its own, started the way a user starts it, and reaped
whatever happens. Also reads what a process costs: resident memory and CPU seconds, from `/proc` where there is one.
"""

import contextlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receiver.clock import SystemClock

SOURCE = "bench"
TOKEN = "bench-path-token"  # noqa: S105 - a fixed token for a listener on loopback
SECRET = "bench-secret"  # noqa: S105 - as above
HOOK = f"/in/{SOURCE}/{TOKEN}"
READY_S = 30.0
NO_SWEEP_AT_START = "[reconcile]\nstartup_sweep = false\n"
"""For a configuration: a start does not ask about all open jobs, which is another work than what is measured."""
_CALM_S = 0.4
_CALM_LOOKS = 3
_CLOCK = SystemClock()
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Process:
    """A running process and where it listens."""

    child: "subprocess.Popen[bytes]"
    port: int

    def cpu_s(self) -> float:
        """CPU seconds used so far, user and system, all threads; 0.0 where the system does not tell."""
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / _TICKS
        return 0.0

    def rss_bytes(self, *, peak: bool = False) -> int:
        """Resident memory now, or the most there ever was; 0 where the system does not tell."""
        word = "VmHWM:" if peak else "VmRSS:"
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
                if line.startswith(word):
                    return int(line.split()[1]) * 1024
        return 0

    def stop(self, grace_s: float = 20.0) -> None:
        """End it in order; by force when it takes too long."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.child.kill()
        self.child.wait()


def python(*words: str) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *words]


def start(
    words: Sequence[str],
    *,
    port: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a process; its output goes to `log`."""
    with log.open("ab") as out:
        child = subprocess.Popen(  # noqa: S603 - our own modules
            words, stdout=out, stderr=out, env={**os.environ, **(environment or {})}, pass_fds=pass_fds
        )
    return Process(child, port)


def wait_ready(process: Process, path: str, log: Path) -> float:
    """Wait until it answers anything at `path`; the seconds that took. Raises RuntimeError with the log's end."""
    began = _CLOCK.monotonic()
    while _CLOCK.monotonic() - began < READY_S:
        if process.child.poll() is not None:
            break
        with contextlib.suppress(OSError, http.client.HTTPException):
            get(process.port, path)
            return _CLOCK.monotonic() - began
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.child.wait(0.005)
    process.stop(1.0)
    raise RuntimeError(f"the process did not answer; its log ends: {log.read_text('utf-8', 'replace')[-800:]}")


def wait_calm(process: Process, share: float = 0.1) -> None:
    """Wait until the process uses hardly any CPU: what comes with its start is over. Raises RuntimeError."""
    began, last = _CLOCK.monotonic(), process.cpu_s()
    calm = 0
    while calm < _CALM_LOOKS:
        if _CLOCK.monotonic() - began > READY_S:
            raise RuntimeError("the process does not come to rest")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.child.wait(_CALM_S)
        used = process.cpu_s()
        calm, last = (calm + 1 if used - last < share * _CALM_S else 0), used


def get(port: int, path: str) -> tuple[int, bytes]:
    """One GET on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def post(port: int, path: str, body: bytes) -> int:
    """One signed POST on loopback; its status."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        return _post(connection, path, body)


def post_in_turn(ports: Sequence[int], path: str, count: int) -> list[list[float]]:
    """So many signed POSTs to each of some listeners over one kept connection each, one after the other; the seconds
    each took, by listener. Raises RuntimeError for any answer but 200."""
    with contextlib.ExitStack() as stack:
        kept = [
            stack.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)))
            for port in ports
        ]
        took: list[list[float]] = [[] for _ in ports]
        for n in range(count):
            body = json.dumps({"job_id": f"t{n}", "status": "completed", "pad": "x" * 900}).encode()
            for connection, seen in zip(kept, took, strict=True):
                began = _CLOCK.monotonic()
                status = _post(connection, path, body)
                seen.append(_CLOCK.monotonic() - began)
                if status != 200:
                    raise RuntimeError(f"a delivery was answered {status}")
    return took


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> int:
    signature = hmac.new(SECRET.encode(), body, "sha256").hexdigest()
    connection.request("POST", path, body, {"X-Signature": signature, "Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def config_text(folder: Path, ports: Mapping[str, int], *, app_port: int | None = None, more: str = "") -> str:
    """The configuration of the product under test: every check on (path token, HMAC signature, JSON)."""
    app = (
        f'[app]\nurl = "http://127.0.0.1:{app_port}/"\nsecret = "whsec_YmVuY2gtYmVuY2gtYmVuY2g="\n' if app_port else ""
    )
    return (
        f'[store]\nurl = "sqlite:///{folder}/holdfast.db"\n'
        f'[intake]\nlisten = "127.0.0.1:{ports["intake"]}"\n'
        f'[api]\nlisten = "127.0.0.1:{ports["api"]}"\n{app}'
        f'[sources.{SOURCE}]\nprovider = "omnifence"\npath_token = "{TOKEN}"\n'
        f'secret = "{SECRET}"\nsecret_header = "x-signature"\nsecret_mode = "hmac_sha256_hex"\n'
        f'base_url = "http://127.0.0.1:9"\n{more}'
    )


@contextlib.contextmanager
def sidecar(
    folder: Path,
    command: str,
    *,
    app_port: int | None = None,
    more: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """`holdfast COMMAND` in a folder; ready when this returns. Its port is the public one, for `reconcile` the API's.
    The configuration is written when there is none, so that two commands can share a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config, kept = folder / "holdfast.toml", folder / "ports.json"
    if not config.exists():
        ports = {"intake": free_port(), "api": free_port()}
        kept.write_text(json.dumps(ports))
        config.write_text(config_text(folder, ports, app_port=app_port, more=more))
    ports = json.loads(kept.read_text())
    port = ports["api" if command == "reconcile" else "intake"]
    log = folder / f"{command}.log"
    words = python("-m", "holdfast", "--config", str(config), command)
    process = start(words, port=port, log=log, environment=environment)
    try:
        wait_ready(process, "/healthz", log)
        yield process
    finally:
        process.stop()


def set_app(folder: Path, port: int) -> None:
    """Point the product in this folder at an application on another port."""
    config = folder / "holdfast.toml"
    tables = config.read_text().split("[app]\n")
    rest = tables[1].split("\n", 1)[1] if len(tables) > 1 else ""
    if not rest:
        before, after = tables[0].split("[sources.", 1)
        tables, rest = [before], "[sources." + after
    config.write_text(f'{tables[0]}[app]\nurl = "http://127.0.0.1:{port}/"\n{rest}')


def command(folder: Path, *words: str) -> tuple[float, str]:
    """One command of the product in this folder, to its end: (seconds, what it printed). Raises RuntimeError."""
    began = _CLOCK.monotonic()
    line = python("-m", "holdfast", "--config", str(folder / "holdfast.toml"), *words)
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode:
        raise RuntimeError(f"holdfast {' '.join(words)}: {done.stderr[-500:]}")
    return _CLOCK.monotonic() - began, done.stdout


def api_port(folder: Path) -> int:
    """Where the private listener of the product in this folder is."""
    return int(json.loads((folder / "ports.json").read_text())["api"])


@contextlib.contextmanager
def yardstick(
    folder: Path, *, commit_each: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """The no-op route, or the one that commits each request."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "yardstick.log"
    words = python("-m", "bench.noop", "--port", str(port))
    if commit_each:
        words += ["--commit-each", str(folder / "each.db")]
    process = start(words, port=port, log=log, environment=environment)
    try:
        wait_ready(process, "/nothing", log)
        yield process
    finally:
        process.stop(3.0)


@contextlib.contextmanager
def application(folder: Path) -> Iterator[Process]:
    """The fast local application that messages are pushed to."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "application.log"
    process = start(python("-m", "bench.application", "--port", str(port)), port=port, log=log)
    try:
        wait_ready(process, "/", log)
        yield process
    finally:
        process.stop(3.0)


def begin_load(port: int, path: str, **options: object) -> "subprocess.Popen[bytes]":
    """Start the load; `load_result` waits for it."""
    words = [sys.executable, "-m", "bench.load", "--port", str(port), "--path", path]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return subprocess.Popen(words, stdout=subprocess.PIPE)  # noqa: S603 - our own module


def load_result(child: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """What the load saw."""
    out, _ = child.communicate()
    if child.returncode:
        raise RuntimeError("the load process failed")
    answer: dict[str, Any] = json.loads(out)
    return answer


def load(port: int, path: str, **options: object) -> dict[str, Any]:
    """Load one listener and wait for the figures."""
    return load_result(begin_load(port, path, **options))


def now() -> float:
    """Seconds on the clock that never steps."""
    return _CLOCK.monotonic()
