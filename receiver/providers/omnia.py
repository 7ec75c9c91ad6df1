"""Omnia: insight generations and data exports, told of by an unsigned notification and read at `links.self`.

Facts and traps: providers.md section 2. What to remember: one task has two ids, `data.id` and the last segment of its
link (OM-2); the webhook names the outcome, the result is read (2.7); a running task answers 200 with `Retry-After`
(OM-3); the link is absolute and comes from outside, so credentials go there only on the configured origin (OM-4), and
no link is ever built here (2.2). Pure: no I/O, no clock.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from pydantic import BaseModel

from receiver import clock, jsontext
from receiver.providers import managing, signing
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
    same_origin,
    word,
)
from receiver.records import Job
from receiver.states import Claim, Reason

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

INSIGHT, EXPORT = "insight", "export"
_MODALITY = {"insight_generated": INSIGHT, "data_exported": EXPORT}
_ID_FIELDS = {
    INSIGHT: ("generationId", "taskId", "exportId"),
    EXPORT: ("exportId", "taskId", "generationId"),
}
"""Where a webhook's `data` may name its task, before a bare `id`; only `generationId` is documented (2.7)."""
_CLAIMS = {"completed": Claim.COMPLETED, "failed": Claim.FAILED}
_TASK_WORDS = frozenset({"pending", "processing", *_CLAIMS})

_INTERNAL, _NOT_FOUND, _TOO_MANY = "1001", "1006", "1007"
_AUTH_TROUBLE = {
    "1003": "the provider's own authentication is not set up",
    "1004": "the token is wrong or has expired",
    "1005": "the token did not arrive",
}


def _claim(status: str) -> Claim:
    return _CLAIMS.get(status.lower(), Claim.RUNNING)


def _reason(claim: Claim) -> Reason | None:
    return Reason.PROVIDER if claim is Claim.FAILED else None


def _result(document: dict[str, Any]) -> tuple[Any, bool]:
    """`data.results`, else the whole object; and whether there was a result (CONTRACT 10)."""
    results = jsontext.at(document, "data", "results")
    return (results, True) if results is not None else (document, False)


def _last_segment(url: str | None) -> str | None:
    """The id at the end of a link."""
    try:
        path = urlsplit(url or "").path
    except ValueError:
        return None
    return jsontext.identifier(unquote(path.rstrip("/").rpartition("/")[2]))


def _link(value: Any, source: "SourceSettings") -> str | None:
    """An absolute link on the configured origin, or None when it is none or points anywhere else."""
    base = source.effective_base_url
    return value if isinstance(value, str) and base is not None and same_origin(value, base) else None


def _absolute(link: str, source: "SourceSettings") -> str:
    """A link as an answer of the provider means it: a relative one belongs to the origin we asked."""
    try:
        return urljoin(f"{source.effective_base_url or ''}/", link)
    except ValueError:
        return link


def _told_links(job: Job) -> list[Any]:
    """Where the job may be read, as somebody told: the poll URL, else what was put into `refs`."""
    return [job.poll_url, jsontext.at(job.refs, "links_self"), jsontext.at(job.refs, "poll_url")]


def _poll_url(job: Job, source: "SourceSettings") -> str | None:
    return next((url for value in _told_links(job) if (url := _link(value, source)) is not None), None)


def _seconds(value: str | None) -> float | None:
    """A number of seconds in a header, or None."""
    try:
        seconds = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _bucket_reset_s(reply: Reply) -> float | None:
    """How long the user's token bucket needs when this answer emptied it (2.5); None while there are tokens left."""
    remaining = _seconds(reply.headers.get("x-ratelimit-remaining"))
    if remaining is None or remaining >= 1:
        return None
    return _seconds(reply.headers.get("x-ratelimit-reset"))


def _code(reply: Reply) -> str | None:
    """`error.code` of an error body (2.6), as text; None for any other body, such as a gateway's page."""
    return jsontext.identifier(jsontext.at(reply.document(), "error", "code"))


def _is_of(job: Job, poll_url: str, data_id: str | None, link_id: str | None) -> bool:
    """Whether an answer is about this job. While only the link's id is known, any `data.id` is news, not a mistake."""
    known = {each for each in (job.job_id, job.alias, _last_segment(poll_url)) if each}
    if data_id is not None:
        return data_id in known or len(known) == 1
    return link_id is None or link_id in known


