"""OmniFence, the asking half: single reads, and the walk through its lists that tells of many jobs in few questions.

The algorithm and its reasons: providers.md 1.4. A list read page by page skips rows while it shrinks (OF-5), and an
empty one may mean a wrong key: absence from a list proves nothing here and is always confirmed by a single read.
Pure generators: no I/O, no clock.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from receiver import clock, jsontext
from receiver.providers.base import Asking, Finding, Question, Reply, same_origin, segment, word
from receiver.records import Job
from receiver.states import Claim, Reason

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

FEW = 2
"""So many jobs are asked about singly at once: a listing would not be cheaper."""
_OPEN = "queued,processing"
_ENDED = "completed,failed"
_CLAIMS = {"completed": Claim.COMPLETED, "failed": Claim.FAILED}
_MANY = 20
"""More candidates than this are sorted by the list of ended jobs before they are fetched (1.4, step 3)."""
_PAGE_ROWS = 100
_MOST_PAGES = 120
"""A whole pass of jobs (10,000), and what was submitted since."""
_RECENT_PAGES = 3
"""Pages of open jobs read when no job is due and only unregistered ones are looked for."""
_SLACK_S = 60.0
"""How much earlier than our oldest job the list begins: `from` filters the provider's own `created_at` (1.4)."""


def claim_of(status: str) -> Claim:
    """What a status word means, in any case; an unknown one decides nothing."""
    return _CLAIMS.get(status.lower(), Claim.RUNNING)


def reason_of(claim: Claim | None) -> Reason | None:
    """Why a job failed: the provider alone says so here, nothing is ever cancelled."""
    return Reason.PROVIDER if claim is Claim.FAILED else None


def modality_of(row: Mapping[str, Any]) -> str | None:
    """`type`, open-ended (1.3); lower case, as the configuration names its timeouts."""
    kind = word(row.get("type"))
    return kind.lower() if kind else None


def _created_at(row: Mapping[str, Any]) -> float | None:
    written = row.get("created_at")
    if not isinstance(written, str):
        return None
    try:
        return clock.instant(written)
    except (ValueError, OverflowError):
        return None


def _from(instant: float) -> dict[str, str]:
    return {"from": clock.text(instant - _SLACK_S)}


def code_of(reply: Reply) -> str | None:
    """The `error` of an error body (1.6), which tells more than the HTTP status; None for any other body."""
    return word(jsontext.at(reply.document(), "error"))


def _wait_s(reply: Reply | None) -> float | None:
    """`Retry-After` of a good answer: not documented (1.3), and honoured where it shows up (1.5)."""
    written = reply.headers.get("retry-after") if reply is not None else None
    return clock.retry_after_s(written, reply.now) if reply is not None and written is not None else None


