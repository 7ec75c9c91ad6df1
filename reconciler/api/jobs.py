"""Jobs: registering them, looking at them, waiting for their end, asking about them now."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from starlette.types import ASGIApp

from receiver import jsontext
from receiver.records import HistoryEntry, Registration
from receiver.registrar import Registered, register
from receiver.states import JobState
from receiver.store.base import Tx
from receiver.store.views import Row
from reconciler.api import shapes
from reconciler.api.call import Call, faults, left
from reconciler.api.models import JobBatch, JobFacts, ListJobs, NamedJob, Nothing, WaitQuery, storable
from reconciler.api.problem import ProblemError, bad_request, json_reply, not_found
from reconciler.api.routing import Answer, Route

BATCH_BYTES = 32 << 20
BATCH_STEP = 250
"""Registrations in one transaction: deliveries are committed between two of them."""


async def list_jobs(call: Call) -> ASGIApp:
    """A page of jobs."""
    asked = call.query(ListJobs)
    overdue_at = call.desk.clock.now() if asked.overdue else None
    if asked.overdue and asked.state not in (None, "pending"):
        return json_reply({"jobs": [], "next": None})  # only pending jobs are ever overdue
    rows, following = await call.desk.store.read(
        lambda view: view.jobs(
            source=asked.source,
            state=asked.state,
            reason=asked.reason,
            overdue_at=overdue_at,
            before=asked.cursor,
            limit=asked.rows,
        )
    )
    return json_reply({"jobs": rows, "next": None if following is None else str(following)})


async def show_job(call: Call) -> ASGIApp:
    """One job's whole story."""
    return json_reply(await story(call, call.path["source"], call.path["job_id"]))


async def story(call: Call, source: str, any_id: str) -> Row:
    """A job as it stands now. Raises ProblemError 404."""
    row = await call.desk.store.read(lambda view: view.job(source, any_id))
    if row is None:
        raise not_found(f"the job {any_id[:100]!r} of the source {source[:100]!r}")
    return row


async def put_job(call: Call) -> ASGIApp:
    """Register one job."""
    source, job_id = call.source(), call.path["job_id"]
    facts = await call.body(JobFacts)
    try:
        registration = facts.registration(source, storable(job_id))
    except ValueError as error:
        raise bad_request(str(error)) from None
    now = call.desk.clock.now()
    done = await call.desk.store.write(lambda tx: register(tx, registration, now, source))
    if done.status == 409:
        told = ", ".join(done.conflicts)
        raise ProblemError(409, f"another fact is on record for this job: {told}", conflicts=done.conflicts)
    call.desk.poke(source.name)
    return json_reply(await story(call, source.name, done.job.job_id), done.status)


async def post_jobs(call: Call) -> ASGIApp:
    """Register many jobs, each by itself."""
    document = await call.document()
    items = document.get("jobs") if isinstance(document, dict) and set(document) == {"jobs"} else document
    if not isinstance(items, list):
        raise bad_request("the body is not an array of jobs")
    answers: list[dict[str, Any]] = []
    sources: set[str] = set()
    for at in range(0, len(items), BATCH_STEP):
        step = [_registration(call, item) for item in items[at : at + BATCH_STEP]]
        answers += await _register_step(call, step)
        sources |= {one.source for one in step if isinstance(one, Registration)}
    for name in sources:
        call.desk.poke(name)
    return json_reply({"jobs": answers})


Refused = dict[str, Any]


def _registration(call: Call, item: Any) -> Registration | Refused:
    try:
        told = NamedJob.model_validate(item)
        source = call.desk.settings.sources.get(told.source)
        if source is None:
            return _refused(item, "the source is not known here")
        return told.registration(source, told.job_id)
    except ValidationError as error:
        listed = faults(error)
        return _refused(item, "; ".join(f"{fault['at']}: {fault['detail']}".removeprefix(": ") for fault in listed))
    except ValueError as error:
        return _refused(item, str(error))


def _refused(item: Any, detail: str) -> Refused:
    source, job_id = jsontext.at(item, "source"), jsontext.at(item, "job_id")
    return {
        "source": source if isinstance(source, str) else None,
        "job_id": jsontext.identifier(job_id),
        "status": 400,
        "detail": detail,
    }


async def _register_step(call: Call, step: Sequence[Registration | Refused]) -> list[dict[str, Any]]:
    now, sources = call.desk.clock.now(), call.desk.settings.sources
    told = [one for one in step if isinstance(one, Registration)]

    def work(tx: Tx) -> list[Registered]:
        return [register(tx, one, now, sources[one.source]) for one in told]

    done = iter(await call.desk.store.write(work) if told else [])
    return [_item(one, next(done)) if isinstance(one, Registration) else one for one in step]


