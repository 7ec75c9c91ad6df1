"""`holdfast jobs`: register a job, look, wait for its end, have it asked about."""

import json
import sys
import threading
from typing import Any

import click

from holdfast.cli.context import load_settings, print_json, print_table
from holdfast.cli.writing import Api, job_path, operator, through_api, to_file
from receiver import byhand, registrar
from receiver.clock import SystemClock
from receiver.errors import HoldfastError, UsageError
from receiver.records import Registration
from receiver.settings import Settings
from receiver.store.base import Tx

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document, shaped as the API's.")


@click.group()
def jobs() -> None:
    """Register a job, look, wait for its end, poll it now."""


def _json_option(_ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        return json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param=param) from None


@jobs.command()
@click.argument("source")
@click.argument("job_id", metavar="JOB")
@click.option("--modality", help="The kind of job: sets its timeouts.")
@click.option("--poll-url", help="Where the provider is asked about it.")
@click.option("--alias", help="A second id the provider uses for it.")
@click.option("--refs", callback=_json_option, help='What the provider needs to be asked, as JSON: {"lead_id": "…"}.')
@click.option("--metadata", callback=_json_option, help="Your own facts, as JSON; handed back with the outcome.")
@click.option("--submitted-at", help="When it was submitted (ISO 8601).")
@AS_JSON
@click.pass_context
def add(ctx: click.Context, /, source: str, job_id: str, as_json: bool, **facts: Any) -> None:
    """Register a job. Saying the same again does no harm."""
    settings = load_settings(ctx, need="api")
    settings.source(source)
    body = {name: value for name, value in facts.items() if value is not None}
    job = through_api(settings, "PUT", job_path(source, job_id), body)
    if job is None:
        checked = _checked(settings, source, body)
        to_file(settings, lambda tx, now: _register(tx, settings, Registration(source, job_id, **checked), now))
        job = find(settings, source, job_id)
    if as_json:
        print_json(job)
    else:
        click.echo(f"{source} {job['job_id']}: {job['state']}, deadline {job['deadline_at']}")


def _checked(settings: Settings, source: str, body: dict[str, Any]) -> dict[str, Any]:
    """The facts of a registration, as the API would take them. Raises UsageError."""
    from receiver import clock
    from receiver.providers.base import same_origin

    mine, facts = settings.source(source), dict(body)
    if "refs" in body and not isinstance(body["refs"], dict):
        raise UsageError("registering a job: --refs is not a JSON object")
    if "poll_url" in body and not same_origin(body["poll_url"], mine.effective_base_url or ""):
        raise UsageError("registering a job: --poll-url does not lie on the source's configured origin (base_url)")
    if "submitted_at" in body:
        try:
            facts["submitted_at"] = clock.instant(body["submitted_at"])
        except ValueError:
            raise UsageError("registering a job: --submitted-at is not a time like 2026-04-13T14:30:00Z") from None
    return facts


def _register(tx: Any, settings: Settings, told: Registration, now: float) -> None:
    done = registrar.register(tx, told, now, settings.source(told.source))
    if done.status == 409:
        raise HoldfastError(
            f"registering {told.source} {told.job_id}: already on record with another {', '.join(done.conflicts)}; "
            "see `holdfast jobs show`"
        )


