"""Omnist: a media monitor's backfills and runs, told of by signed webhooks whose bodies nobody has documented.

Facts and traps: providers.md section 4. What to remember: the shape of the signature is known and its details are
settings (4.8); whether `t` is the time of the attempt or of the event is not known, so a valid but stale delivery is
parked by default (OS-4); the old secret may go on signing after a rotation (OS-5); most events belong to no job (4.10).
Managing webhooks and reading the provider's delivery log are in `_omnist_webhooks`. Pure: no I/O, no clock, no logs.
"""

import base64
import binascii
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, Field

from receiver import clock, jsontext
from receiver.providers import signing
from receiver.providers._omnist_webhooks import DELIVERY_ID_HEADER, EVENT_ID_HEADER, TEST_EVENT, Webhooks
from receiver.providers.base import (
    Accepted,
    Asking,
    Authentication,
    Finding,
    Parked,
    Question,
    RawRequest,
    Reading,
    Refused,
    Reply,
    Said,
    Submitted,
    Trouble,
    ordinary_trouble,
    segment,
    word,
)
from receiver.records import Job
from receiver.settings_base import Table
from receiver.states import Claim, Reason

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

SIGNATURE_HEADER = "x-omnist-signature"
BACKFILL = "backfill"
RUN = "run"
_CANCELLED = frozenset({"cancelled", "canceled"})
_MOST_PAGES = 40
_MOST_PARTS = 32
_PREFIX = "whsec_"

Answering = Generator[Question, Reply | None, Finding]
"""One question, and the finding it ends in."""
Words = Annotated[tuple[str, ...], Field(strict=False)]


class Extras(Table):
    """Keys that only Omnist sources have; each default is the assumption of providers.md 4.1, 4.3 and 4.4."""

    completed_words: Words = ("succeeded", "success", "completed", "complete", "done")
    """Statuses of a good end, compared without regard to case."""
    failed_words: Words = ("failed", "error", "cancelled", "canceled", "partial_failed")
    """Statuses of a bad end; any other word means: still running."""
    api_key_header: Literal["auto", "authorization", "x-api-key"] = "auto"
    """The documents disagree (OS-1): `auto` sends a Bearer, and `x-api-key` when the key begins with `om_sk_`."""
    page_limit: Annotated[int, Field(ge=1, le=1000)] = 50
    """Runs asked for at once; the most the provider takes is not documented."""


def _extras(source: "SourceSettings") -> Extras:
    return source.extras if isinstance(source.extras, Extras) else Extras()


def claim_of(status: str | None, extras: Extras) -> tuple[Claim, Reason | None]:
    """What a status word means."""
    said = (status or "").lower()
    if said in {one.lower() for one in extras.completed_words}:
        return Claim.COMPLETED, None
    if said in {one.lower() for one in extras.failed_words}:
        return Claim.FAILED, Reason.CANCELLED if said in _CANCELLED else Reason.PROVIDER
    return Claim.RUNNING, None


def signing_key(secret: str, form: str) -> bytes:
    """The HMAC key in a secret, by `key_form`; empty when the secret does not have that form, and never to be used."""
    if form == "full":
        return secret.encode("utf-8", "surrogatepass")
    stripped = secret.removeprefix(_PREFIX)
    if form == "strip_prefix":
        return stripped.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


def signed_bytes(timestamp: str, body: bytes, sign_format: str) -> bytes:
    """What the signature is made over: the timestamp as it was written, and the raw body."""
    return timestamp.encode() + (b"." if sign_format == "dot" else b"") + body


def _parse_signature(value: str) -> tuple[str, int, list[str]] | None:
    """`t=<unix>,v1=<hex>[,v1=…]` as (t as written, t, the v1 values); None when it is anything else.

    Other versions are passed over; a second `t` would be a choice, and is a refusal.
    """
    parts = [part.strip().partition("=") for part in value.split(",")]
    times = [given for name, _, given in parts if name == "t"]
    signatures = [given for name, _, given in parts if name == "v1" and given]
    malformed = len(parts) > _MOST_PARTS or any(not equals for _, equals, _ in parts)
    sent_at = signing.timestamp_s(times[0]) if len(times) == 1 else None
    if malformed or sent_at is None or not signatures:
        return None
    return times[0], sent_at, signatures


def _first_text(document: dict[str, Any], *paths: tuple[str, ...]) -> str | None:
    return next((found for path in paths if (found := word(jsontext.at(document, *path)))), None)


def _first_id(document: Any, *paths: tuple[str, ...]) -> str | None:
    return next((found for path in paths if (found := jsontext.identifier(jsontext.at(document, *path)))), None)


def _subject(event: str | None, document: dict[str, Any]) -> tuple[str, str] | None:
    """(job id, modality) of what an event is about. With both ids at hand only its name can tell, and if it does not,
    the event decides nothing: a run inside a backfill must not end the backfill."""
    task = _first_id(document, ("task_id",), ("data", "task_id"))
    run = _first_id(document, ("run_id",), ("data", "run_id"))
    if task and run:
        words = set((event or "").lower().replace("_", ".").split("."))
        if ("backfill" in words) == ("run" in words):
            return None
        return (task, BACKFILL) if "backfill" in words else (run, RUN)
    if task:
        return task, BACKFILL
    return (run, RUN) if run else None


