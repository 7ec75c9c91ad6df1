"""A sender like the next hundred, simulated: `POST /jobs`, `GET /jobs/{id}`, and webhooks signed by Standard Webhooks.

Owns nothing of any real product. How it proves itself is an option, so that each way a `standard` source can verify
has a sender: Standard Webhooks, a shared-secret header, an HMAC header (hex or base64), or nothing.
"""

import base64
import binascii
import hashlib
import hmac
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from holdfast.simulator.base import Plan, SimulatedJob, Simulator, UnusableError, Webhook
from holdfast.simulator.gate import Handler, Kind
from holdfast.simulator.sender import SendPolicy

CODES = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    429: "too_many_requests",
    503: "unavailable",
}


class Standard(Simulator):
    """`POST /jobs` answers 202 with an id, `GET /jobs/{id}` its status and result."""

    name: ClassVar[str] = "standard"
    modalities: ClassVar[tuple[str, ...]] = ("job",)
    policy: ClassVar[SendPolicy] = SendPolicy(
        timeout_s=15.0, waits_s=(5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
    )
    retry_after = "seconds"

    @dataclass(frozen=True, slots=True)
    class Options:
        """How it signs, and its words."""

        verify: Literal["standard-webhooks", "header", "hmac", "none"] = "standard-webhooks"
        header: str = "X-Signature"
        """Where the shared secret or the HMAC goes."""
        encoding: Literal["hex", "base64"] = "hex"
        prefix: str = ""
        """What stands in front of an HMAC, such as `sha256=`."""
        completed: str = "completed"
        failed: str = "failed"
        webhook_on_failed: bool = True

    def endpoints(self) -> list[tuple[str, str, Kind, Handler]]:
        """See the class."""
        return [("POST", "/jobs", "submit", self._create), ("GET", "/jobs/{job_id}", "read", self._job)]

    def error(self, status: int, message: str = "", code: str | None = None) -> Response:
        """`{"error": {"code", "message"}}`."""
        slug = code or CODES.get(status, "internal_error")
        return JSONResponse({"error": {"code": slug, "message": message or slug.replace("_", " ")}}, status)

    @property
    def secret(self) -> str | None:
        """The signing secret: the one given, else one drawn from the seed in Standard Webhooks' form."""
        given = super().secret
        if given is not None:
            return given
        drawn = random.Random(f"{self.seed}:{self.name}:secret").randbytes(24)
        return "whsec_" + base64.b64encode(drawn).decode()

    def plan(self, number: int, modality: str, fields: Mapping[str, Any], rng: random.Random) -> Plan:
        """A job with a small result, or an error."""
        job_id, failed, score = f"job_{rng.getrandbits(64):016x}", self.fails(rng), rng.randrange(1000)
        word = self.options.failed if failed else self.options.completed
        answer: dict[str, Any] = {"id": job_id, "status": word}
        answer |= {"error": "it did not work"} if failed else {"result": {"score": score}}
        return Plan(
            job_id=job_id,
            state="failed" if failed else "completed",
            reason="provider" if failed else None,
            word=word,
            answer=answer,
            facts={} if failed else {"score": score},
            poll_url=f"{self.base_url}/jobs/{job_id}",
        )

    def announcements(self, job: SimulatedJob) -> list[Webhook]:
        """`job.completed` or `job.failed` in the envelope of the specification: type, timestamp, data."""
        if job.state_at_end == "failed" and not self.options.webhook_on_failed:
            return []
        wrong = f"job_{random.Random(f'{self.seed}:{job.job_id}:wrong').getrandbits(64):016x}"
        right, other = self._envelope(job, job.answer), self._envelope(job, {**job.answer, "id": wrong})
        return [Webhook(right["type"], right, job, wrong=other)]

    def _envelope(self, job: SimulatedJob, data: dict[str, Any]) -> dict[str, Any]:
        failed = data["status"] == self.options.failed
        at = self.ended(job) or self.text(self.clock.now())
        return {"type": f"job.{'failed' if failed else 'completed'}", "timestamp": at, "data": data}

    def forgery(self, job: SimulatedJob, made_up: str | None) -> Webhook:
        """The right shape under a wrong secret."""
        word = self.options.failed if job.state_at_end == "completed" else self.options.completed
        job_id = job.job_id if made_up is None else "job_" + made_up.replace("-", "")[:16]
        body = self._envelope(job, {"id": job_id, "status": word})
        return Webhook(body["type"], body, job, forged=True)

    def headers(self, webhook: Webhook, raw: bytes, at: float) -> dict[str, str]:
        """The proof, as the option says; `webhook-id` is the same for every attempt of one event."""
        headers, secret = {"Content-Type": "application/json"}, self.secret or ""
        if webhook.forged:
            secret = "whsec_" + base64.b64encode(b"a guess of twenty-four b").decode()
        if self.options.verify == "standard-webhooks":
            message_id, t = f"msg_{webhook.event_id}", str(int(at))
            digest = hmac.new(_key(secret), f"{message_id}.{t}.".encode() + raw, hashlib.sha256).digest()
            return {
                **headers,
                "webhook-id": message_id,
                "webhook-timestamp": t,
                "webhook-signature": "v1," + base64.b64encode(digest).decode(),
            }
        if self.options.verify == "header":
            return {**headers, self.options.header: secret}
        if self.options.verify == "hmac":
            digest = hmac.new(secret.encode(), raw, hashlib.sha256).digest()
            written = digest.hex() if self.options.encoding == "hex" else base64.b64encode(digest).decode()
            return {**headers, self.options.header: self.options.prefix + written}
        return headers

    async def _create(self, request: Request) -> Response:
        try:
            asked = await request.json() if await request.body() else {}
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return self.error(400, "the body must be a JSON object")
        try:
            job = await self.submit("job", asked)
        except UnusableError as error:
            return self.error(400, str(error))
        return JSONResponse({"id": job.job_id, "status": self.first_word}, 202)

    async def _job(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["job_id"])
        if job is None:
            return self.error(404)
        return JSONResponse(job.answer if job.finished else {"id": job.job_id, "status": job.status})


def _key(secret: str) -> bytes:
    """The bytes of a Standard Webhooks secret: base64 after `whsec_`; anything else is taken as it is."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        return secret.encode()
