"""OmniAI asked: two lists that settle all jobs of a lead, and what they leave open."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.providers import managing
from receiver.providers.base import Question, Reply
from receiver.providers.omniai import PROVIDER
from receiver.records import Job
from receiver.settings import SourceSettings
from receiver.states import Claim, Reason
from tests.providers.talk import Talk, answers, job_of, reply_of, source_of, talk

LEAD = {"lead_id": "lead-1"}
ODD: list[Any] = [None, 7, 1.5, True, False, [], {}, [{"id": "a"}], "", "\ud800", "x" * 5000]
"""What may stand where something else was promised."""


@pytest.fixture
def source() -> SourceSettings:
    """An OmniAI source with a key and no secret."""
    return source_of("omniai")


DOCUMENTS = "/api/v1/leads/lead-1/documents"
ACTIONS = "/api/v1/leads/lead-1/action-logs"


def job(job_id: str, modality: str | None, **facts: Any) -> Job:
    """A job of the one lead."""
    return job_of(job_id, **{"modality": modality, "refs": LEAD, **facts})


def asked(source: SourceSettings, jobs: list[Job], documents: Any = (), actions: Any = ()) -> Talk:
    """A conversation with a provider that has these two lists; a Reply stands for itself."""

    def server(question: Question) -> Reply:
        listed = documents if question.path and question.path.endswith("/documents") else actions
        return listed if isinstance(listed, Reply) else reply_of(list(listed) if isinstance(listed, tuple) else listed)

    return talk(PROVIDER, jobs, source, server)


def test_two_reads_settle_every_job_of_a_lead(source: SourceSettings) -> None:
    """Forty jobs, two questions."""
    jobs = [job(f"d{n}", "document") for n in range(20)] + [job(f"a{n}", "tool_call") for n in range(20)]
    documents = [{"id": f"d{n}", "metadata": {"extractionStatus": "completed"}} for n in range(20)]
    actions = [{"id": f"a{n}", "type": "TOOL_CALL", "status": "FAILED"} for n in range(20)]

    had = asked(source, jobs, documents, actions)

    assert [question.path for question in had.questions] == [DOCUMENTS, ACTIONS]
    assert {finding.claim for finding in had.findings[:20]} == {Claim.COMPLETED}
    assert {finding.claim for finding in had.findings[20:]} == {Claim.FAILED}
    assert had.told["d3"].result == documents[3]


@pytest.mark.parametrize(
    ("modality", "paths"),
    [
        ("document", [DOCUMENTS]),
        ("Document", [DOCUMENTS]),
        ("tool_call", [ACTIONS]),
        ("message", [ACTIONS]),
        (None, [DOCUMENTS, ACTIONS]),
        ("something", [DOCUMENTS, ACTIONS]),
    ],
)
def test_only_the_lists_that_may_hold_it_are_read(
    modality: str | None, paths: list[str], source: SourceSettings
) -> None:
    """A job of an unknown kind is looked for in both."""
    assert [question.path for question in asked(source, [job("x", modality)]).questions] == paths


@pytest.mark.parametrize(
    ("status", "claim", "reason", "freezes"),
    [
        ("PENDING", Claim.RUNNING, None, False),
        ("AWAITING_APPROVAL", Claim.RUNNING, None, True),
        ("awaiting_approval", Claim.RUNNING, None, True),
        ("COMPLETED", Claim.COMPLETED, None, False),
        ("FAILED", Claim.FAILED, Reason.PROVIDER, False),
        ("CANCELLED", Claim.FAILED, Reason.CANCELLED, False),
        ("NEW_WORD", Claim.RUNNING, None, False),
        (None, Claim.RUNNING, None, False),
    ],
)
def test_a_row_says_how_an_action_stands(
    status: str | None, claim: Claim, reason: Reason | None, freezes: bool, source: SourceSettings
) -> None:
    """A cancellation is found here alone (OA-5); what waits for a person stops the clock (OA-6)."""
    row = {"id": "a", "type": "MESSAGE", "status": status}

    found = asked(source, [job("a", "message")], actions=[row]).told["a"]

    assert (found.claim, found.reason, found.freezes, found.result) == (claim, reason, freezes, row)
    assert found.modality == "message"


def test_what_is_scheduled_for_later_stops_the_clock_until_then(source: SourceSettings) -> None:
    """The deadline counts from `scheduledAt` when that lies in the future (3.10)."""

    def freezes(at: Any) -> bool:
        row = {"id": "a", "status": "PENDING", "scheduledAt": at}
        return asked(source, [job("a", "message")], actions=[row]).told["a"].freezes

    assert freezes("2026-04-13T15:00:00.000Z")
    assert not freezes("2026-04-13T14:00:00.000Z")
    assert not any(freezes(odd) for odd in (*ODD, "soon", "9999-99-99", "0001-01-01T00:00:00+23:59"))


@pytest.mark.parametrize("wrapped", [None, "documents", "data", "somethingElse"])
def test_lists_are_taken_bare_and_wrapped(wrapped: str | None, source: SourceSettings) -> None:
    """The documentation says both (3.3)."""
    rows = [{"id": "d", "metadata": {"extractionStatus": "Failed"}}]

    found = asked(source, [job("d", "document")], rows if wrapped is None else {"success": True, wrapped: rows})

    assert (found.told["d"].claim, found.told["d"].reason) == (Claim.FAILED, Reason.PROVIDER)


def test_a_job_that_no_list_holds_is_missing(source: SourceSettings) -> None:
    """And so is every job of a lead that vanished."""
    jobs = [job("d", "document"), job("a", "message"), job("x", None)]

    assert all(finding.missing for finding in asked(source, jobs, [], []).findings)
    gone = reply_of({}, 404)
    assert [finding.missing for finding in asked(source, jobs, gone, gone).findings] == [True] * 3


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"",
        {"error": "no"},
        {"errors": []},
        "text",
        7,
        None,
        {"documents": [], "hasMore": True},
        {"documents": [{"id": "z"}], "total": 2},
        {"documents": [], "nextCursor": "c"},
    ],
)
def test_a_list_that_is_not_whole_calls_nothing_missing(answer: Any, source: SourceSettings) -> None:
    """Absence from a part of a list, or from a page nobody understands, proves nothing."""
    found = asked(source, [job("d", "document")], reply_of(answer)).told["d"]

    assert not found.missing
    assert found.claim is None
    assert found.problem


def test_one_list_in_disorder_does_not_hide_the_other(source: SourceSettings) -> None:
    """What the action logs say counts, although the documents cannot be read."""
    found = asked(source, [job("a", None)], reply_of(b"<html>"), [{"id": "a", "status": "COMPLETED"}])

    assert found.told["a"].claim is Claim.COMPLETED


def test_trouble_with_one_list_keeps_back_nothing_that_the_other_told(source: SourceSettings) -> None:
    """A document's end is told before the action logs are asked for, and their trouble is not about it."""
    jobs = [job("d", "document"), job("a", "tool_call"), job("x", None)]
    rows = [{"id": each, "metadata": {"extractionStatus": "completed"}} for each in "dx"]

    had = asked(source, jobs, rows, reply_of({}, 503))

    assert (had.trouble, sorted(had.told)) == ("unavailable", ["d", "x"])
    assert had.questions[1].about == ("a",)


