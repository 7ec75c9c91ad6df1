"""OmniFence, simulated: moderation jobs, one webhook each, never repeated and never signed (providers.md, section 1).

Owns the paths, words, error codes and payloads. Where the public documentation is silent the choice is an option with
the documented assumption as its default: no webhook for a failed job, no Retry-After on 429, a list without verdict
details. The webhook body carries no `type`, as in the vendor's samples.
"""

import ipaddress
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.simulator.base import Plan, SimulatedJob, Simulator, UnusableError, Webhook
from holdfast.simulator.gate import Handler, Kind
from holdfast.simulator.sender import SendPolicy
from receiver import clock as clocks

CODES = {
    400: ("INVALID_REQUEST", "The request is not valid."),
    401: ("UNAUTHORIZED", "The API key is missing, invalid or disabled."),
    402: ("PAYMENT_REQUIRED", "The account has no credit left."),
    403: ("FORBIDDEN", "The API key lacks the scope for this endpoint."),
    404: ("JOB_NOT_FOUND", "No such job in this account."),
    405: ("INVALID_REQUEST", "The method is not allowed here."),
    429: ("RATE_LIMITED", "Too many requests."),
    500: ("INTERNAL_ERROR", "Something went wrong."),
    503: ("SERVICE_UNAVAILABLE", "A dependency is not available."),
}
STATUSES = ("queued", "processing", "completed", "failed")
FIELD = {"prompt": "prompt", "image": "image_url", "video": "video_url", "chat": "messages"}
"""The form field each modality needs; that of chat is an assumption, its page shows none."""
ERROR_CODES = ("DOWNLOAD_FAILED", "MODEL_TIMEOUT", "UNSUPPORTED_MEDIA")
MAX_LIMIT = 100
DEFAULT_LIMIT = 50


