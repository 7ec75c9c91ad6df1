"""The provider contract, held against every provider file found: nothing here is edited when one is added.

A provider is judged by its declarations, by its samples on disk (`samples/PROVIDER/*.json`), and by what it does with
anything a stranger or a broken server may send: it never raises, never asks without end, never leads a request astray,
and never speaks of a job that nobody asked about without saying so.

A sample file holds `what` (one sentence) and one of three things, each with what is expected of it. Records are
written as their fields that differ from the defaults.
  a delivery    `delivery` (the body) and optionally `headers`: the expected `reading`
  a round       `jobs` and `answers` (`status`, `headers`, `body`): the expected `questions` and `findings`
  a submission  `submission` (`method`, `path`, `answer`): the expected `submitted`
`source` holds further keys of the source. The word `$document` stands for the whole body of the delivery or answer.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import receiver.providers
from receiver import jsontext
from receiver.providers import provider_named, provider_names
from receiver.providers.base import (
    Accepted,
    Finding,
    Parked,
    Provider,
    Question,
    RawRequest,
    Reading,
    Refused,
    Reply,
    Trouble,
    same_origin,
)
from receiver.records import Job
from receiver.settings import SourceSettings
from receiver.states import Claim, Reason
from tests.providers.talk import answers, delivered, job_of, reply_of, said_by, source_of, talk, with_secret
from tests.support import START

SAMPLES = Path(__file__).parent / "samples"
OUTCOMES = {"rate_limited", "unavailable", "auth_blocked", "redirected", "refused"}
PAGES_AND_LISTS = 120
"""Questions any round may need beside those about single jobs: pages of lists, which are bounded."""

HOSTILE_IDS = ["../x", "..", ".", "a/b?c#d", "a\nb\r\nX: y", "x" * 5000, "a\0b", "%2e%2e%2f", "//evil.example/", "a b",
               "\\..\\x", "é\u202e", "https://evil.example/", ";x=1", "@evil.example"]  # fmt: skip

ODD: list[Any] = [None, True, 7, -1.5, [], ["x"], {}, {"id": "x"}, "", "\ud800", "x" * 5000, 10**40]
"""What a field may be instead of what was promised."""

WORDS = ["completed", "COMPLETED", "failed", "queued", "processing", "pending", "cancelled", "AWAITING_APPROVAL", "",
         "action_log.completed", "document.extracted", "document.received", "lead.updated", "insight_generated",
         "data_exported", "webhook.test", "task_1", "job_0", "job_1", "run_1", "monitor_1",
         "2026-04-13T14:30:00.000Z", "https://evil.example/x", "/x", "\ud800"]  # fmt: skip
FIELDS = ["event", "type", "event_type", "data", "job_id", "id", "status", "generationId", "exportId", "taskId",
          "webhookId", "timestamp", "results", "links", "self", "jobs", "total", "created_at", "actionLog", "leadId",
          "document", "documentId", "documents", "actionLogs", "metadata", "extractionStatus", "parentActionId",
          "scheduledAt", "monitor_id", "run_id", "task_id", "runs", "backfills", "event_id", "error",
          "code"]  # fmt: skip

texts = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=()), max_size=20)
leaves = (
    texts
    | st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
)
fields = st.sampled_from(FIELDS) | st.text(max_size=5)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(fields, inner, max_size=6), max_leaves=25
)
documents = st.dictionaries(fields, values, max_size=8)
bodies = (
    values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40) | st.sampled_from([b"", b"<html>"])
)
header_names = st.sampled_from(
    ["retry-after", "x-ratelimit-remaining", "x-ratelimit-reset", "content-type", "location", "link"]
)
statuses = st.sampled_from([200, 200, 200, 200, 200, 201, 202, 204, 400, 404, 404, 410, 422])
any_status = st.integers(100, 599)


def replies(status: st.SearchStrategy[int]) -> st.SearchStrategy[Reply]:
    """Answers of a provider that has lost its mind."""
    headers = st.dictionaries(header_names, st.sampled_from(["0", "5", "-1", "nan", "inf", "soon", ""]) | st.text())
    return st.builds(Reply, status=status, headers=headers, body=bodies, now=st.just(START))


refs = st.none() | st.dictionaries(
    st.sampled_from(["lead_id", "monitor_id", "task_id", "run_id", "links_self", "poll_url", "kind"]),
    values,
    max_size=4,
)
ids = st.sampled_from([*HOSTILE_IDS, *(f"job_{number}" for number in range(5))]) | st.text(min_size=1, max_size=9)
modalities = st.sampled_from([None, "image", "insight", "export", "document", "tool_call", "run", "backfill", "odd"])
poll_urls = st.sampled_from([None, None, "https://evil.example/x", "http://[::1", "/x", "x", "{base}/task_1", "{base}"])


@st.composite
def rounds(draw: st.DrawFn, source: SourceSettings) -> list[Job]:
    """The jobs of one round: each id once, with whatever else somebody may have put on record."""
    base = source.effective_base_url or ""
    return [
        job_of(
            job_id,
            alias=draw(st.none() | ids),
            modality=draw(modalities),
            refs=draw(refs),
            submitted_at=draw(st.none() | st.floats(-1e6, 1e11)),
            poll_url=(draw(poll_urls) or "").replace("{base}", base) or None,
        )
        for job_id in draw(st.lists(ids, unique=True, max_size=6))
    ]


def rows_about(jobs: list[Job]) -> st.SearchStrategy[bytes]:
    """List pages that do speak of the jobs asked about, and of others, in every provider's dress."""
    known = st.sampled_from([*(job.job_id for job in jobs), "other_1", "other_2"])
    row = st.fixed_dictionaries(
        {"status": texts},
        optional={"job_id": known, "id": known, "task_id": known, "run_id": known, "metadata": values, "type": texts},
    )
    listed = st.lists(row, max_size=5)
    names = st.sampled_from(["jobs", "documents", "actionLogs", "runs", "backfills", "data"])
    page = st.builds(lambda name, rows, total: {name: rows, "total": total}, names, listed, leaves)
    return page.map(lambda value: json.dumps(value).encode())


