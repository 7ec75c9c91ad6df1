"""Omnist, simulated: monitor runs and backfills, signed webhooks with five attempts, and a delivery log to compare.

providers.md section 4. Owns the paths of monitors, the words of statuses and the events. Undocumented and chosen here,
as there: event names and bodies, status words (a mix of likely ones), answers beyond `task_id`, the details of the
signature. Ids are spelled `evt_`/`del_` in headers and `event_`/`delivery_` in the API.
"""

import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from holdfast.simulator import _omnist_webhooks as webhooks
from holdfast.simulator._omnist_desk import Desk, json_object
from holdfast.simulator.base import Plan, SimulatedJob, Simulator, UnusableError, Webhook, bearer
from holdfast.simulator.gate import Handler, Kind
from holdfast.simulator.sender import SendPolicy

SLUGS = {
    400: ("invalid_request", "The request is not valid."),
    401: ("unauthorized", "The API key is missing or invalid."),
    403: ("forbidden", "This key may not do that."),
    404: ("not_found", "Not found."),
    429: ("rate_limited", "Too many requests."),
}
MAX_LIMIT = 100
DEFAULT_LIMIT = 20
ID_KEY = {"run": "run_id", "backfill": "task_id"}
PREFIX = {"run": "run_", "backfill": "task_"}


