"""Omnia: two ids for one task, a webhook that names an outcome, and a link that must not lead astray."""

import itertools
from typing import Any

import pytest

from receiver.providers.base import Accepted, Question, Reply
from receiver.providers.omnia import PROVIDER
from receiver.records import Job
from receiver.settings import SourceSettings
from receiver.states import Claim, Reason
from tests.providers.talk import answers, delivered, job_of, read, reply_of, source_of, talk
from tests.support import START

BASE = "https://app.useomnia.com/api/v1"
LINK = f"{BASE}/insights/generation/generation_1"


@pytest.fixture
def source() -> SourceSettings:
    """An Omnia source with a key."""
    return source_of("omnia")


def hook(**changes: Any) -> dict[str, Any]:
    """The webhook of the seed, with changes; None leaves a field out."""
    body = {
        "event": "insight_generated",
        "data": {"generationId": "generation_1", "status": "completed"},
        "webhookId": "wh_1",
        "timestamp": "2026-04-13T14:30:00.000Z",
        **changes,
    }
    return {key: value for key, value in body.items() if value is not None}


def task(status: Any, **data: Any) -> dict[str, Any]:
    """An answer about the task."""
    return {"data": {"id": "task_1", "status": status, **data}, "links": {"self": LINK}}


def registered(**facts: Any) -> Job:
    """The task as its submission registers it."""
    return job_of("task_1", **{"alias": "generation_1", "poll_url": LINK, **facts})


# -- reading ------------------------------------------------------------------------------------------------------


def test_two_tasks_sent_in_one_millisecond_are_two_sendings(source: SourceSettings) -> None:
    """`webhookId` names the registration and `timestamp` a millisecond: alone the pair would merge them (OM-1)."""
    one = read(PROVIDER, hook(), source)
    two = read(PROVIDER, hook(data={"generationId": "generation_2", "status": "completed"}), source)
    three = read(PROVIDER, hook(event="data_exported"), source)

    assert len({one.event_key, two.event_key, three.event_key}) == 3
    assert one.event_key == "insight_generated:generation_1:wh_1:2026-04-13T14:30:00.000Z"


def test_a_resend_is_the_same_sending_and_a_later_one_is_not(source: SourceSettings) -> None:
    """The key is the contract's: webhookId and timestamp, together with event and task id."""
    again = read(PROVIDER, hook(data={"generationId": "generation_1", "status": "completed", "extra": 1}), source)
    later = read(PROVIDER, hook(timestamp="2026-04-13T14:30:00.001Z"), source)

    assert again.event_key == read(PROVIDER, hook(), source).event_key
    assert later.event_key != again.event_key


def test_no_choice_of_fields_fakes_another_tasks_key(source: SourceSettings) -> None:
    """The parts of a key cannot be shifted into each other."""
    values = ["a", "a:b", "b", "b:a", "a%3Ab"]
    keys = set()
    for task_id, webhook, timestamp in itertools.product(values, repeat=3):
        body = hook(data={"generationId": task_id, "status": "completed"}, webhookId=webhook, timestamp=timestamp)
        keys.add(read(PROVIDER, body, source).event_key)

    assert len(keys) == len(values) ** 3


@pytest.mark.parametrize("field", ["webhookId", "timestamp"])
@pytest.mark.parametrize("value", [None, "", [], {}, True, "\ud800"])
def test_without_the_pair_the_body_decides_what_is_a_repeat(field: str, value: Any, source: SourceSettings) -> None:
    """Half a key would merge different sendings; no key means the digest of the body."""
    reading = read(PROVIDER, hook(**{field: value}), source)

    assert reading.event_key is None
    assert reading.said is not None


@pytest.mark.parametrize(
    ("data", "job_id", "alias"),
    [
        ({"generationId": "g"}, "g", None),
        ({"taskId": "t", "generationId": "g"}, "g", "t"),
        ({"generationId": "g", "taskId": "t"}, "g", "t"),
        ({"taskId": "t"}, "t", None),
        ({"id": "i", "generationId": "g"}, "g", None),
        ({"id": "i"}, "i", None),
        ({"generationId": 12}, "12", None),
        ({"generationId": None, "taskId": "t"}, "t", None),
        ({"generationId": "g", "taskId": "g"}, "g", None),
    ],
)
def test_the_task_is_named_by_either_id(
    data: dict[str, Any], job_id: str, alias: str | None, source: SourceSettings
) -> None:
    """Both ids are told where both are there, in whatever order; a bare `id` is the last resort and never an alias."""
    said = read(PROVIDER, hook(data={**data, "status": "completed"}), source).said

    assert said is not None
    assert (said.job_id, said.alias, said.modality) == (job_id, alias, "insight")


