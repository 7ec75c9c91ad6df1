"""A process that has imported the product already and forks it on demand: four times as many starts a minute.

What it starts is what `holdfast ARGUMENTS` starts, less the time Python takes to load it. It is for the loops that need
a thousand starts; the short forms begin from nothing, as an operator does.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import clean_environment


class WarmProcess:
    """One process the nursery started."""

    def __init__(self, nursery: "Nursery", pid: int, output: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self._output = output
        self.returncode: int | None = None

    @property
    def output(self) -> str:
        """What it said."""
        return self._output.read_text("utf-8", "replace")

    def kill(self) -> int:
        """SIGKILL, and wait."""
        return self._end(signal.SIGKILL)

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and wait."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            self.returncode = self._nursery.reap(self.pid)
        return self.returncode

    def close(self) -> None:
        """End it."""
        self.kill()


class Nursery:
    """The forking parent; a context manager. Its children end with it."""

    def __init__(self, output: Path, pass_fds: Sequence[int], planted: str = "") -> None:
        self._output = output
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.warm", str(output), planted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            pass_fds=tuple(pass_fds),
        )

    def start(self, arguments: Sequence[str]) -> WarmProcess:
        """Fork `holdfast ARGUMENTS`."""
        return WarmProcess(self, int(self._ask({"start": list(arguments)})), self._output)

    def reap(self, pid: int) -> int:
        """Wait for one to end; its exit code, negative for a signal."""
        return int(self._ask({"reap": pid}))

    def _ask(self, command: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _child(arguments: list[str], output: str) -> None:
    from holdfast.cli import main

    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(fd, number)
    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def run() -> None:
    """The nursery itself: one command a line on standard input, one answer a line on standard output."""
    import holdfast.sidecar  # noqa: F401 - loaded once, here
    import reconciler.service  # noqa: F401 - loaded once, here
    from faults.planted import plant

    output = sys.argv[1]
    plant(sys.argv[2])
    children: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if "start" in command:
            pid = os.fork()
            if not pid:
                os.close(0)
                _child(command["start"], output)
            children.add(pid)
            answer = pid
        else:
            _, status = os.waitpid(command["reap"], 0)
            children.discard(command["reap"])
            answer = os.waitstatus_to_exitcode(status)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    run()
