"""`holdfast simulate`: the simulated providers on loopback until it is interrupted.

Owns the options and the announcement. Never decides what a fault does: the options for them are read off `Faults`.
"""

import json
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import click
from rich.console import Console
from rich.table import Table

from holdfast.simulator import SIMULATORS, Faults, Settings, Simulation
from holdfast.simulator.faults import HELP

_UNAVAILABLE = 69
_SECONDS = ("duplicate_gap_s", "reorder_s", "slow_s", "hang_s", "stale_s", "stuck_s", "api_slow_s", "api_hang_s")
_SPELLED = {"forged": ("--forge", "--forged")}


def _range(value: str | tuple[float, float]) -> tuple[float, float]:
    """`MIN:MAX` in seconds, or one number for both."""
    if isinstance(value, tuple):
        return value
    low, _, high = value.partition(":")
    try:
        pair = (float(low), float(high or low))
    except ValueError:
        pair = (1.0, 0.0)
    if not 0 <= pair[0] <= pair[1]:
        raise click.BadParameter(f"{value!r} is not MIN:MAX in seconds, such as 0.2:3")
    return pair


def _pair(value: str | tuple[str, str]) -> tuple[str, str]:
    """`NAME=VALUE`, split at the first equals sign."""
    if isinstance(value, tuple):
        return value
    name, sign, rest = value.partition("=")
    if not name or not sign:
        raise click.BadParameter(f"{value!r} is not NAME=VALUE")
    return name, rest


_named = partial(click.option, multiple=True, type=_pair, metavar="NAME=VALUE")


def _fault_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for every fault and for how long each lasts."""
    for name in reversed(_SECONDS):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, type=click.FloatRange(min=0), help=f"{name} of the faults.")(command)
    for name in reversed(HELP):
        flags = _SPELLED.get(name, (f"--{name.replace('_', '-')}",))
        share = click.FloatRange(0.0, 1.0)
        command = click.option(*flags, name, type=share, metavar="P", help=f"Share 0..1: {HELP[name]}.")(command)
    return command


@click.command()
@click.option("--listen", default="127.0.0.1:9100", show_default=True, help="host:port; port 0 takes a free one.")
@click.option("--provider", "providers", multiple=True, type=click.Choice(sorted(SIMULATORS)), help="Default: all.")
@click.option("--separate-ports", is_flag=True, help="A port for each provider instead of a path.")
@click.option("--seed", default="0", show_default=True, help="The same seed gives the same ids, ends and faults.")
@_named("--webhook-url", "urls", help="NAME=URL: where a provider posts to.")
@_named("--secret", "secrets", help="NAME=SECRET: what a provider signs with.")
@_named("--api-key", "keys", help="NAME=KEY: the only key taken (default: any).")
@_named("--option", "options", help="NAME.SWITCH=JSON: a provider's own switch.")
@click.option("--quota-per-min", type=click.IntRange(min=0), help="Requests a minute for each provider; 0: no quota.")
@click.option("--quota-window-s", type=float, default=60.0, show_default=True, help="How long that minute is.")
@click.option(
    "--job-seconds", type=_range, metavar="MIN:MAX", default="0.2:3", show_default=True, help="How long jobs take."
)
@click.option(
    "--failed-share", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Jobs that end badly."
)
@click.option(
    "--time-scale", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Factor on retry waits."
)
@click.option("--delay-seconds", "delay_s", type=_range, metavar="MIN:MAX", help="How late a delayed webhook is.")
@click.option("--retry-after", type=click.Choice(["provider", "seconds", "date", "none"]), help="How a 429 says it.")
@click.option("--api-scope", type=click.Choice(["read", "submit", "all"]), help="Which requests API faults hit.")
@click.option("--forged-knows-url", is_flag=True, default=None, help="Forgers know the token in the URL.")
@click.option("--json", "as_json", is_flag=True, help="Announce the addresses as one line of JSON.")
@_fault_options
def simulate(
    listen: str,
    providers: Sequence[str],
    separate_ports: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Run simulated providers on loopback, with faults to order, until interrupted.

    Prints each provider's base_url. The truth, live changes of faults, and submitting without a client are under
    /_control/ (GET /_control/truth, POST /_control/faults, /_control/submit, /_control/idle).
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"--listen {listen!r} is not host:port")
    chosen = list(dict.fromkeys(providers)) or sorted(SIMULATORS)
    per_provider = _per_provider(chosen, rest)
    try:
        simulators = [SIMULATORS[name](Settings(**per_provider[name])) for name in chosen]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    simulation = Simulation(simulators, separate_ports=separate_ports)
    try:
        anyio.run(_until_signalled, simulation, host.strip("[]"), int(port), as_json)
    except OSError as error:
        click.echo(f"holdfast simulate: cannot listen on {listen}: {error.strerror or error}", err=True)
        raise SystemExit(_UNAVAILABLE) from error


def _per_provider(chosen: Sequence[str], rest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each provider, from options that name one and options that hold for all."""
    given = {name: rest.pop(name) for name in ("urls", "secrets", "keys", "options")}
    common = {
        "seed": rest.pop("seed"),
        "quota_per_min": rest.pop("quota_per_min"),
        "quota_window_s": rest.pop("quota_window_s"),
        "job_duration_s": rest.pop("job_seconds"),
        "failed_share": rest.pop("failed_share"),
        "time_scale": rest.pop("time_scale"),
        "faults": Faults().changed({name: value for name, value in rest.items() if value is not None}),
    }
    settings: dict[str, dict[str, Any]] = {name: {**common, "options": {}} for name in chosen}
    fields = {"urls": "webhook_url", "secrets": "webhook_secret", "keys": "api_key"}
    for option, field in fields.items():
        for name, value in given[option]:
            _known(name, settings)[field] = value
    for dotted, value in given["options"]:
        name, _, switch = dotted.partition(".")
        try:
            read = json.loads(value)
        except ValueError:
            read = value  # a bare word needs no quotes
        _known(name, settings)["options"][switch] = tuple(read) if isinstance(read, list) else read
    return settings


def _known(name: str, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in settings:
        raise click.UsageError(f"no provider {name!r} is simulated here; there are {', '.join(settings)}")
    return settings[name]


async def _until_signalled(simulation: Simulation, host: str, port: int, as_json: bool) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with simulation.serve(host, port):
            _announce(simulation, as_json)
            async for _ in signals:
                return


def _announce(simulation: Simulation, as_json: bool) -> None:
    addresses = simulation.addresses()
    if as_json:
        click.echo(json.dumps(addresses))
        return
    table = Table("provider", "base_url", "webhooks go to", box=None, pad_edge=False)
    for name, one in addresses["providers"].items():
        table.add_row(name, one["base_url"], one["webhook_url"] or "wherever a submission says")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"control: {addresses['control_url']}   (truth, faults, submit, idle)   Ctrl-C ends it")
