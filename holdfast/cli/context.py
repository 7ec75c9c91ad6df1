"""What every command shares: where the configuration is, how errors end, how tables and JSON are printed."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from receiver.errors import HoldfastError

if TYPE_CHECKING:
    from receiver.settings import Settings

Need = Literal["all", "intake", "api", "none"]


class State:
    """Options that may stand before or after the subcommand."""

    def __init__(self) -> None:
        self.config: Path | None = None
        self.debug = False


def state_of(ctx: click.Context) -> State:
    """The shared state of this run."""
    return ctx.find_root().ensure_object(State)


def load_settings(ctx: click.Context, need: Need = "all") -> "Settings":
    """The configuration this command was pointed at; from here on the log goes to stderr, so that stdout is the
    command's answer alone. Raises ConfigError."""
    from receiver.config import load
    from receiver.logs import set_up

    set_up(debug=state_of(ctx).debug, quiet=True)
    return load(state_of(ctx).config, need=need)


def fail(error: HoldfastError) -> NoReturn:
    """End with one readable line (or one a problem) on stderr and the error's exit code."""
    click.echo(f"holdfast: {error}", err=True)
    sys.exit(error.exit_code)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for a person; obeys NO_COLOR, width and pipes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", show_lines=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
        count += 1
    # Into a file or a pipe there is no width to fit: lines are cut for nobody.
    # NO_COLOR is taken at its word: no bold and no italics either.
    console = Console(
        width=None if sys.stdout.isatty() else 200, force_terminal=False if os.environ.get("NO_COLOR") else None
    )
    if count:
        console.print(table)
    else:
        console.print(f"{title}: none", markup=False)
