"""Omnia, simulated: insight generations and data exports, read at `links.self`, told of without a signature.

providers.md section 2. Owns the paths, envelopes, the token bucket and the two ids of one task. Undocumented and
chosen here: the submit endpoints (`POST /api/v1/insights/generation`, `POST /api/v1/exports`, answering 202), the link
and the webhook body of an export, the body of a failed task, the waits between webhook attempts and their timeout.
What a reader could trip over is an option.
"""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from holdfast.simulator.base import Plan, SimulatedJob, Simulator, Webhook, bearer
from holdfast.simulator.gate import Handler, Kind, name_wait
from holdfast.simulator.sender import SendPolicy
from receiver import clock as clocks

CODES = {
    400: (1002, "Invalid input"),
    401: (1004, "Invalid or expired token"),
    403: (1009, "Monitoring limit exceeded"),
    404: (1006, "Item not found"),
    429: (1007, "Too many requests"),
    500: (1001, "Internal error"),
}
HEADER_MISSING = 1005
PATHS = {"insight": "/insights/generation", "export": "/exports"}
EVENTS = {"insight": "insight_generated", "export": "data_exported"}
PREFIXES = {"insight": "generation_", "export": "export_"}
BUCKET = 50
WRITE_COST = 5
_LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class Omnia(Simulator):
    """`POST /api/v1/insights/generation`, `POST /api/v1/exports`, and `GET` at the link either answers."""

    name: ClassVar[str] = "omnia"
    modalities: ClassVar[tuple[str, ...]] = ("insight", "export")
    base_path: ClassVar[str] = "/api/v1"
    first_word: ClassVar[str] = "pending"
    policy: ClassVar[SendPolicy] = SendPolicy(timeout_s=5.0, waits_s=(5.0, 10.0))
    retry_after = "seconds"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What the documentation leaves open."""

        retry_after_s: int = 5
        """What a running task's 200 says."""
        retry_after_form: Literal["seconds", "date", "none"] = "seconds"
        retry_timestamp: Literal["same", "fresh", "mixed"] = "mixed"
        """Whether a second attempt keeps the first one's `timestamp`; mixed: every other task."""
        timestamp_step_s: float = 0.001
        """How fine `timestamp` is; a coarse one gives several tasks the same `webhookId` and `timestamp`."""
        export_key: Literal["exportId", "taskId", "generationId", "id"] = "exportId"
        """Under which key `data_exported` names its task."""
        webhook_results: bool = False
        """Whether the webhook carries the results, as the field table says and the sample does not."""
        webhook_on_failed: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As every simulator."""
        super().__init__(*args, **kwargs)
        self._level: float | None = None
        self._filled_at = 0.0

    def endpoints(self) -> list[tuple[str, str, Kind, Handler]]:
        """See the class."""
        found: list[tuple[str, str, Kind, Handler]] = []
        for modality, path in PATHS.items():
            found.append(("POST", self.base_path + path, "submit", self._submitting(modality)))
            found.append(("GET", f"{self.base_path}{path}/{{task_id}}", "read", self._task))
        return found

    def error(self, status: int, message: str = "", code: str | None = None) -> Response:
        """`{"error": {"code", "description"}}`."""
        number, says = CODES.get(status, CODES[500])
        return JSONResponse({"error": {"code": int(code or number), "description": message or says}}, status)

    def takes(self, key: str) -> bool:
        """Tokens begin with `ot_`."""
        return key.startswith("ot_") if self.settings.api_key is None else key == self.settings.api_key

    def refusal(self, request: Request) -> Response | None:
        """A missing header has a code of its own."""
        if bearer(request) is None:
            return self.error(401, "Authorization header is missing", str(HEADER_MISSING))
        return super().refusal(request)

    # -- the token bucket ---------------------------------------------------------------------------------------

    def charge(self, request: Request) -> float | None:
        """One token for a read, five for a write; the bucket fills up once in a quota window (by default 1 s)."""
        size, per_s = self._bucket()
        if size == 0:
            return None
        now, cost = self.clock.monotonic(), 1 if request.method == "GET" else WRITE_COST
        level = size if self._level is None else min(size, self._level + (now - self._filled_at) * per_s)
        self._filled_at = now
        if level < cost:
            self._level = level
            return (cost - level) / per_s
        self._level = level - cost
        return None

    def _bucket(self) -> tuple[float, float]:
        """(size, tokens a second): 50 a second as one importer saw it, or as quota_per_min says; size 0 is no quota."""
        asked = self.settings.quota_per_min
        return (BUCKET, float(BUCKET)) if asked is None else (asked, asked / self.settings.quota_window_s)

    def decorate(self, response: Response) -> Response:
        """Every answer tells the state of the bucket; `Reset` is seconds until it is full."""
        size, per_s = self._bucket()
        if size:
            level = size if self._level is None else self._level
            response.headers["X-RateLimit-Limit"] = str(int(size))
            response.headers["X-RateLimit-Remaining"] = str(int(level))
            response.headers["X-RateLimit-Reset"] = str(math.ceil((size - level) / per_s))
        return response

    # -- tasks --------------------------------------------------------------------------------------------------

    def plan(self, number: int, modality: str, fields: Mapping[str, Any], rng: random.Random) -> Plan:
        """A task with two ids: `task_…` in its body, `generation_…` or `export_…` in its link."""
        task, linked = "task_" + _letters(rng), PREFIXES[modality] + _letters(rng)
        failed, score = self.fails(rng), rng.randrange(1000)
        word = "failed" if failed else "completed"
        data: dict[str, Any] = {"id": task, "status": word}
        if failed:
            data["error"] = {"code": 1001, "description": "The generation failed"}
        else:
            data["results"] = [{"position": place, "score": score} for place in range(1, 3)]
        return Plan(
            job_id=task,
            alias=linked,
            state=word,
            reason="provider" if failed else None,
            word=word,
            answer=data,
            facts={} if failed else {"score": score},
            poll_url=f"{self.base_url}{PATHS[modality]}/{linked}",
        )

    def announcements(self, job: SimulatedJob) -> list[Webhook]:
        """The envelope names the link's id, not the body's; nothing for a failure unless switched on."""
        if job.state_at_end == "failed" and not self.options.webhook_on_failed:
            return []
        wrong = PREFIXES[job.modality] + _letters(random.Random(f"{self.seed}:{job.job_id}:wrong"))
        right = self._envelope(job, job.alias or "", job.word_at_end)
        return [Webhook(EVENTS[job.modality], right, job, wrong=self._envelope(job, wrong, job.word_at_end))]

    def _envelope(self, job: SimulatedJob, linked: str, word: str) -> dict[str, Any]:
        key = "generationId" if job.modality == "insight" else self.options.export_key
        data: dict[str, Any] = {key: job.job_id if key == "taskId" and linked == job.alias else linked, "status": word}
        if self.options.webhook_results and "results" in job.answer:
            data["results"] = job.answer["results"]
        return {
            "event": EVENTS[job.modality],
            "data": data,
            "webhookId": "wh_" + _letters(random.Random(f"{self.seed}:{self.label}:registration")),
            "timestamp": self._timestamp(),
        }

    def forgery(self, job: SimulatedJob, made_up: str | None) -> Webhook:
        """The right envelope from a wrong sender."""
        word = "failed" if job.state_at_end == "completed" else "completed"
        linked = job.alias or "" if made_up is None else PREFIXES[job.modality] + made_up.replace("-", "")
        return Webhook(EVENTS[job.modality], self._envelope(job, linked, word), job, forged=True)

    def encode(self, webhook: Webhook, body: dict[str, Any], attempt: int) -> bytes:
        """Another attempt may say another time; a second copy of one attempt never does."""
        style = self.options.retry_timestamp
        odd = webhook.job is not None and webhook.job.number % 2 == 1
        if attempt > 1 and (style == "fresh" or (style == "mixed" and odd)):
            body = {**body, "timestamp": self._timestamp()}
        return json.dumps(body, separators=(",", ":")).encode()

    def _timestamp(self) -> str:
        step = self.options.timestamp_step_s
        return clocks.text(math.floor(self.clock.now() / step) * step)

    # -- endpoints ----------------------------------------------------------------------------------------------

    def _submitting(self, modality: str) -> Handler:
        async def submit(request: Request) -> Response:
            try:
                asked = await request.json() if await request.body() else {}
            except ValueError:
                asked = None
            if not isinstance(asked, dict):
                return self.error(400, "The body must be a JSON object")
            job = await self.submit(modality, {key: value for key, value in asked.items() if key != "webhook_url"})
            data = {"id": job.job_id, "status": self.first_word}
            return JSONResponse({"data": data, "links": {"self": job.poll_url}}, 202)

        return submit

    async def _task(self, request: Request) -> Response:
        job = self.find(request.path_params["task_id"])
        if job is None or job.alias != request.path_params["task_id"]:
            return self.error(404)
        if job.finished:
            return JSONResponse({"data": job.answer})
        data = {"id": job.job_id, "status": job.status}
        response = JSONResponse({"data": data, "links": {"self": job.poll_url}})
        name_wait(response, float(self.options.retry_after_s), self.options.retry_after_form, self.clock)
        return response


def _letters(rng: random.Random) -> str:
    return "".join(rng.choice(_LETTERS) for _ in range(12))
