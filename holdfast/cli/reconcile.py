"""`holdfast reconcile`: everything but the public door."""

import asyncio
from dataclasses import asdict

import click

from holdfast.cli.context import load_settings, print_json, print_table, state_of


@click.command()
@click.option("--once", is_flag=True, help="Do one full pass (read, ask, tell, prune) and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print what was done as JSON.")
@click.pass_context
def reconcile(ctx: click.Context, once: bool, as_json: bool) -> None:
    """Interpreting, asking, telling, pruning, and the private API."""
    from holdfast.sidecar import Sidecar, serve
    from receiver.logs import set_up

    settings = load_settings(ctx)
    set_up(debug=state_of(ctx).debug)
    sidecar = Sidecar(settings, ("reconciler",))
    if not once:
        serve(sidecar)
        return
    done = asyncio.run(_once(sidecar))
    if as_json:
        print_json({"passes": done})
    else:
        columns = ("source", "picked up", "due", "questions", "ended", "adopted", "blocked")
        print_table("one pass", columns, [(name, *report.values()) for name, report in done.items()])


async def _once(sidecar: "object") -> "dict[str, dict[str, object]]":
    from holdfast.sidecar import Sidecar, refuse_second_writer
    from receiver.locks import RoleLock
    from receiver.store import open_store
    from reconciler.service import Reconciler

    assert isinstance(sidecar, Sidecar)
    settings = sidecar.settings
    with RoleLock(settings.store.path, "reconciler"):
        refuse_second_writer(settings, ("reconciler",))
        store = open_store(settings, sidecar.clock, keeper=False)
        try:
            reconciler = Reconciler(settings, store, sidecar.clock)
            reports = await reconciler.once()
            await reconciler.stop()
        finally:
            store.close()
    return {name: asdict(report) for name, report in reports.items()}