def test_a_running_job_is_left_alone_as_long_as_its_list_asks(source: SourceSettings) -> None:
    """A Retry-After on a good list is about those of its jobs that have not ended."""
    rows = [
        {"id": "d", "metadata": {"extractionStatus": "running"}},
        {"id": "e", "metadata": {"extractionStatus": "failed"}},
    ]

    told = asked(source, [job("d", "document"), job("e", "document")], reply_of(rows, retry_after="30")).told

    assert [told[each].retry_after_s for each in "de"] == [30.0, None]


def test_a_job_is_found_by_its_alias_too(source: SourceSettings) -> None:
    """Either id finds the job."""
    rows = [{"id": "other", "metadata": {"extractionStatus": "completed"}}]

    assert asked(source, [job("d", "document", alias="other")], rows).told["d"].claim is Claim.COMPLETED


@pytest.mark.parametrize("refs", [None, {}, {"lead_id": None}, {"lead_id": ""}, {"lead_id": []}, {"lead": "x"}])
def test_a_job_without_a_lead_says_that_nobody_can_be_asked(
    refs: dict[str, Any] | None, source: SourceSettings
) -> None:
    """It ends by its deadline alone, with this reason; the others are asked about all the same."""
    lost = job_of("x", refs=refs)

    assert "lead_id" in (PROVIDER.cannot_ask(lost, source) or "")
    had = asked(source, [lost, job("d", "document")], [{"id": "d"}])
    assert "lead_id" in (had.told["x"].problem or "")
    assert had.told["d"].claim is Claim.RUNNING


