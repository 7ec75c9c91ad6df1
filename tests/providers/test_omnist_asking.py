"""Omnist asked: a backfill by itself, the runs of a monitor through a paged list."""

from typing import Any

import pytest

from receiver.providers.base import Question, Reply
from receiver.providers.omnist import PROVIDER
from receiver.settings import SourceSettings
from receiver.states import Claim
from tests.providers.talk import answers, job_of, reply_of, source_of, talk


@pytest.fixture
def source() -> SourceSettings:
    """An Omnist source with a key."""
    return source_of("omnist")


MONITOR = {"monitor_id": "m/1"}
RUNS = "/v1/monitors/m%2F1/runs"


def runs(*ids: str, status: str = "done", **more: Any) -> Reply:
    """A page of runs."""
    return reply_of({"runs": [{"id": each, "status": status} for each in ids], **more})


@pytest.mark.parametrize("wrapper", [None, "backfill", "task", "data"])
def test_a_backfill_is_read_by_itself(wrapper: str | None, source: SourceSettings) -> None:
    """Its answer's shape is not documented: bare and wrapped are taken."""
    row = {"task_id": "t/1", "status": "Succeeded"}
    answer = reply_of(row if wrapper is None else {wrapper: row})

    had = talk(PROVIDER, [job_of("t/1", modality="backfill", refs=MONITOR)], source, answers(answer))

    assert had.questions == [Question(path="/v1/monitors/m%2F1/backfills/t%2F1", job_id="t/1")]
    assert (had.told["t/1"].claim, had.told["t/1"].result) == (Claim.COMPLETED, row)


def test_a_running_backfill_is_left_alone_as_long_as_asked(source: SourceSettings) -> None:
    """A Retry-After on a good answer is about this job."""
    answer = reply_of({"status": "running"}, retry_after="40")

    found = talk(PROVIDER, [job_of("t", modality="backfill", refs=MONITOR)], source, answers(answer)).told["t"]

    assert (found.claim, found.retry_after_s) == (Claim.RUNNING, 40.0)


def test_running_runs_are_left_alone_as_long_as_their_list_asks(source: SourceSettings) -> None:
    """A Retry-After on a good list is about those of its jobs that are not done."""
    rows = {"runs": [{"id": "r1", "status": "queued"}, {"id": "r2", "status": "done"}]}
    jobs = [job_of(each, modality="run", refs=MONITOR) for each in ("r1", "r2")]

    told = talk(PROVIDER, jobs, source, answers(reply_of(rows, retry_after="40"))).told

    assert [told[each].retry_after_s for each in ("r1", "r2")] == [40.0, None]


@pytest.mark.parametrize("answer", [b"<html>", b"", {}, [], {"status": None}, {"status": 7}, {"data": {"status": ""}}])
def test_an_answer_without_a_status_decides_nothing(answer: Any, source: SourceSettings) -> None:
    """Neither an end nor a miss."""
    jobs = [job_of("t", modality="backfill", refs=MONITOR)]

    found = talk(PROVIDER, jobs, source, answers(reply_of(answer))).told["t"]

    assert (found.claim, found.missing) == (None, False)
    assert found.problem


def test_the_runs_of_a_monitor_share_a_list_that_is_paged_as_far_as_needed(source: SourceSettings) -> None:
    """Three runs on the second page cost two questions; the third page is not read."""
    jobs = [job_of(f"r{n}", modality="run", refs=MONITOR) for n in range(3)]
    first = runs("x", "y", has_more=True, next_offset=2)
    second = runs("r0", "r1", "r2", status="Failed", has_more=True, next_offset=4)

    had = talk(PROVIDER, jobs, source, answers(first, second))

    assert [(question.path, question.query["offset"]) for question in had.questions] == [(RUNS, "0"), (RUNS, "2")]
    assert {finding.claim for finding in had.findings} == {Claim.FAILED}


