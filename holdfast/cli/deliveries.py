"""`holdfast deliveries`: look, show the raw request, interpret again, let a quarantined one through."""

import base64
import sys

import click

from holdfast.cli.context import load_settings, print_json, print_table
from holdfast.cli.jobs import AS_JSON
from holdfast.cli.writing import operator, through_api, to_file
from receiver import byhand
from receiver import clock as clocks
from receiver.errors import HoldfastError, UsageError
from receiver.records import DeliveryId


@click.group()
def deliveries() -> None:
    """Look, show the raw request, interpret again, let a quarantined one through."""


def _instant(written: str | None, name: str) -> float | None:
    if written is None:
        return None
    try:
        return clocks.instant(written)
    except ValueError:
        raise UsageError(f"reading --{name}: {written!r} is not a time like 2026-04-13T14:30:00Z") from None


@deliveries.command(name="list")
@click.option("--source")
@click.option("--verdict", type=click.Choice(["new", "accepted", "duplicate", "held", "quarantined"]))
@click.option("--start", help="Received at or after (ISO 8601).")
@click.option("--end", help="Received before (ISO 8601).")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@AS_JSON
@click.pass_context
def list_(
    ctx: click.Context, /, source: str | None, verdict: str | None, limit: int, as_json: bool, **window: str | None
) -> None:
    """The newest deliveries."""
    from receiver.store import look

    settings = load_settings(ctx, need="none")
    start, end = _instant(window["start"], "start"), _instant(window["end"], "end")
    rows, following = look(
        settings, lambda view: view.deliveries(source=source, verdict=verdict, start=start, end=end, limit=limit)
    )
    if as_json:
        print_json({"deliveries": rows, "page": 1, "next": None if following is None else str(following)})
        return
    columns = ("id", "source", "received_at", "verdict", "reason", "event", "job_id")
    print_table("deliveries", columns, [[row[column] for column in columns] for row in rows])


def _id(written: str) -> DeliveryId:
    if not written.isdigit() or len(written) > 19:
        raise UsageError(f"reading the id {written[:40]!r}: a delivery's id is a number")
    return DeliveryId(int(written))


@deliveries.command()
@click.argument("delivery_id", metavar="ID")
@AS_JSON
@click.pass_context
def show(ctx: click.Context, delivery_id: str, as_json: bool) -> None:
    """The raw request as it came in; secrets are masked."""
    from receiver.store import look

    wanted = _id(delivery_id)
    row = look(load_settings(ctx, need="none"), lambda view: view.delivery(wanted))
    if row is None:
        raise HoldfastError(f"looking for the delivery {delivery_id}: it is not on record")
    body = row["body"]
    if as_json:
        del row["body"]
        if (text := _text(body)) is not None:
            row["body"] = text
        row["body_base64"] = None if body is None else base64.b64encode(body).decode()
        print_json(row)
        return
    for name in (
        "id",
        "source",
        "received_at",
        "remote",
        "verdict",
        "reason",
        "event",
        "event_key",
        "job_id",
        "body_sha256",
    ):
        if row[name] is not None:
            click.echo(f"{name:16} {row[name]}")
    click.echo()
    for name, value in row["headers"]:
        click.echo(f"{name}: {value}")
    click.echo()
    sys.stdout.flush()
    sys.stdout.buffer.write(b"(the body was pruned)" if body is None else body)
    click.echo()


def _text(body: bytes | None) -> str | None:
    try:
        return None if body is None else body.decode("utf-8")
    except UnicodeDecodeError:
        return None


@deliveries.command()
@click.argument("delivery_id", metavar="ID")
@AS_JSON
@click.pass_context
def replay(ctx: click.Context, delivery_id: str, as_json: bool) -> None:
    """Interpret a delivery again. What was told already is not told twice."""
    _again(ctx, delivery_id, "replay", as_json)


@deliveries.command()
@click.argument("delivery_id", metavar="ID")
@AS_JSON
@click.pass_context
def release(ctx: click.Context, delivery_id: str, as_json: bool) -> None:
    """Let a quarantined or held delivery through: you vouch for it and for its job."""
    _again(ctx, delivery_id, "release", as_json)


def _again(ctx: click.Context, delivery_id: str, what: str, as_json: bool) -> None:
    from receiver.store import look

    settings, wanted = load_settings(ctx, need="api"), _id(delivery_id)
    answer = through_api(settings, "POST", f"/v1/deliveries/{wanted}/{what}")
    if answer is None:
        who, released = operator(), what == "release"
        if to_file(settings, lambda tx, now: byhand.read_again(tx, wanted, now, who, release=released)) is None:
            raise HoldfastError(f"looking for the delivery {delivery_id}: it is not on record")
        answer = look(settings, lambda view: view.delivery(wanted)) or {}
        answer.pop("body", None)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"delivery {delivery_id}: will be interpreted again")
