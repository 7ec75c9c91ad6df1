"""The helpers every other test leans on keep their own promises."""

import os
import signal
from pathlib import Path

import pytest

from receiver import clock
from tests.support import ManualClock, RunningProcess, aeventually, eventually, free_port, run_python


def test_a_manual_clock_moves_only_when_told() -> None:
    """advance() moves both clocks, step() the wall alone."""
    manual = ManualClock()
    assert clock.text(manual.now()) == "2026-04-13T14:30:00.000Z"
    before = manual.monotonic()

    manual.advance(90.5)
    manual.step(-3600.0)

    assert clock.text(manual.now()) == "2026-04-13T13:31:30.500Z"
    assert manual.monotonic() - before == 90.5


def test_eventually_returns_the_first_truthy_answer() -> None:
    """Falsy answers and failed assertions count as "not yet"."""
    answers = iter([0, None, "", "here"])
    assert eventually(lambda: next(answers)) == "here"


def test_eventually_says_what_it_saw_last() -> None:
    """A wait that fails names the last answer; other exceptions are not swallowed."""
    with pytest.raises(AssertionError, match="the last answer was 0"):
        eventually(lambda: 0, timeout_s=0.03)
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)


async def test_aeventually_takes_plain_and_async_functions() -> None:
    """Both kinds of function are waited for while the loop runs on."""
    plain = iter([False, "plain"])
    later = iter([False, "later"])

    async def ask() -> object:
        return next(later)

    assert await aeventually(lambda: next(plain)) == "plain"
    assert await aeventually(ask) == "later"
    with pytest.raises(AssertionError, match="not within"):
        await aeventually(lambda: None, timeout_s=0.03)


def test_free_ports_are_never_handed_out_twice() -> None:
    """Two tests in one run cannot be given the same port."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50


def test_a_child_sees_no_foreign_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOLDFAST_* and proxies of the machine do not reach a child process; what a test hands over does."""
    monkeypatch.setenv("HOLDFAST_CONFIG", "/elsewhere.toml")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")

    ended = run_python("-c", "import os; print(sorted(os.environ))", env={"HOLDFAST_X": "1"}, cwd=tmp_path)

    assert ended.returncode == 0, ended.stderr
    assert "HOLDFAST_CONFIG" not in ended.stdout
    assert "https_proxy" not in ended.stdout
    assert "HOLDFAST_X" in ended.stdout


@pytest.mark.process
def test_a_process_is_watched_signalled_and_reaped() -> None:
    """Output is seen as it comes, SIGTERM and SIGKILL end it, and nothing is left when the block is left."""
    script = "import signal; print('ready', flush=True); signal.pause()"
    with RunningProcess(["-c", script]) as first, RunningProcess(["-c", script]) as second:
        first.wait_for_output("^ready$")
        second.wait_for_output("^ready$")

        assert first.returncode is None
        assert first.terminate() == -signal.SIGTERM
        assert second.kill() == -signal.SIGKILL


@pytest.mark.process
def test_what_a_process_started_ends_with_it() -> None:
    """Leaving the block ends grandchildren too."""
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "print('child', child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with RunningProcess(["-c", script]) as parent:
        grandchild = int(parent.wait_for_output(r"^child (\d+)$")[1])

    eventually(lambda: _gone(grandchild))


@pytest.mark.process
def test_a_process_that_ends_early_is_reported_with_its_output() -> None:
    """Waiting for a line that never comes fails as soon as the process has ended, and shows what it said."""
    with RunningProcess(["-c", "import sys; sys.exit('no such luck')"]) as process:
        with pytest.raises(AssertionError, match="no such luck"):
            process.wait_for_output("ready")
        assert process.returncode == 1


def _gone(pid: int) -> bool:
    """Whether the process has ended; one that waits for its new parent to reap it has."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True