def test_leads_are_asked_about_one_by_one_and_trouble_ends_the_round(source: SourceSettings) -> None:
    """A key that is refused, a full bucket: nothing is decided by it."""
    jobs = [job_of(f"d{n}", modality="document", refs={"lead_id": f"l/{n}"}) for n in range(3)]
    rows = [{"id": "d0", "metadata": {"extractionStatus": "completed"}}]

    had = talk(PROVIDER, jobs, source, answers(reply_of(rows), reply_of({}, 429, retry_after="9")))

    assert [question.path for question in had.questions] == [
        "/api/v1/leads/l%2F0/documents",
        "/api/v1/leads/l%2F1/documents",
    ]
    assert (list(had.told), had.trouble) == (["d0"], "rate_limited")


cells = st.sampled_from(["d", "COMPLETED", "failed", {"extractionStatus": "completed"}, *ODD])
columns = st.sampled_from(["id", "status", "metadata", "type", "scheduledAt"])


@given(rows=st.lists(st.dictionaries(columns, cells, max_size=5)))
def test_one_job_gets_one_finding_whatever_the_rows(rows: list[dict[str, Any]]) -> None:
    """Doubled, contradicting and broken rows end a job at most once."""
    assert len(asked(source_of("omniai"), [job("d", None)], rows, rows).findings) == 1


# -- submissions and webhooks -----------------------------------------------------------------------------------------


def test_an_upload_is_as_many_jobs_as_documents(source: SourceSettings) -> None:
    """Its `actionLogId` is not their alias: that action's own end must not end a document (3.10)."""
    answer = {"success": True, "documents": [{"id": "d1"}, {"id": "d2"}, {"id": None}, 7], "actionLogId": "a"}

    made = PROVIDER.submitted("POST", "/api/v1/documents", answer, source)

    assert [(one.job_id, one.modality, one.alias) for one in made] == [
        ("d1", "document", None),
        ("d2", "document", None),
    ]
    assert PROVIDER.submitted("GET", "/api/v1/documents", answer, source) == []
    assert PROVIDER.submitted("POST", "/api/v1/activity", {"success": True, "actionLogId": "a"}, source) == []


def test_webhooks_are_managed_by_hand(source: SourceSettings) -> None:
    """No path of an API is documented; what a person does there is said, without the path token."""
    assert isinstance(PROVIDER, managing.Manager)
    for steps in (
        PROVIDER.manage_setup(source, "https://hooks.example.com/in/lending/tok3n"),
        PROVIDER.manage_rotate(source),
        PROVIDER.manage_test(source),
    ):
        with pytest.raises(StopIteration) as ended:
            next(steps)
        assert isinstance(ended.value.value, managing.ByHand)
        assert ended.value.value.steps
        assert "tok3n" not in str(ended.value.value)
