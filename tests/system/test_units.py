"""The systemd units: valid, tight, and true to what the configuration and the commands promise.

Nothing here needs a running systemd, only its tools; where they are missing the tests are skipped.
"""

import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from holdfast.cli import COMMANDS
from receiver import config
from receiver.secrets import Need, Place
from tests.support import ROOT, RunningProcess, clean_environment, eventually, free_port, run_holdfast

FOLDER = ROOT / "systemd"
UNITS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".service", ".socket"))
SERVICES = [name for name in UNITS if name.endswith(".service")]
BINARY = "/opt/holdfast/bin/holdfast"
README = (FOLDER / "README.md").read_text("utf-8")
EXPOSURE = {"holdfast.service": 15, "reconciler.service": 15, "receiver.service": 3}
"""At most, in tenths of what `systemd-analyze security` prints."""


def tool(name: str) -> str:
    """The path of one of systemd's tools; skips the test where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    return found


def lines(name: str) -> list[tuple[str, str]]:
    """The settings of a unit in order; systemd allows one to stand several times."""
    text = (FOLDER / name).read_text("utf-8")
    return [(key, value) for key, value in re.findall(r"(?m)^(\w+)=(.*)$", text)]


def setting(name: str, key: str) -> list[str]:
    """All values of one setting."""
    return [value for found, value in lines(name) if found == key]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as systemd would find them, with a binary that exists in place of the installed one."""
    for name in UNITS:
        text = (FOLDER / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace(BINARY, "/bin/true"), "utf-8")
    return tmp_path


