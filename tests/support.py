"""What the tests share: time that moves when told to, waiting with a deadline, and real processes always reaped.

It knows nothing of the product beyond the names of its environment variables. Nothing here waits longer than it was
told to, and every wait ends in an error that says what was last seen.
"""

import contextlib
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar, overload

import anyio

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder."""

START = 1776090600.0
"""2026-04-13T14:30:00Z: where a ManualClock stands unless told otherwise."""

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_FOREIGN = ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC",
            "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "SSLKEYLOGFILE")  # fmt: skip
_POLL_S = 0.01

T = TypeVar("T")


class ManualClock:
    """A Clock that stands still until it is moved."""

    def __init__(self, now: float = START) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        """Wall time, seconds since 1970 UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass: both clocks move on."""
        assert seconds >= 0, "time does not pass backwards; use step() for an operator who sets the clock"
        self._now += seconds
        self._monotonic += seconds

    def step(self, wall_s: float) -> None:
        """Set the wall clock on (or back, when negative), as an operator or a time server does; no time passes."""
        self._now += wall_s


def eventually(
    fn: Callable[[], T], timeout_s: float = 10.0, *, ignoring: tuple[type[BaseException], ...] = (AssertionError,)
) -> T:
    """Call until the answer is truthy and return it; AssertionError with the last answer after `timeout_s`.

    Exceptions of the kinds in `ignoring` count as "not yet"; any other passes straight through.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        last: object
        try:
            answer = fn()
            if answer:
                return answer
            last = answer
        except ignoring as problem:
            last = problem
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s} s; the last answer was {last!r}")
        pause.wait(_POLL_S)


@overload
async def aeventually(
    fn: Callable[[], Awaitable[T]], timeout_s: float = ..., *, ignoring: tuple[type[BaseException], ...] = ...
) -> T: ...
@overload
async def aeventually(
    fn: Callable[[], T], timeout_s: float = ..., *, ignoring: tuple[type[BaseException], ...] = ...
) -> T: ...
async def aeventually(
    fn: Callable[[], object], timeout_s: float = 10.0, *, ignoring: tuple[type[BaseException], ...] = (AssertionError,)
) -> object:
    """As `eventually`, while the event loop runs on; `fn` may be a plain function or a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        last: object
        try:
            answer = fn()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            last = answer
        except ignoring as problem:
            last = problem
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s} s; the last answer was {last!r}")
        with anyio.move_on_after(_POLL_S):
            await anyio.Event().wait()


_handed_out: set[int] = set()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago, never the same twice in one test run."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _handed_out:
            _handed_out.add(port)
            return port


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables of the machine or of a supervisor that would change what a test sees."""
    return [
        name for name in environ if name.upper().startswith("HOLDFAST_") or name.upper() in _PROXIES or name in _FOREIGN
    ]


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment for a child process: this one's without foreign variables, output unbuffered, plus `extra`."""
    dropped = set(foreign_variables(os.environ))
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    path = os.pathsep.join(part for part in (str(ROOT), kept.get("PYTHONPATH", "")) if part)
    return kept | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"} | extra


def run_python(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS…` to its end in a clean environment; never raises for an exit code."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=clean_environment(**(env or {})),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def run_holdfast(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `holdfast ARGUMENTS…` to its end, as `run_python` does."""
    return run_python("-m", "holdfast", *arguments, env=env, cwd=cwd, timeout_s=timeout_s)


class RunningProcess:
    """A child process with its output captured as it comes; a context manager that always kills and reaps.

    The child leads a session of its own, so what it starts in turn ends with it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start `python ARGUMENTS…`; `env` adds to a clean environment."""
        self.arguments = list(arguments)
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._news = threading.Condition()
        self._process = subprocess.Popen(  # the context manager of this class is what closes it
            [sys.executable, *arguments],
            env=clean_environment(**(env or {})),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=("stdout", self._process.stdout), daemon=True),
            threading.Thread(target=self._read, args=("stderr", self._process.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @classmethod
    def holdfast(
        cls,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start `holdfast ARGUMENTS…`."""
        return cls(["-m", "holdfast", *arguments], env=env, cwd=cwd, pass_fds=pass_fds)

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            with self._news:
                self._lines[name].append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""
        with self._news:
            return "".join(self._lines["stdout"])

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        with self._news:
            return "".join(self._lines["stderr"])

    @property
    def output(self) -> str:
        """Both, standard output first."""
        return self.stdout + self.stderr

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait_for_output(self, pattern: str, timeout_s: float = 20.0) -> re.Match[str]:
        """Wait until a line of either stream matches (re.search); AssertionError with all output if it never does."""
        deadline = time.monotonic() + timeout_s
        wanted = re.compile(pattern)
        while True:
            finished = self.returncode is not None and not any(reader.is_alive() for reader in self._readers)
            with self._news:
                for line in (*self._lines["stdout"], *self._lines["stderr"]):
                    if found := wanted.search(line):
                        return found
                left_s = deadline - time.monotonic()
                if not finished and left_s > 0:
                    self._news.wait(min(left_s, 0.1))  # the ends of process and pipes are not announced here
                    continue
            state = f"ended with {self.returncode}" if finished else f"said nothing of it in {timeout_s} s"
            raise AssertionError(f"{self.arguments} {state}; wanted {pattern!r}, got:\n{self.output}")

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for it to end by itself; the exit code. AssertionError with all output when it does not."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.arguments} still runs after {timeout_s} s:\n{self.output}") from None
        for reader in self._readers:
            reader.join(1.0)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone; nothing happens if it has ended."""
        self._process.send_signal(number)

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, as a supervisor stops it, and wait; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> int:
        """SIGKILL to the child alone, and wait; the exit code (-9 unless it had ended before)."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        """Kill what is left of it and of what it started, reap it and close the pipes. May be called twice."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(5.0)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