@pytest.mark.parametrize(
    ("data", "job_id"),
    [
        ({"exportId": "e", "taskId": "t", "generationId": "g", "id": "i"}, "e"),
        ({"taskId": "t", "generationId": "g", "id": "i"}, "t"),
        ({"generationId": "g", "id": "i"}, "g"),
        ({"id": "i"}, "i"),
    ],
)
def test_an_export_is_looked_for_under_four_names(data: dict[str, Any], job_id: str, source: SourceSettings) -> None:
    """The shape of its data is not documented; the order is the assumption of providers.md 2.7."""
    said = read(PROVIDER, hook(event="data_exported", data={**data, "status": "completed"}), source).said

    assert said is not None
    assert (said.job_id, said.modality) == (job_id, "export")


@pytest.mark.parametrize(
    "data", [None, {}, [], "generation_1", 7, {"generationId": {}}, {"generationId": ""}, {"generationId": "\udfff"}]
)
def test_a_known_event_without_an_id_is_a_problem(data: Any, source: SourceSettings) -> None:
    """Kept with its reason, never acted on."""
    reading = read(PROVIDER, hook(data=data), source)

    assert (reading.event, reading.problem, reading.said) == ("insight_generated", "missing_job_id", None)


@pytest.mark.parametrize("event", [None, "", 7, [], {}, True])
def test_a_delivery_without_an_event_is_a_problem(event: Any, source: SourceSettings) -> None:
    """The envelope promises one."""
    reading = read(PROVIDER, hook(event=event), source)

    assert (reading.problem, reading.said, reading.passes_on) == ("missing_event", None, False)


def test_an_unknown_event_is_passed_on_as_it_is(source: SourceSettings) -> None:
    """A new name must not be refused, and claims nothing of a job."""
    reading = read(PROVIDER, hook(event="brand_renamed"), source)

    assert (reading.event, reading.passes_on, reading.said, reading.problem) == ("brand_renamed", True, None, None)


def test_a_test_event_is_recorded_and_not_passed_on(source: SourceSettings) -> None:
    """`webhook.test` is nobody's business."""
    reading = read(PROVIDER, hook(event="webhook.test"), source)

    assert (reading.passes_on, reading.said, reading.problem) == (False, None, None)


def test_an_outcome_without_results_asks_to_be_fetched(source: SourceSettings) -> None:
    """The seed's own webhook carries no results: the outcome is told, the result must be read."""
    said = read(PROVIDER, hook(), source).said

    assert said is not None
    assert (said.claim, said.has_result, said.result) == (Claim.COMPLETED, False, hook())


@pytest.mark.parametrize("results", [[], [1], {}, "text", 0])
def test_results_in_the_webhook_are_the_result(results: Any, source: SourceSettings) -> None:
    """The seed's field table says that data holds the results; an empty list is a result too."""
    data = {"generationId": "generation_1", "status": "completed", "results": results}
    said = read(PROVIDER, hook(data=data), source).said

    assert said is not None
    assert (said.has_result, said.result) == (True, results)


@pytest.mark.parametrize(
    ("status", "claim", "reason"),
    [
        ("completed", Claim.COMPLETED, None),
        ("COMPLETED", Claim.COMPLETED, None),
        ("Failed", Claim.FAILED, Reason.PROVIDER),
        ("processing", Claim.RUNNING, None),
        ("cancelled", Claim.RUNNING, None),
        ("x" * 10000, Claim.RUNNING, None),
    ],
)
def test_only_the_documented_words_end_a_task(
    status: str, claim: Claim, reason: Reason | None, source: SourceSettings
) -> None:
    """Compared without regard to case; an unknown word decides nothing and is kept."""
    said = read(PROVIDER, hook(data={"generationId": "g", "status": status}), source).said

    assert said is not None
    assert (said.claim, said.reason, said.status) == (claim, reason, status[:200])