@jobs.command(name="list")
@click.option("--source")
@click.option("--state", type=click.Choice(["pending", "completed", "failed"]))
@click.option("--reason")
@click.option("--overdue", is_flag=True, help="Only pending jobs past their deadline.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@AS_JSON
@click.pass_context
def list_(ctx: click.Context, /, as_json: bool, overdue: bool, limit: int, **filters: Any) -> None:
    """The newest jobs."""
    from receiver.store import look

    settings = load_settings(ctx, need="none")
    overdue_at = SystemClock().now() if overdue else None
    rows, following = look(settings, lambda view: view.jobs(limit=limit, overdue_at=overdue_at, **filters))
    if as_json:
        print_json({"jobs": rows, "next": following})
        return
    columns = (
        "source",
        "job_id",
        "modality",
        "state",
        "reason",
        "decided_by",
        "provider_status",
        "polls",
        "next_poll_at",
    )
    print_table("jobs", columns, [[row[column] for column in columns] for row in rows])


@jobs.command()
@click.argument("source")
@click.argument("job_id", metavar="JOB")
@AS_JSON
@click.pass_context
def show(ctx: click.Context, source: str, job_id: str, as_json: bool) -> None:
    """One job, whole."""
    job = find(load_settings(ctx, need="none"), source, job_id)
    if as_json:
        print_json(job)
        return
    parts = ("history", "deliveries", "polls", "messages")
    for name, value in job.items():
        if name not in parts and value is not None:
            click.echo(
                f"{name:16} {json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}"
            )
    click.echo(", ".join(f"{len(job[part])} {part}" for part in parts) + "; the whole story: holdfast explain")


def find(settings: Settings, source: str, job_id: str) -> dict[str, Any]:
    """One job from the record. Raises HoldfastError when it is not there."""
    from receiver.store import look

    settings.source(source)
    job = look(settings, lambda view: view.job(source, job_id))
    if job is None:
        raise _not_on_record(source, job_id)
    return job


def _not_on_record(source: str, job_id: str) -> HoldfastError:
    return HoldfastError(
        f"looking for the job {job_id} of {source}: it is not on record; `holdfast jobs add` registers it"
    )


@jobs.command()
@click.argument("source")
@click.argument("job_id", metavar="JOB")
@click.option("--timeout-s", type=click.FloatRange(0), default=300.0, show_default=True)
@AS_JSON
@click.pass_context
def wait(ctx: click.Context, source: str, job_id: str, timeout_s: float, as_json: bool) -> None:
    """Wait until a job has ended. Exit code 0: it has; 1: the time is up."""
    settings = load_settings(ctx, need="api")
    clock, tick = SystemClock(), threading.Event()
    end = clock.monotonic() + timeout_s
    job = find(settings, source, job_id)
    while job["state"] == "pending" and clock.monotonic() < end:
        left = max(0.0, end - clock.monotonic())
        answer = Api(settings, left + 15.0).call(
            "GET", job_path(source, job_id, f"/wait?timeout_s={min(left, 30.0):.3f}")
        )
        if answer is None or answer[0] not in (200, 202):  # no sidecar runs, or it will not wait with us
            tick.wait(min(left, 0.5))
        job = find(settings, source, job_id)
    ended = job["state"] != "pending"
    if as_json:
        print_json(job)
    else:
        click.echo(f"{source} {job['job_id']}: {job['state']}" + (f" ({job['reason']})" if job["reason"] else ""))
    sys.exit(0 if ended else 1)


@jobs.command()
@click.argument("source")
@click.argument("job_id", metavar="JOB")
@AS_JSON
@click.pass_context
def poll(ctx: click.Context, source: str, job_id: str, as_json: bool) -> None:
    """Have a job asked about now, ended or not; budget and Retry-After still rule."""
    settings = load_settings(ctx, need="api")
    find(settings, source, job_id)
    answer = through_api(settings, "POST", job_path(source, job_id, "/poll"))
    if answer is None:
        answer = to_file(settings, lambda tx, now: _ask_again(tx, source, job_id, now))
        note = "marked due; it is asked about when the reconciler runs"
    else:
        note = "will be asked about at once"
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{source} {job_id}: {note}")


def _ask_again(tx: Tx, source: str, job_id: str, now: float) -> dict[str, Any]:
    job = tx.jobs.find(source, job_id)
    if job is None:
        raise _not_on_record(source, job_id)
    byhand.ask_again(tx, job, now, operator())
    facts = {"source": source, "job_id": job.job_id, "state": job.state.value}
    return facts | {"asked": False, "last_error": job.last_error}
