"""`holdfast explain`: one job's whole story in order, and why."""

from typing import Any

import click

from holdfast.cli.context import load_settings, print_json, print_table
from holdfast.cli.jobs import AS_JSON, find


@click.command()
@click.argument("source")
@click.argument("job_id", metavar="JOB")
@AS_JSON
@click.pass_context
def explain(ctx: click.Context, source: str, job_id: str, as_json: bool) -> None:
    """One job's whole story in order: submission, deliveries, polls, decisions, messages, and why."""
    job = find(load_settings(ctx, need="none"), source, job_id)
    story = tell(job)
    if as_json:
        print_json({"source": source, "job_id": job["job_id"], "state": job["state"], "story": story, "why": why(job)})
        return
    print_table(f"{source} {job['job_id']}", ("when", "what", "said"), [list(step.values()) for step in story])
    click.echo(why(job))


def tell(job: dict[str, Any]) -> list[dict[str, str]]:
    """The story's steps, oldest first."""
    steps: list[tuple[str, int, str, str]] = []
    if job["submitted_at"]:
        steps.append((job["submitted_at"], 0, "submitted", job["modality"] or "modality not told"))
    for each in job["deliveries"]:
        reason = f": {each['reason']}" if each["reason"] else ""
        said = f"{each['verdict']}{reason}, {each['event'] or 'no event name'}"
        steps.append((each["received_at"], 2, f"delivery {each['id']}", said))
    for each in job["polls"]:
        said = f"{each['request']} → {each['http_status'] or 'no answer'} {each['outcome']}, {each['latency_ms']} ms"
        steps.append((each["at"], 3, f"poll {each['id']}", said + (f": {each['error']}" if each["error"] else "")))
    for each in job["history"]:
        steps.append((each["at"], 4, f"decision by {each['by']}", _decision(each)))
    for each in job["messages"]:
        behind = f", supersedes {each['supersedes']}" if each["supersedes"] else ""
        steps.append((each["created_at"], 5, f"message {each['id']}", f"{each['type']}{behind}"))
        if each["delivered_at"]:
            steps.append((each["delivered_at"], 6, "told", f"after {each['attempts']} attempts"))
    return [{"when": at, "what": what, "said": said} for at, _, what, said in sorted(steps)]


def _decision(entry: dict[str, Any]) -> str:
    arrow = f"{entry['from_state'] or '—'} → {entry['to_state']}"
    if entry["from_state"] == entry["to_state"]:
        arrow = f"stays {entry['to_state']}"
    cause = f"delivery {entry['delivery_id']}" if entry["delivery_id"] else ""
    cause = cause or (f"poll {entry['poll_id']}" if entry["poll_id"] else "")
    parts = [f"({entry['reason']})" if entry["reason"] else "", f"by {cause}" if cause else "", entry["note"] or ""]
    return " ".join([arrow, *(part for part in parts if part)])


def why(job: dict[str, Any]) -> str:
    """One sentence on where the job stands."""
    if job["state"] == "pending":
        trouble = f"; the last trouble: {job['last_error']}" if job["last_error"] else ""
        asked = f"asked about next at {job['next_poll_at']}"
        return f"Pending: {asked}, given up at {job['deadline_at']} at the earliest{trouble}."
    reason = f" ({job['reason']})" if job["reason"] else ""
    witness = {"webhook": "a webhook said so", "poll": "the provider said so when asked", "deadline": "its time was up"}
    late = f"; {job['last_error']}" if job["last_error"] else ""
    return f"{job['state'].capitalize()}{reason} since {job['settled_at']}: {witness[job['decided_by']]}{late}."