# -- declarations -------------------------------------------------------------------------------------------------


def test_the_four_providers_and_the_configurable_one_are_found() -> None:
    """Scanning the folder is all the registration there is."""
    assert {"omnifence", "omnia", "omniai", "omnist", "standard"} <= set(provider_names())


def test_a_provider_keeps_the_protocol_and_declares_sane_facts(provider: Provider) -> None:
    """What others compute with: positive, ordered, and named as its file."""
    folder = Path(receiver.providers.__file__).parent

    assert isinstance(provider, Provider)
    assert (folder / f"{provider.name}.py").is_file()
    assert issubclass(provider.Settings, BaseModel)
    assert (provider.__doc__ or "").strip() or (type(provider).__doc__ or "").strip()
    assert 0 < provider.ack_budget_s <= 30
    assert 0 < provider.polls_per_min <= 6000
    assert provider.key_horizon_s >= 3600
    assert all(0 <= poll <= fail for poll, fail in provider.default_timeouts.values())
    assert all(modality == modality.lower() for modality in provider.default_timeouts)
    if provider.default_base_url is not None:
        assert provider.default_base_url.startswith("https://")
        assert not provider.default_base_url.endswith("/")


def test_credentials_exist_only_with_a_key(provider: Provider) -> None:
    """One header carries the key; without a key there is none, and no job can be asked about."""
    source, keyless = source_of(provider.name), source_of(provider.name, api_key=None)

    assert provider.auth_headers(keyless) == {}
    assert [value for value in provider.auth_headers(source).values() if "key-for-tests" in value]
    assert provider.cannot_ask(job_of("j1"), keyless)


def test_a_declared_list_is_read_when_no_job_is_due(provider: Provider) -> None:
    """`lists` promises that jobs nobody registered can be found; without it, no jobs means no questions."""

    def server(question: Question) -> Reply:
        return reply_of({})

    assert bool(talk(provider, [], source_of(provider.name), server).questions) == provider.lists


def test_an_unsigned_provider_proves_nothing_by_itself(provider: Provider) -> None:
    """Without a secret configured, nobody is proven, however the delivery is dressed."""
    headers = ("authorization", "Bearer x"), ("x-omnist-signature", "t=1,v1=00"), ("webhook-signature", "v1,x")
    judged = provider.authenticate(delivered({}, *headers), source_of(provider.name), START)

    assert judged != Accepted(proven=True)


# -- samples ------------------------------------------------------------------------------------------------------


def sample_files() -> list[Path]:
    """Every sample on disk."""
    return sorted(SAMPLES.glob("*/*.json"))


