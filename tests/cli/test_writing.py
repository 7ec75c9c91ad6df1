"""Commands that write to the file themselves, because no sidecar runs."""

import json
from pathlib import Path

import pytest

from tests.support import run_holdfast

pytestmark = pytest.mark.process

CONFIG = """
[store]
url = "sqlite:///holdfast.db"

[intake]
listen = "127.0.0.1:0"

[api]
listen = "127.0.0.1:9"

[sources.moderation]
provider = "omnifence"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "holdfast.toml"
    path.write_text(CONFIG)
    return path


def test_a_job_is_registered_without_a_sidecar(config: Path) -> None:
    """What stdout holds is the job, as one JSON document; the log goes elsewhere."""
    added = run_holdfast("jobs", "add", "moderation", "j1", "--modality", "video", "--json", "--config", str(config))
    shown = run_holdfast("jobs", "show", "moderation", "j1", "--json", "--config", str(config))

    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout) == json.loads(shown.stdout)
    assert json.loads(added.stdout)["modality"] == "video"


def test_a_job_that_is_told_otherwise_is_refused(config: Path) -> None:
    """Another modality for a job on record: exit code 1, and which fact it was."""
    first = run_holdfast("jobs", "add", "moderation", "j1", "--modality", "video", "--config", str(config))
    again = run_holdfast("jobs", "add", "moderation", "j1", "--modality", "video", "--config", str(config))
    other = run_holdfast("jobs", "add", "moderation", "j1", "--modality", "prompt", "--config", str(config))

    assert (first.returncode, again.returncode, other.returncode) == (0, 0, 1)
    assert "modality" in other.stderr
    assert first.stdout == again.stdout


@pytest.mark.parametrize(
    ("option", "value"),
    [("--submitted-at", "yesterday"), ("--poll-url", "https://elsewhere.example/j1"), ("--refs", "[1]")],
)
def test_a_fact_that_cannot_be_is_refused(config: Path, option: str, value: str) -> None:
    """Usage errors end with 2 and name the option, before a record is even opened."""
    refused = run_holdfast("jobs", "add", "moderation", "j1", option, value, "--config", str(config))

    assert refused.returncode == 2
    assert option in refused.stderr
    assert not config.with_name("holdfast.db").exists()
