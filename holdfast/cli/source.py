"""`holdfast source`: register the webhook URL at the provider, rotate its secret, send a test and watch it arrive.

A dry run unless `--yes`: what only reads is asked, what would change something is shown.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import click

from holdfast.cli.context import load_settings
from receiver.clock import SystemClock
from receiver.errors import HoldfastError, ProviderUnavailable, UsageError
from receiver.providers.base import Question, Reply
from receiver.providers.managing import (
    ByHand,
    Change,
    DeliveryRecord,
    Managed,
    Manager,
    Managing,
    NotDone,
    Rotated,
    Scanner,
    SetUp,
    TestSent,
    shown_url,
)
from receiver.settings import Settings, SourceSettings

WATCH_S = 30.0
YES = click.option("--yes", is_flag=True, help="Really do it; without this it is only shown.")


@click.group()
def source() -> None:
    """Register the webhook URL at the provider, rotate its secret, send a test — where the provider offers it."""


@source.command()
@click.argument("name")
@YES
@click.pass_context
def setup(ctx: click.Context, name: str, yes: bool) -> None:
    """Register this source's webhook URL at the provider."""
    settings = load_settings(ctx)
    mine, manager = _manager(settings, name)
    outcome = _run(settings, mine, manager.manage_setup(mine, hook_url(settings, mine)), yes)
    if isinstance(outcome, SetUp):
        if outcome.new_secret is not None:
            _keep_secret(mine, outcome.new_secret)
        done = "registered" if outcome.changed else "was registered already"
        click.echo(f"{name}: {shown_url(outcome.url)} {done}")


@source.command()
@click.argument("name")
@YES
@click.pass_context
def rotate(ctx: click.Context, name: str, yes: bool) -> None:
    """Have the provider make a new signing secret, and keep it where the configuration says."""
    settings = load_settings(ctx)
    mine, manager = _manager(settings, name)
    if yes and mine.secret is not None and len(mine.secret.paths) == 1:
        _check_writable(mine.secret.paths[0])  # the secret is told once: find out before, not after
    outcome = _run(settings, mine, manager.manage_rotate(mine), yes)
    if isinstance(outcome, Rotated):
        _keep_secret(mine, outcome.new_secret)
        hours = outcome.old_accepted_s / 3600
        click.echo(f"{name}: rotated; leave the old secret in place for {hours:.0f} h, then remove its line")


@source.command()
@click.argument("name")
@YES
@click.option("--timeout-s", default=WATCH_S, show_default=True, help="How long to watch for it.")
@click.pass_context
def test(ctx: click.Context, name: str, yes: bool, timeout_s: float) -> None:
    """Have the provider send a test delivery, and watch it arrive."""
    settings = load_settings(ctx)
    mine, manager = _manager(settings, name)
    clock = SystemClock()
    sent_at, began = clock.now(), clock.monotonic()
    outcome = _run(settings, mine, manager.manage_test(mine), yes)
    if not isinstance(outcome, TestSent):
        return
    arrived = asyncio.run(_watch(settings, mine, outcome, sent_at, timeout_s))
    if arrived is None:
        says = f"; the provider says {outcome.status}, answered {outcome.http_status}" if outcome.status else ""
        raise HoldfastError(
            f"watching for the test delivery of {name}: nothing arrived in {timeout_s:g} s{says}; "
            "check that public_url reaches this listener"
        )
    click.echo(f"{name}: the test arrived as delivery {arrived} after {clock.monotonic() - began:.2f} s")


def hook_url(settings: Settings, mine: SourceSettings) -> str:
    """Where the provider is to post. Raises UsageError without intake.public_url."""
    if settings.intake.public_url is None:
        raise UsageError("registering a webhook: intake.public_url is not set; say how the world reaches the intake")
    token = f"/{mine.path_token.current}" if mine.path_token is not None else ""
    return f"{settings.intake.public_url.rstrip('/')}/in/{mine.name}{token}"


def _manager(settings: Settings, name: str) -> tuple[SourceSettings, Manager]:
    mine = settings.source(name)
    if not isinstance(mine.facts, Manager):
        raise HoldfastError(f"managing {name}: the provider {mine.provider} offers nothing for this; do it on its site")
    return mine, mine.facts