class OmniFence(Simulator):
    """`POST /api/v1/moderate/{prompt,image,video,chat}`, `GET /api/v1/job/{id}`, `GET /api/v1/jobs`, and the rest."""

    name: ClassVar[str] = "omnifence"
    modalities: ClassVar[tuple[str, ...]] = ("prompt", "image", "video", "chat")
    policy: ClassVar[SendPolicy] = SendPolicy(timeout_s=10.0)
    quota_per_min: ClassVar[int | None] = 60

    @dataclass(frozen=True, slots=True)
    class Options:
        """What the documentation leaves open, and what an account may have switched on."""

        webhook_on_failed: bool = False
        """Whether a failed job is announced; no page says so."""
        enabled: tuple[str, ...] = ("ai_adult_general", "underage", "nsfw")
        """Built-in categories the client has switched on; a missing key means not checked."""
        list_has_status: bool = True
        """Whether list items carry `type` and `status`; the vendor's sample lacks them, its schema requires them."""
        forbidden_code: Literal["FORBIDDEN", "ACCOUNT_TERMINATED"] = "FORBIDDEN"
        prohibited_share: float = 0.3

    def endpoints(self) -> list[tuple[str, str, Kind, Handler]]:
        """See the class."""
        return [
            ("POST", "/api/v1/moderate/{modality}", "submit", self._moderate),
            ("GET", "/api/v1/job/{job_id}", "read", self._job),
            ("GET", "/api/v1/jobs", "read", self._list),
            ("POST", "/api/v1/webhook/register", "manage", self._register),
        ]

    def unguarded(self) -> list[Route]:
        """The health check needs no key and costs no quota."""

        async def health(request: Request) -> Response:
            return JSONResponse({"status": "ok"})

        return [Route("/health", health)]

    def error(self, status: int, message: str = "", code: str | None = None) -> Response:
        """`{"error", "message", "statusCode"}`."""
        known, says = CODES.get(status, ("INTERNAL_ERROR", "Something went wrong."))
        if status == 403:
            known = self.options.forbidden_code
        return JSONResponse({"error": code or known, "message": message or says, "statusCode": status}, status)

    # -- jobs ---------------------------------------------------------------------------------------------------

    def plan(self, number: int, modality: str, fields: Mapping[str, Any], rng: random.Random) -> Plan:
        """A verdict for the content, or a failure before one."""
        job_id = self.new_id(rng)
        failed, prohibited = self.fails(rng), rng.random() < self.options.prohibited_share
        error_code, flagged = rng.choice(ERROR_CODES), rng.randrange(3)
        answer: dict[str, Any] = {
            "job_id": job_id,
            "type": modality,
            "status": "failed" if failed else "completed",
            "is_prohibited": None if failed else prohibited,
            "categories": {"custom": {}} if failed else self._categories(modality, prohibited, flagged),
        }
        if failed:
            answer["error_code"] = error_code
        elif prohibited and modality == "prompt":
            answer["reason"] = f"Breaks house rule {number % 7 + 1}."
        return Plan(
            job_id=job_id,
            state="failed" if failed else "completed",
            reason="provider" if failed else None,
            word="failed" if failed else "completed",
            answer=answer,
            facts={"job_id": job_id, "is_prohibited": answer["is_prohibited"]},
        )

    def _categories(self, modality: str, prohibited: bool, flagged: int) -> dict[str, Any]:
        categories: dict[str, Any] = {"custom": {}}
        if modality in ("image", "video"):
            for index, name in enumerate(self.options.enabled):
                categories[name] = prohibited and index == flagged % max(1, len(self.options.enabled))
        return categories

    def announcements(self, job: SimulatedJob) -> list[Webhook]:
        """One bare result without envelope, event name or type; none for a failure unless switched on."""
        if job.state_at_end == "failed" and not self.options.webhook_on_failed:
            return []
        body = {key: value for key, value in job.answer.items() if key not in ("type",)}
        body["completed_at"] = self.ended(job)
        wrong = {**body, "job_id": self.new_id(random.Random(f"{self.seed}:{job.job_id}:wrong"))}
        return [Webhook("job", body, job, wrong=wrong)]

    def forgery(self, job: SimulatedJob, made_up: str | None) -> Webhook:
        """A clean bill for content that has none, or the other way round."""
        body = {
            "job_id": made_up or job.job_id,
            "status": "completed",
            "is_prohibited": not job.answer["is_prohibited"],
            "categories": {"custom": {}},
            "completed_at": self.text(self.clock.now()),
        }
        return Webhook("job", body, job, forged=True)

    # -- endpoints ----------------------------------------------------------------------------------------------

    async def _moderate(self, request: Request) -> Response:
        modality = request.path_params["modality"]
        if modality not in self.modalities:
            return self.error(404, "No such endpoint.", "NOT_FOUND")
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return self.error(400, "The body must be multipart/form-data.")
        async with request.form() as form:
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
        content = fields.get(FIELD[modality], "")
        if not content:
            return self.error(400, f"The field {FIELD[modality]!r} is required.")
        if modality in ("image", "video") and not _public(content):
            return self.error(400, f"{FIELD[modality]} must be a public http or https URL.")
        try:
            job = await self.submit(modality, fields)
        except UnusableError as error:
            return self.error(400, str(error))
        return JSONResponse({"job_id": job.job_id, "status": "queued"}, 202)

    async def _job(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["job_id"])
        return self.error(404) if job is None else JSONResponse(self._shown(job))

    async def _list(self, request: Request) -> Response:
        try:
            keep, limit, offset = self._filters(request)
        except ValueError as error:
            return self.error(400, str(error))
        found = [job for job in reversed(self.jobs.values()) if keep(job)]
        names: tuple[str, ...] = ("job_id", "type", "status", "is_prohibited", "created_at", "completed_at")
        if not self.options.list_has_status:
            names = ("job_id", "is_prohibited", "created_at", "completed_at")
        jobs = [{name: self._shown(job)[name] for name in names} for job in found[offset : offset + limit]]
        return JSONResponse({"jobs": jobs, "total": len(found), "limit": limit, "offset": offset})

    async def _register(self, request: Request) -> Response:
        try:
            url = (await request.json())["url"]
        except (ValueError, KeyError, TypeError):
            url = None
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            return self.error(400, "url must be an http or https URL.")
        self.webhook_url = url
        return JSONResponse({"url": url})

    def _shown(self, job: SimulatedJob) -> dict[str, Any]:
        created, completed = self.text(job.submitted_at), self.ended(job)
        if job.finished:
            return {**job.answer, "created_at": created, "completed_at": completed}
        return {
            "job_id": job.job_id,
            "type": job.modality,
            "status": job.status,
            "is_prohibited": None,
            "categories": {"custom": {}},
            "created_at": created,
            "completed_at": None,
        }

    def _filters(self, request: Request) -> tuple["_Keep", int, int]:
        """Read the list's query. Raises ValueError with the message of the 400."""
        query = request.query_params
        statuses = [word.strip() for word in query.get("status", "").split(",") if word.strip()]
        for word in statuses:
            if word not in STATUSES:
                raise ValueError(f"Unknown status {word!r}.")
        if query.get("decision", "pass") not in ("pass", "reject"):
            raise ValueError("decision must be pass or reject.")
        limit = _number(query.get("limit"), "limit", DEFAULT_LIMIT)
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit must be between 1 and {MAX_LIMIT}.")
        keep = _Keep(
            statuses=frozenset(statuses),
            type=query.get("type"),
            decision=query.get("decision"),
            search=query.get("search", ""),
            since=clocks.instant(query["from"]) if "from" in query else None,
            until=clocks.instant(query["to"]) if "to" in query else None,
        )
        return keep, limit, _number(query.get("offset"), "offset", 0)


@dataclass(frozen=True, slots=True)
class _Keep:
    """The list's filters; `since` is inclusive, `until` is not, both on the time of creation."""

    statuses: frozenset[str]
    type: str | None
    decision: str | None
    search: str
    since: float | None
    until: float | None

    def __call__(self, job: SimulatedJob) -> bool:
        verdict = job.answer["is_prohibited"] if job.finished else None
        created = round(job.submitted_at, 3)  # what the caller was shown, so `from` may be a created_at
        return (
            (not self.statuses or job.status in self.statuses)
            and self.type in (None, job.modality)
            and (self.decision is None or verdict is (self.decision == "reject"))
            and job.job_id.startswith(self.search)
            and (self.since is None or created >= self.since)
            and (self.until is None or created < self.until)
        )


def _number(written: str | None, name: str, default: int) -> int:
    if written is None:
        return default
    if not (written.isascii() and written.isdigit() and len(written) < 10):
        raise ValueError(f"{name} must be a number.")
    return int(written)


def _public(url: str) -> bool:
    """Whether a media URL is one the provider would fetch: http or https, and not on a private network."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host or host == "localhost":
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return True  # a name; the simulator resolves nothing