@pytest.mark.parametrize(
    ("pages", "missing"),
    [
        ([runs("x", has_more=False)], True),
        ([runs("x")], True),
        ([runs("x", has_more=True, next_offset=1), runs(has_more=False)], True),
        ([runs("x", has_more=True), runs(has_more=False)], True),
        ([reply_of({"data": [{"id": "x"}], "meta": {"has_more": False}})], True),
        ([reply_of([])], True),
        ([reply_of({}, 404)], True),
        ([reply_of(b"<html>")], False),
        ([reply_of({"error": "x"})], False),
        ([runs("x", has_more=True, next_offset=1), reply_of(b"")], False),
    ],
)
def test_only_a_list_read_to_its_end_calls_a_run_missing(
    pages: list[Reply], missing: bool, source: SourceSettings
) -> None:
    """A page that cannot be read leaves it open."""
    found = talk(PROVIDER, [job_of("r", modality="run", refs=MONITOR)], source, answers(*pages)).told["r"]

    assert (found.missing, found.claim) == (missing, None)
    assert bool(found.problem) != missing


@pytest.mark.parametrize("paging", [{"has_more": True}, {"has_more": True, "next_offset": 0}, {"next_offset": 10**9}])
def test_a_list_without_end_is_left(paging: dict[str, Any], source: SourceSettings) -> None:
    """A server that always has more is asked a bounded number of times, and proves nothing."""
    had = talk(
        PROVIDER, [job_of("r", modality="run", refs=MONITOR)], source, lambda asked: runs("x", **paging), most=50
    )

    assert had.told["r"].claim is None
    offsets = [int(question.query["offset"]) for question in had.questions]
    assert offsets == sorted(set(offsets))


def test_a_job_of_an_unknown_kind_is_looked_for_in_both_places(source: SourceSettings) -> None:
    """As a backfill first; a miss there is not yet a miss."""
    missed, found = reply_of({}, 404), runs("x", "j")

    had = talk(PROVIDER, [job_of("j", refs=MONITOR)], source, answers(missed, found))
    assert (len(had.questions), had.told["j"].claim, had.told["j"].modality) == (2, Claim.COMPLETED, "run")
    assert talk(PROVIDER, [job_of("j", refs=MONITOR)], source, answers(missed, runs())).told["j"].missing
    told = talk(PROVIDER, [job_of("j", modality="backfill", refs=MONITOR)], source, answers(missed)).told["j"]
    assert told.missing


@pytest.mark.parametrize("refs", [None, {}, {"monitor_id": None}, {"monitor_id": {}}])
def test_a_job_without_a_monitor_says_that_nobody_can_be_asked(
    refs: dict[str, Any] | None, source: SourceSettings
) -> None:
    """Its deadline ends it, with this reason."""
    job = job_of("j", refs=refs)

    assert "monitor_id" in (PROVIDER.cannot_ask(job, source) or "")
    assert "monitor_id" in (talk(PROVIDER, [job], source, answers()).told["j"].problem or "")


def test_submissions_are_recognised(source: SourceSettings) -> None:
    """With the monitor out of the path, unescaped."""
    backfill = PROVIDER.submitted("post", "/v1/monitors/m%2F1/backfills", {"task_id": "t"}, source)
    run = PROVIDER.submitted("POST", "v1/monitors/m%2F1/run?x=1", {"run": {"id": "r"}}, source)

    assert [(one.job_id, one.modality, one.refs) for one in (*backfill, *run)] == [
        ("t", "backfill", MONITOR),
        ("r", "run", MONITOR),
    ]
    assert PROVIDER.submitted("POST", "/v1/monitors", {"id": "m", "task_id": "t"}, source) == []
    assert PROVIDER.submitted("GET", "/v1/monitors/m/backfills", {"task_id": "t"}, source) == []
    assert PROVIDER.submitted("POST", "/v1/monitors/m/backfills", ["t"], source) == []
