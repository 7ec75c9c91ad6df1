"""`holdfast demo`: the whole thing rehearsed, ending in a ledger."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.context import print_json

if TYPE_CHECKING:
    from holdfast.demo.ledger import Ledger
    from holdfast.demo.rehearsal import Progress

PROVIDERS = ("omnifence", "omnia", "omniai", "omnist", "standard")
SHARE = click.FloatRange(0.0, 1.0)


@click.command()
@click.option("--jobs", default=320, show_default=True, type=click.IntRange(1, 20_000), help="How many jobs.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same jobs and the same faults.")
@click.option("--drop", default=0.4, show_default=True, type=SHARE, help="Share of webhooks never sent.")
@click.option("--duplicate", default=0.15, show_default=True, type=SHARE, help="Share sent twice.")
@click.option("--forge", default=0.1, show_default=True, type=SHARE, help="Share of jobs a stranger lies about.")
@click.option("--crash", default=2, show_default=True, type=click.IntRange(0, 100), help="Kills of the sidecar.")
@click.option("--provider", multiple=True, type=click.Choice(PROVIDERS), help="Only these (default: all).")
@click.option("--json", "as_json", is_flag=True, help="The ledger as one JSON object.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Leave the folder here.")
@click.option("--serve", is_flag=True, help="Leave everything running at the end, to look around.")
def demo(
    jobs: int,
    seed: int,
    crash: int,
    provider: tuple[str, ...],
    as_json: bool,
    keep: Path | None,
    serve: bool,
    **shares: float,
) -> None:
    """The whole thing rehearsed: simulated providers with faults, the sidecar as a real process killed under load, a
    sample application. Ends in a ledger made from what the providers know and what the application heard."""
    from holdfast.demo.rehearsal import Rehearsal
    from holdfast.demo.stage import Stage
    from receiver.clock import SystemClock

    folder = keep or Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    if keep is not None and (keep / "holdfast.db").exists():
        raise click.UsageError(f"{keep} holds an earlier demo; name another folder")
    stage = Stage(folder.resolve(), provider or PROVIDERS, SystemClock())
    faults = {name: shares[name] for name in ("drop", "duplicate", "forge")} | {"delay": 0.1, "early": 0.1}
    live = _live(not as_json)
    try:
        stage.prepare()
        stage.start_simulator(seed, faults, "0.2:3")
        config = stage.write_config()
        stage.start_application()
        stage.start_sidecar(config)
        rehearsal = Rehearsal(stage, jobs, seed, crash, live)
        ledger = asyncio.run(rehearsal.play(config))
        if not as_json and sys.stderr.isatty():
            click.echo("", err=True)
        _print(ledger, rehearsal.progress.crashes, as_json)
        if not as_json:
            _queries(stage.database)
        if serve:
            click.echo(f"Everything runs on: {stage.api}/ (Ctrl-C ends it)", err=True)
            _until_interrupted()
    finally:
        stage.clear()
    if not ledger.total.clean and keep is None:
        click.echo(f"the evidence is in {folder}", err=True)
    elif as_json and keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if ledger.total.clean else 1)


def _live(wanted: bool) -> "Callable[[Progress], None]":
    tty = sys.stderr.isatty()
    last = [""]

    def show(progress: "Progress") -> None:
        line = (
            f"{progress.doing}: {progress.submitted}/{progress.jobs} submitted, {progress.registered} registered, "
            f"{progress.told} told, {progress.crashes} kills"
        )
        if not wanted or line == last[0]:
            return
        if tty:
            click.echo(f"\r{line:<100}", nl=False, err=True)
        elif progress.registered % 50 == 0 or progress.doing.startswith("waiting"):
            click.echo(line, err=True)
        last[0] = line

    return show


def _print(ledger: "Ledger", crashes: int, as_json: bool) -> None:
    document = ledger.as_dict(crashes)
    if as_json:
        print_json(document)
        return
    from holdfast.cli.context import print_table

    sources: dict[str, dict[str, Any]] = document.pop("sources")
    rows = []
    for name, value in document.items():
        each = [source.get(name, "") for source in sources.values()]
        rows.append([name.replace("_", " "), value, *each])
    print_table("ledger", ("", "all", *sources), rows)
    for wrong in ledger.wrongs[:10]:
        click.echo(f"  {wrong}")
    total = ledger.total
    click.echo(f"lost {total.lost} · told twice {total.told_twice} · told wrong {total.told_wrong}")


def _queries(database: Path) -> None:
    click.echo(f"\nThe record is {database}. Three queries worth trying:")
    for query in (
        "select decided_by, state, reason, count(*) from jobs group by 1, 2, 3",
        "select source, verdict, count from hourly_stats order by 1, 2",
        "select job_id, settled_at, polls from rescued_jobs limit 5",
    ):
        click.echo(f'  sqlite3 -header -column {database} "{query}"')


def _until_interrupted() -> None:
    import threading

    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("", err=True)
