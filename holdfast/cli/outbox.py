"""`holdfast outbox`: look, hand a message over again."""

from urllib.parse import quote

import click

from holdfast.cli.context import load_settings, print_json, print_table
from holdfast.cli.jobs import AS_JSON
from holdfast.cli.writing import operator, through_api, to_file
from receiver import byhand
from receiver.errors import HoldfastError


@click.group()
def outbox() -> None:
    """Look, hand a message over again (dead ones too)."""


@outbox.command(name="list")
@click.option("--state", type=click.Choice(["pending", "delivered", "dead"]))
@click.option("--source")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@AS_JSON
@click.pass_context
def list_(ctx: click.Context, state: str | None, source: str | None, limit: int, as_json: bool) -> None:
    """The newest messages."""
    from receiver.store import look

    settings = load_settings(ctx, need="none")
    rows, following = look(settings, lambda view: view.messages(state=state, source=source, limit=limit))
    if as_json:
        print_json({"messages": rows, "next": following})
        return
    columns = ("id", "source", "job_id", "type", "state", "attempts", "next_attempt_at", "last_error")
    print_table("outbox", columns, [[row[column] for column in columns] for row in rows])


@outbox.command()
@click.argument("message_id", metavar="ID")
@AS_JSON
@click.pass_context
def show(ctx: click.Context, message_id: str, as_json: bool) -> None:
    """One message, with exactly what the application is told."""
    from receiver.store import look

    row = look(load_settings(ctx, need="none"), lambda view: view.message(message_id))
    if row is None:
        raise HoldfastError(f"looking for the message {message_id}: it is not on record")
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        if name != "payload" and value is not None:
            click.echo(f"{name:16} {value}")
    print_json(row["payload"])


@outbox.command()
@click.argument("message_id", metavar="ID")
@AS_JSON
@click.pass_context
def redeliver(ctx: click.Context, message_id: str, as_json: bool) -> None:
    """Hand a message over again, with the same id."""
    from receiver.store import look

    settings = load_settings(ctx, need="api")
    answer = through_api(settings, "POST", f"/v1/messages/{quote(message_id, safe='')}/redeliver")
    if answer is None:
        who = operator()
        if to_file(settings, lambda tx, now: byhand.tell_again(tx, message_id, now, who)) is None:
            raise HoldfastError(f"looking for the message {message_id}: it is not on record")
        answer = look(settings, lambda view: view.message(message_id))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"message {message_id}: goes out again")