def _finding(job: Job, reply: Reply, url: str, source: "SourceSettings") -> Finding:
    """What the answer to a read of `url` says of this job."""
    if reply.status in (404, 410) or _code(reply) == _NOT_FOUND:
        return Finding(job.job_id, missing=True)
    if not 200 <= reply.status < 300:
        return Finding(job.job_id, problem=f"{reply.status}, error code {_code(reply) or 'untold'}")
    document = reply.document()
    data = jsontext.at(document, "data")
    if not isinstance(document, dict) or not isinstance(data, dict):
        return Finding(job.job_id, problem="the answer is not a JSON object with data")
    data_id, link_id = jsontext.identifier(data.get("id")), _last_segment(jsontext.text_at(document, "links", "self"))
    if not _is_of(job, url, data_id, link_id):
        return Finding(job.job_id, problem="the answer is about another task")
    status = word(data.get("status"))
    if status is None:
        return Finding(job.job_id, problem="the answer has no data.status")
    claim = _claim(status)
    learned = (each for each in (data_id, link_id, _last_segment(url)) if each and each != job.job_id)
    return Finding(
        job.job_id,
        claim=claim,
        reason=_reason(claim),
        status=status,
        result=_result(document)[0],
        alias=job.alias or next(learned, None),
        retry_after_s=_wait_s(reply) if claim is Claim.RUNNING else None,
    )


def _wait_s(reply: Reply) -> float | None:
    """The longer of `Retry-After` and the time an empty bucket needs."""
    written = reply.headers.get("retry-after")
    waits = [clock.retry_after_s(written, reply.now) if written is not None else None, _bucket_reset_s(reply)]
    return max((wait for wait in waits if wait is not None), default=None)