def _item(told: Registration, done: Registered) -> dict[str, Any]:
    item: dict[str, Any] = {"source": told.source, "job_id": told.job_id, "status": done.status}
    if done.conflicts:
        item["detail"] = f"another fact is on record: {', '.join(done.conflicts)}"
        item["conflicts"] = done.conflicts
    return item


async def wait_for_job(call: Call) -> ASGIApp:
    """Answer once the job has ended, or when the time is up."""
    asked, clock = call.query(WaitQuery), call.desk.clock
    source, job_id = call.path["source"], call.path["job_id"]
    until = clock.monotonic() + asked.timeout_s
    timeout_s = asked.timeout_s
    while timeout_s > 0 and not call.parts.bell.closed:
        if not await _ended(call, (source, job_id), timeout_s):
            break
        row = await story(call, source, job_id)
        if row["state"] != JobState.PENDING:
            return json_reply(row)
        if row["job_id"] == job_id:
            break
        job_id = row["job_id"]  # asked for by its alias: wait on under its own id
        timeout_s = until - clock.monotonic()
    row = await story(call, source, job_id)
    return json_reply(row, 200 if row["state"] != JobState.PENDING else 202)


async def _ended(call: Call, key: tuple[str, str], timeout_s: float) -> bool:
    """Whether the waiting ended before the time (and before the caller left)."""
    with call.parts.waiting.ended(key) as ended:
        gone = asyncio.ensure_future(left(call.request.receive))
        try:
            done, _ = await asyncio.wait({ended, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        return ended in done


async def poll_job(call: Call) -> ASGIApp:
    """Have the provider asked about a job, as soon as budget and Retry-After permit."""
    await call.body(Nothing)
    source = call.source()
    row = await story(call, source.name, call.path["job_id"])
    job_id, state = row["job_id"], JobState(row["state"])
    now = call.desk.clock.now()
    entry = HistoryEntry(source.name, job_id, now, state, state, None, call.who, note="asked for a poll")
    await call.desk.store.write(lambda tx: tx.jobs.note(entry))
    asked = await call.desk.poll_now(source.name, job_id)
    shown = {"source": source.name, "job_id": job_id, "state": state, "asked": asked, "last_error": row["last_error"]}
    return json_reply(shown, 202)


_STORY = Answer("The job with its history, deliveries, polls and messages.", shapes.JobStoryShape)
_GONE = Answer("No such source or job.", shapes.ProblemShape)
_DIFFERS = Answer("A given fact differs from the recorded one; `conflicts` names it.", shapes.ProblemShape)
_LARGE = Answer("The body is too large.", shapes.ProblemShape)

ROUTES = [
    Route(
        method="GET",
        path="/v1/jobs",
        handler=list_jobs,
        summary="List jobs, newest first",
        query=ListJobs,
        answers={200: Answer("A page.", shapes.JobListShape)},
        tags=("jobs",),
    ),
    Route(
        method="POST",
        path="/v1/jobs",
        handler=post_jobs,
        summary="Register many jobs, each judged by itself",
        body=JobBatch,
        max_body_bytes=BATCH_BYTES,
        answers={200: Answer("What came of each, in order.", shapes.BatchShape), 413: _LARGE},
        tags=("jobs",),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{source}/{job_id}",
        handler=show_job,
        summary="Show one job, by its id or alias",
        answers={200: _STORY, 404: _GONE},
        tags=("jobs",),
    ),
    Route(
        method="PUT",
        path="/v1/jobs/{source}/{job_id}",
        handler=put_job,
        summary="Register a job; idempotent",
        body=JobFacts,
        answers={200: _STORY, 201: _STORY, 404: _GONE, 409: _DIFFERS, 413: _LARGE},
        tags=("jobs",),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{source}/{job_id}/wait",
        handler=wait_for_job,
        summary="Wait for a job to end",
        query=WaitQuery,
        answers={
            200: Answer("The job has ended.", shapes.JobStoryShape),
            202: Answer("The time is up; the job as it is.", shapes.JobStoryShape),
            404: _GONE,
        },
        tags=("jobs",),
    ),
    Route(
        method="POST",
        path="/v1/jobs/{source}/{job_id}/poll",
        handler=poll_job,
        summary="Ask the provider about a job now, budget and Retry-After permitting",
        body=Nothing,
        body_may_be_absent=True,
        answers={202: Answer("It will be asked about.", shapes.PollNowShape), 404: _GONE, 413: _LARGE},
        tags=("jobs",),
    ),
]
