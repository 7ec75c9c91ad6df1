"""OmniAI (AI Lending): documents being extracted and an agent's action logs, both of one lead.

Facts and traps: providers.md section 3. What to remember: a failure is itself an event, and hides in one called
`document.extracted` (OA-4); the case of statuses changes between revisions (OA-3); `CANCELLED` has no event at all
(OA-5); `AWAITING_APPROVAL` waits for a person (OA-6); there is no read by id, only two lists a lead (3.3).
Pure: no I/O, no clock. It never logs, for bodies hold people's mail and a `signedUrl` is a credential (OA-7, OA-12).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from receiver import clock, jsontext
from receiver.providers import managing, signing
from receiver.providers.base import (
    Asking,
    Authentication,
    Finding,
    Question,
    RawRequest,
    Reading,
    Reply,
    Said,
    Submitted,
    Trouble,
    event_key,
    ordinary_trouble,
    segment,
    word,
)
from receiver.records import Job
from receiver.settings_base import Table
from receiver.states import Claim, Reason

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

DOCUMENT = "document"
_MODALITY = {"message": "message", "follow_up_message": "message", "tool_call": "tool_call"}
_ACTIONS = frozenset({*_MODALITY, "manual_update", "system_note", "document_upload", "api_activity"})
_CANCELLED = frozenset({"cancelled", "canceled"})
_PLACE = "In OmniAI open the workspace settings, then Webhooks"
_DOCUMENT_LISTS = ("documents", "data", "items", "results")
_ACTION_LISTS = ("actionLogs", "action_logs", "actions", "logs", "data", "items", "results")
_MORE = ("hasMore", "has_more", "next", "nextCursor", "next_cursor", "nextPage", "next_page")

Words = Annotated[tuple[str, ...], Field(strict=False)]


class Extras(Table):
    """Keys that only OmniAI sources have. Words are compared without regard to case."""

    completed_words: Words = ("completed",)
    """Statuses of a good end, for documents and action logs alike."""
    failed_words: Words = ("failed",)
    """Statuses of a bad end; `cancelled` always is one. Any other word means: still running."""


def _extras(source: "SourceSettings") -> Extras:
    return source.extras if isinstance(source.extras, Extras) else Extras()


def _claim(status: str | None, extras: Extras) -> tuple[Claim, Reason | None] | None:
    """What a status word means, or None for a word that means no end."""
    said = (status or "").lower()
    if said in {one.lower() for one in extras.completed_words}:
        return Claim.COMPLETED, None
    if said in _CANCELLED:
        return Claim.FAILED, Reason.CANCELLED
    if said in {one.lower() for one in extras.failed_words}:
        return Claim.FAILED, Reason.PROVIDER
    return None


def _modality(kind: str | None) -> str | None:
    """The modality of an action log's `type`; the set of types is open (3.3)."""
    return _MODALITY.get(kind.lower(), kind.lower()) if kind else None


def _lead(value: Any) -> dict[str, Any] | None:
    lead = jsontext.identifier(value)
    return {"lead_id": lead} if lead else None


def _read_action_log(event: str, document: dict[str, Any], extras: Extras) -> Reading:
    log = jsontext.at(document, "actionLog")
    job_id = jsontext.identifier(jsontext.at(log, "id"))
    if job_id is None:
        return Reading(event=event, problem="missing_action_log_id")
    status = word(jsontext.at(log, "status"))
    meant = _claim(status, extras)
    if event == "action_log.failed":  # whatever the word inside says, save that somebody cancelled it
        meant = meant if meant and meant[0] is Claim.FAILED else (Claim.FAILED, Reason.PROVIDER)
    claim, reason = meant or (Claim.COMPLETED, None)
    said = Said(
        job_id=job_id,
        claim=claim,
        reason=reason,
        status=status,
        result=log,
        modality=_modality(word(jsontext.at(log, "type"))),
        refs=_lead(jsontext.at(log, "leadId")),
    )
    return Reading(event=event, event_key=event_key(event, job_id, (status or "-").lower()), said=said)


