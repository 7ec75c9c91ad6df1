"""`standard`: every other sender, described in configuration alone.

Owns the reading of JSON pointers and words, the poll templates, and the two things a generic sender may do beyond the
three checks of `signing`: a timestamp inside or beside an HMAC header. The presets in `presets/` are such descriptions
of well-known APIs. Pure: no I/O, no clock. It never guesses: what a pointer does not find is not there.
"""

import fnmatch
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from pydantic import BaseModel

from receiver import clock, jsontext
from receiver.providers import signing
from receiver.providers._standard_extras import Extras, Kind
from receiver.providers.base import (
    Accepted,
    Asking,
    Authentication,
    Finding,
    Question,
    RawRequest,
    Reading,
    Refused,
    Reply,
    Said,
    Submitted,
    Trouble,
    ordinary_trouble,
    same_origin,
    segment,
    word,
)
from receiver.records import Job
from receiver.settings_standard import StandardSettings
from receiver.states import Claim, Reason

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

ID_HEADER = "webhook-id"
UNPROCESSABLE = 422
BASE = "{base_url}"
_CANCELLED = frozenset({"cancelled", "canceled"})
_MOST_PARTS = 32


def resolve(document: Any, pointer: str | None) -> Any:
    """The value at a JSON pointer (RFC 6901), None where there is nothing or `pointer` is None. Never raises."""
    if pointer is None:
        return None
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and _index(name, len(document)) is not None:
            document = document[int(name)]
        else:
            return None
    return document


def _index(name: str, length: int) -> int | None:
    """An array index as RFC 6901 writes it: digits without a leading zero, inside the array."""
    if not (name.isascii() and name.isdigit()) or len(name) > 9 or (name != "0" and name.startswith("0")):
        return None
    return int(name) if int(name) < length else None


def status_word(value: Any) -> str | None:
    """A status as a word: text as it is, a number as it is written, and `true` or `false`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return word(value if isinstance(value, str) else jsontext.identifier(value))


def claim_of(status: str | None, standard: StandardSettings) -> tuple[Claim, Reason | None] | None:
    """What a status word means; None for one that is in neither list. `batch.cancelled` is a cancellation too."""
    if status is None:
        return None
    said = status.casefold()
    if said in {one.casefold() for one in standard.completed}:
        return Claim.COMPLETED, None
    if said in {one.casefold() for one in standard.failed}:
        cancelled = said.rpartition(".")[2] in _CANCELLED
        return Claim.FAILED, Reason.CANCELLED if cancelled else Reason.PROVIDER
    return None


def _standard(source: "SourceSettings") -> StandardSettings:
    return source.standard if source.standard is not None else StandardSettings()


def _extras(source: "SourceSettings") -> Extras:
    return source.extras if isinstance(source.extras, Extras) else Extras()


def _kind(job_id: str, modality: str | None, extras: Extras) -> tuple[str, Kind] | None:
    """The kind of a job: the one its modality names, else the one whose prefix fits best."""
    if modality in extras.kinds:
        return modality, extras.kinds[modality]
    fitting = [(name, kind) for name, kind in extras.kinds.items() if job_id.startswith(kind.id_prefix)]
    return max(fitting, key=lambda each: len(each[1].id_prefix), default=None)


def _check_hmac(request: RawRequest, source: "SourceSettings", extras: Extras, now: float) -> Authentication:
    """HMAC over the body; over the time and the body where a time is signed, in a header of its own or as
    `t=…,v1=…` in the signature's. The signature is judged before its age."""
    header, secrets = source.secret_header, source.secret.values() if source.secret is not None else ()
    values = request.all(header) if header else []
    if header is None or len(values) != 1:
        return Refused(signing.SIGNATURE)
    timestamp: str | None = None
    given = [values[0]]
    if extras.timestamp_header is not None:
        times = request.all(extras.timestamp_header)
        timestamp = times[0] if len(times) == 1 else ""
    elif values[0].lstrip().startswith("t="):
        parts = [part.strip().partition("=") for part in values[0].split(",")[:_MOST_PARTS]]
        times = [time for name, _, time in parts if name == "t"]
        timestamp = times[0] if len(times) == 1 else ""
        given = [one for name, _, one in parts if name == "v1"]
    if timestamp is None:
        return signing.check_hmac_header(request, header, secrets)
    sent_at = signing.timestamp_s(timestamp)
    if sent_at is None:
        return Refused(signing.SIGNATURE)
    signed = timestamp.encode() + (b"." if source.sign_format == "dot" else b"") + request.body
    checks = [signing.check_hmac_header(RawRequest(((header, one),), signed), header, secrets) for one in given]
    if not any(isinstance(check, Accepted) for check in checks):
        return Refused(signing.SIGNATURE)
    return Accepted(proven=True) if abs(now - sent_at) <= source.tolerance_s else Refused(signing.STALE)


