"""What an answer to a submission tells of jobs, put on record before the application sees the answer."""

import zlib
from dataclasses import dataclass, field

import structlog

from receiver import jsontext
from receiver.errors import StoreUnavailable
from receiver.providers.base import Submitted, same_origin
from receiver.records import Registration
from receiver.registrar import Registered, register
from receiver.settings import SourceSettings
from receiver.store.base import Tx
from reconciler.api.desk import Desk
from reconciler.api.guard import values
from reconciler.api.peeking import Peek
from reconciler.passing import Incoming

log = structlog.get_logger("holdfast.api")

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that start nothing: their answers stream through."""
STREAMED = (
    "text/event-stream",
    "application/x-ndjson",
    "multipart/",
    "audio/",
    "image/",
    "video/",
    "application/octet-stream",
)
"""Answers that are no JSON object; holding them back would change what the caller sees."""
STEP = 250
UNPACKED_FACTOR = 8


class UnreadableError(Exception):
    """The answer is encoded in a way that is not understood here, or unpacks into too much."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the request says of the job it starts."""

    modality: str | None = None
    """Instead of the one the provider's adapter reads from the path."""
    refs: dict[str, str] = field(default_factory=dict)
    """By the caller."""
    peek: Peek | None = None
    """Its body, for the refs that stand in it."""


class Recording:
    """Looks into one answer. It never raises: whatever goes wrong is a doubt, and is logged."""

    def __init__(self, desk: Desk, source: SourceSettings, method: str, path: str, request: Told) -> None:
        self.source = source
        self._desk = desk
        self._method = method
        self._path = path
        self._request = request

    def wanted(self, incoming: Incoming) -> bool:
        """Whether the answer may tell of a job."""
        if self._method in SAFE or not 200 <= incoming.status < 300 or incoming.status in (204, 205):
            return False
        headers = [(name.lower(), value) for name, value in incoming.headers]
        if any(kind.strip().lower().startswith(STREAMED) for kind in values(headers, b"content-type")):
            return False
        for length in values(headers, b"content-length"):
            if length.isdigit() and int(length[:19]) > self._desk.limits.answer_bytes:
                self.doubt("the answer is too large to be looked into")
                return False
        return True

    def doubt(self, why: str) -> None:
        """The answer goes back, and whether a job was started is not known."""
        log.warning("submit.unrecorded", source=self.source.name, method=self._method, path=self._path[:200], why=why)

    async def record(self, incoming: Incoming, body: bytes) -> None:
        """Register the jobs that the answer tells of; when this returns they are durable, or the doubt is logged."""
        told = self._told(incoming, body)
        for at in range(0, len(told), STEP):
            await self._register(told[at : at + STEP])

    def _told(self, incoming: Incoming, body: bytes) -> list[Registration]:
        try:
            document = jsontext.parse(unpacked(incoming, body, self._desk.limits.answer_bytes * UNPACKED_FACTOR))
        except (UnreadableError, jsontext.NotJson) as error:
            self.doubt(f"the answer cannot be read: {error}")
            return []
        try:
            found = self.source.facts.submitted(self._method, self._path, document, self.source)
        except Exception:
            log.exception("submit.provider_failed", source=self.source.name)
            self.doubt("the provider's adapter failed on the answer")
            return []
        if not found:
            log.info("submit.no_job", source=self.source.name, method=self._method, path=self._path[:200])
        return [self._registration(one) for one in found]

    def _registration(self, told: Submitted) -> Registration:
        poll_url = told.poll_url
        if poll_url is not None and not same_origin(poll_url, self.source.effective_base_url or ""):
            log.warning("submit.foreign_poll_url", source=self.source.name, job_id=told.job_id)
            poll_url = None
        return Registration(
            source=self.source.name,
            job_id=told.job_id,
            modality=self._request.modality or told.modality,
            poll_url=poll_url,
            alias=told.alias,
            refs={**self._peeked(), **(told.refs or {}), **self._request.refs} or None,
        )

    def _peeked(self) -> dict[str, str]:
        """The refs in the request's own fields, where the provider's adapter says that there are any."""
        wanted = getattr(self.source.facts, "request_refs", {})
        return self._request.peek.refs(wanted) if self._request.peek is not None else {}

    async def _register(self, told: list[Registration]) -> None:
        now = self._desk.clock.now()

        def work(tx: Tx) -> list[Registered]:
            return [register(tx, one, now, self.source) for one in told]

        try:
            done = await self._desk.store.write(work)
        except StoreUnavailable as error:
            self.doubt(f"the store did not take it: {error}")
            log.error("submit.orphaned", source=self.source.name, job_ids=[one.job_id for one in told][:20])
            return
        except Exception:
            log.exception("submit.not_registered", source=self.source.name, job_ids=[one.job_id for one in told][:20])
            return
        for one, answer in zip(told, done, strict=True):
            if answer.status == 409:
                log.warning("submit.conflict", source=one.source, job_id=one.job_id, conflicts=answer.conflicts)
            else:
                log.info("submit.recorded", source=one.source, job_id=one.job_id, modality=answer.job.modality)
        self._desk.poke(self.source.name)


def unpacked(incoming: Incoming, body: bytes, most_bytes: int) -> bytes:
    """The body as it was before it was encoded for the way. Raises UnreadableError."""
    headers = [(name.lower(), value) for name, value in incoming.headers]
    codings = [part.strip().lower() for value in values(headers, b"content-encoding") for part in value.split(",")]
    for coding in reversed([coding for coding in codings if coding not in ("", "identity")]):
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise UnreadableError(f"it is encoded as {coding[:20]}")
        packed = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, whichever it is
        try:
            body = packed.decompress(body, most_bytes)
        except zlib.error:
            raise UnreadableError("its encoding is damaged") from None
        if packed.unconsumed_tail or not packed.eof:
            raise UnreadableError("it unpacks into too much, or is not whole")
    return body
