"""`holdfast run`: the sidecar in one process."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from holdfast.cli.context import load_settings, state_of

if TYPE_CHECKING:
    from holdfast.sidecar import Sidecar


@click.command()
@click.pass_context
def run(ctx: click.Context) -> None:
    """The sidecar: intake, API and reconciler in one process. Stops on SIGTERM or Ctrl-C, losing nothing."""
    from holdfast.sidecar import BOTH, Sidecar, serve
    from receiver.logs import set_up

    settings = load_settings(ctx)
    set_up(debug=state_of(ctx).debug)
    sidecar = Sidecar(settings, BOTH)
    serve(sidecar, _announced(sidecar))


def _in_a_shell(sidecar: "Sidecar") -> str:
    """How a shell gets at the API's token; never the token itself."""
    secret = sidecar.settings.api.token
    first = secret.references[0] if secret else ""
    if first.startswith("env:"):
        return f"${first.removeprefix('env:')}"
    return f"$(head -n1 '{secret.paths[0]}')" if secret and first.startswith("file:") else "TOKEN"


@contextlib.contextmanager
def _announced(sidecar: "Sidecar") -> Iterator[None]:
    """Tell a person where to post and how to register a job."""
    intake, api = sidecar.addresses()["intake"], sidecar.addresses()["api"]
    token = f' -H "Authorization: Bearer {_in_a_shell(sidecar)}"' if sidecar.settings.api.token else ""
    click.echo(f"Providers post to:   {intake}/in/SOURCE/PATH_TOKEN")
    for name, source in sidecar.settings.sources.items():
        behind = "/PATH_TOKEN" if source.path_token else ""
        where = f"   (its token: {source.path_token.reference})" if source.path_token else ""
        click.echo(f"                     {intake}/in/{name}{behind}{where}")
    name = next(iter(sidecar.settings.sources), "SOURCE")
    click.echo(f'Register a job:      curl -X PUT {api}/v1/jobs/{name}/JOB_ID{token} -d \'{{"modality": "prompt"}}\'')
    click.echo(f"Look at it:          {api}/   or   holdfast status")
    yield
