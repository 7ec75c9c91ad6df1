"""`holdfast check` tells what is wrong from what is only worth a word, and ends accordingly."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import check as command
from holdfast.cli import main
from holdfast.cli.check import Remark, check_clock, check_config_file, check_listeners, check_secrets, run_checks
from receiver import config
from receiver.errors import StoreUnavailable
from receiver.settings import Settings
from tests.support import ManualClock

TEXT = """\
[intake]
listen = "127.0.0.1:0"
[api]
listen = "127.0.0.1:0"
[sources.m]
provider = "omnifence"
path_token = "file:token"
"""
LISTEN = '[intake]\nlisten = "127.0.0.1:0"'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that is well, its secret for the owner alone."""
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("a-path-token-long-enough\n")
    (tmp_path / "token").chmod(0o600)
    path = tmp_path / "holdfast.toml"
    path.write_text(TEXT)
    path.chmod(0o644)
    return path


def levels(remarks: Iterator[Remark] | list[Remark] | Any) -> list[tuple[str, str]]:
    """(level, text) of each remark."""
    return [(each.level, each.text) for each in remarks]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    assert isinstance(caught.value.code, int)
    printed = capsys.readouterr()
    return caught.value.code, printed.out, printed.err


def load(path: Path, old: str = "", new: str = "") -> Settings:
    """The configuration with one thing changed."""
    path.write_text(TEXT.replace(old, new))
    return config.load(path, env={})


def test_warnings_only_end_with_0(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is legal but unwise is printed and does not fail a deployment."""
    code, out, err = run(capsys, "check", "--config", str(file))

    assert (code, err) == (0, "")
    assert "warning  config: sources.m.api_key: missing" in out
    assert "0 problem(s)" in out


def test_a_wrong_configuration_ends_with_78(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every problem is told on stderr, or with --json in one document on stdout."""
    file.write_text(TEXT + "hold = 1\ntrust = 'verify'\n")

    code, out, err = run(capsys, "check", "--config", str(file))
    assert (code, out) == (78, "")
    assert "sources.m.hold" in err
    assert "sources.m.trust" in err

    code, out, err = run(capsys, "check", "--json", "--config", str(file))
    report = json.loads(out)
    assert (code, err, report["ok"]) == (78, "", False)
    assert [each["level"] for each in report["checks"]] == ["problem", "problem"]


def test_an_absent_secret_ends_with_78(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A secret that is not there is a problem of the configuration, named by its reference."""
    (file.parent / "token").unlink()

    code, _, err = run(capsys, "check")

    assert code == 78
    assert "sources.m.path_token (line 7): file:token cannot be read" in err


def test_files_others_can_read_or_change_are_told(file: Path) -> None:
    """Secret files for their owner alone; a configuration with literals too; and nobody else writes either."""
    settings = config.load(file, env={})
    assert levels(check_secrets(settings)) == [("ok", "1 present")]
    assert levels(check_config_file(settings)) == []

    (file.parent / "token").chmod(0o640)
    assert [level for level, _ in levels(check_secrets(settings))] == ["warning", "ok"]

    literal = load(file, '"file:token"', '"a-literal-path-token"')
    assert [level for level, _ in levels(check_config_file(literal))] == ["warning"]
    file.chmod(0o666)
    assert [level for level, _ in levels(check_config_file(literal))] == ["warning", "warning"]
    file.chmod(0o600)
    assert levels(check_config_file(literal)) == []


def test_listeners_in_use_are_a_warning_and_impossible_ones_a_problem(file: Path) -> None:
    """A port taken may be Holdfast itself; an address this machine has not is a mistake."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = levels(check_listeners(load(file, LISTEN, f"intake.listen='127.0.0.1:{port}'")))

    assert [level for level, _ in found] == ["warning", "ok"]
    assert f"127.0.0.1:{port} is in use" in found[0][1]
    foreign = levels(check_listeners(load(file, LISTEN, "intake.listen='192.0.2.1:8080'")))
    assert foreign[0][0] == "problem"
    passed = levels(check_listeners(load(file, LISTEN, "intake.listen='fd:3'")))
    assert passed[0] == ("ok", "intake.listen: fd:3 is handed over at the start")


def test_unix_sockets_are_looked_at(file: Path) -> None:
    """Free, in use, left behind, in the way of something else, or without a folder."""
    change = (LISTEN, "intake.listen = 'unix:s'")
    settings = load(file, *change)
    assert levels(check_listeners(settings))[0][0] == "ok"

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(file.parent / "s"))
        server.listen()
        assert "in use" in levels(check_listeners(settings))[0][1]
    assert levels(check_listeners(settings))[0][0] == "ok"

    (file.parent / "s").unlink()
    (file.parent / "s").write_text("")
    assert "no socket" in levels(check_listeners(settings))[0][1]
    (file.parent / "s").unlink()
    gone = load(file, change[0], "intake.listen = 'unix:none/s'")
    assert levels(check_listeners(gone))[0][0] == "problem"


def test_a_clock_that_was_never_set_is_a_problem(file: Path) -> None:
    """1970 after a cold start would age every job at once."""
    settings = config.load(file, env={})

    assert [each.level for each in check_clock(settings, ManualClock(5.0))] == ["problem"]
    assert [each.level for each in check_clock(settings, ManualClock())] == ["ok"]


def test_one_failing_check_hides_no_other(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that ends in an error is a problem with that error's exit code; the others still run."""

    def check_broken(settings: Settings) -> Iterator[Remark]:
        raise StoreUnavailable("opening the store: it is gone; look at the disk")
        yield Remark("never", "ok", "")

    assert levels(run_checks(config.load(file, env={}), [check_broken, check_secrets])) == [
        ("problem", "opening the store: it is gone; look at the disk"),
        ("ok", "1 present"),
    ]
    monkeypatch.setattr(command, "CHECKS", [check_broken, check_secrets])
    assert run(capsys, "check")[0] == 69
