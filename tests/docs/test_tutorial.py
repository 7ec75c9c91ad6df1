"""The tutorial, run as it is written: a provider that loses every webhook, and an application that hears everything."""

import re
from pathlib import Path

import pytest

from tests.support import ROOT, RunningProcess, free_port, run_python

pytestmark = pytest.mark.process
EXAMPLES = ROOT / "docs" / "examples"


def test_every_result_is_told_although_every_webhook_is_lost(tmp_path: Path) -> None:
    """The application of the tutorial gets all five results by asking, exactly as the text promises."""
    ports = {"8080": free_port(), "8081": free_port(), "9100": free_port()}
    config = (EXAMPLES / "tutorial.toml").read_text(encoding="utf-8")
    for written, port in ports.items():
        config = config.replace(f"127.0.0.1:{written}", f"127.0.0.1:{port}")
    (tmp_path / "tutorial.toml").write_text(config, encoding="utf-8")
    token = re.search(r'^token = "(.+)"', config, re.MULTILINE)
    assert token is not None
    simulate = ["simulate", "--provider", "omnifence", "--listen", f"127.0.0.1:{ports['9100']}", "--drop", "1.0"]

    with (
        RunningProcess.holdfast(*simulate, "--job-seconds", "0.1:1") as provider,
        RunningProcess.holdfast("--config", str(tmp_path / "tutorial.toml"), "run") as sidecar,
    ):
        provider.wait_for_output("/omnifence")
        sidecar.wait_for_output("Register a job")
        done = run_python(
            str(EXAMPLES / "moderate.py"), f"http://127.0.0.1:{ports['8081']}", token[1], cwd=ROOT, timeout_s=60.0
        )

    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if "told by" in line]
    assert len(told) == 5
    assert all(line.endswith("told by poll") for line in told)
