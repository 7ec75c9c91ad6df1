"""`holdfast init` writes a configuration that runs, with tokens only their owner can read, and overwrites nothing."""

import json
import os
import re
import stat
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.cli.init import CONFIG, TOKENS, write_config
from receiver import config
from receiver.errors import HoldfastError
from receiver.settings import Settings


def run(*args: str) -> int:
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without a configuration from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    return tmp_path


def read(path: Path) -> Settings:
    """The configuration as a process without any environment reads it."""
    return config.load(path, env={})


def test_what_init_writes_runs_at_once(home: Path) -> None:
    """It loads without any environment: loopback listeners, the database beside it, one source that can be trusted."""
    assert run("init") == 0

    settings = read(home / "holdfast.toml")
    source = settings.sources["moderation"]
    assert settings.store.path == home / "holdfast.db"
    assert settings.intake.address.is_loopback
    assert settings.api.address.is_loopback
    assert settings.api.token is not None
    assert (source.provider, source.effective_trust(), source.trust_possible()) == ("omnifence", "known", True)
    assert not [warning for warning in config.warnings(settings) if "api_key" not in warning]


def test_check_passes_with_warnings_only(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`holdfast check` right after `holdfast init` ends with 0."""
    run("init")
    file = home / "holdfast.toml"
    file.write_text(re.sub(r"127\.0\.0\.1:808\d", "127.0.0.1:0", file.read_text()))
    capsys.readouterr()

    assert run("check", "--json") == 0

    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {each["level"] for each in report["checks"]} == {"ok", "warning"}


def test_only_the_owner_can_read_the_tokens(home: Path) -> None:
    """Files of mode 600 in a folder of mode 700, whatever the umask, and kept out of git."""
    before = os.umask(0)
    try:
        write_config(home / "holdfast.toml")
    finally:
        os.umask(before)

    folder = home / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {file.name for file in folder.iterdir()} == {*TOKENS, ".gitignore"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert (folder / ".gitignore").read_text() == "*\n"


def test_no_token_is_printed_or_repeated(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed names the files and what to do next; two runs share no token."""
    run("init", "--path", "one/holdfast.toml")
    run("init", "--path", "two/holdfast.toml")
    printed = capsys.readouterr().out

    tokens = [file.read_text().strip() for file in home.glob("*/secrets/*") if file.name in TOKENS]
    assert len(set(tokens)) == 2 * len(TOKENS)
    assert all(len(token) >= 40 and token not in printed for token in tokens)
    for part in ("holdfast run --config one/holdfast.toml", "/in/moderation/", "jobs add moderation", "api_key"):
        assert part in printed


@pytest.mark.parametrize("args", [("init", "--config", "var/h.toml"), ("--config", "var/h.toml", "init")])
def test_config_says_where_too(home: Path, args: tuple[str, ...]) -> None:
    """`--config` names the file for every command, this one included; folders on the way are made."""
    assert run(*args) == 0

    assert read(home / "var" / "h.toml").store.path == home / "var" / "holdfast.db"
    assert not (home / "holdfast.toml").exists()


def test_nothing_is_overwritten_without_force(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration, or a token alone, that stands there is left as it is; exit 1 says what to do."""
    run("init")
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}

    assert run("init") == 1
    assert "--force" in capsys.readouterr().err

    (home / "holdfast.toml").unlink()
    assert run("init") == 1
    assert not (home / "holdfast.toml").exists()
    assert all(file.read_bytes() == was for file, was in before.items() if file.name != "holdfast.toml")


def test_force_keeps_old_tokens_valid(home: Path) -> None:
    """A webhook URL the provider already knows survives `--force`; the number of old tokens is bounded."""
    run("init")
    token = read(home / "holdfast.toml").sources["moderation"].path_token
    assert token is not None
    old = token.current
    (home / "holdfast.toml").write_text("nonsense")

    assert run("init", "--force") == 0
    renewed = read(home / "holdfast.toml").sources["moderation"].path_token
    assert renewed is not None
    assert renewed.current != old
    assert renewed.matches(old.encode())

    for _ in range(10):
        run("init", "--force")
    bounded = read(home / "holdfast.toml").sources["moderation"].path_token
    assert bounded is not None
    assert len(bounded.values()) == 5


def test_a_place_that_cannot_be_written_leaves_nothing_behind(home: Path) -> None:
    """A failure half way is told with what to do, and no token without a configuration stays."""
    (home / "file").write_text("")
    with pytest.raises(HoldfastError, match="choose another --path"):
        write_config(home / "file" / "holdfast.toml")

    (home / "holdfast.toml").mkdir()
    with pytest.raises(HoldfastError, match="cannot be written"):
        write_config(home / "holdfast.toml", force=True)

    assert [file.name for file in (home / "secrets").iterdir()] == [".gitignore"]


def test_a_link_in_the_place_of_a_token_is_not_written_through(home: Path) -> None:
    """With --force a link is replaced, not followed."""
    (home / "secrets").mkdir()
    (home / "elsewhere").write_text("")
    (home / "secrets" / "api_token").symlink_to(home / "elsewhere")

    write_config(home / "holdfast.toml", force=True)

    assert (home / "elsewhere").read_text() == ""
    assert not (home / "secrets" / "api_token").is_symlink()


def test_what_is_commented_out_works_when_it_is_not(home: Path) -> None:
    """Every commented key of the written file may be used as it stands."""
    write_config(home / "holdfast.toml")
    full = re.sub(r"^# (?=\[|[a-z_]+ = )", "", CONFIG, flags=re.MULTILINE)
    (home / "holdfast.toml").write_text(full)

    settings = config.load(home / "holdfast.toml", env={"OMNIFENCE_API_KEY": "key"})

    assert settings.app is not None
    assert full.count("\n# ") < CONFIG.count("\n# ")
    assert config.warnings(settings) == []