class Omnist(Simulator):
    """Monitors with runs, backfills and results under `/v1/monitors`, webhook management under `/v1/webhooks`."""

    name: ClassVar[str] = "omnist"
    modalities: ClassVar[tuple[str, ...]] = ("run", "backfill")
    running_word: ClassVar[str] = "running"
    policy: ClassVar[SendPolicy] = SendPolicy(timeout_s=5.0, waits_s=(300.0, 3600.0, 10800.0, 86400.0))
    retry_after = "seconds"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What the documentation leaves open or says in two ways."""

        auth: Literal["both", "bearer", "x-api-key"] = "both"
        sign_format: webhooks.SignFormat = "dot"
        key_form: webhooks.KeyForm = "full"
        signed_at: Literal["attempt", "event"] = "attempt"
        """What `t` is the time of; with `event` every late retry looks stale."""
        overlap_s: float = 0.0
        """How long a replaced secret signs beside the new one."""
        webhook_on_failed: bool = True
        success_words: tuple[str, ...] = ("succeeded", "completed", "DONE")
        failure_words: tuple[str, ...] = ("failed", "error", "cancelled")
        monitors: int = 3
        """How many monitors there are from the start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As every simulator."""
        super().__init__(*args, **kwargs)
        self.target = webhooks.Target(f"{self.seed}:{self.name}", self.settings.webhook_secret)
        self._monitors: dict[str, dict[str, Any]] = {}
        for number in range(1, self.options.monitors + 1):
            self._new_monitor(f"Monitor {number}")

    def endpoints(self) -> list[tuple[str, str, Kind, Handler]]:
        """See the class."""
        monitor = "/v1/monitors/{monitor_id}"
        return [
            ("POST", "/v1/monitors", "manage", self._create),
            ("GET", "/v1/monitors", "read", self._list_monitors),
            ("POST", f"{monitor}/run", "submit", self._starting("run")),
            ("POST", f"{monitor}/backfills", "submit", self._starting("backfill")),
            ("GET", f"{monitor}/backfills", "read", self._listing("backfill")),
            ("GET", f"{monitor}/runs", "read", self._listing("run")),
            ("GET", f"{monitor}/backfills/{{task_id}}", "read", self._backfill),
            ("GET", f"{monitor}/results", "read", self._results),
            *Desk(self).endpoints(),
        ]

    def refusal(self, request: Request) -> Response | None:
        """A bearer token or `x-api-key: om_sk_…`: the two forms the documentation gives."""
        form, key = self.options.auth, request.headers.get("x-api-key", "")
        token = bearer(request)
        by_header = form != "bearer" and key.startswith("om_sk_") and self.takes(key)
        by_token = form != "x-api-key" and token is not None and self.takes(token)
        return None if by_header or by_token else self.error(401)

    def error(self, status: int, message: str = "", code: str | None = None) -> Response:
        """`{"error", "message", "meta": {"request_id"}}`."""
        slug, says = SLUGS.get(status, ("internal_error", "Something went wrong."))
        request_id = f"req_{secrets.token_hex(8)}"
        body = {"error": code or slug, "message": message or says, "meta": {"request_id": request_id}}
        return JSONResponse(body, status, {"x-request-id": request_id})

    def decorate(self, response: Response) -> Response:
        """Every answer has an id."""
        response.headers.setdefault("x-request-id", f"req_{secrets.token_hex(8)}")
        return response

    def new_id(self, rng: random.Random) -> str:
        """Hex without a prefix; who shows it puts one in front."""
        return f"{rng.getrandbits(80):020x}"

    # -- jobs ---------------------------------------------------------------------------------------------------

    def plan(self, number: int, modality: str, fields: Mapping[str, Any], rng: random.Random) -> Plan:
        """A run or backfill of the monitor `monitor_id`, or of one drawn."""
        job_id, failed = PREFIX[modality] + self.new_id(rng), self.fails(rng)
        drawn = rng.choice(list(self._monitors)) if self._monitors else None
        monitor = fields.get("monitor_id") or drawn
        if monitor not in self._monitors:
            raise UnusableError(f"no monitor {monitor!r}")
        word = rng.choice(self.options.failure_words if failed else self.options.success_words)
        count = 0 if failed else rng.randrange(1, 1000)
        return Plan(
            job_id=job_id,
            state="failed" if failed else "completed",
            reason=None if not failed else "cancelled" if word.lower().startswith("cancel") else "provider",
            word=word,
            answer={"result_count": count},
            facts={"result_count": count},
            refs={"monitor_id": str(monitor)},
        )

    def _row(self, job: SimulatedJob) -> dict[str, Any]:
        return {
            "id": job.job_id,
            ID_KEY[job.modality]: job.job_id,
            "monitor_id": job.refs["monitor_id"],
            "status": job.status,
            "created_at": self.text(job.submitted_at),
            "completed_at": self.ended(job),
            "result_count": job.answer["result_count"] if job.finished else None,
        }

    def announcements(self, job: SimulatedJob) -> list[Webhook]:
        """`monitor.run.completed` and its like; the names are assumed."""
        if job.state_at_end == "failed" and not self.options.webhook_on_failed:
            return []
        rng = random.Random(f"{self.seed}:{self.label}:{job.job_id}:event")
        event_id, wrong = self.new_id(rng), PREFIX[job.modality] + self.new_id(rng)
        body = self._body(job, event_id, job.job_id, job.state_at_end)
        return [Webhook(body["type"], body, job, event_id, wrong=self._body(job, event_id, wrong, job.state_at_end))]

    def _body(self, job: SimulatedJob, event_id: str, job_id: str, state: str) -> dict[str, Any]:
        return {
            "id": f"event_{event_id}",
            "type": f"monitor.{job.modality}.{state}",
            "created_at": self.ended(job) or self.text(self.clock.now()),
            "data": {
                "monitor_id": job.refs["monitor_id"],
                ID_KEY[job.modality]: job_id,
                "status": job.word_at_end if state == job.state_at_end else state,
                "result_count": job.answer["result_count"],
            },
        }

    def forgery(self, job: SimulatedJob, made_up: str | None) -> Webhook:
        """The right shape, signed with a secret nobody gave."""
        state = "failed" if job.state_at_end == "completed" else "completed"
        rng = random.Random(f"{self.seed}:{self.label}:{job.job_id}:forged event")
        job_id = job.job_id if made_up is None else PREFIX[job.modality] + made_up
        body = self._body(job, self.new_id(rng), job_id, state)
        return Webhook(body["type"], body, job, forged=True)

    def headers(self, webhook: Webhook, raw: bytes, at: float) -> dict[str, str]:
        """Signature, event id, delivery id."""
        if self.options.signed_at == "event" and webhook.job is not None and webhook.job.finished_at is not None:
            at += webhook.job.finished_at - self.clock.now()
        keys = ["whsec_forged"] if webhook.forged else self.target.signing(self.clock.now(), self.options.overlap_s)
        form = self.options
        return {
            "Content-Type": "application/json",
            "X-Omnist-Signature": webhooks.signature(keys, raw, int(at), form.sign_format, form.key_form),
            "X-Omnist-Event-Id": f"evt_{webhook.event_id}",
            "X-Omnist-Delivery-Id": f"del_{webhook.delivery_id}",
        }

    @property
    def secret(self) -> str | None:
        """The active signing secret."""
        return self.target.secret.value

    def address(self, job: SimulatedJob | None) -> str | None:
        """Nobody is told while the target is disabled."""
        return super().address(job) if self.target.enabled else None

    # -- monitors -----------------------------------------------------------------------------------------------

    def _new_monitor(self, name: str) -> dict[str, Any]:
        rng = random.Random(f"{self.seed}:{self.name}:monitor:{len(self._monitors)}")
        monitor = {"id": f"mon_{self.new_id(rng)}", "name": name, "status": "active"}
        self._monitors[monitor["id"]] = monitor
        return monitor

    async def _create(self, request: Request) -> Response:
        asked = await json_object(request)
        if asked is None or not isinstance(asked.get("name"), str):
            return self.error(400, "name is required")
        return JSONResponse({"monitor": self._new_monitor(asked["name"])}, 201)

    async def _list_monitors(self, request: Request) -> Response:
        return self._page(request, "monitors", list(self._monitors.values()))

    def _starting(self, modality: str) -> Handler:
        async def start(request: Request) -> Response:
            monitor = request.path_params["monitor_id"]
            if monitor not in self._monitors:
                return self.error(404)
            job = await self.submit(modality, {"monitor_id": monitor})
            told = {ID_KEY[modality]: job.job_id, "monitor_id": monitor, "status": self.first_word}
            return JSONResponse(told, 202)

        return start

    def _listing(self, modality: str) -> Handler:
        async def listed(request: Request) -> Response:
            if request.path_params["monitor_id"] not in self._monitors:
                return self.error(404)
            return self._page(request, f"{modality}s", [self._row(job) for job in self._of(request, modality)])

        return listed

    def _of(self, request: Request, modality: str) -> list[SimulatedJob]:
        monitor = request.path_params["monitor_id"]
        found = [job for job in self.jobs.values() if job.refs["monitor_id"] == monitor and job.modality == modality]
        return found[::-1]

    async def _backfill(self, request: Request) -> Response:
        wanted = request.path_params["task_id"]
        found = [job for job in self._of(request, "backfill") if job.job_id == wanted]
        return JSONResponse(self._row(found[0])) if found else self.error(404)

    async def _results(self, request: Request) -> Response:
        if request.path_params["monitor_id"] not in self._monitors:
            return self.error(404)
        ended = [job for job in self._of(request, "run") if job.finished and job.state_at_end == "completed"]
        rows = [self._result(job) for job in ended]
        return self._page(request, "results", rows)

    def _result(self, job: SimulatedJob) -> dict[str, Any]:
        return {"id": f"res_{job.job_id}", "run_id": job.job_id, "observed_at": self.ended(job), "content": {}}

    def _page(self, request: Request, name: str, rows: list[Any]) -> Response:
        try:
            limit = int(request.query_params.get("limit", DEFAULT_LIMIT))
            offset = int(request.query_params.get("offset", 0))
        except ValueError:
            return self.error(400, "limit and offset are numbers")
        if not 1 <= limit <= MAX_LIMIT or offset < 0:
            return self.error(400, f"limit must be between 1 and {MAX_LIMIT}")
        more = len(rows) > offset + limit
        following = {"next_offset": offset + limit if more else None, "has_more": more}
        return JSONResponse({name: rows[offset : offset + limit], **following})