def _read_extracted(event: str, document: dict[str, Any], extras: Extras) -> Reading:
    job_id = jsontext.identifier(document.get("documentId"))
    if job_id is None:
        return Reading(event=event, problem="missing_document_id")
    status = word(document.get("status"))
    parent = jsontext.identifier(document.get("parentActionId")) or "-"
    key = event_key(event, job_id, (status or "-").lower(), parent)
    meant = _claim(status, extras)
    if meant is None:  # the name promises no outcome (OA-4), so a word nobody knows is told, and decides nothing
        return Reading(event=event, event_key=key, passes_on=True)
    lead = _lead(document.get("leadId"))
    said = Said(job_id, meant[0], meant[1], status, result=document, modality=DOCUMENT, refs=lead)
    return Reading(event=event, event_key=key, said=said)


def _read_received(event: str, document: dict[str, Any], extras: Extras) -> Reading:
    received = jsontext.identifier(jsontext.at(document, "document", "id"))
    if received is None:
        return Reading(event=event, problem="missing_document_id")
    return Reading(event=event, event_key=event_key(event, received), passes_on=True)


def _read_lead(event: str, document: dict[str, Any], extras: Extras) -> Reading:
    lead = jsontext.identifier(jsontext.at(document, "data", "leadId"))
    if lead is None and event == "lead.completed":  # its fields are not documented (3.7)
        return Reading(event=event, passes_on=True)
    if lead is None:
        return Reading(event=event, problem="missing_lead_id")
    return Reading(event=event, event_key=event_key(event, lead), passes_on=True)


def _read_lead_updated(event: str, document: dict[str, Any], extras: Extras) -> Reading:
    """Equal updates are legitimate later, so they are one sending only inside an hour (3.10)."""
    lead = jsontext.identifier(jsontext.at(document, "data", "leadId"))
    if lead is None:
        return Reading(event=event, problem="missing_lead_id")
    canonical = json.dumps(document, sort_keys=True)  # a repeat need not keep the order of its fields
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = event_key(event, lead, digest)
    return Reading(event=event, event_key=key, key_window_s=3600.0, passes_on=True)


_EVENTS: Mapping[str, Callable[[str, dict[str, Any], Extras], Reading]] = {
    "action_log.completed": _read_action_log,
    "action_log.failed": _read_action_log,
    "document.extracted": _read_extracted,
    "document.received": _read_received,
    "lead.created": _read_lead,
    "lead.completed": _read_lead,
    "lead.updated": _read_lead_updated,
}


def _rows(reply: Reply, names: Sequence[str]) -> tuple[list[Any], bool] | None:
    """The rows of a list answer, bare or in an object (3.3), and whether they are all; None when there are none."""
    listed = reply.document()
    if isinstance(listed, list):
        return listed, True
    if not isinstance(listed, dict):
        return None
    arrays = [listed[name] for name in names if isinstance(listed.get(name), list)]
    if not arrays:  # the name of the array is not documented; rows are told by their being objects
        arrays = [each for each in listed.values() if isinstance(each, list) and each and isinstance(each[0], dict)]
    if not arrays:
        return None
    total = listed.get("total")
    short = isinstance(total, int) and total > len(arrays[0])
    return arrays[0], not (short or any(listed.get(name) for name in _MORE))


class _Listing:
    """One list of a lead, as the provider answered: its rows by id, and why it is not the whole list."""

    def __init__(self, reply: Reply | None, names: Sequence[str], label: str) -> None:
        gone = reply is not None and reply.status == 404  # the lead vanished, and all of its jobs with it
        read = ([], True) if gone else _rows(reply, names) if reply is not None else None
        rows, complete = read or ([], False)
        self.problem = None if complete else f"the list of {label} is not whole, and it is not in it"
        if read is None:
            self.problem = f"the list of {label} cannot be read"
        wait = reply.headers.get("retry-after") if reply is not None else None  # not documented; honoured
        self.wait_s = clock.retry_after_s(wait, reply.now) if reply is not None and wait is not None else None
        self.by_id: dict[str, dict[str, Any]] = {}
        for row in rows:
            identifier = jsontext.identifier(jsontext.at(row, "id"))
            if identifier is not None:
                self.by_id.setdefault(identifier, row)

    def row(self, job: Job) -> dict[str, Any] | None:
        return self.by_id.get(job.job_id) or (self.by_id.get(job.alias) if job.alias else None)