class Standard:
    """The adapter."""

    name = "standard"
    Settings: type[BaseModel] = Extras
    default_base_url: str | None = None
    signed = True
    retries = False
    """Nobody said that it does: what we refuse is asked about."""
    ack_budget_s = 4.0
    polls_per_min = 30.0
    default_timeouts: Mapping[str, tuple[float, float]] = {}
    key_horizon_s = 96 * 3600.0
    """Senders that follow Standard Webhooks try for about three days."""
    lists = False

    def authenticate(self, request: RawRequest, source: "SourceSettings", now: float) -> Authentication:
        standard = _standard(source)
        if standard.verify == "none" or source.secret is None:
            return Accepted(proven=False)
        if standard.verify == "standard-webhooks":
            return signing.check_standard_webhooks(request, source.secret.values(), now, source.tolerance_s)
        if standard.verify == "header":
            return signing.check_shared_header(request, source.secret_header or "", source.secret.values())
        return _check_hmac(request, source, _extras(source), now)

    def read(self, request: RawRequest, document: dict[str, Any], source: "SourceSettings") -> Reading:
        """A word of an end ends the job; another word of a job notes it, and a named event that says no status, or
        whose name is its status, is told as it came."""
        standard, extras = _standard(source), _extras(source)
        event = word(resolve(document, standard.event_pointer))
        ids = request.all(ID_HEADER) if standard.verify == "standard-webhooks" else []
        key = jsontext.identifier(ids[0]) if len(ids) == 1 else None
        job_id = jsontext.identifier(resolve(document, standard.job_id_pointer))
        status = status_word(resolve(document, standard.status_pointer)) or event
        meant = claim_of(status, standard)
        if job_id is None or (meant is None and (status is None or status == event)):
            if event is not None:
                return Reading(event=event, event_key=key, passes_on=True)
            return Reading(event_key=key, problem="missing_job_id" if job_id is None else "missing_status")
        claim, reason = meant or (Claim.RUNNING, None)
        result = resolve(document, standard.result_pointer)
        lacks = extras.fetch_result or (standard.result_pointer is not None and result is None)
        kind = _kind(job_id, None, extras)
        said = Said(
            job_id=job_id,
            claim=claim,
            reason=reason,
            status=status,
            result=document if result is None else result,
            has_result=not (claim is Claim.COMPLETED and lacks),
            modality=kind[0] if kind else None,
        )
        return Reading(event=event, event_key=key, said=said)

    def auth_headers(self, source: "SourceSettings") -> dict[str, str]:
        if source.api_key is None:
            return {}
        extras = _extras(source)
        return {extras.auth_header: f"{extras.auth_scheme} {source.api_key.current}".lstrip()}

    def cannot_ask(self, job: Job, source: "SourceSettings") -> str | None:
        if source.api_key is None:
            return "no api_key is configured"
        asked = self._question(job, source)
        return asked if isinstance(asked, str) else None

    def _question(self, job: Job, source: "SourceSettings") -> Question | str:
        """How to ask about a job: at its own URL, by its kind's template or the source's; or why it cannot be asked."""
        base = source.effective_base_url or ""
        if job.poll_url:
            ours = same_origin(job.poll_url, base)
            return Question(url=job.poll_url, job_id=job.job_id) if ours else "its poll_url lies on another origin"
        kind = _kind(job.job_id, job.modality, _extras(source))
        template = kind[1].poll_url if kind and kind[1].poll_url is not None else _standard(source).poll_url
        if not template:
            return "no poll URL: neither the job nor the configuration has one"
        if not template.startswith(BASE):
            url = template.replace("{job_id}", segment(job.job_id))
            return Question(url=url, job_id=job.job_id) if same_origin(url, base) else "poll_url lies on another origin"
        path, _, query = template.removeprefix(BASE).partition("?")
        asked = {
            name: value.replace("{job_id}", job.job_id) for name, value in parse_qsl(query, keep_blank_values=True)
        }
        return Question(path=path.replace("{job_id}", segment(job.job_id)), query=asked, job_id=job.job_id)

    def ask(self, jobs: Sequence[Job], source: "SourceSettings", now: float) -> Asking:
        """A question a job; a second one for the result, where that has a URL of its own."""
        standard, extras = _standard(source), _extras(source)
        for job in jobs:
            question = self._question(job, source)
            if isinstance(question, str) or source.api_key is None:
                yield Finding(job.job_id, problem=self.cannot_ask(job, source))
                continue
            reply = yield question
            finding = _finding(job, reply, standard, extras)
            where = resolve(finding.result, extras.poll_result_url_pointer)
            if finding.claim is Claim.COMPLETED and isinstance(where, str) and where:
                finding = yield from _fetch(finding, where, source)
            part = resolve(finding.result, standard.poll_result_pointer)
            yield finding if part is None or finding.claim is Claim.RUNNING else replace(finding, result=part)

    def classify(self, reply: Reply) -> Trouble | None:
        """422 is an answer: where a result has a URL of its own it is the sender's way to say that there is none."""
        return None if reply.status == UNPROCESSABLE else ordinary_trouble(reply)

    def submitted(self, method: str, path: str, document: Any, source: "SourceSettings") -> list[Submitted]:
        """A post to one of `submit_paths` whose answer has an id; what has ended already is in the caller's hands."""
        standard, extras = _standard(source), _extras(source)
        asked = path.partition("?")[0].strip("/")
        job_id = jsontext.identifier(resolve(document, extras.submit_job_id_pointer))
        submits = method.upper() == "POST" and any(fnmatch.fnmatchcase(asked, each) for each in extras.submit_paths)
        if not submits or job_id is None:
            return []
        if claim_of(status_word(resolve(document, standard.poll_status_pointer)), standard) is not None:
            return []
        url = resolve(document, extras.submit_poll_url_pointer)
        ours = isinstance(url, str) and same_origin(url, source.effective_base_url or "")
        kind = _kind(job_id, None, extras)
        return [Submitted(job_id, kind[0] if kind else None, poll_url=url if ours else None)]


