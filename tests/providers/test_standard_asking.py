"""`standard` asked: templates that lead nowhere else, kinds of job, results with a URL of their own; the presets."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

import receiver.providers
from receiver.providers.base import Finding, Question, Reply
from receiver.providers.standard import PROVIDER
from receiver.settings import SourceSettings
from receiver.settings_standard import preset_names
from receiver.states import Claim, Reason
from tests.providers.talk import answers, job_of, reply_of, source_of, talk

BASE = "https://api.example.com"
PRESETS = Path(receiver.providers.__file__).parent / "presets"
HOSTILE = [
    "../x",
    "..",
    ".",
    "a/b",
    "a?b#c",
    "{job_id}",
    "{base_url}",
    "%2e",
    "a b",
    "é",
    "https://evil.example/",
    "@x",
    "a\0b",
]


def found(source: SourceSettings, *replies: Reply, **facts: Any) -> tuple[Finding, list[Question]]:
    """The finding about one job, and what was asked."""
    had = talk(PROVIDER, [job_of("j", **facts)], source, answers(*replies))
    return had.told["j"], had.questions


# -- where to ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "question"),
    [
        ("{base_url}/jobs/{job_id}", Question(path="/jobs/j", job_id="j")),
        ("{base_url}/v1/{job_id}/status", Question(path="/v1/j/status", job_id="j")),
        ("{base_url}/status?id={job_id}&full=", Question(path="/status", query={"id": "j", "full": ""}, job_id="j")),
        ("https://api.example.com/x/{job_id}", Question(url="https://api.example.com/x/j", job_id="j")),
    ],
)
def test_a_template_says_where_to_ask(template: str, question: Question) -> None:
    """The id is one escaped segment, or one value of the query."""
    _, asked = found(source_of("standard", poll_url=template), reply_of({"status": "done"}))

    assert asked == [question]


@pytest.mark.parametrize("job_id", HOSTILE)
def test_no_id_leads_astray(job_id: str) -> None:
    """Whatever it holds, it stays one segment on the configured origin."""
    source = source_of("standard", poll_url="{base_url}/a/{job_id}/b")
    had = talk(PROVIDER, [job_of(job_id)], source, answers(reply_of({"status": "done"})))

    path = had.questions[0].path or ""
    assert path.count("/") == 3
    assert (path.startswith("/a/"), path.endswith("/b")) == (True, True)
    assert not set(path) & set(" ?#{}\0")
    assert path.split("/")[2] not in (".", "..")


def test_a_jobs_own_url_wins_and_must_lie_on_the_origin() -> None:
    """A URL elsewhere is not asked, and the job says why."""
    source = source_of("standard")
    ours = f"{BASE}/special/1?x=1"

    assert found(source, reply_of({"status": "done"}), poll_url=ours)[1] == [Question(url=ours, job_id="j")]
    for elsewhere in (
        "https://evil.example/x",
        f"{BASE}.evil.example/x",
        "http://api.example.com/x",
        "/x",
        "x",
        "http://[::1",
    ):
        finding, asked = found(source, poll_url=elsewhere)
        assert asked == []
        assert "another origin" in (finding.problem or "")
        assert PROVIDER.cannot_ask(job_of("j", poll_url=elsewhere), source) == finding.problem


def test_who_cannot_be_asked_says_why() -> None:
    """No key, or no URL."""
    assert "api_key" in (PROVIDER.cannot_ask(job_of("j"), source_of("standard", api_key=None)) or "")
    silent = source_of("standard", poll_url="")
    assert "poll URL" in (PROVIDER.cannot_ask(job_of("j"), silent) or "")
    assert PROVIDER.cannot_ask(job_of("j", poll_url=f"{BASE}/x"), silent) is None


@pytest.mark.parametrize(
    ("keys", "headers"),
    [
        ({}, {"authorization": "Bearer key-for-tests"}),
        ({"auth_scheme": "Key"}, {"authorization": "Key key-for-tests"}),
        ({"auth_scheme": ""}, {"authorization": "key-for-tests"}),
        ({"auth_header": "X-Api-Key", "auth_scheme": ""}, {"x-api-key": "key-for-tests"}),
    ],
)
def test_the_key_goes_where_the_sender_wants_it(keys: dict[str, Any], headers: dict[str, str]) -> None:
    """Bearer unless it is said."""
    assert PROVIDER.auth_headers(source_of("standard", **keys)) == headers


# -- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "claim", "reason"),
    [
        ("done", Claim.COMPLETED, None),
        ("ERROR", Claim.FAILED, Reason.PROVIDER),
        ("canceled", Claim.FAILED, Reason.CANCELLED),
        ("queued", Claim.RUNNING, None),
        (42, Claim.RUNNING, None),
    ],
)
def test_an_answer_says_how_the_job_stands(status: Any, claim: Claim, reason: Reason | None) -> None:
    """Where `poll_status_pointer` points, in the same words as the webhooks."""
    source = source_of("standard", poll_status_pointer="/job/state")

    finding, _ = found(source, reply_of({"job": {"state": status}}, retry_after="7"))

    assert (finding.claim, finding.reason) == (claim, reason)
    assert finding.retry_after_s == (7.0 if claim is Claim.RUNNING else None)


def test_the_result_is_where_it_points_else_the_whole_answer() -> None:
    """A null there is nothing."""
    source = source_of("standard", poll_result_pointer="/output")
    whole = {"status": "done", "output": None}

    assert found(source, reply_of({"status": "done", "output": [1]}))[0].result == [1]
    assert found(source, reply_of(whole))[0].result == whole
    assert found(source, reply_of({"status": "failed"}))[0].result == {"status": "failed"}


def test_a_404_is_a_miss() -> None:
    """And nothing more."""
    finding, _ = found(source_of("standard"), reply_of({"status": "done"}, 404))

    assert (finding.missing, finding.claim) == (True, None)


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>", [], "done", None, {}, {"status": None}, {"status": {}}, {"status": ""}, {"state": "done"}],
)
def test_an_answer_without_a_status_decides_nothing(answer: Any) -> None:
    """Not even with 200."""
    finding, _ = found(source_of("standard"), reply_of(answer))

    assert (finding.claim, finding.missing) == (None, False)
    assert finding.problem


def test_422_decides_nothing_about_a_job() -> None:
    """It is an answer only about a result."""
    finding, _ = found(source_of("standard"), reply_of({"status": "done"}, 422))

    assert finding.claim is None
    assert finding.problem


# -- results with a URL of their own --------------------------------------------------------------------------------

RESULT = f"{BASE}/results/1"


@pytest.fixture
def two_steps() -> SourceSettings:
    """A sender whose status answer points at the result."""
    return source_of("standard", poll_result_url_pointer="/result_url", poll_result_pointer="/images")


def test_a_good_end_fetches_its_result(two_steps: SourceSettings) -> None:
    """And only a good end does."""
    finding, asked = found(two_steps, reply_of({"status": "done", "result_url": RESULT}), reply_of({"images": [1]}))

    assert (finding.claim, finding.result) == (Claim.COMPLETED, [1])
    assert asked[1] == Question(url=RESULT, job_id="j")
    for status in ("queued", "failed"):
        assert len(found(two_steps, reply_of({"status": status, "result_url": RESULT}))[1]) == 1
    without = found(two_steps, reply_of({"status": "done"}))[0]
    assert (without.claim, without.result) == (Claim.COMPLETED, {"status": "done"})


def test_a_result_that_is_refused_as_unprocessable_is_a_failure(two_steps: SourceSettings) -> None:
    """The end was good for the queue, and not for the model."""
    finding, _ = found(two_steps, reply_of({"status": "done", "result_url": RESULT}), reply_of({"detail": "bad"}, 422))

    assert (finding.claim, finding.reason, finding.result) == (Claim.FAILED, Reason.PROVIDER, {"detail": "bad"})


@pytest.mark.parametrize("second", [reply_of({}, 404), reply_of(b"<html>"), reply_of(b"")])
def test_a_result_that_is_gone_decides_nothing(second: Reply, two_steps: SourceSettings) -> None:
    """Whether it was a success nobody can say any more."""
    finding, _ = found(two_steps, reply_of({"status": "done", "result_url": RESULT}), second)

    assert finding.claim is None
    assert "result" in (finding.problem or "")


def test_a_result_elsewhere_is_not_fetched(two_steps: SourceSettings) -> None:
    """The key goes to one origin alone."""
    finding, asked = found(two_steps, reply_of({"status": "done", "result_url": "https://evil.example/1"}))

    assert (finding.claim, len(asked)) == (None, 1)
    assert "another origin" in (finding.problem or "")


def test_trouble_on_the_way_to_the_result_ends_the_round(two_steps: SourceSettings) -> None:
    """It is asked again later."""
    replies = answers(reply_of({"status": "done", "result_url": RESULT}), reply_of({}, 500))
    had = talk(PROVIDER, [job_of("j")], two_steps, replies)

    assert (had.findings, had.trouble) == ([], "unavailable")


# -- kinds ----------------------------------------------------------------------------------------------------------


def test_kinds_are_told_apart_by_modality_and_by_prefix() -> None:
    """The longest prefix fits best; a modality that names a kind wins."""
    kinds = {
        "batch": {"id_prefix": "b_", "poll_url": "{base_url}/batches/{job_id}"},
        "big_batch": {"id_prefix": "b_big_", "poll_url": "{base_url}/big/{job_id}"},
        "silent": {"id_prefix": "s_", "poll_url": ""},
        "plain": {"id_prefix": "p_"},
    }
    source = source_of("standard", kinds=kinds)
    jobs = [
        job_of("b_1"),
        job_of("b_big_1"),
        job_of("p_1"),
        job_of("x_1"),
        job_of("b_2", modality="plain"),
        job_of("s_1"),
    ]

    had = talk(PROVIDER, jobs, source, lambda question: reply_of({"status": "queued"}))

    assert [question.path for question in had.questions] == [
        "/batches/b_1",
        "/big/b_big_1",
        "/jobs/p_1",
        "/jobs/x_1",
        "/jobs/b_2",
    ]
    assert [had.told[job.job_id].modality for job in jobs] == ["batch", "big_batch", "plain", None, "plain", None]
    assert had.told["s_1"].problem


# -- submissions ----------------------------------------------------------------------------------------------------


def test_submissions_are_recognised_by_path_and_id() -> None:
    """Patterns of the shell; an answer that says it has ended is in the caller's hands already."""
    source = source_of("standard", submit_paths=["v1/renders", "v1/models/*/runs"], submit_job_id_pointer="/job/id")

    def made(method: str, path: str, answer: Any) -> list[str]:
        return [one.job_id for one in PROVIDER.submitted(method, path, answer, source)]

    assert made("POST", "/v1/renders", {"job": {"id": 7}, "status": "queued"}) == ["7"]
    assert made("post", "v1/models/a/runs?x=1", {"job": {"id": "r"}}) == ["r"]
    assert made("POST", "v1/renders", {"job": {"id": "r"}, "status": "Completed"}) == []
    assert made("POST", "v1/other", {"job": {"id": "r"}}) == []
    assert made("GET", "v1/renders", {"job": {"id": "r"}}) == []
    assert made("POST", "v1/renders", {"job": {"id": None}}) == []
    assert made("POST", "v1/renders", [1]) == []


