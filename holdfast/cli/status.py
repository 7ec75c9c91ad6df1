"""`holdfast status`: how things stand, from the record itself."""

from typing import Any

import click

from holdfast.cli.context import load_settings, print_json, print_table
from holdfast.cli.jobs import AS_JSON
from receiver.clock import SystemClock
from receiver.settings import Settings
from receiver.store.views import View


@click.command()
@AS_JSON
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Sources, jobs by state, oldest pending, held, quarantined, outbox, last polls."""
    from receiver.store import look

    settings = load_settings(ctx, need="none")
    now = SystemClock().now()
    facts = look(settings, lambda view: gather(view, settings, now))
    facts["spill"] = spilled(settings)
    if as_json:
        print_json(facts)
    else:
        _show(facts)


def gather(view: View, settings: Settings, now: float) -> dict[str, Any]:
    """Everything `status` tells, from kept counts and indexes alone."""
    tallies, held, oldest, overdue = view.tallies(), view.held(), view.oldest_pending(), view.overdue(now)
    states, missed = view.sources(), view.missed()
    names = sorted({*settings.sources, *(source for kind, source, _ in tallies if kind in ("jobs", "deliveries"))})
    sources = []
    for name in names:
        count = {(kind, state): n for (kind, source, state), n in tallies.items() if source == name}
        configured = settings.sources.get(name)
        state = states.get(name, {})
        sources.append(
            {
                "source": name,
                "provider": configured.provider if configured else None,
                "configured": configured is not None,
                "paused": bool(state.get("paused")),
                "pending": count.get(("jobs", "pending"), 0),
                "completed": count.get(("jobs", "completed"), 0),
                "failed": count.get(("jobs", "failed"), 0),
                "overdue": overdue.get(name, 0),
                "oldest_pending_s": round(now - oldest[name], 1) if name in oldest else None,
                "settled_by_webhook": count.get(("settled", "webhook"), 0),
                "settled_by_poll": count.get(("settled", "poll"), 0),
                "settled_by_deadline": count.get(("settled", "deadline"), 0),
                "held": held.get(name, 0),
                "quarantined": count.get(("deliveries", "quarantined"), 0),
                "missed": missed.get(name, 0),
                "last_poll_at": state.get("asked_at"),
                "last_poll_outcome": state.get("last_outcome"),
                "last_error": state.get("last_error"),
                "circuit_open_until": state.get("open_until"),
            }
        )
    outbox = dict.fromkeys(("pending", "delivered", "dead"), 0)
    for (kind, _, state_name), n in tallies.items():
        if kind == "outbox":
            outbox[state_name] = outbox.get(state_name, 0) + n
    first = view.oldest_message_at()
    missing = int(view.meta("deliveries.missing") or 0)
    return {
        "sources": sources,
        "outbox": outbox | {"oldest_s": round(now - first, 1) if first is not None else None},
        "unread_deliveries": view.unread(),
        "missing": missing,
    }


def spilled(settings: Settings) -> dict[str, Any]:
    """What lies in the spill journal now, from its files."""
    folder = settings.store.spill_path
    files = [path for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []
    damaged = [path for path in files if path.name.startswith("damaged-")]
    return {
        "files": len(files) - len(damaged),
        "bytes": sum(path.stat().st_size for path in files if path not in damaged),
        "damaged_files": len(damaged),
    }


def _show(facts: dict[str, Any]) -> None:
    columns = (
        "source",
        "provider",
        "pending",
        "overdue",
        "oldest_pending_s",
        "completed",
        "failed",
        "held",
        "quarantined",
        "missed",
    )
    print_table("sources", columns, [[source[column] for column in columns] for source in facts["sources"]])
    asking = (
        "source", "settled_by_webhook", "settled_by_poll", "settled_by_deadline", "paused", "last_poll_at",
        "last_poll_outcome", "last_error",
    )  # fmt: skip
    print_table("asking", asking, [[source[column] for column in asking] for source in facts["sources"]])
    outbox = facts["outbox"]
    oldest = f", oldest {outbox['oldest_s']} s" if outbox["oldest_s"] is not None else ""
    click.echo(f"outbox: {outbox['pending']} pending{oldest}, {outbox['delivered']} delivered, {outbox['dead']} dead")
    click.echo(f"deliveries not read yet: {facts['unread_deliveries']}")
    spill = facts["spill"]
    if spill["files"] or spill["damaged_files"]:
        click.echo(f"spill journal: {spill['files']} files, {spill['bytes']} bytes, {spill['damaged_files']} damaged")
    if facts["missing"]:
        click.echo(f"{facts['missing']} acknowledged deliveries are missing from the database: see docs/reliability.md")
