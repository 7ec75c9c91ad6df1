"""`holdfast migrate`: bring the schema up."""

import click

from holdfast.cli.context import load_settings


@click.command()
@click.pass_context
def migrate(ctx: click.Context) -> None:
    """Bring the schema up. `run` and `receive` do it by themselves; this is for doing it beforehand."""
    from receiver.clock import SystemClock
    from receiver.store import open_store

    settings = load_settings(ctx, need="none")
    open_store(settings, SystemClock(), keeper=False).close()
    click.echo(f"{settings.store.path}: the schema is up to date")
