"""`holdfast prune`: retention, now."""

import asyncio

import click

from holdfast.cli.context import load_settings, print_json, print_table
from holdfast.cli.jobs import AS_JSON


@click.command()
@AS_JSON
@click.pass_context
def prune(ctx: click.Context, as_json: bool) -> None:
    """Forget what [retention] no longer keeps, in small steps; nothing owed to anybody is touched."""
    from holdfast.sidecar import refuse_second_writer
    from receiver.clock import SystemClock
    from receiver.store import open_store
    from reconciler import prune as pruning

    settings, clock = load_settings(ctx, need="none"), SystemClock()
    refuse_second_writer(settings, ())
    store = open_store(settings, clock, keeper=False)
    try:
        gone = asyncio.run(pruning.prune(store, settings.retention, settings.sources, clock))
    finally:
        store.close()
    if as_json:
        print_json({"pruned": gone})
    else:
        print_table("pruned", ("table", "rows"), sorted(gone.items()))