def test_an_event_without_a_status_says_what_its_name_says(source: SourceSettings) -> None:
    """Both events are sent when a task has ended (2.7); one with an unreadable status claims nothing."""
    named = read(PROVIDER, hook(data={"generationId": "g"}), source)
    odd = read(PROVIDER, hook(data={"generationId": "g", "status": ["completed"]}), source)

    assert named.said is not None
    assert (named.said.claim, named.said.status) == (Claim.COMPLETED, None)
    assert (odd.said, odd.problem) == (None, "missing_status")


def test_a_sender_has_proven_nothing(source: SourceSettings) -> None:
    """No signature is documented."""
    assert PROVIDER.authenticate(delivered(hook()), source, START) == Accepted(proven=False)


# -- asking -------------------------------------------------------------------------------------------------------


def test_a_running_task_is_left_alone_as_long_as_it_asks(source: SourceSettings) -> None:
    """Running answers are 200 with Retry-After (OM-3); an HTTP date is taken too."""
    seconds = talk(PROVIDER, [registered()], source, answers(reply_of(task("processing"), retry_after="5")))
    date = "Mon, 13 Apr 2026 14:30:09 GMT"
    dated = talk(PROVIDER, [registered()], source, answers(reply_of(task("processing"), retry_after=date)))
    junk = talk(PROVIDER, [registered()], source, answers(reply_of(task("pending"), retry_after="soon")))

    assert [(question.url, question.job_id) for question in seconds.questions] == [(LINK, "task_1")]
    assert (seconds.told["task_1"].claim, seconds.told["task_1"].retry_after_s) == (Claim.RUNNING, 5)
    assert dated.told["task_1"].retry_after_s == 10
    assert (junk.told["task_1"].claim, junk.told["task_1"].retry_after_s) == (Claim.RUNNING, None)
    parts = talk(PROVIDER, [registered()], source, answers(reply_of(task("pending"), retry_after="90.5")))
    assert parts.told["task_1"].retry_after_s == 90.5


def test_a_done_task_needs_no_links_and_no_header(source: SourceSettings) -> None:
    """The seed's finished task has no `links`; its results are the result."""
    reply = reply_of({"data": {"id": "task_1", "status": "completed", "results": [{"a": 1}]}})
    finding = talk(PROVIDER, [registered()], source, answers(reply)).told["task_1"]

    assert (finding.claim, finding.result, finding.retry_after_s) == (Claim.COMPLETED, [{"a": 1}], None)


def test_a_done_task_is_not_told_to_wait(source: SourceSettings) -> None:
    """A Retry-After that strays into the last answer says nothing about the outcome."""
    finding = talk(PROVIDER, [registered()], source, answers(reply_of(task("failed"), retry_after="5"))).told["task_1"]

    assert (finding.claim, finding.retry_after_s) == (Claim.FAILED, None)


def test_an_absent_retry_after_does_not_end_a_task(source: SourceSettings) -> None:
    """Only `data.status` does (OM-5)."""
    finding = talk(PROVIDER, [registered()], source, answers(reply_of(task("processing")))).told["task_1"]

    assert finding.claim is Claim.RUNNING


def test_a_failed_task_keeps_the_whole_answer(source: SourceSettings) -> None:
    """Its body is not documented, so nothing of it is thrown away."""
    body = task("failed", error={"message": "no data"})
    finding = talk(PROVIDER, [registered()], source, answers(reply_of(body))).told["task_1"]

    assert (finding.claim, finding.reason, finding.result) == (Claim.FAILED, Reason.PROVIDER, body)


@pytest.mark.parametrize(
    ("job", "body", "alias"),
    [
        (registered(), task("pending"), "generation_1"),
        (registered(alias=None), task("pending"), "generation_1"),
        (registered(alias=None), {"data": {"id": "task_1", "status": "completed"}}, "generation_1"),
        (job_of("generation_1", poll_url=LINK), task("pending"), "task_1"),
        (job_of("generation_1", poll_url=LINK), {"data": {"id": "task_1", "status": "completed"}}, "task_1"),
        (job_of("generation_1", poll_url=LINK, alias="task_1"), task("pending"), "task_1"),
        (job_of("generation_1", poll_url=LINK), {"data": {"status": "completed"}}, None),
    ],
)
def test_the_other_id_is_learned_from_the_answer(
    job: Job, body: dict[str, Any], alias: str | None, source: SourceSettings
) -> None:
    """Whichever of the two ids a job was registered by, the other becomes its alias."""
    finding = talk(PROVIDER, [job], source, answers(reply_of(body))).told[job.job_id]

    assert finding.claim is not None
    assert finding.alias == alias