def test_every_provider_has_samples_and_every_sample_a_provider() -> None:
    """A provider file dropped in brings its samples with it: at least a delivery and a round of questions."""
    kinds: dict[str, set[str]] = {name: set() for name in provider_names()}
    for path in sample_files():
        kinds[path.parent.name] |= {"delivery", "jobs", "submission"} & set(json.loads(path.read_text()))

    assert {name for name, found in kinds.items() if not {"delivery", "jobs"} <= found} == set()


@pytest.mark.parametrize("path", sample_files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_sample_is_understood_as_written(path: Path) -> None:
    """Each sample file states what is to be read from it."""
    sample = json.loads(path.read_text())
    provider = provider_named(path.parent.name)
    source = source_of(provider.name, **sample.get("source", {}))

    assert sample["what"]
    if "delivery" in sample:
        check_delivery(sample, provider, source)
    elif "jobs" in sample:
        check_round(sample, provider, source)
    else:
        submission = sample["submission"]
        told = provider.submitted(submission["method"], submission["path"], submission["answer"], source)
        assert said_by(told) == sample["submitted"]


def check_delivery(sample: dict[str, Any], provider: Provider, source: SourceSettings) -> None:
    """A delivery sample: accepted, and read as expected."""
    headers = tuple((name, value) for name, value in sample.get("headers", []))
    request = delivered(sample["delivery"], *headers)
    document = jsontext.parse_object(request.body)

    assert provider.authenticate(request, source, START) == Accepted(proven=source.checks_secret)
    assert said_by(provider.read(request, document, source)) == whole(sample["reading"], sample["delivery"])


def check_round(sample: dict[str, Any], provider: Provider, source: SourceSettings) -> None:
    """A round sample: these questions in this order, and these findings."""
    given_answers = [
        Reply(each.get("status", 200), each.get("headers", {}), json.dumps(each["body"]).encode(), START)
        for each in sample["answers"]
    ]
    had = talk(provider, [job_of(**job) for job in sample["jobs"]], source, answers(*given_answers))
    expected = [whole(finding, *(each["body"] for each in sample["answers"])) for finding in sample["findings"]]

    assert said_by(had.questions) == sample["questions"]
    assert said_by(had.findings) == expected
    assert had.trouble == sample.get("trouble")


def whole(expected: Any, *bodies: Any) -> Any:
    """The expectation with `$document` (or `$document.1` for the second answer) replaced by a body."""
    if isinstance(expected, dict):
        return {key: whole(each, *bodies) for key, each in expected.items()}
    if isinstance(expected, str) and expected.startswith("$document"):
        _, _, number = expected.partition(".")
        return bodies[int(number or "0")]
    return expected


def spoiled(document: Any) -> Iterator[Any]:
    """The document with one of its values replaced, each in turn, by each of the ODD ones."""
    if isinstance(document, dict):
        for key, each in document.items():
            yield from ({**document, key: other} for other in [*ODD, *spoiled(each)])
    elif isinstance(document, list):
        for index, each in enumerate(document):
            yield from ([*document[:index], other, *document[index + 1 :]] for other in [*ODD, *spoiled(each)])


@pytest.mark.parametrize("path", sample_files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_sample_with_any_one_value_spoiled_is_still_borne(path: Path) -> None:
    """Each field in turn is of a wrong type, empty, huge or impossible to store: nothing raises, all can be kept."""
    sample = json.loads(path.read_text())
    provider = provider_named(path.parent.name)
    source = source_of(provider.name, **sample.get("source", {}))

    for body in spoiled(sample.get("delivery")):
        request = delivered(body, *((name, value) for name, value in sample.get("headers", [])))
        assert_understood(provider.read(request, jsontext.parse_object(request.body), source))
    for number, answer in enumerate(sample.get("answers", [])):
        for body in spoiled(answer["body"]):
            given_answers = [
                reply_of(body if index == number else each["body"], each.get("status", 200))
                for index, each in enumerate(sample["answers"])
            ]
            last = reply_of({}, 404)  # a spoiled list makes for more questions than the sample has answers
            server = answers(*given_answers, *[last] * PAGES_AND_LISTS)
            jobs = [job_of(**job) for job in sample["jobs"]]
            for finding in talk(provider, jobs, source, server).findings:
                assert_sound(finding)
    for body in spoiled(sample.get("submission", {}).get("answer")):
        asked, document = sample["submission"], jsontext.parse(json.dumps(body).encode())
        for told in provider.submitted(asked["method"], asked["path"], document, source):
            assert_storable(told.job_id, told.modality, told.alias, told.poll_url)


# -- whatever comes in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", provider_names())
@settings(max_examples=40)
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                ["x-secret", "x-omnist-signature", "webhook-id", "webhook-timestamp", "webhook-signature", "svix-id"]
            ),
            texts | st.sampled_from(["t=1776090600,v1=00", "t=,v1=", "v1,AAAA", "1776090600"]),
        ),
        max_size=5,
    ),
    body=bodies,
    now=st.floats(0, 1e11),
    mode=st.sampled_from(["equals", "hmac_sha256_hex"]),
)
def test_no_stranger_is_proven_and_none_makes_it_raise(
    name: str, headers: list[tuple[str, str]], body: bytes, now: float, mode: str
) -> None:
    """Without the secret nobody is proven, whatever the headers, the bytes or the time."""
    provider = provider_named(name)
    request = RawRequest(headers=tuple(headers), body=body)
    plain = source_of(name)
    guarded = with_secret(plain, "whsec_c2VjcmV0LWZvci10ZXN0cy1vbmx5", "older", header="x-secret", mode=mode)

    assert isinstance(provider.authenticate(request, plain, now), Accepted | Refused | Parked)
    judged = provider.authenticate(request, guarded, now)
    assert isinstance(judged, Accepted | Refused | Parked)
    assert judged != Accepted(proven=True)