def _status_of(answer: Any, *wrappers: str) -> tuple[dict[str, Any], str] | None:
    """The object in an answer that has a status, and the status; the shape is not documented (4.3)."""
    candidates = [answer, *(jsontext.at(answer, name) for name in wrappers)]
    for each in candidates:
        status = word(jsontext.at(each, "status"))
        if status is not None:
            return each, status
    return None


def _rows(answer: Any) -> list[Any] | None:
    """The rows of a list answer, bare or in an object."""
    if isinstance(answer, list):
        return answer
    for name in ("runs", "data", "items", "results"):
        rows = jsontext.at(answer, name)
        if isinstance(rows, list):
            return rows
    return None


def _next_offset(answer: Any, offset: int, count: int) -> int | None:
    """Where the next page begins, or None after the last one (4.4). Never backwards: a page would come round again."""
    for holder in (answer, jsontext.at(answer, "meta"), jsontext.at(answer, "pagination")):
        more, following = jsontext.at(holder, "has_more"), jsontext.at(holder, "next_offset")
        if more is False:
            return None
        if isinstance(following, int) and not isinstance(following, bool) and following > offset:
            return following
        if more is True:
            return offset + count if count else None
    return None


def _wait_s(reply: Reply) -> float | None:
    """`Retry-After` of a good answer: not documented (4.3), and honoured where it shows up."""
    written = reply.headers.get("retry-after")
    return clock.retry_after_s(written, reply.now) if written is not None else None


def _finding(
    job: Job, row: Any, status: str, modality: str, extras: Extras, *, retry_after_s: float | None = None
) -> Finding:
    claim, reason = claim_of(status, extras)
    after = retry_after_s if claim is Claim.RUNNING else None
    return Finding(job.job_id, claim, reason, status, result=row, modality=modality, retry_after_s=after)