@pytest.mark.parametrize(
    ("job", "body"),
    [
        (registered(), {"data": {"id": "task_2", "status": "completed"}}),
        (registered(alias=None), {"data": {"id": "task_2", "status": "completed"}}),
        (job_of("generation_1", alias="task_1", poll_url=LINK), {"data": {"id": "task_2", "status": "completed"}}),
        (registered(), {"data": {"status": "completed"}, "links": {"self": f"{BASE}/insights/generation/other"}}),
    ],
)
def test_an_answer_about_another_task_decides_nothing(job: Job, body: dict[str, Any], source: SourceSettings) -> None:
    """Where both ids are known, an answer must bear one of them."""
    finding = talk(PROVIDER, [job], source, answers(reply_of(body))).told[job.job_id]

    assert (finding.claim, finding.problem) == (None, "the answer is about another task")


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (reply_of(b"<html>"), "the answer is not a JSON object with data"),
        (reply_of(b""), "the answer is not a JSON object with data"),
        (reply_of([]), "the answer is not a JSON object with data"),
        (reply_of({"data": []}), "the answer is not a JSON object with data"),
        (reply_of({"status": "completed"}), "the answer is not a JSON object with data"),
        (reply_of({"data": {"id": "task_1"}}), "the answer has no data.status"),
        (reply_of({"data": {"id": "task_1", "status": {}}}), "the answer has no data.status"),
        (reply_of({"data": {"id": ["x"], "status": True}, "links": []}), "the answer has no data.status"),
        (reply_of({"error": {"code": 1002, "description": ""}}, 400), "400, error code 1002"),
        (reply_of(b"bad", 400), "400, error code untold"),
    ],
)
def test_an_answer_that_cannot_be_read_decides_nothing(reply: Reply, problem: str, source: SourceSettings) -> None:
    """Each field may be of a wrong type; a problem is shown, nothing is decided."""
    finding = talk(PROVIDER, [registered()], source, answers(reply)).told["task_1"]

    assert (finding.claim, finding.missing, finding.problem) == (None, False, problem)


@pytest.mark.parametrize("reply", [reply_of({}, 404), reply_of(b"gone", 410), reply_of({"error": {"code": 1006}}, 400)])
def test_an_unknown_task_is_missing(reply: Reply, source: SourceSettings) -> None:
    """404, or the provider's own code for it."""
    assert talk(PROVIDER, [registered()], source, answers(reply)).told["task_1"].missing


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/api/v1/insights/generation/generation_1",
        "http://app.useomnia.com/api/v1/insights/generation/generation_1",
        "https://app.useomnia.com:8443/api/v1/x",
        "https://app.useomnia.com.evil.example/x",
        "https://app.useomnia.com@evil.example/x",
        "https://evil.example\\@app.useomnia.com/x",
        "https://app.useomnia.com/api\\x",
        "https://user@app.useomnia.com/x",
        "https://@app.useomnia.com/x",
        "https://app.useomnia.com/api\nx",
        "https://app.useomnia.com/a b",
        " https://app.useomnia.com/x",
        "https://app.useomnia.com/\ud800",
        "https://app.useomnia.com\n.evil.example/x",
        "//evil.example/x",
        "/api/v1/insights/generation/generation_1",
        "file:///etc/passwd",
        "https://[::1",
        "generation_1",
    ],
)
def test_a_link_that_leads_elsewhere_gets_no_request(url: str, source: SourceSettings) -> None:
    """Credentials go to the configured origin alone; the operator is told why nobody is asked."""
    job = job_of("task_1", poll_url=url)
    had = talk(PROVIDER, [job], source, answers())

    assert had.questions == []
    assert had.told["task_1"].problem == "the poll URL does not lie on the configured origin"
    assert PROVIDER.cannot_ask(job, source) == had.told["task_1"].problem


def test_without_a_link_or_a_key_nobody_can_be_asked(source: SourceSettings) -> None:
    """No link is ever built; the one handed over in `refs` will do."""
    keyless = source_of("omnia", api_key=None)

    assert PROVIDER.cannot_ask(registered(), keyless) == "no api_key is configured"
    assert "links.self" in (PROVIDER.cannot_ask(job_of("task_1"), source) or "")
    assert "links.self" in (PROVIDER.cannot_ask(job_of("task_1", refs={"links_self": None}), source) or "")
    for refs in ({"links_self": LINK}, {"poll_url": LINK}):
        assert PROVIDER.cannot_ask(job_of("task_1", refs=refs), source) is None
    had = talk(PROVIDER, [job_of("task_1", refs={"links_self": LINK})], source, answers(reply_of(task("pending"))))
    assert had.questions == [Question(url=LINK, job_id="task_1")]