@pytest.mark.parametrize("name", provider_names())
@settings(max_examples=80)
@given(document=documents, headers=st.lists(st.tuples(st.just("x-omnist-event-id"), texts), max_size=2))
def test_whatever_is_delivered_is_read_into_something_that_can_be_kept(
    name: str, document: dict[str, Any], headers: list[tuple[str, str]]
) -> None:
    """Reading never raises; all of it can be stored, and it says one thing: a problem, a job, an event, or nothing."""
    request = delivered(document, *headers)
    reading = provider_named(name).read(request, jsontext.parse_object(request.body), source_of(name))

    assert_understood(reading)


@pytest.mark.parametrize("name", provider_names())
@settings(max_examples=80)
@given(data=st.data())
def test_asking_survives_any_server(name: str, data: st.DataObject) -> None:
    """It ends, asks only where it may, tells of each job once, and of no job that nobody asked about unmarked."""
    source = source_of(name, **data.draw(st.sampled_from([{}, {"bulk_results": "list"}])))
    provider = provider_named(name)
    jobs = data.draw(rounds(source))
    given_replies = replies(statuses) | st.builds(
        Reply, status=st.just(200), headers=st.just({}), body=rows_about(jobs), now=st.just(START)
    )
    had = talk(provider, jobs, source, lambda question: data.draw(given_replies), most=4 * len(jobs) + PAGES_AND_LISTS)

    for question in had.questions:
        assert_leads_nowhere_else(question, source)
        assert question.job_id is None or question.job_id in {job.job_id for job in jobs}
    assert set(had.told) <= {job.job_id for job in jobs}
    assert not set(had.unlisted) & {job.job_id for job in jobs}
    assert provider.lists or not had.unlisted
    for finding in had.findings:
        assert_sound(finding)


@pytest.mark.parametrize("name", provider_names())
@settings(max_examples=60)
@given(data=st.data())
def test_a_server_in_trouble_settles_nothing(name: str, data: st.DataObject) -> None:
    """Answers with an error status never end a job, whatever their body says."""
    source = source_of(name)
    jobs = data.draw(rounds(source))
    good = json.dumps({"job_id": "job_0", "status": "completed", "data": {"id": "job_0", "status": "completed"}})
    failing = st.builds(
        Reply,
        status=st.sampled_from([301, 400, 401, 402, 403, 404, 405, 409, 410, 429, 500, 502, 503]),
        headers=st.just({}),
        body=rows_about(jobs) | st.just(good.encode()),
        now=st.just(START),
    )
    had = talk(
        provider_named(name), jobs, source, lambda question: data.draw(failing), most=4 * len(jobs) + PAGES_AND_LISTS
    )

    assert {finding.claim for finding in had.findings} <= {None}


@pytest.mark.parametrize("name", provider_names())
@pytest.mark.parametrize("job_id", HOSTILE_IDS, ids=range(len(HOSTILE_IDS)))
def test_an_id_is_always_one_segment_of_the_path(name: str, job_id: str) -> None:
    """A hostile id, as job id or in `refs`, makes the same shape of request as a harmless one."""
    source = source_of(name)

    def shape(one: str) -> list[tuple[int, int]]:
        told = {"lead_id": one, "monitor_id": one, "task_id": one, "run_id": one}
        job = job_of(one, refs=told)
        had = talk(provider_named(name), [job], source, lambda question: reply_of({}, 404))
        paths = [question.path or "" for question in had.questions]
        assert all(unquote(path).count(one) >= 1 for path in paths)
        for question in had.questions:
            assert_leads_nowhere_else(question, source)
        return [(path.count("/"), len(question.query)) for path, question in zip(paths, had.questions, strict=True)]

    assert shape(job_id) == shape("plain")


