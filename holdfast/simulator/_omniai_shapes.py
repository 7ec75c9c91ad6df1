"""OmniAI's payloads, field by field (providers.md 3.3 and 3.7). Pure functions from a job to what is shown."""

from typing import Any, Literal

from holdfast.simulator.truth import SimulatedJob
from receiver import clock as clocks

Revision = Literal["oldest", "middle", "newest"]
REVISIONS: tuple[Revision, ...] = ("oldest", "middle", "newest")
ACTION_TYPES = {"tool_call": "TOOL_CALL", "message": "MESSAGE"}
FILES = "https://files.invalid/"


def ended(job: SimulatedJob) -> str | None:
    """When the job ended, as UTC text."""
    return None if job.finished_at is None else clocks.text(job.finished_at)


def uploaded(job: SimulatedJob) -> dict[str, Any]:
    """A document as the upload answer lists it: no status, no lead."""
    return {
        "id": job.job_id,
        "filename": job.answer["filename"],
        "size": job.answer["size"],
        "url": f"{FILES}{job.job_id}",
        "mimeType": job.answer["mimeType"],
        "uploadedAt": clocks.text(job.submitted_at),
        "associatedChecklistItemId": None,
    }


def document_row(job: SimulatedJob, word: str) -> dict[str, Any]:
    """A document as its lead's list shows it: the status is in the metadata, the extracted values are not here."""
    return {
        **uploaded(job),
        "externalId": job.answer["externalId"],
        "metadata": {"extractionStatus": word},
        "checklistMatches": [],
        "validationResults": [],
    }


def document(job: SimulatedJob, signature: str) -> dict[str, Any]:
    """One document by id: a fresh link, and no status at all."""
    return {**uploaded(job), "leadId": job.refs["lead_id"], "signedUrl": f"{FILES}{job.job_id}?signature={signature}"}


def action_row(job: SimulatedJob, word: str) -> dict[str, Any]:
    """An action log as its lead's list shows it."""
    return {
        "id": job.job_id,
        "type": ACTION_TYPES[job.modality],
        "status": word,
        "summary": job.answer["summary"] if job.finished else "In progress",
        "input": job.answer["input"],
        "output": job.answer["output"] if job.finished else None,
        "error": job.answer["error"] if job.finished else None,
        "parentActionId": None,
        "scheduledAt": None,
        "createdAt": clocks.text(job.submitted_at),
        "completedAt": ended(job),
        "tool": job.answer["tool"],
        "messages": job.answer["messages"],
    }


def written_row(row_id: str, kind: str, summary: str, at: float) -> dict[str, Any]:
    """An action log that was complete when it was written: an upload, a note, an activity."""
    return {
        "id": row_id,
        "type": kind,
        "status": "COMPLETED",
        "summary": summary,
        "input": {},
        "output": None,
        "error": None,
        "parentActionId": None,
        "scheduledAt": None,
        "createdAt": clocks.text(at),
        "completedAt": clocks.text(at),
        "tool": None,
        "messages": [],
    }


def action_event(job: SimulatedJob, job_id: str, word: str, workspace: str) -> dict[str, Any]:
    """`action_log.completed` or `action_log.failed`."""
    failed = word.lower() == "failed"
    action = {
        "id": job_id,
        "type": ACTION_TYPES[job.modality],
        "status": word,
        "leadId": job.refs["lead_id"],
        "summary": job.answer["summary"],
        "input": job.answer["input"],
        "output": job.answer["output"],
        "messages": job.answer["messages"],
        "completedAt": ended(job),
    }
    if failed:
        action |= {"error": job.answer["error"], "agentId": job.answer["agentId"], "tool": job.answer["tool"]}
    return {
        "event": f"action_log.{'failed' if failed else 'completed'}",
        "actionLog": action,
        "occurredAt": ended(job),
        "workspaceId": workspace,
    }


def received_event(job: SimulatedJob, workspace: str, revision: Revision) -> dict[str, Any]:
    """`document.received`; the signed link is put in when it is sent."""
    held: dict[str, Any] = {
        "id": job.job_id,
        "size": job.answer["size"],
        "leadId": job.refs["lead_id"],
        "filename": job.answer["filename"],
        "metadata": None,
        "mimeType": job.answer["mimeType"],
        "createdAt": clocks.text(job.submitted_at),
        "messageId": None,
        "signedUrl": "",
    }
    if revision != "oldest":
        held |= {"externalId": job.answer["externalId"], "externalLeadId": None}
    return {
        "event": "document.received",
        "document": held,
        "occurredAt": clocks.text(job.submitted_at),
        "workspaceId": workspace,
    }


def extracted_event(job: SimulatedJob, job_id: str, word: str, workspace: str, revision: Revision) -> dict[str, Any]:
    """`document.extracted` in one of its three revisions; it has no `occurredAt`."""
    items = [] if word.lower() == "failed" else job.answer["items"]
    body: dict[str, Any] = {
        "event": "document.extracted",
        "leadId": job.refs["lead_id"],
        "status": word,
        "documentId": job_id,
        "workspaceId": workspace,
        "parentActionId": job.answer["parentActionId"],
        "extractionResult": {"items": items, "extractedCount": len(items)},
    }
    if revision != "oldest":
        body |= {"externalLeadId": None, "externalId": job.answer["externalId"]}
    if revision == "newest":
        body |= {"summary": None, "type": "Bank Statement", "classification": {}}
    return body


def lead_event(name: str, lead: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """`lead.created`, `lead.updated` or `lead.completed`: no time, no workspace."""
    return {"event": name, "data": {"leadId": lead["id"], "externalId": lead["externalId"], **changed}}