def test_a_job_that_cannot_be_asked_about_does_not_keep_others_waiting(source: SourceSettings) -> None:
    """Its reason is told, and the next job is asked about."""
    had = talk(PROVIDER, [job_of("lost"), registered()], source, answers(reply_of(task("completed"))))

    assert had.told["lost"].claim is None
    assert had.told["task_1"].claim is Claim.COMPLETED


@pytest.mark.parametrize(
    ("headers", "wait_s", "asked"),
    [
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "12"}, 12, 1),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "12", "retry_after": "5"}, 12, 1),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "2", "retry_after": "5"}, 5, 1),
        ({"x_ratelimit_remaining": "0.4", "x_ratelimit_reset": "0.5"}, 0.5, 1),
        ({"x_ratelimit_remaining": "1", "x_ratelimit_reset": "12"}, None, 2),
        ({"x_ratelimit_remaining": "nan", "x_ratelimit_reset": "12"}, None, 2),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "inf"}, None, 2),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "-3"}, 0, 2),
        ({"x_ratelimit_remaining": "none"}, None, 2),
        ({}, None, 2),
    ],
)
def test_an_emptied_bucket_is_left_to_fill(
    headers: dict[str, str], wait_s: float | None, asked: int, source: SourceSettings
) -> None:
    """The bucket is the user's own (OM-7): the answer that empties it ends the round, and all wait for the refill."""
    jobs = [registered(), job_of("task_2", alias="generation_2", poll_url=f"{LINK}2")]
    second = reply_of({"data": {"id": "task_2", "status": "completed"}})
    had = talk(PROVIDER, jobs, source, answers(reply_of(task("processing"), 200, START, **headers), second))

    assert had.told["task_1"].retry_after_s == wait_s
    assert len(had.questions) == asked
    assert had.told["task_2"].claim is (Claim.COMPLETED if asked == 2 else None)
    if asked == 1:
        reset = float(headers["x_ratelimit_reset"])
        assert (had.told["task_2"].retry_after_s, had.told["task_2"].missing) == (reset, False)


def test_there_is_no_list_to_look_around_in(source: SourceSettings) -> None:
    """With no job due, nothing is asked."""
    assert talk(PROVIDER, [], source, answers()).order == []


# -- answers that are none, and submissions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "outcome", "detail"),
    [
        (401, 1004, "auth_blocked", "401, code 1004: the token is wrong or has expired"),
        (401, "1005", "auth_blocked", "401, code 1005: the token did not arrive"),
        (500, 1003, "auth_blocked", "500, code 1003: the provider's own authentication is not set up"),
        (403, 1009, "auth_blocked", "403"),
        (404, 1004, "auth_blocked", "404, code 1004"),
        (429, 1007, "rate_limited", "429"),
        (429, None, "rate_limited", "429"),
        (403, 1007, "rate_limited", "403"),
        (500, 1001, "unavailable", "500"),
        (400, 1001, "unavailable", "400"),
        (502, None, "unavailable", "502"),
        (503, 1006, "unavailable", "503"),
        (409, 1008, "refused", "409"),
        (302, None, "redirected", "302"),
    ],
)
def test_trouble_is_told_by_status_and_code(status: int, code: Any, outcome: str, detail: str) -> None:
    """The HTTP class first, refined by `error.code`."""
    trouble = PROVIDER.classify(reply_of({"error": {"code": code, "description": "x"}}, status))

    assert trouble is not None
    assert trouble.outcome == outcome
    assert trouble.detail.startswith(detail)


def test_a_full_limit_says_how_long_it_lasts() -> None:
    """Retry-After first, else the time the bucket needs."""
    both = PROVIDER.classify(reply_of({}, 429, retry_after="9", x_ratelimit_remaining="0", x_ratelimit_reset="3"))
    reset = PROVIDER.classify(reply_of({}, 429, x_ratelimit_remaining="0", x_ratelimit_reset="3"))

    assert both is not None
    assert reset is not None
    assert (both.retry_after_s, reset.retry_after_s) == (9, 3)