@pytest.mark.parametrize("name", provider_names())
@settings(max_examples=80)
@given(reply=replies(any_status))
def test_any_answer_is_classified(name: str, reply: Reply) -> None:
    """Trouble has one of the known outcomes; success is never trouble, and trouble at the provider always is."""
    trouble = provider_named(name).classify(reply)

    if trouble is not None:
        assert isinstance(trouble, Trouble)
        assert trouble.outcome in OUTCOMES
        assert_storable(trouble.detail)
        assert trouble.retry_after_s is None or 0 <= trouble.retry_after_s < float("inf")
    if 200 <= reply.status < 300:
        assert trouble is None
    if reply.status in (401, 402, 403, 429) or reply.status >= 500 or 300 <= reply.status < 400:
        assert trouble is not None


@pytest.mark.parametrize("name", provider_names())
@settings(max_examples=60)
@given(
    method=st.sampled_from(["GET", "POST", "put", "DELETE", "X"]),
    path=st.sampled_from(
        ["", "/", "api/v1/moderate/image", "insights/generation", "api/v1/documents", "v1/monitors/m/x"]
    )
    | texts,
    answer=values,
)
def test_any_answer_to_a_submission_is_taken_or_left(name: str, method: str, path: str, answer: Any) -> None:
    """Jobs told of can be put on record, and their poll URLs lie on the configured origin."""
    source = source_of(name)
    document = jsontext.parse(json.dumps(answer).encode())

    for told in provider_named(name).submitted(method, path, document, source):
        assert told.job_id
        assert_storable(told.job_id, told.modality, told.alias, told.poll_url)
        jsontext.dump(told.refs)
        assert told.poll_url is None or same_origin(told.poll_url, source.effective_base_url or "")


def assert_understood(reading: Reading) -> None:
    """A reading says one thing at the most, and all of it can be stored."""
    assert isinstance(reading, Reading)
    assert_storable(reading.event, reading.event_key, reading.problem)
    assert [reading.problem is not None, reading.said is not None, reading.passes_on].count(True) <= 1
    if reading.said is not None:
        said = reading.said
        assert_storable(said.job_id, said.status, said.modality, said.alias)
        assert said.job_id
        assert (said.reason is None) == (said.claim is not Claim.FAILED)
        assert said.reason in (None, Reason.PROVIDER, Reason.CANCELLED)
        assert said.claim is not Claim.GIVEN_UP
        jsontext.dump([said.result, said.refs, said.metadata])


def assert_storable(*texts: str | None) -> None:
    """Text columns take UTF-8 alone."""
    for text in texts:
        assert text is None or (isinstance(text, str) and text.encode("utf-8") is not None)


def assert_sound(finding: Finding) -> None:
    """A finding says one thing, and all of it can be stored."""
    assert_storable(finding.job_id, finding.status, finding.problem, finding.modality, finding.alias)
    jsontext.dump([finding.result, finding.refs])
    assert finding.claim is not Claim.GIVEN_UP
    assert (finding.reason is not None) == (finding.claim is Claim.FAILED)
    assert finding.reason in (None, Reason.PROVIDER, Reason.CANCELLED)
    assert finding.retry_after_s is None or 0 <= finding.retry_after_s < float("inf")
    assert not finding.freezes or finding.claim is Claim.RUNNING
    if not finding.unlisted:
        said = [finding.claim is not None, finding.missing, finding.problem is not None]
        assert said.count(True) == 1


def assert_leads_nowhere_else(question: Question, source: SourceSettings) -> None:
    """A question goes to the configured origin, and its path is what it seems."""
    assert (question.path is None) != (question.url is None)
    assert question.method == "GET"
    if question.url is not None:
        assert same_origin(question.url, source.effective_base_url or "")
    if question.path is not None:
        assert question.path.startswith("/")
        assert question.path.isascii()
        assert not set(question.path) & set(" ?#\\\n\r\t\0")
        assert not {".", "..", ""} & set(question.path[1:].split("/"))
    assert all(isinstance(value, str) for value in question.query.values())