def _finding(job: Job, reply: Reply | None, standard: StandardSettings, extras: Extras) -> Finding:
    """What an answer says of a job, its result still the whole answer."""
    if reply is None or reply.status == UNPROCESSABLE:
        return Finding(job.job_id, problem="the provider refuses the question")
    if reply.status == 404:
        return Finding(job.job_id, missing=True)
    document = reply.document()
    status = status_word(resolve(document, standard.poll_status_pointer))
    if status is None:
        return Finding(job.job_id, problem="the answer has no status where poll_status_pointer points")
    claim, reason = claim_of(status, standard) or (Claim.RUNNING, None)
    wait = reply.headers.get("retry-after") if claim is Claim.RUNNING else None
    kind = _kind(job.job_id, job.modality, extras)
    return Finding(
        job_id=job.job_id,
        claim=claim,
        reason=reason,
        status=status,
        result=document,
        modality=kind[0] if kind else None,
        retry_after_s=clock.retry_after_s(wait, reply.now) if wait is not None else None,
    )


def _fetch(finding: Finding, where: str, source: "SourceSettings") -> Generator[Question, Reply | None, Finding]:
    """A good end with the result that has a URL of its own: there, refused as unprocessable, or out of reach."""
    if not same_origin(where, source.effective_base_url or ""):
        return Finding(finding.job_id, problem="it has ended, but its result lies on another origin")
    reply = yield Question(url=where, job_id=finding.job_id)
    if reply is not None and reply.status == UNPROCESSABLE:
        return replace(finding, claim=Claim.FAILED, reason=Reason.PROVIDER, result=reply.document())
    document = reply.document() if reply is not None and 200 <= reply.status < 300 else None
    if document is None:
        return Finding(finding.job_id, problem="it has ended, but its result cannot be read any more")
    return replace(finding, result=document)


PROVIDER = Standard()
