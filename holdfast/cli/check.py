"""`holdfast check`: what is wrong with this installation, and what is only worth a word.

Each check is a function from settings to remarks; `CHECKS` runs always, those of `check_live.py` with `--live`, each
by itself, so that one failure hides no other. Changes nothing. Exit code 0 with warnings only, else that of the first
problem: 78 configuration, 69 store or provider, 1 anything else.
"""

import errno
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from holdfast.cli.context import load_settings, print_json
from receiver.addresses import Listen
from receiver.clock import Clock, SystemClock, text
from receiver.config import secrets_of, warnings
from receiver.errors import ConfigError, HoldfastError
from receiver.settings import Settings

EARLIEST = 1735689600.0
"""2025-01-01: a clock before this was never set."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing a check has to say."""

    check: str
    level: Literal["ok", "warning", "problem"]
    text: str
    exit_code: int = 1
    """What a problem ends the command with."""


Check = Callable[[Settings], Iterable[Remark]]


def check_config(settings: Settings) -> Iterator[Remark]:
    """The file was read; what is legal but unwise."""
    yield Remark(
        "config", "ok", f"{settings.file or 'the configuration'} reads well, {len(settings.sources)} source(s)"
    )
    for warning in warnings(settings):
        yield Remark("config", "warning", warning)


def check_secrets(settings: Settings) -> Iterator[Remark]:
    """Every secret is there (an absent one stops the reading); only its owner should be able to read it."""
    count = 0
    for path, secret in secrets_of(settings):
        count += 1
        for file in secret.paths:
            if (mode := _mode(file)) is not None and mode & 0o077:
                yield Remark("secrets", "warning", f"{path}: others can read {file}; chmod 600 {file}")
    yield Remark("secrets", "ok", f"{count} present")


def check_config_file(settings: Settings) -> Iterator[Remark]:
    """Who may read a configuration with literal secrets, and who may change any."""
    mode = _mode(settings.file) if settings.file is not None else None
    if mode is None:
        return
    if mode & 0o022:
        yield Remark("config", "warning", f"others can change {settings.file}; chmod go-w {settings.file}")
    if mode & 0o044 and any(secret.is_literal for _, secret in secrets_of(settings)):
        yield Remark("config", "warning", f"others can read the secrets in {settings.file}; chmod 600 {settings.file}")


def check_listeners(settings: Settings) -> Iterator[Remark]:
    """Each address can be listened on, or is in use: by ourselves, one hopes."""
    for key, address in (("intake.listen", settings.intake.address), ("api.listen", settings.api.address)):
        yield _unix(key, address) if address.kind == "unix" else _tcp(key, address)


def check_clock(settings: Settings, clock: Clock | None = None) -> Iterator[Remark]:
    """Deadlines, signatures and retention all lean on the wall clock."""
    now = (clock or SystemClock()).now()
    if now < EARLIEST:
        yield Remark("clock", "problem", f"the clock says {text(now)}, which is past; start a time service")
    else:
        yield Remark("clock", "ok", text(now))


CHECKS: list[Check] = [check_config, check_config_file, check_secrets, check_listeners, check_clock]


def run_checks(settings: Settings, checks: Iterable[Check]) -> list[Remark]:
    """All remarks of all checks. A check that ends in a HoldfastError is a problem with that error's exit code."""
    remarks: list[Remark] = []
    for check in checks:
        try:
            remarks.extend(check(settings))
        except HoldfastError as error:
            name = getattr(check, "__name__", "check").removeprefix("check_")
            remarks.append(Remark(name, "problem", error.message, error.exit_code))
    return remarks


def _tcp(key: str, address: Listen) -> Remark:
    if address.kind == "fd":
        return Remark("listeners", "ok", f"{key}: {address} is handed over at the start")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Remark("listeners", "warning", f"{key}: {address} is in use; fine when it is Holdfast that runs")
        why = (error.strerror or "no reason given").lower()
        return Remark("listeners", "problem", f"{key}: {address} cannot be listened on ({why}); choose another")
    return Remark("listeners", "ok", f"{key}: {address} is free")


def _unix(key: str, address: Listen) -> Remark:
    path = Path(address.path)
    if not path.parent.is_dir():
        return Remark("listeners", "problem", f"{key}: {path.parent} is no folder; make it")
    mode = _mode(path)
    if mode is not None and not stat.S_ISSOCK(mode):
        return Remark("listeners", "problem", f"{key}: {path} is there and no socket; move it away")
    if mode is not None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(address.path)
            return Remark("listeners", "warning", f"{key}: {address} is in use; fine when it is Holdfast that runs")
    return Remark("listeners", "ok", f"{key}: {address} is free")


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _live_checks() -> list[Check]:
    from holdfast.cli.check_live import LIVE_CHECKS  # loads what asks over the network, which nobody else needs here

    return LIVE_CHECKS


def _store_checks() -> list[Check]:
    from holdfast.cli.check_store import STORE_CHECKS  # loads SQLite, which nobody else needs here

    return list(STORE_CHECKS)


def _print(remarks: list[Remark], as_json: bool) -> None:
    if as_json:
        rows = [{key: value for key, value in asdict(each).items() if key != "exit_code"} for each in remarks]
        good = not any(each.level == "problem" for each in remarks)
        print_json({"ok": good, "checks": rows})
        return
    for each in remarks:
        click.echo(f"{each.level:<8} {each.check}: {each.text}")
    counts = {level: sum(each.level == level for each in remarks) for level in ("problem", "warning")}
    click.echo(f"{counts['problem']} problem(s), {counts['warning']} warning(s)")


@click.command("check")
@click.option("--live", is_flag=True, help="Also ask each provider one authenticated question.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def check(ctx: click.Context, live: bool, as_json: bool) -> None:
    """Look at the configuration, its secrets, the listeners, the clock and the store; --live asks the providers too."""
    try:
        settings = load_settings(ctx, need="all")
    except ConfigError as error:
        if not as_json:
            raise  # told as every command tells it
        remarks = [Remark("config", "problem", str(each), error.exit_code) for each in error.problems]
    else:
        remarks = run_checks(settings, [*CHECKS, *_store_checks(), *(_live_checks() if live else [])])
    _print(remarks, as_json)
    ctx.exit(next((each.exit_code for each in remarks if each.level == "problem"), 0))
