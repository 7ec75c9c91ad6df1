"""OmniAI (AI Lending), simulated: documents being extracted and an agent's action logs, all read by lead.

providers.md section 3. Owns the paths, the revisions of the events, the drift in the spelling of statuses, and the
ends that are told to nobody. Undocumented and chosen here: the shape of errors and of a created lead, the header of
the secret, extraction statuses other than `completed`, `PATCH /api/v1/leads/{id}` as what causes lead events, and that
`parentActionId` is the upload's `actionLogId`. The agent starts actions by itself: submit `tool_call` and `message`
at the control desk; a client can only upload documents.
"""

import hashlib
import hmac
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from holdfast.simulator import _omniai_shapes as shapes
from holdfast.simulator.base import Plan, SimulatedJob, Simulator, Webhook
from holdfast.simulator.gate import Handler, Kind
from holdfast.simulator.sender import SendPolicy

MOST_FILES = 10
LEAD_FIELDS = ("firstName", "middleName", "lastName", "phoneNumber", "email", "businessName", "website", "source")
MESSAGES = {400: "Invalid parameters", 401: "Invalid API key", 404: "Not found", 429: "Too many requests"}


class OmniAI(Simulator):
    """`POST /api/v1/documents`, the lists of a lead, single documents, leads, activities."""

    name: ClassVar[str] = "omniai"
    modalities: ClassVar[tuple[str, ...]] = ("document", "tool_call", "message")
    policy: ClassVar[SendPolicy] = SendPolicy(timeout_s=5.0, waits_s=(60.0, 120.0), only_200=True)

    @dataclass(frozen=True, slots=True)
    class Options:
        """What the documentation leaves open or says in several ways."""

        revision: Literal["oldest", "middle", "newest", "mixed"] = "mixed"
        """Of `document.extracted`: only the newest tells of a failed extraction, the middle one shouts."""
        status_case: Literal["documented", "lower", "upper", "mixed"] = "documented"
        secret_header: str = "X-Webhook-Secret"  # noqa: S105 - a header's name
        secret_mode: Literal["equals", "hmac_sha256_hex"] = "equals"  # noqa: S105 - a way to use one
        wrapped_lists: bool = False
        """Whether lists come as an object with a named array, as described, or bare, as in the samples."""
        cancelled_share: float = 0.3
        """Share of the failing actions that are cancelled instead, which no event tells."""
        approval_share: float = 0.2
        """Share of tool calls that wait for a person's approval until they end."""
        leads: int = 5
        """How many leads the jobs are spread over that name none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As every simulator."""
        super().__init__(*args, **kwargs)
        self._leads: dict[str, dict[str, Any]] = {}
        self._written: dict[str, list[dict[str, Any]]] = {}
        self._made = 0

    def endpoints(self) -> list[tuple[str, str, Kind, Handler]]:
        """See the class."""
        return [
            ("POST", "/api/v1/documents", "submit", self._upload),
            ("GET", "/api/v1/documents/{document_id}", "read", self._document),
            ("GET", "/api/v1/leads/{lead_id}/documents", "read", self._documents),
            ("GET", "/api/v1/leads/{lead_id}/action-logs", "read", self._action_logs),
            ("POST", "/api/v1/leads", "manage", self._create_lead),
            ("GET", "/api/v1/leads/{lead_id}", "read", self._lead),
            ("PATCH", "/api/v1/leads/{lead_id}", "manage", self._change_lead),
            ("POST", "/api/v1/activity", "manage", self._activity),
        ]

    def refusal(self, request: Request) -> Response | None:
        """The key is in `x-api-key`."""
        key = request.headers.get("x-api-key", "")
        return None if self.takes(key) else self.error(401)

    def error(self, status: int, message: str = "", code: str | None = None) -> Response:
        """The shape is undocumented."""
        says = message or MESSAGES.get(status, "Server error")
        return JSONResponse({"success": False, "error": code or says}, status)

    # -- jobs ---------------------------------------------------------------------------------------------------

    @property
    def workspace(self) -> str:
        """The workspace every event names."""
        return self.new_id(random.Random(f"{self.seed}:{self.label}:workspace"))

    def plan(self, number: int, modality: str, fields: Mapping[str, Any], rng: random.Random) -> Plan:
        """A document or an action of a lead, drawn from the pool unless `lead_id` names one."""
        job_id, failed = self.new_id(rng), self.fails(rng)
        pool = self.new_id(random.Random(f"{self.seed}:{self.label}:lead:{rng.randrange(max(1, self.options.leads))}"))
        lead = str(fields.get("lead_id") or pool)
        self._leads.setdefault(lead, {"id": lead, "externalId": None})
        cancelled = failed and modality != "document" and rng.random() < self.options.cancelled_share
        waits = modality == "tool_call" and rng.random() < self.options.approval_share
        extracted, parent = rng.randrange(1, 5), self.new_id(rng)
        word = "cancelled" if cancelled else "failed" if failed else "completed"
        document = modality == "document"
        answer = (
            _document_answer(number, extracted, str(fields.get("action_log_id") or parent), fields)
            if document
            else _action_answer(number, word, parent)
        )
        facts: dict[str, Any] = {"summary": answer["summary"]} if not document else {"documentId": job_id}
        if document and not failed:
            facts["extractedCount"] = extracted
        return Plan(
            job_id=job_id,
            state="failed" if failed else "completed",
            reason="cancelled" if cancelled else "provider" if failed else None,
            word=word if document else word.upper(),
            first_word="pending" if document else "PENDING",
            running_word="processing" if document else "AWAITING_APPROVAL" if waits else "PENDING",
            answer=answer,
            facts=facts,
            refs={"lead_id": lead},
        )

    def _cased(self, job: SimulatedJob, word: str) -> str:
        style = self.options.status_case
        if style == "mixed":
            style = ("documented", "lower", "upper")[job.number % 3]
        return {"documented": word, "lower": word.lower(), "upper": word.upper()}[style]

    def _revision(self, job: SimulatedJob) -> shapes.Revision:
        wanted = self.options.revision
        return shapes.REVISIONS[job.number % 3] if wanted == "mixed" else wanted

    def beginnings(self, job: SimulatedJob) -> list[Webhook]:
        """A document is told of when it arrives; that is no outcome."""
        if job.modality != "document":
            return []
        body = shapes.received_event(job, self.workspace, self._revision(job))
        return [Webhook("document.received", body, job)]

    def announcements(self, job: SimulatedJob) -> list[Webhook]:
        """Silent ends: a cancelled action, and a failed extraction in the older revisions."""
        silent = job.modality == "document" and self._revision(job) != "newest" and job.state_at_end == "failed"
        if silent or job.reason_at_end == "cancelled":
            return []
        wrong = self.new_id(random.Random(f"{self.seed}:{job.job_id}:wrong"))
        body = self._told(job, job.job_id, job.word_at_end)
        return [Webhook(body["event"], body, job, wrong=self._told(job, wrong, job.word_at_end))]

    def _told(self, job: SimulatedJob, job_id: str, word: str) -> dict[str, Any]:
        if job.modality != "document":
            return shapes.action_event(job, job_id, self._cased(job, word), self.workspace)
        revision = self._revision(job)
        spelled = word.upper() if revision == "middle" else word
        return shapes.extracted_event(job, job_id, self._cased(job, spelled), self.workspace, revision)

    def forgery(self, job: SimulatedJob, made_up: str | None) -> Webhook:
        """The right shape with a wrong secret, where there is one."""
        word = "completed" if job.state_at_end == "failed" else "failed"
        body = self._told(job, made_up or job.job_id, word if job.modality == "document" else word.upper())
        return Webhook(body["event"], body, job, forged=True)

    def encode(self, webhook: Webhook, body: dict[str, Any], attempt: int) -> bytes:
        """The signed link of a document is another one in every attempt."""
        if body.get("event") == "document.received":
            link = f"{shapes.FILES}{body['document']['id']}?signature={webhook.delivery_id[:8]}{attempt}"
            body = {**body, "document": {**body["document"], "signedUrl": link}}
        return json.dumps(body, separators=(",", ":")).encode()

    def headers(self, webhook: Webhook, raw: bytes, at: float) -> dict[str, str]:
        """The secret itself, or an HMAC with it, if there is one."""
        headers, secret = {"Content-Type": "application/json"}, self.settings.webhook_secret
        if secret is None:
            return headers
        if webhook.forged:
            secret = "not the secret"  # noqa: S105 - a forger's guess
        if self.options.secret_mode == "hmac_sha256_hex":  # noqa: S105 - a way to use one
            secret = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
        return {**headers, self.options.secret_header: secret}

    # -- endpoints ----------------------------------------------------------------------------------------------

    async def _upload(self, request: Request) -> Response:
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return self.error(400, "The body must be multipart/form-data")
        async with request.form() as form:
            lead = form.get("leadId")
            files = [(one.filename or "file", one.size or 0, one.content_type) for one in form.getlist("files")
                     if isinstance(one, UploadFile)]  # fmt: skip
            told = form.get("metadata")
        try:
            metadata = json.loads(told) if isinstance(told, str) else []
        except ValueError:
            return self.error(400, "metadata must be JSON")
        if not isinstance(lead, str) or not lead or not 1 <= len(files) <= MOST_FILES:
            return self.error(400, f"leadId and 1 to {MOST_FILES} files are required")
        log = self._write(lead, "DOCUMENT_UPLOAD", f"Uploaded {len(files)} files")
        self._write(lead, "SYSTEM_NOTE", "Documents received")
        jobs = []
        for index, (filename, size, kind) in enumerate(files):
            own = metadata[index] if isinstance(metadata, list) and index < len(metadata) else {}
            external = own.get("externalId") if isinstance(own, dict) else None
            fields = {"filename": filename, "size": size, "mime_type": kind, "external_id": external}
            jobs.append(await self.submit("document", {**fields, "lead_id": lead, "action_log_id": log}))
        documents = [shapes.uploaded(job) for job in jobs]
        return JSONResponse({"success": True, "documents": documents, "actionLogId": log})

    def _write(self, lead: str, kind: str, summary: str) -> str:
        self._made += 1
        row_id = self.new_id(random.Random(f"{self.seed}:{self.label}:written:{self._made}"))
        self._leads.setdefault(lead, {"id": lead, "externalId": None})
        rows = self._written.setdefault(lead, [])
        rows.append(shapes.written_row(row_id, kind, summary, self.clock.now()))
        return row_id

    def _of(self, request: Request, *, documents: bool) -> list[SimulatedJob] | None:
        lead = request.path_params["lead_id"]
        if lead not in self._leads:
            return None
        return [job for job in self.jobs.values()
                if job.refs["lead_id"] == lead and (job.modality == "document") == documents]  # fmt: skip

    async def _documents(self, request: Request) -> Response:
        jobs = self._of(request, documents=True)
        if jobs is None:
            return self.error(404)
        rows = [shapes.document_row(job, self._cased(job, job.status)) for job in jobs]
        return JSONResponse({"documents": rows} if self.options.wrapped_lists else rows)

    async def _action_logs(self, request: Request) -> Response:
        jobs = self._of(request, documents=False)
        if jobs is None:
            return self.error(404)
        rows = [shapes.action_row(job, self._cased(job, job.status)) for job in jobs]
        rows += self._written.get(request.path_params["lead_id"], [])
        return JSONResponse({"actionLogs": rows} if self.options.wrapped_lists else rows)

    async def _document(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["document_id"])
        if job is None or job.modality != "document":
            return self.error(404)
        return JSONResponse(shapes.document(job, f"{self.clock.now():.0f}"))

    async def _lead(self, request: Request) -> Response:
        lead = self._leads.get(request.path_params["lead_id"])
        if lead is None:
            return self.error(404)
        return JSONResponse({"status": "IN_PROGRESS", **lead})

    async def _create_lead(self, request: Request) -> Response:
        asked = await _object(request)
        if asked is None:
            return self.error(400)
        self._made += 1
        lead_id = self.new_id(random.Random(f"{self.seed}:{self.label}:written:{self._made}"))
        given = {name: asked.get(name) for name in LEAD_FIELDS}
        lead = self._leads[lead_id] = {"id": lead_id, "externalId": asked.get("externalLeadId"), **given}
        self.announce(Webhook("lead.created", shapes.lead_event("lead.created", lead, given), None))
        return JSONResponse({"success": True, "leadId": lead_id})

    async def _change_lead(self, request: Request) -> Response:
        asked, lead = await _object(request), self._leads.get(request.path_params["lead_id"])
        if asked is None or lead is None:
            return self.error(400 if asked is None else 404)
        lead.update(asked)
        name = "lead.completed" if asked.get("status") == "COMPLETED" else "lead.updated"
        self.announce(Webhook(name, shapes.lead_event(name, lead, asked), None))
        return JSONResponse({"success": True})

    async def _activity(self, request: Request) -> Response:
        asked = await _object(request)
        if asked is None or not isinstance(asked.get("leadId"), str):
            return self.error(400, "leadId is required")
        log = self._write(asked["leadId"], "API_ACTIVITY", str(asked.get("summary", "Activity")))
        return JSONResponse({"success": True, "actionLogId": log})


async def _object(request: Request) -> dict[str, Any] | None:
    try:
        asked = await request.json()
    except ValueError:
        return None
    return asked if isinstance(asked, dict) else None


def _document_answer(number: int, extracted: int, parent: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    items = [
        {"label": f"Field {place}", "value": f"{number}-{place}", "leadChecklistItemId": f"item-{place}"}
        for place in range(extracted)
    ]
    return {
        "filename": fields.get("filename") or f"statement-{number}.pdf",
        "size": fields.get("size") or 20_480,
        "mimeType": fields.get("mime_type") or "application/pdf",
        "externalId": fields.get("external_id"),
        "parentActionId": parent,
        "items": items,
    }


def _action_answer(number: int, word: str, agent: str) -> dict[str, Any]:
    failed = word == "failed"
    return {
        "summary": f"Action {number} {word}",
        "input": {"query": f"question {number}"},
        "output": None if failed else {"found": number},
        "error": "upstream timeout" if failed else None,
        "agentId": agent,
        "tool": {"id": f"tool_{number % 3}", "name": "lookup"},
        "messages": [],
    }