def _scheduled_later(row: dict[str, Any], now: float) -> bool:
    try:
        return clock.instant(jsontext.text_at(row, "scheduledAt") or "") > now
    except (ValueError, OverflowError):
        return False


def _finding(job: Job, row: dict[str, Any], is_document: bool, now: float, extras: Extras) -> Finding:
    """What a row says. An action log has its `status` at hand; a document's is `metadata.extractionStatus` (3.3)."""
    status = word(jsontext.at(row, "metadata", "extractionStatus") if is_document else row.get("status"))
    modality = DOCUMENT if is_document else _modality(word(row.get("type")))
    claim, reason = _claim(status, extras) or (Claim.RUNNING, None)
    waits = (status or "").lower() == "awaiting_approval" or _scheduled_later(row, now)
    freezes = claim is Claim.RUNNING and waits
    return Finding(job.job_id, claim, reason, status, result=row, modality=modality, freezes=freezes)


def _may_be_document(job: Job) -> bool:
    return (job.modality or "").lower() not in _ACTIONS


def _may_be_action(job: Job) -> bool:
    return (job.modality or "").lower() != DOCUMENT


def _found(job: Job, documents: _Listing | None, actions: _Listing | None, now: float, extras: Extras) -> Finding:
    """What the lists of its lead say of a job. Absent from a whole list is missing; from a part of one, nothing."""
    looked = [documents] if documents is not None and _may_be_document(job) else []
    looked += [actions] if actions is not None and _may_be_action(job) else []
    for listing in looked:
        row = listing.row(job)
        if row is not None:
            found = _finding(job, row, listing is documents, now, extras)
            return replace(found, retry_after_s=listing.wait_s) if found.claim is Claim.RUNNING else found
    problem = next((listing.problem for listing in looked if listing.problem), None)
    return Finding(job.job_id, problem=problem) if problem else Finding(job.job_id, missing=True)


