"""`holdfast backup`: copy the database while it is in use."""

import sys

import click

from holdfast.cli.context import load_settings


@click.command()
@click.argument("path", type=click.Path(dir_okay=False))
@click.pass_context
def backup(ctx: click.Context, path: str) -> None:
    """Copy the database to PATH while it is in use, and check the copy."""
    from receiver.store.sqlite.maintenance import copy_to

    shown = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if shown:
            click.echo(f"\r{done} of {total} pages", nl=False, err=True)

    copy_to(load_settings(ctx, need="none").store.path, path, progress)
    click.echo(("\r" if shown else "") + f"{path}: a copy that passed its check")
