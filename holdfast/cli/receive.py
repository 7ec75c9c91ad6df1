"""`holdfast receive`: the public door alone."""

import click

from holdfast.cli.context import load_settings, state_of


@click.command()
@click.pass_context
def receive(ctx: click.Context) -> None:
    """The public door alone: it holds no provider keys and opens no connection; with socket activation it needs no
    network of its own."""
    from holdfast.sidecar import Sidecar, serve
    from receiver.logs import set_up

    settings = load_settings(ctx, need="intake")
    set_up(debug=state_of(ctx).debug)
    serve(Sidecar(settings, ("receiver",)))