class Omnist(Webhooks):
    """The adapter."""

    name = "omnist"
    Settings: type[BaseModel] = Extras
    default_base_url: str | None = "https://api.omnist.ai"
    signed = True
    retries = True
    ack_budget_s = 4.0
    """Nobody says how long the provider waits; 5 s is assumed (4.9)."""
    polls_per_min = 60.0
    default_timeouts: Mapping[str, tuple[float, float]] = {RUN: (300.0, 900.0), BACKFILL: (600.0, 3600.0)}
    key_horizon_s = 72 * 3600.0
    """About 28 h from the first attempt to the last, and slack (4.10)."""
    lists = False
    probe_path = "/v1/monitors/holdfast-check/runs"
    """Nobody's monitor: whether the key is taken can be asked of it."""

    def authenticate(self, request: RawRequest, source: "SourceSettings", now: float) -> Authentication:
        """`X-Omnist-Signature` over the raw body with any of the secrets; the signature is judged before its age."""
        doubled = any(len(request.all(name)) > 1 for name in (SIGNATURE_HEADER, EVENT_ID_HEADER, DELIVERY_ID_HEADER))
        if doubled:
            return Refused(signing.SIGNATURE)
        if source.secret is None:
            return Accepted(proven=False)
        values = request.all(SIGNATURE_HEADER)
        parsed = _parse_signature(values[0]) if values else None
        if parsed is None:
            return Refused(signing.SIGNATURE)
        timestamp, sent_at, given = parsed
        message = signed_bytes(timestamp, request.body, source.sign_format)
        keys = [key for secret in source.secret.values() if secret and (key := signing_key(secret, source.key_form))]
        wanted = [signing.hmac_sha256_hex(key, message).encode() for key in keys]
        proven = False
        for one in given:
            proven |= signing.matches_any(signing.wire_bytes(one.lower()), wanted)
        if not proven:
            return Refused(signing.SIGNATURE)
        if abs(now - sent_at) <= source.tolerance_s:
            return Accepted(proven=True)
        return Refused(signing.STALE) if source.stale_policy == "reject" else Parked(signing.STALE)

    def read(self, request: RawRequest, document: dict[str, Any], source: "SourceSettings") -> Reading:
        """Every field is optional (4.7): what cannot be made a job's end is told as it came."""
        event = _first_text(document, ("event_type",), ("type",), ("event",))
        header = request.all(EVENT_ID_HEADER)
        event_id = jsontext.identifier(header[0]) if header else None
        key = event_id or _first_id(document, ("event_id",), ("id",))
        if event == TEST_EVENT:
            return Reading(event=event, event_key=key)
        subject = _subject(event, document)
        status = _first_text(document, ("status",), ("data", "status"))
        claim, reason = claim_of(status, _extras(source))
        if subject is None or claim is Claim.RUNNING:
            return Reading(event=event, event_key=key, passes_on=True)
        monitor = _first_id(document, ("monitor_id",), ("data", "monitor_id"), ("data", "monitor", "id"))
        said = Said(
            job_id=subject[0],
            claim=claim,
            reason=reason,
            status=status,
            result=document,
            modality=subject[1],
            refs={"monitor_id": monitor} if monitor else None,
        )
        return Reading(event=event, event_key=key, said=said)

    def auth_headers(self, source: "SourceSettings") -> dict[str, str]:
        if source.api_key is None:
            return {}
        key, style = source.api_key.current, _extras(source).api_key_header
        if style == "x-api-key" or (style == "auto" and key.startswith("om_sk_")):
            return {"x-api-key": key}
        return {"authorization": f"Bearer {key}"}

    def cannot_ask(self, job: Job, source: "SourceSettings") -> str | None:
        if source.api_key is None:
            return "no api_key is configured"
        if jsontext.identifier(jsontext.at(job.refs, "monitor_id")) is None:
            return "no refs.monitor_id: Omnist is asked by monitor"
        return None

    def ask(self, jobs: Sequence[Job], source: "SourceSettings", now: float) -> Asking:
        """A read a backfill, a paged list a monitor for all of its runs. A job that nobody said the kind of is looked
        for as a backfill first, and among the runs when it is none."""
        extras = _extras(source)
        runs: dict[str, list[Job]] = {}
        for job in jobs:
            monitor = jsontext.identifier(jsontext.at(job.refs, "monitor_id"))
            if monitor is None:
                yield Finding(job.job_id, problem=self.cannot_ask(job, source))
            elif (job.modality or "").lower() == RUN:
                runs.setdefault(monitor, []).append(job)
            else:
                finding = yield from self._ask_backfill(monitor, job, extras)
                if finding.missing and (job.modality or "").lower() != BACKFILL:
                    runs.setdefault(monitor, []).append(job)
                else:
                    yield finding
        for monitor, group in runs.items():
            yield from self._ask_runs(monitor, group, extras)

    def _ask_backfill(self, monitor: str, job: Job, extras: Extras) -> Answering:
        path = f"/v1/monitors/{segment(monitor)}/backfills/{segment(job.job_id)}"
        reply = yield Question(path=path, job_id=job.job_id)
        if reply is not None and reply.status == 404:
            return Finding(job.job_id, missing=True)
        found = _status_of(reply.document(), "backfill", "task", "data") if reply is not None else None
        if reply is None or found is None:
            return Finding(job.job_id, problem="the answer about the backfill has no status")
        return _finding(job, *found, BACKFILL, extras, retry_after_s=_wait_s(reply))

    def _ask_runs(self, monitor: str, jobs: Sequence[Job], extras: Extras) -> Asking:
        """Pages of runs until every job is found or the list ends; only a list read to its end says `missing`."""
        wanted = {job.job_id: job for job in jobs}
        offset: int | None = 0
        problem = None
        for _ in range(_MOST_PAGES):
            if not wanted or offset is None:
                break
            query = {"limit": str(extras.page_limit), "offset": str(offset)}
            path = f"/v1/monitors/{segment(monitor)}/runs"
            reply = yield Question(path=path, query=query, about=tuple(job.job_id for job in jobs))
            if reply is not None and reply.status == 404:
                break
            rows = _rows(reply.document()) if reply is not None else None
            if reply is None or rows is None:
                problem = "the list of runs cannot be read"
                break
            for row in rows:
                run = wanted.pop(_first_id(row, ("id",), ("run_id",)) or "", None)
                status = word(jsontext.at(row, "status"))
                if run is not None and status is not None:
                    yield _finding(run, row, status, RUN, extras, retry_after_s=_wait_s(reply))
                elif run is not None:
                    yield Finding(run.job_id, problem="its row in the list of runs has no status")
            offset = _next_offset(reply.document(), offset, len(rows))
        else:
            problem = None if offset is None else f"it is not on the first {_MOST_PAGES} pages of the monitor's runs"
        for job in wanted.values():
            yield Finding(job.job_id, problem=problem, missing=problem is None)

    def classify(self, reply: Reply) -> Trouble | None:
        return ordinary_trouble(reply)

    def submitted(self, method: str, path: str, document: Any, source: "SourceSettings") -> list[Submitted]:
        """`POST /v1/monitors/{id}/backfills` answers a `task_id`; what a run answers is assumed (4.2)."""
        parts = path.partition("?")[0].strip("/").split("/")
        if method.upper() != "POST" or len(parts) != 4 or parts[:2] != ["v1", "monitors"]:
            return []
        monitor = jsontext.identifier(unquote(parts[2]))
        refs = {"monitor_id": monitor} if monitor else None
        task = _first_id(document, ("task_id",), ("data", "task_id"))
        run = _first_id(document, ("run_id",), ("data", "run_id"), ("run", "id"))
        if parts[3] == "backfills" and task:
            return [Submitted(task, BACKFILL, refs=refs)]
        return [Submitted(run, RUN, refs=refs)] if parts[3] == "run" and run else []


PROVIDER = Omnist()
