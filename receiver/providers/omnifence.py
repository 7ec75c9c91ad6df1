"""OmniFence: moderation jobs, told of once by an unsigned webhook, readable singly and from a list.

Facts and traps: providers.md section 1. What to remember: nothing is sent twice, so asking is the delivery guarantee;
60 requests a minute are shared with the application's own submissions, so many jobs are asked about through the list
(`_omnifence_asking`). Pure: no I/O, no clock. It never logs: bodies hold prompts and verdicts about people (OF-12).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from receiver import jsontext
from receiver.providers import managing, signing
from receiver.providers._omnifence_asking import (
    FEW,
    ask_single,
    ask_through_lists,
    claim_of,
    code_of,
    look_around,
    modality_of,
    reason_of,
)
from receiver.providers.base import (
    Asking,
    Authentication,
    Finding,
    NoExtras,
    Question,
    RawRequest,
    Reading,
    Reply,
    Said,
    Submitted,
    Trouble,
    event_key,
    ordinary_trouble,
    word,
)
from receiver.records import Job

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

_AUTH_TROUBLE = {
    "ACCOUNT_TERMINATED": "the account is closed for good; no key will do, ask the provider",
    "FORBIDDEN": "the key lacks a scope; it needs job:read",
    "PAYMENT_REQUIRED": "the account has no credit left",
    "UNAUTHORIZED": "the key is missing, wrong or disabled",
}


class OmniFence:
    """The adapter."""

    name = "omnifence"
    Settings: type[BaseModel] = NoExtras
    default_base_url: str | None = "https://api.evershield.ai"
    signed = False
    retries = False
    ack_budget_s = 8.0
    """The provider waits 10 s (1.9)."""
    polls_per_min = 12.0
    """A fifth of the account's 60 a minute: the rest is the application's (1.5)."""
    default_timeouts: Mapping[str, tuple[float, float]] = {
        "prompt": (60.0, 300.0),
        "image": (60.0, 300.0),
        "chat": (60.0, 300.0),
        "video": (300.0, 900.0),
    }
    key_horizon_s = 86400.0
    """Nothing is retried, yet duplicates happen (1.9); nobody says how late."""
    lists = True

    def authenticate(self, request: RawRequest, source: "SourceSettings", now: float) -> Authentication:
        """Webhooks are unsigned (1.8); a secret is checked only where something in between was made to add one."""
        return signing.check_configured_secret(request, source)

    def read(self, request: RawRequest, document: dict[str, Any], source: "SourceSettings") -> Reading:
        """The body is the bare result, without an event name or an envelope (1.7)."""
        job_id = jsontext.identifier(document.get("job_id"))
        if job_id is None:
            return Reading(problem="missing_job_id")
        status = word(document.get("status"))
        if status is None:
            return Reading(problem="missing_status")
        claim = claim_of(status)
        said = Said(
            job_id=job_id,
            claim=claim,
            reason=reason_of(claim),
            status=status,
            result=document,
            modality=modality_of(document),
        )
        return Reading(event_key=event_key(job_id, status.lower()), said=said)

    def auth_headers(self, source: "SourceSettings") -> dict[str, str]:
        return {"authorization": f"Bearer {source.api_key.current}"} if source.api_key is not None else {}

    def cannot_ask(self, job: Job, source: "SourceSettings") -> str | None:
        return "no api_key is configured" if source.api_key is None else None

    def ask(self, jobs: Sequence[Job], source: "SourceSettings", now: float) -> Asking:
        """Few jobs singly, oldest first; more through the lists; none: a look around for unregistered ones."""
        if source.api_key is None:
            for job in jobs:
                yield Finding(job.job_id, problem=self.cannot_ask(job, source))
        elif not jobs:
            yield from look_around()
        elif len(jobs) <= FEW:
            for job in sorted(jobs, key=lambda job: job.started_at):
                yield from ask_single(job, source)
        else:
            yield from ask_through_lists(jobs, source)

    def classify(self, reply: Reply) -> Trouble | None:
        """400 is an answer about one question (a bad id or filter), and the other questions go on; the `error` word
        tells an account that is gone from a key that lacks a scope (1.6)."""
        if reply.status in (400, 410, 414, 422):
            return None
        trouble = ordinary_trouble(reply)
        if trouble is None or trouble.outcome != "auth_blocked":
            return trouble
        code = code_of(reply)
        why = _AUTH_TROUBLE.get((code or "").upper())
        detail = f"{reply.status} {code}: {why}" if why else trouble.detail
        return Trouble(trouble.outcome, detail, trouble.retry_after_s)

    def submitted(self, method: str, path: str, document: Any, source: "SourceSettings") -> list[Submitted]:
        """`POST …/moderate/{modality}` answers 202 with a `job_id` (1.2)."""
        parts = path.partition("?")[0].strip("/").split("/")
        job_id = jsontext.identifier(jsontext.at(document, "job_id"))
        if method.upper() != "POST" or len(parts) < 2 or parts[-2] != "moderate" or job_id is None:
            return []
        modality = word(parts[-1])
        return [Submitted(job_id, modality.lower() if modality else None)]

    def manage_setup(self, source: "SourceSettings", hook_url: str) -> managing.Managing:
        """Registers the account's one URL. It cannot be read back, so what it replaces is not known (1.11)."""
        reply = yield managing.Change(
            Question(path="/api/v1/webhook/register", method="POST", json={"url": hook_url}),
            "registers this source's URL as the account's only webhook",
            after=hook_url,
            warnings=("OmniFence does not tell which URL is registered now; whatever it is, it will be replaced",),
        )
        if reply is None or not 200 <= reply.status < 300:
            return managing.not_done("registering the webhook", reply)
        return managing.SetUp(changed=True, url=hook_url)

    def manage_rotate(self, source: "SourceSettings") -> managing.Managing:
        return managing.by_hand(
            "OmniFence signs nothing, so there is no secret to rotate.",
            "To change what protects the URL: set a new path_token, restart, and run `source setup` again.",
        )

    def manage_test(self, source: "SourceSettings") -> managing.Managing:
        return managing.by_hand(
            "OmniFence sends no test deliveries.",
            "Submit a small prompt for moderation, and watch `holdfast deliveries list` for its job id.",
        )


PROVIDER = OmniFence()