class OmniAI:
    """The adapter."""

    name = "omniai"
    Settings: type[BaseModel] = Extras
    default_base_url: str | None = "https://api-v2.getomni.ai"
    signed = True
    needs_secret_header = True
    """It does not say which header carries the secret, so a `secret` alone could check nothing."""
    retries = True
    ack_budget_s = 4.0
    """The provider waits 5 s (3.9)."""
    polls_per_min = 60.0
    default_timeouts: Mapping[str, tuple[float, float]] = {
        DOCUMENT: (120.0, 900.0),
        "tool_call": (300.0, 900.0),
        "message": (300.0, 1800.0),
    }
    key_horizon_s = 86400.0
    """At most three retries, the first after a minute, widening by an unknown factor (3.9): a day is ample."""
    lists = False
    request_refs: Mapping[str, str] = {"leadId": "lead_id"}
    """An upload names its lead in the form, and its answer does not (3.2)."""
    probe_path = "/api/v1/leads/00000000-0000-0000-0000-000000000000/documents"
    """Nobody's lead: whether the key is taken can be asked of it."""

    def authenticate(self, request: RawRequest, source: "SourceSettings", now: float) -> Authentication:
        """`secret_header` and `secret_mode`: the header's name is not documented and must be configured (OA-2)."""
        return signing.check_configured_secret(request, source)

    def read(self, request: RawRequest, document: dict[str, Any], source: "SourceSettings") -> Reading:
        """Every event has `event`; the rest is not a common envelope (3.7). Unknown events are told as they are."""
        event = word(document.get("event"))
        if event is None:
            return Reading(problem="missing_event")
        known = _EVENTS.get(event)
        return known(event, document, _extras(source)) if known else Reading(event=event, passes_on=True)

    def auth_headers(self, source: "SourceSettings") -> dict[str, str]:
        return {"x-api-key": source.api_key.current} if source.api_key is not None else {}

    def cannot_ask(self, job: Job, source: "SourceSettings") -> str | None:
        if source.api_key is None:
            return "no api_key is configured"
        if jsontext.identifier(jsontext.at(job.refs, "lead_id")) is None:
            return "no refs.lead_id: OmniAI can be asked about a lead only"
        return None

    def ask(self, jobs: Sequence[Job], source: "SourceSettings", now: float) -> Asking:
        """Two reads a lead settle all of its jobs; one of them is spared when no job is of its kind (3.4)."""
        by_lead: dict[str, list[Job]] = {}
        for job in jobs:
            lead = jsontext.identifier(jsontext.at(job.refs, "lead_id"))
            if lead is None:
                yield Finding(job.job_id, problem=self.cannot_ask(job, source))
            else:
                by_lead.setdefault(lead, []).append(job)
        for lead, group in by_lead.items():
            yield from self._ask_lead(lead, group, now, _extras(source))

    def _ask_lead(self, lead: str, group: Sequence[Job], now: float, extras: Extras) -> Asking:
        documents = actions = None
        if any(_may_be_document(job) for job in group):
            about = tuple(job.job_id for job in group)
            reply = yield Question(path=f"/api/v1/leads/{segment(lead)}/documents", about=about)
            documents = _Listing(reply, _DOCUMENT_LISTS, "documents")
        rest: list[Job] = []
        for job in group:
            if documents is not None and _may_be_document(job) and documents.row(job) is not None:
                yield _found(job, documents, None, now, extras)  # at once: the next read may be in trouble
            else:
                rest.append(job)
        if any(_may_be_action(job) for job in rest):
            about = tuple(job.job_id for job in rest)
            reply = yield Question(path=f"/api/v1/leads/{segment(lead)}/action-logs", about=about)
            actions = _Listing(reply, _ACTION_LISTS, "action logs")
        for job in rest:
            yield _found(job, documents, actions, now, extras)

    def classify(self, reply: Reply) -> Trouble | None:
        return ordinary_trouble(reply)

    def submitted(self, method: str, path: str, document: Any, source: "SourceSettings") -> list[Submitted]:
        """An upload tells of its documents (3.2). Its `actionLogId` is another job, and not their alias."""
        listed = jsontext.at(document, "documents")
        uploads = method.upper() == "POST" and path.partition("?")[0].strip("/") == "api/v1/documents"
        if not uploads or not isinstance(listed, list):
            return []
        refs = _lead(jsontext.at(document, "leadId"))
        found = (jsontext.identifier(jsontext.at(row, "id")) for row in listed)
        return [Submitted(job_id, DOCUMENT, refs=refs) for job_id in found if job_id]

    def manage_setup(self, source: "SourceSettings", hook_url: str) -> managing.Managing:
        """Webhooks are created in the settings page alone; paths of an API are not documented (3.11)."""
        url = f"URL: {managing.shown_url(hook_url)} (with the path token in place of the stars)"
        return managing.by_hand(f"{_PLACE}, and create a webhook.", url, "Select all events; enter `secret`, if any.")

    def manage_rotate(self, source: "SourceSettings") -> managing.Managing:
        return managing.by_hand(
            "Put the new secret in front of the old one in the source's `secret` list, and restart.",
            f"{_PLACE}, and change the webhook's secret.",
            "Remove the old secret after a day.",
        )

    def manage_test(self, source: "SourceSettings") -> managing.Managing:
        return managing.by_hand(f"{_PLACE}, and press the test button.")


PROVIDER = OmniAI()
