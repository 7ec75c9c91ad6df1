"""The `holdfast` command: one file a subcommand, loaded only when it is called (start-up is part of the product)."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from holdfast.cli.context import State, fail, state_of
from receiver import __version__
from receiver.errors import HoldfastError

COMMANDS = {
    "run": "The sidecar: intake, API and reconciler in one process.",
    "receive": "The public door alone; it holds no provider keys and opens no connection.",
    "reconcile": "Everything else: interpreting, asking, telling, pruning, and the private API.",
    "init": "Write a holdfast.toml that runs at once, with fresh tokens.",
    "check": "Check config, store, SQLite version, clock and secrets.",
    "status": "Sources, jobs by state, oldest pending, held, quarantined, outbox, last polls.",
    "jobs": "Register a job, look, wait for its end, poll it now.",
    "explain": "One job's whole story in order, and why.",
    "deliveries": "Look, show the raw request, interpret again, let a quarantined one through.",
    "outbox": "Look, hand a message over again.",
    "source": "Register the webhook URL at the provider, rotate its secret, send a test.",
    "backup": "Copy the database while it is in use.",
    "prune": "Retention, now.",
    "migrate": "Bring the schema up.",
    "simulate": "The four providers, simulated on loopback, with faults to order.",
    "demo": "The whole thing rehearsed; ends in a ledger.",
}


class Commands(click.Group):
    """Finds `holdfast.cli.NAME` and takes its attribute NAME."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"holdfast.cli.{cmd_name}"), cmd_name)
        return shared_options(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _set_config(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        state_of(ctx).config = value


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        state_of(ctx).debug = True


def shared_options(command: click.Command) -> click.Command:
    """Give a command (and the commands below it) `--config` and `--debug`, which may stand at either end."""
    names = {name for param in command.params for name in param.opts}
    if "--config" not in names:
        command.params.append(
            click.Option(
                ["--config"],
                type=click.Path(path_type=Path),
                expose_value=False,
                callback=_set_config,
                help="Configuration file (default: $HOLDFAST_CONFIG, ./holdfast.toml, /etc/holdfast/holdfast.toml).",
            )
        )
    if "--debug" not in names:
        command.params.append(
            click.Option(
                ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks, log more."
            )
        )
    if isinstance(command, click.Group):
        for below in command.commands.values():
            shared_options(below)
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="holdfast")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Keeps every webhook, tracks every submitted job, asks for the silent ones, tells each outcome once."""
    ctx.ensure_object(State)


shared_options(cli)


def main(args: list[str] | None = None) -> None:
    """Run the command line; every expected failure is one readable line and an exit code."""
    debug = "--debug" in (args if args is not None else sys.argv)
    try:
        code: Any = cli.main(args=args, prog_name="holdfast", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "holdfast"
        met = " ".join(error.format_message().split()).rstrip(".")
        click.echo(f"{where}: {met}; `{where} --help` tells what it takes", err=True)
        sys.exit(error.exit_code)
    except HoldfastError as error:
        if debug:
            raise
        fail(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