class _Walk:
    """Where the reading of a paged list stands. It ends by itself whatever the server says: by an answer that cannot
    be read, by a page without a row not seen before, by `total`, or by `most_pages`."""

    def __init__(self, statuses: str, since: Mapping[str, str], most_pages: int = _MOST_PAGES) -> None:
        self._query = {"status": statuses, "limit": str(_PAGE_ROWS), **since}
        self._seen: set[str] = set()
        self._offset = 0
        self._pages_left = most_pages
        self._pages_read = 0
        self._rows_left = math.inf

    @property
    def goes_on(self) -> bool:
        return self._pages_left > 0

    def cheaper_than(self, singles: int) -> bool:
        """Whether the pages still to come cost less than asking singly. Of an untold number one more is always to come,
        and the walk ends when it has cost as much as the questions it should save."""
        if self._rows_left is math.inf:
            return self._pages_read < singles
        return math.ceil(self._rows_left / _PAGE_ROWS) <= singles

    def question(self) -> Question:
        return Question(path="/api/v1/jobs", query={**self._query, "offset": str(self._offset)})

    def take(self, reply: Reply | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of a page that no earlier page had, by id."""
        document = reply.document() if reply is not None and 200 <= reply.status < 300 else None
        rows = jsontext.at(document, "jobs")
        fresh = dict(self._fresh(rows)) if isinstance(rows, list) else {}
        self._pages_left -= 1
        self._pages_read += 1
        if not isinstance(rows, list) or not fresh:
            self._pages_left = 0
            return iter(())
        self._offset += len(rows)
        total = jsontext.at(document, "total")
        if isinstance(total, int):
            self._rows_left = float(min(max(total - self._offset, 0), _MOST_PAGES * _PAGE_ROWS))
        elif len(rows) < _PAGE_ROWS:
            self._rows_left = 0
        if self._rows_left == 0:
            self._pages_left = 0
        return iter(fresh.items())

    def _fresh(self, rows: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in rows:
            job_id = jsontext.identifier(row.get("job_id")) if isinstance(row, dict) else None
            if job_id is not None and job_id not in self._seen:
                self._seen.add(job_id)
                yield job_id, row


class _Asked:
    """The jobs asked about, what is still open of them, and which other jobs were already told of."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        oldest_first = sorted(jobs, key=lambda job: (job.started_at, job.job_id))
        self.open = {job.job_id: job for job in oldest_first}
        self._ids = frozenset(self.open)
        self._told: set[str] = set()

    def unlisted(self, job_id: str, row: Mapping[str, Any], *, listed_open: bool) -> Iterator[Finding]:
        """A finding for a row of a job that was not asked about, once; nothing for one that was. A row without a
        status (1.4) is as open as the list it stands in; of an ended one nobody knows how it ended."""
        if job_id in self._ids or job_id in self._told:
            return
        self._told.add(job_id)
        status = word(row.get("status"))
        claim = claim_of(status) if status else (Claim.RUNNING if listed_open else None)
        yield Finding(
            job_id,
            claim=claim,
            reason=reason_of(claim),
            status=status,
            modality=modality_of(row),
            submitted_at=_created_at(row),
            unlisted=True,
        )

    def settle(self, finding: Finding) -> Finding:
        del self.open[finding.job_id]
        return finding


def _told(job_id: str, row: dict[str, Any], status: str, partial: bool = False) -> Finding:
    claim = claim_of(status)
    return Finding(
        job_id,
        claim=claim,
        reason=reason_of(claim),
        status=status,
        result=row,
        partial=partial,
        modality=modality_of(row),
        submitted_at=_created_at(row),
    )


def _single_answer(job: Job, reply: Reply) -> Finding:
    """What the answer to a single GET says. Only an object for this very job with a status says anything."""
    if reply.status in (404, 410):
        return Finding(job.job_id, missing=True)
    document = reply.document()
    if not 200 <= reply.status < 300:
        return Finding(job.job_id, problem=" ".join([str(reply.status), code_of(reply) or "without a code"]))
    if not isinstance(document, dict):
        return Finding(job.job_id, problem="the answer is not a JSON object")
    answered = document.get("job_id")
    if answered is not None and jsontext.identifier(answered) != job.job_id:
        return Finding(job.job_id, problem="the answer is about another job")
    status = word(document.get("status"))
    if status is None:
        return Finding(job.job_id, problem="the answer has no status")
    told = _told(job.job_id, document, status)
    return replace(told, retry_after_s=_wait_s(reply)) if told.claim is Claim.RUNNING else told


def ask_single(job: Job, source: "SourceSettings") -> Asking:
    """One GET about one job, by its own poll URL where that lies on the configured origin."""
    base = source.effective_base_url
    if job.poll_url and base and same_origin(job.poll_url, base):
        reply = yield Question(url=job.poll_url, job_id=job.job_id)
    else:
        reply = yield Question(path=f"/api/v1/job/{segment(job.job_id)}", job_id=job.job_id)
    if reply is not None:
        yield _single_answer(job, reply)


def _open_pages(asked: _Asked, walk: _Walk) -> Asking:
    """Who is in the list of open jobs is running. Ends early when no job is left to look for, or singles are cheaper.

    A row whose own status says otherwise is not taken for running: the list and the row were read at two moments.
    """
    while walk.goes_on and asked.open and walk.cheaper_than(len(asked.open)):
        reply = yield walk.question()
        for job_id, row in walk.take(reply):
            yield from asked.unlisted(job_id, row, listed_open=True)
            status = word(row.get("status"))
            if job_id in asked.open and (status is None or claim_of(status) is Claim.RUNNING):
                running = Finding(job_id, Claim.RUNNING, status=status, modality=modality_of(row))
                yield asked.settle(replace(running, retry_after_s=_wait_s(reply)))


def _ended_pages(asked: _Asked, walk: _Walk, tell: bool) -> Generator[Question | Finding, Reply | None, set[str]]:
    """Reads the list of ended jobs; the candidates found in it are told at once, or returned to be fetched first."""
    found: set[str] = set()
    while walk.goes_on and len(asked.open) > len(found) and walk.cheaper_than(len(asked.open)):
        reply = yield walk.question()
        for job_id, row in walk.take(reply):
            yield from asked.unlisted(job_id, row, listed_open=False)
            if job_id not in asked.open:
                continue
            status = word(row.get("status"))
            if tell and status and claim_of(status) is not Claim.RUNNING:
                yield asked.settle(_told(job_id, row, status, partial=True))
            else:
                found.add(job_id)
    return found


def ask_through_lists(jobs: Sequence[Job], source: "SourceSettings") -> Asking:
    """The list of open jobs first; whoever is absent from it is only a candidate, and is asked about singly (1.4)."""
    asked = _Asked(jobs)
    since = _from(min(job.started_at for job in jobs))
    yield from _open_pages(asked, _Walk(_OPEN, since))
    tell = source.bulk_results == "list"
    first: set[str] = set()
    if len(asked.open) > (FEW if tell else _MANY):
        first = yield from _ended_pages(asked, _Walk(_ENDED, since), tell)
    for job in sorted(asked.open.values(), key=lambda job: job.job_id not in first):
        yield from ask_single(job, source)


def look_around() -> Asking:
    """No job is due: what the provider has that nobody may have registered (CONTRACT 6)."""
    asked = _Asked(())
    for statuses, most_pages in ((_OPEN, _RECENT_PAGES), (_ENDED, 1)):
        walk = _Walk(statuses, {}, most_pages)
        while walk.goes_on:
            reply = yield walk.question()
            for job_id, row in walk.take(reply):
                yield from asked.unlisted(job_id, row, listed_open=statuses == _OPEN)