@pytest.mark.parametrize("reply", [reply_of({"error": {"code": 1007}}), reply_of({}, 404), reply_of({}, 400)])
def test_answers_are_not_trouble(reply: Reply) -> None:
    """A 2xx is read, whatever it says; 404 and 400 speak of one task."""
    assert PROVIDER.classify(reply) is None


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": "text"}', b'{"error": {"code": {}}}', b"[]", b"\xff"])
def test_an_error_body_may_be_anything(body: bytes) -> None:
    """A gateway's page is judged by its status alone."""
    trouble = PROVIDER.classify(reply_of(body, 502))

    assert trouble is not None
    assert trouble.outcome == "unavailable"


def test_a_submission_tells_both_ids_and_the_link(source: SourceSettings) -> None:
    """The seed's answer: `data.id` is the job, the link's last segment its alias (CONTRACT 10)."""
    told = PROVIDER.submitted("POST", "insights/generation", task("pending"), source)

    assert [(each.job_id, each.alias, each.poll_url, each.modality) for each in told] == [
        ("task_1", "generation_1", LINK, "insight")
    ]


@pytest.mark.parametrize(
    ("link", "poll_url", "alias"),
    [
        (f"{BASE}/exports/export_1", f"{BASE}/exports/export_1", "export_1"),
        (f"{BASE}/exports/export_1/?x=1#y", f"{BASE}/exports/export_1/?x=1#y", "export_1"),
        ("/api/v1/exports/export_1", f"{BASE}/exports/export_1", "export_1"),
        (f"{BASE}/exports/a%2Fb", f"{BASE}/exports/a%2Fb", "a/b"),
        (f"{BASE}/exports/task_1", f"{BASE}/exports/task_1", None),
        ("https://evil.example/exports/export_1", None, "export_1"),
        ("//evil.example/exports/export_1", None, "export_1"),
        ("https://[::1/exports", None, None),
    ],
)
def test_a_link_is_kept_only_on_the_configured_origin(
    link: str, poll_url: str | None, alias: str | None, source: SourceSettings
) -> None:
    """The task is on record either way; where it may not be read, it says so when asked about."""
    document = {"data": {"id": "task_1", "status": "pending"}, "links": {"self": link}}
    told = PROVIDER.submitted("POST", "exports", document, source)

    assert [(each.job_id, each.poll_url, each.alias, each.modality) for each in told] == [
        ("task_1", poll_url, alias, "export")
    ]


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("POST", "brands", {"data": {"id": "b", "name": "x"}, "links": {"self": f"{BASE}/brands/b"}}),
        ("POST", "brands", {"data": {"id": "b", "status": "active"}, "links": {"self": f"{BASE}/brands/b"}}),
        ("GET", "insights/x", {"data": {"id": "x"}, "links": {"self": f"{BASE}/insights/x"}}),
        ("DELETE", "insights/generation/generation_1", task("pending")),
        ("POST", "insights/generation", {"data": {"id": "task_1", "status": "pending"}}),
        ("POST", "insights/generation", {"data": [], "links": {"self": LINK}}),
        ("POST", "insights/generation", {"data": {"id": None}, "links": {"self": LINK}}),
        ("POST", "insights/generation", {"data": {"id": "x"}, "links": {"self": 7}}),
        ("POST", "insights/generation", [task("pending")]),
        ("POST", "insights/generation", None),
    ],
)
def test_other_objects_are_not_taken_for_tasks(
    method: str, path: str, document: object, source: SourceSettings
) -> None:
    """A brand has an id and a link too; taken for a task it would end as stale and be told as failed."""
    assert PROVIDER.submitted(method, path, document, source) == []


@pytest.mark.parametrize(("method", "path"), [("POST", "anything"), ("PUT", "insights"), ("GET", "insights/x")])
def test_a_task_is_known_by_its_status(method: str, path: str, source: SourceSettings) -> None:
    """Where tasks are started is not documented, so any answer that looks like the seed's is one."""
    assert [each.job_id for each in PROVIDER.submitted(method, path, task("pending"), source)] == ["task_1"]


def test_the_key_is_sent_as_a_bearer(source: SourceSettings) -> None:
    """Only a source with a key has credentials."""
    assert PROVIDER.auth_headers(source) == {"authorization": "Bearer key-for-tests"}
    assert PROVIDER.auth_headers(source_of("omnia", api_key=None)) == {}