def analyze(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on units in a folder of their own."""
    command = [tool("systemd-analyze"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.process
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_valid(name: str, installed: Path) -> None:
    """systemd finds no unknown key, no bad value and no missing unit, and has nothing to say."""
    found = analyze("verify", "--man=no", f"./{name}", cwd=installed)

    ours = [line for line in found.stderr.splitlines() if any(unit in line for unit in UNITS)]
    assert found.returncode == 0, found.stderr
    assert ours == []


@pytest.mark.process
def test_a_broken_unit_is_noticed(installed: Path) -> None:
    """The check above can fail: a misspelt key is reported with its file."""
    broken = installed / "holdfast.service"
    broken.write_text(broken.read_text().replace("PrivateTmp=", "PrivatTmp="))

    assert "holdfast.service" in analyze("verify", "--man=no", "./holdfast.service", cwd=installed).stderr


@pytest.mark.process
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_exposes_little(name: str, installed: Path) -> None:
    """systemd's own score stays at most 1.5 with a network and 0.3 for the door alone."""
    found = analyze(
        "security", "--offline=true", f"--threshold={EXPOSURE[name]}", "--no-pager", f"./{name}", cwd=installed
    )

    assert found.returncode == 0, found.stdout + found.stderr
    assert f"Overall exposure level for {name}" in found.stdout


@pytest.mark.process
def test_an_open_service_is_over_the_threshold(installed: Path) -> None:
    """The check above can fail: without its network locked away the receiver is over its threshold."""
    unit = installed / "receiver.service"
    text = unit.read_text().replace("PrivateNetwork=yes", "").replace("IPAddressDeny=any", "")
    unit.write_text(text)

    threshold = f"--threshold={EXPOSURE[unit.name]}"
    assert analyze("security", "--offline=true", threshold, f"./{unit.name}", cwd=installed).returncode != 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_a_command_that_exists(name: str) -> None:
    """ExecStart names one of our commands, with the configuration where the documents say it is."""
    (command,) = setting(name, "ExecStart")
    binary, subcommand, *rest = command.split()

    assert binary == BINARY
    assert subcommand in COMMANDS
    assert rest == ["--config", "/etc/holdfast/holdfast.toml"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_and_not_given_up(name: str) -> None:
    """Ready when it answers, restarted when it hangs or ends, but not over a configuration that cannot work."""
    assert setting(name, "Type") == ["notify"]
    assert setting(name, "WatchdogSec") != []
    assert setting(name, "Restart") == ["always"]
    assert setting(name, "RestartPreventExitStatus") == ["78"]
    assert setting(name, "StartLimitIntervalSec") == ["0"]


@pytest.mark.parametrize("name", SERVICES)
def test_others_may_query_the_file(name: str) -> None:
    """A fixed user and a state folder its group may enter; a dynamic user's files nobody else can reach."""
    assert setting(name, "User") == ["holdfast"]
    assert setting(name, "Group") == ["holdfast"]
    assert setting(name, "StateDirectory") == ["holdfast"]
    assert setting(name, "StateDirectoryMode") == ["2770"]
    assert setting(name, "UMask") == ["0007"]
    assert setting(name, "DynamicUser") == []


def test_the_receiver_holds_no_key_and_has_no_network() -> None:
    """Whoever takes over the process at the public door finds nothing to call with and nobody to call."""
    (given,) = setting("receiver.service", "LoadCredential")

    assert given.startswith("intake:")
    assert setting("receiver.service", "PrivateNetwork") == ["yes"]
    assert setting("receiver.service", "IPAddressDeny") == ["any"]
    assert setting("receiver.service", "RestrictAddressFamilies") == ["AF_UNIX"]
    assert not [key for key, _ in lines("receiver.service") if key.startswith("Environment")]


def test_the_two_ways_exclude_each_other() -> None:
    """One machine never has two doors to one record."""
    assert set(setting("holdfast.service", "Conflicts")[0].split()) == {"receiver.service", "reconciler.service"}
    assert setting("receiver.service", "Conflicts") == ["holdfast.service"]
    assert setting("reconciler.service", "Conflicts") == ["holdfast.service"]
    assert setting("receiver.socket", "Conflicts") == ["holdfast.socket"]
    assert setting("holdfast.socket", "Conflicts") == ["receiver.socket"]


@pytest.mark.process
def test_the_account_can_be_made(tmp_path: Path) -> None:
    """systemd-sysusers understands the file, and makes the user the services run as."""
    command = [tool("systemd-sysusers"), "--dry-run", f"--root={tmp_path}", str(FOLDER / "holdfast.sysusers")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if "unrecognized option" in made.stderr:
        pytest.skip("this systemd-sysusers has no --dry-run")

    assert made.returncode == 0, made.stderr
    assert "holdfast" in made.stdout + made.stderr


@pytest.mark.parametrize(("need", "folders"), [("all", ("keys", "intake")), ("intake", ("intake",))])
def test_the_documented_configuration_works_with_the_documented_credentials(
    need: Need, folders: tuple[str, ...], tmp_path: Path
) -> None:
    """The README's config loads with what each service is handed: all of it, or the door's secrets alone."""
    (text,) = re.findall(r"(?s)```toml\n(.*?)```", README)
    for folder, name in re.findall(r"/etc/holdfast/credentials/(\w+)/(\w+)", README):
        if folder in folders:
            (tmp_path / f"{folder}_{name}").write_text("0123456789abcdef0123456789abcdef\n")

    settings = config.loads(text, Place(Path("/etc/holdfast"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}, need))

    assert tomllib.loads(text)["store"]["url"] == "sqlite:////var/lib/holdfast/holdfast.db"
    assert str(settings.store.path) == "/var/lib/holdfast/holdfast.db"
    source = settings.sources["moderation"]
    assert source.path_token is not None
    assert source.path_token.is_held
    assert source.api_key is not None
    assert source.api_key.is_held == ("keys" in folders)


@pytest.mark.process
def test_the_group_can_use_every_file_of_the_state(tmp_path: Path) -> None:
    """Under the units' umask the database is writable by the group: what SQLite makes for a reader beside it follows
    the database's mode, and a -shm file of somebody else that we cannot write would stop every later start."""
    assert run_holdfast("init", cwd=tmp_path).returncode == 0
    command = ["sh", "-c", 'umask 0007; exec "$@"', "sh", sys.executable, "-m", "holdfast", "migrate"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 0, ended.stderr
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("holdfast.db*") if path.is_file()}
    assert "holdfast.db" in modes
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o667 != 0o660} == {}


def handed_over(*command: str, port: int, cwd: Path) -> RunningProcess:
    """Start a command as systemd does: with a socket that listens already, held by somebody else."""
    activate = tool("systemd-socket-activate")
    arguments = [activate, "-l", f"127.0.0.1:{port}", "--fdname=intake", "-E", "PYTHONPATH", *command]
    return RunningProcess(["-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *arguments], cwd=cwd)


def initialised(folder: Path) -> int:
    """A configuration from `init` with listeners nobody else has; the port of its public one."""
    assert run_holdfast("init", cwd=folder).returncode == 0
    path, intake, api = folder / "holdfast.toml", free_port(), free_port()
    path.write_text(path.read_text().replace(":8080", f":{intake}").replace(":8081", f":{api}"))
    return intake


@pytest.mark.process
@pytest.mark.parametrize("command", ["receive", "run"])
def test_a_service_takes_the_socket_it_is_handed(command: str, tmp_path: Path) -> None:
    """With a socket held outside, the configured address is not bound, and a caller finds the service behind it."""
    configured, held = initialised(tmp_path), free_port()

    with handed_over(sys.executable, "-m", "holdfast", command, port=held, cwd=tmp_path) as service:
        answer = eventually(lambda: _get(held), 30.0, ignoring=(httpx.TransportError,))

        assert answer.status_code == 200, service.output
        with pytest.raises(httpx.ConnectError):
            _get(configured)


@pytest.mark.process
def test_the_receiver_works_without_any_network(tmp_path: Path) -> None:
    """Behind an inherited socket, in an empty network namespace as `PrivateNetwork` gives it, a delivery is kept."""
    alone = [tool("unshare"), "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, timeout=10, check=False).returncode != 0:
        pytest.skip("network namespaces cannot be made here")
    initialised(tmp_path)
    held = free_port()
    token = (tmp_path / "secrets" / "moderation_path_token").read_text().split()[0]

    with handed_over(*alone, sys.executable, "-m", "holdfast", "receive", port=held, cwd=tmp_path) as service:
        eventually(lambda: _get(held), 30.0, ignoring=(httpx.TransportError,))
        url = f"http://127.0.0.1:{held}/in/moderation/{token}"
        with httpx.Client(trust_env=False, timeout=10.0) as client:
            answer = client.post(url, json={"job_id": "a", "status": "completed"})

        assert answer.status_code == 200, service.output
        listed = run_holdfast("deliveries", "list", "--json", cwd=tmp_path)
        assert answer.json()["delivery"] in listed.stdout, listed.stderr


def _get(port: int) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=10.0) as client:
        return client.get(f"http://127.0.0.1:{port}/healthz")