@pytest.mark.parametrize(
    ("told", "kept"), [(f"{BASE}/jobs/j", f"{BASE}/jobs/j"), ("https://evil.example/j", None), (7, None), (None, None)]
)
def test_a_submissions_url_is_kept_on_the_origin_only(told: Any, kept: str | None) -> None:
    """Elsewhere the template is used."""
    source = source_of("standard", submit_poll_url_pointer="/urls/get")

    made = PROVIDER.submitted("POST", "x", {"id": "j", "urls": {"get": told}}, source)

    assert [one.poll_url for one in made] == [kept]


# -- presets --------------------------------------------------------------------------------------------------------

OWN: dict[str, dict[str, Any]] = {
    "openai": {"secret": "whsec_c2VjcmV0"},
    "replicate": {"secret": "whsec_c2VjcmV0"},
    "assemblyai": {"verify": "header", "secret": "s", "secret_header": "x-webhook-secret"},
    "fal": {"path_token": "token"},
}
"""What an operator adds, as the head of each preset says."""


def test_each_preset_is_shipped_with_what_to_add() -> None:
    """A preset without a test is none."""
    assert preset_names() == sorted(OWN)


@pytest.mark.parametrize("name", OWN)
def test_a_preset_makes_a_source_that_can_be_asked_and_believed(name: str) -> None:
    """With its own few keys it passes the strict reading, and knows its origin."""
    source = SourceSettings.named("src", provider="standard", preset=name, api_key="key", **OWN[name])

    assert source.trust_possible()
    assert (source.effective_base_url or "").startswith("https://")
    assert source.effective_trust() == ("known" if name == "fal" else "payload")
    assert PROVIDER.auth_headers(source)["authorization"].endswith("key")


@pytest.mark.parametrize("name", OWN)
def test_a_preset_names_its_sources_and_its_unknowns_and_holds_no_secret(name: str) -> None:
    """Where it is from, and what nobody said."""
    text = (PRESETS / f"{name}.toml").read_text()

    assert "# Sources:" in text
    assert "Not known:" in text or "not covered" in text
    assert "ssumed" in text
    assert not {"secret", "api_key", "path_token"} & set(tomllib.loads(text))


@pytest.mark.parametrize("name", OWN)
def test_the_example_at_the_head_of_a_preset_works(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines an operator copies."""
    head = (PRESETS / f"{name}.toml").read_text().split("\n\n")[0].splitlines()
    lines = [line[4:] for line in head if line.startswith("#   ") and ("=" in line or "[sources." in line)]
    example = "\n".join(line for line in lines if line.startswith("[") or line.split("=")[0].strip().isidentifier())
    table = tomllib.loads(example)["sources"]
    for value in (each for keys in table.values() for each in keys.values() if each.startswith("env:")):
        monkeypatch.setenv(value.removeprefix("env:"), "whsec_c2VjcmV0")

    for own_name, keys in table.items():
        assert SourceSettings.named(own_name, **keys).standard is not None