def _run(settings: Settings, mine: SourceSettings, managing: Managing, yes: bool) -> Managed | None:
    """Run the generator; None when a dry run ended at a change. Prints what a person needs to know."""
    outcome = asyncio.run(_drive(settings, mine, managing, yes))
    if isinstance(outcome, ByHand):
        click.echo(f"{mine.name}: {mine.provider} has no API for this. By hand:")
        for number, step in enumerate(outcome.steps, 1):
            click.echo(f"  {number}. {step}")
    elif isinstance(outcome, NotDone):
        raise ProviderUnavailable(f"{outcome.problem}; nothing was changed here")
    return outcome


async def _drive(settings: Settings, mine: SourceSettings, managing: Managing, yes: bool) -> Managed | None:
    from reconciler.outbound import Outbound

    rules, outbound = mine.reconcile(settings.reconcile), Outbound(SystemClock())
    reply: Reply | None = None
    try:
        while True:
            try:
                item = managing.send(reply)
            except StopIteration as done:
                outcome: Managed = done.value
                return outcome
            question = item if isinstance(item, Question) else item.question
            if isinstance(item, Change):
                _show(mine, item, yes)
                if not yes:
                    managing.close()
                    return None
            exchange = await outbound.ask(mine, question, rules)
            if not isinstance(exchange.outcome, Reply):
                raise ProviderUnavailable(
                    f"asking {mine.provider}: {exchange.request}: {exchange.outcome.detail}; "
                    "check base_url and the network"
                )
            reply = exchange.outcome
    finally:
        outbound.close()


def _show(mine: SourceSettings, change: Change, yes: bool) -> None:
    path = change.question.path or change.question.url
    click.echo(f"{mine.name}: {change.question.method} {mine.effective_base_url}{path}: {change.sentence}")
    if change.before or change.after:
        click.echo(f"  now:  {shown_url(change.before) if change.before else '(unknown or none)'}")
        click.echo(f"  then: {shown_url(change.after) if change.after else '(none)'}")
    for warning in change.warnings:
        click.echo(f"  warning: {warning}")
    if not yes:
        click.echo("A dry run: nothing was sent. Say --yes to do it.")


def _keep_secret(mine: SourceSettings, new: str) -> None:
    """Into the file the configuration names, the old one behind it; anything else is printed once."""
    secret = mine.secret
    if secret is not None and len(secret.paths) == 1 and len(secret.references) == 1:
        path = secret.paths[0]
        older = [value for value in secret.values() if value != new][:1]
        _write_private(path, "\n".join([new, *older]) + "\n")
        click.echo(
            f"{mine.name}: the new secret is in {path}, the old one behind it; a running sidecar takes it by itself"
        )
        return
    where = secret.reference if secret is not None else f"sources.{mine.name}.secret"
    click.echo(f"{mine.name}: the new secret, shown this once. Put it at {where}, keep the old one beside it, restart:")
    click.echo(new)


def _check_writable(path: Path) -> None:
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise HoldfastError(f"rotating: the new secret could not be written to {path}; run this as its owner")


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner alone, its owner kept."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o600)
    if path.exists():
        was = path.stat()
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            os.chown(temporary, was.st_uid, was.st_gid)
    os.replace(temporary, path)


def ids_on_arrival(mine: SourceSettings, sent: TestSent) -> set[str]:
    """The ids a test delivery may carry when it arrives: a provider may write one in its headers and in its API
    differently, and where nobody interprets deliveries now they are all there is to tell it by."""
    ids = {each for each in (sent.event_id, sent.delivery_id) if each}
    if isinstance(mine.facts, Scanner):
        ids |= set(mine.facts.keys_of(DeliveryRecord(sent.delivery_id, sent.event_id, None, None, None, None)))
    return ids


async def _watch(
    settings: Settings, mine: SourceSettings, sent: TestSent, since: float, timeout_s: float
) -> str | None:
    """The id of the delivery that is the test, as soon as it is on record."""
    from receiver.store import look

    clock = SystemClock()
    end = clock.monotonic() + timeout_s
    wanted = ids_on_arrival(mine, sent)
    shown = sys.stderr.isatty()
    while clock.monotonic() < end:
        rows, _ = look(settings, lambda view: view.deliveries(source=mine.name, start=since - 1.0, limit=200))
        for row in reversed(rows):
            ids = {value for _, value in row["headers"]} | {row["event_key"]}
            if wanted & ids or (row["event"] is not None and row["event"] == sent.event):
                return str(row["id"])
        if shown:
            click.echo(".", nl=False, err=True)
        await asyncio.sleep(0.1)
    return None