class Omnia:
    """The adapter."""

    name = "omnia"
    Settings: type[BaseModel] = NoExtras
    default_base_url: str | None = "https://app.useomnia.com/api/v1"
    signed = False
    retries = True
    ack_budget_s = 2.0
    """The provider asks for an answer within a few seconds (2.9); three are assumed."""
    polls_per_min = 120.0
    default_timeouts: Mapping[str, tuple[float, float]] = {INSIGHT: (60.0, 900.0), EXPORT: (120.0, 1800.0)}
    """No figure is documented (2.10)."""
    key_horizon_s = 86400.0
    """Two retries with exponential backoff of unknown length (2.9): a day is ample."""
    lists = False
    probe_path = "/insights/generation/holdfast-check"
    """Nobody's task, where tasks lie (2.2): whether the key is taken can be asked of it."""

    def authenticate(self, request: RawRequest, source: "SourceSettings", now: float) -> Authentication:
        """No signature is documented (2.8); a secret is checked only where something in between was made to add one."""
        return signing.check_configured_secret(request, source)

    def read(self, request: RawRequest, document: dict[str, Any], source: "SourceSettings") -> Reading:
        """The envelope is `event`, `data`, `webhookId`, `timestamp` (2.7)."""
        event = word(document.get("event"))
        if event is None:
            return Reading(problem="missing_event")
        modality = _MODALITY.get(event.lower())
        told = _told_ids(document.get("data"), modality or INSIGHT)
        sending = [jsontext.identifier(document.get(field)) for field in ("webhookId", "timestamp")]
        # The pair alone may merge two tasks sent in one millisecond (OM-1). Where a part is missing, the body decides.
        key = event_key(event, told[0], *(each for each in sending if each)) if told and all(sending) else None
        if modality is None:
            return Reading(event=event, event_key=key, passes_on=event.lower() != "webhook.test")
        if not told:
            return Reading(event=event, event_key=key, problem="missing_job_id")
        return _read_task(Reading(event=event, event_key=key), document, told, modality)

    def auth_headers(self, source: "SourceSettings") -> dict[str, str]:
        return {"authorization": f"Bearer {source.api_key.current}"} if source.api_key is not None else {}

    def id_in_link(self, poll_url: str) -> str | None:
        """A task's other id: webhooks name it by the last segment of its link (OM-2)."""
        return _last_segment(poll_url)

    def cannot_ask(self, job: Job, source: "SourceSettings") -> str | None:
        if source.api_key is None:
            return "no api_key is configured"
        if _poll_url(job, source) is not None:
            return None
        if any(_told_links(job)):
            return "the poll URL does not lie on the configured origin"
        return "no poll URL: register the job with the links.self of its submission"

    def ask(self, jobs: Sequence[Job], source: "SourceSettings", now: float) -> Asking:
        """One read a task, for there is no list (2.4). The answer that empties the user's bucket ends the round: the
        rest is put off until it is full again, for the application needs the tokens too (OM-7)."""
        refill_s: float | None = None
        for job in jobs:
            url = _poll_url(job, source)
            if url is None or source.api_key is None:
                yield Finding(job.job_id, problem=self.cannot_ask(job, source))
            elif refill_s:
                yield Finding(job.job_id, problem="not asked: the rate limit is used up", retry_after_s=refill_s)
            else:
                reply = yield Question(url=url, job_id=job.job_id)
                if reply is None:
                    return
                yield _finding(job, reply, url, source)
                refill_s = _bucket_reset_s(reply)

    def classify(self, reply: Reply) -> Trouble | None:
        """The HTTP class first, refined by `error.code`; a body may be missing or a gateway's page (2.6)."""
        if 200 <= reply.status < 300:
            return None
        code = _code(reply)
        ordinary = ordinary_trouble(reply)
        after = ordinary.retry_after_s if ordinary else None
        if code == _TOO_MANY or reply.status == 429:
            return Trouble("rate_limited", f"{reply.status} too many requests", after or _bucket_reset_s(reply))
        if code in _AUTH_TROUBLE:
            return Trouble("auth_blocked", f"{reply.status}, code {code}: {_AUTH_TROUBLE[code]}", after)
        if code == _INTERNAL:
            return Trouble("unavailable", f"{reply.status}, code {code}: an internal error", after)
        if code == _NOT_FOUND and reply.status < 500:
            return None
        return None if reply.status in (400, 410, 414, 422) else ordinary

    def submitted(self, method: str, path: str, document: Any, source: "SourceSettings") -> list[Submitted]:
        """`data.id` and `links.self` make a task (2.2), if it also has a task's status or lies where tasks lie: other
        objects have ids and links too, and one taken for a task would end as `stale`."""
        job_id = jsontext.identifier(jsontext.at(document, "data", "id"))
        link = jsontext.text_at(document, "links", "self")
        status = word(jsontext.at(document, "data", "status"))
        if job_id is None or not link or method.upper() in ("HEAD", "OPTIONS", "DELETE"):
            return []
        where = {part for text in (path, link) for part in text.lower().partition("?")[0].split("/")}
        modality = INSIGHT if "insights" in where else EXPORT if where & {"exports", "export"} else None
        is_task = status is not None and status.lower() in _TASK_WORDS
        if not is_task and (modality is None or method.upper() == "GET"):
            return []
        alias = _last_segment(link)
        return [Submitted(job_id, modality, alias if alias != job_id else None, _link(_absolute(link, source), source))]

    def manage_setup(self, source: "SourceSettings", hook_url: str) -> managing.Managing:
        """Webhooks are registered on a page of the product alone (2.11)."""
        return managing.by_hand(
            "In Omnia open the API settings, then Webhooks, and register a webhook.",
            f"URL: {managing.shown_url(hook_url)} (with the path token in place of the stars)",
            "Select the events insight_generated and data_exported.",
        )

    def manage_rotate(self, source: "SourceSettings") -> managing.Managing:
        return managing.by_hand(
            "Omnia signs nothing, so there is no secret to rotate.",
            "To change what protects the URL: set a new path_token, restart, and register the new URL in Omnia.",
        )

    def manage_test(self, source: "SourceSettings") -> managing.Managing:
        return managing.by_hand(
            "Omnia documents no test deliveries.",
            "Start an insight generation, and watch `holdfast deliveries list` for its event.",
        )


def _told_ids(data: Any, modality: str) -> list[str]:
    """The ids a webhook names its task by, the likeliest first. A bare `id` may be anything's: it is taken only where
    there is no other, and never as an alias."""
    ids = [jsontext.identifier(jsontext.at(data, field)) for field in _ID_FIELDS[modality]]
    told = list(dict.fromkeys(each for each in ids if each))
    bare = jsontext.identifier(jsontext.at(data, "id"))
    return told or ([bare] if bare else [])


def _read_task(reading: Reading, document: dict[str, Any], told: Sequence[str], modality: str) -> Reading:
    """A task's notification. Both events are sent when a task has ended (2.7), so one without a status means that."""
    written = jsontext.at(document, "data", "status")
    status = word(written)
    if status is None and written is not None:
        return Reading(event=reading.event, event_key=reading.event_key, problem="missing_status")
    claim = _claim(status) if status else Claim.COMPLETED
    result, has_result = _result(document)
    said = Said(
        job_id=told[0],
        claim=claim,
        reason=_reason(claim),
        status=status,
        result=result,
        has_result=has_result,
        modality=modality,
        alias=told[1] if len(told) > 1 else None,
    )
    return Reading(event=reading.event, event_key=reading.event_key, said=said)


PROVIDER = Omnia()
