"""What follows from a source's keys together with its provider's facts."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import config
from receiver.providers import provider_named, provider_names
from receiver.settings import SourceSettings, Timeouts
from tests.receiver.config_text import MODERATION, read, told

KEY, TOKEN, SECRET = {"api_key": "k"}, {"path_token": "t" * 20}, {"secret": "s", "secret_header": "X-S"}


@pytest.mark.parametrize(
    ("provider", "keys", "trust", "possible"),
    [
        ("omnifence", {}, "verify", False),
        ("omnifence", KEY, "verify", True),
        ("omnifence", TOKEN, "known", True),
        ("omnifence", KEY | TOKEN, "known", True),
        ("omnifence", SECRET, "payload", True),
        ("omnifence", KEY | TOKEN | {"trust": "verify"}, "verify", True),
        ("omnifence", {"trust": "payload"}, "payload", True),
        ("omniai", SECRET, "payload", True),
        ("omniai", TOKEN, "known", True),
        ("omnist", {"secret": "s"}, "payload", True),
        ("omnist", {"secret": "s"} | TOKEN | {"trust": "known"}, "known", True),
        ("omnist", {}, "verify", False),
    ],
)
def test_trust_defaults_to_what_was_proven(provider: str, keys: Mapping[str, Any], trust: str, possible: bool) -> None:
    """payload where a secret is checked, known with a path token, else verify, which needs an api_key."""
    source = SourceSettings.named("x", provider=provider, **keys)

    assert (source.effective_trust(), source.trust_possible()) == (trust, possible)


@pytest.mark.parametrize("provider", ["omnifence", "omnia", "omniai"])
def test_a_secret_that_could_not_be_checked_is_refused(provider: str) -> None:
    """Believing a payload because of a secret nobody compares would be the worst of both."""
    text = f'[sources.x]\nprovider = "{provider}"\nsecret = "s"'

    assert "set secret_header" in told(text)["sources.x.secret"]


def test_a_name_of_a_header_is_kept_in_lower_case() -> None:
    """Header names are compared in lower case."""
    assert SourceSettings.named("x", provider="omniai", **SECRET).secret_header == "x-s"


def test_budgets_are_the_tightest_of_all() -> None:
    """The source's, the provider's and the listener's acknowledgement budget: the least holds."""
    facts = provider_named("omnifence")
    source = SourceSettings.named("x", provider="omnifence")
    tight = SourceSettings.named("x", provider="omnifence", ack_budget_s=0.5)

    assert source.effective_ack_budget_s(1.0) == 1.0
    assert source.effective_ack_budget_s(1e6) == facts.ack_budget_s
    assert tight.effective_ack_budget_s(4.0) == 0.5
    assert source.effective_polls_per_min == facts.polls_per_min
    assert SourceSettings.named("x", provider="omnifence", polls_per_min=3).effective_polls_per_min == 3.0


def test_the_base_url_has_a_default_and_no_closing_slash() -> None:
    """Paths are put behind it."""
    source = SourceSettings.named("x", provider="omnifence", base_url="https://api.example.com/v1/")

    assert source.effective_base_url == "https://api.example.com/v1"
    assert SourceSettings.named("x", provider="omnifence").effective_base_url == "https://api.evershield.ai"


def test_timeouts_take_what_is_left_out_from_the_provider() -> None:
    """The source's figure, the provider's, the source's default, 900 s: in this order."""
    source = SourceSettings.named(
        "x", provider="omnifence", timeouts={"video": {"fail_after_s": 2000}, "default": {"fail_after_s": 50}}
    )
    plain = SourceSettings.named("x", provider="omnifence")

    assert plain.effective_timeouts("prompt") == provider_named("omnifence").default_timeouts["prompt"]
    assert plain.effective_timeouts("never-heard-of")[1] == 900.0
    assert plain.effective_timeouts(None)[1] == 900.0
    assert source.effective_timeouts("video") == (300.0, 2000.0)
    assert source.effective_timeouts("prompt")[1] == 300.0
    assert source.effective_timeouts("never-heard-of") == (50.0, 50.0)
    assert source.effective_timeouts(None) == (50.0, 50.0)


_SECONDS = st.none() | st.floats(min_value=0.001, max_value=1e6)


@given(_SECONDS, _SECONDS, _SECONDS, st.sampled_from(["video", "prompt", "x", None]))
def test_asking_never_begins_after_the_end(
    poll: float | None, fail: float | None, default: float | None, modality: str | None
) -> None:
    """Whatever is left out, poll_after_s is at most fail_after_s, and what was said holds."""
    if poll is not None and fail is not None:
        poll, fail = min(poll, fail), max(poll, fail)
    mine = Timeouts(poll_after_s=poll, fail_after_s=fail)
    fallback = Timeouts(fail_after_s=default)

    source = SourceSettings.named("s", provider="omnifence", timeouts={"video": mine, "x": mine, "default": fallback})
    got = source.effective_timeouts(modality)

    assert 0 <= got[0] <= got[1]
    if modality in ("video", "x"):
        assert poll in (None, got[0])
        assert fail in (None, got[1])


@pytest.mark.parametrize("provider", provider_names())
def test_every_providers_facts_make_sense(provider: str) -> None:
    """The facts that defaults come from are positive and ordered, and its extra keys take no common name."""
    facts = provider_named(provider)

    assert facts.ack_budget_s > 0
    assert facts.polls_per_min > 0
    assert all(0 <= poll <= fail for poll, fail in facts.default_timeouts.values())
    assert not set(facts.Settings.model_fields) & set(SourceSettings.model_fields)


def test_a_providers_own_keys_are_read_as_strictly() -> None:
    """A provider declares keys of its own; they stand flat in the source and are judged like the others."""
    text = '[sources.x]\nprovider = "omnist"\n'
    source = read(text + "page_limit = 7").sources["x"]

    assert source.extras is not None
    assert source.extras.model_dump()["page_limit"] == 7
    assert read(MODERATION).sources["moderation"].extras is None
    found = told(text + "page_limit = 0\npage_limits = 1\nhold_s = -1")
    assert found["sources.x.page_limit"] == "must be at least 1, not 0; "
    assert 'did you mean "page_limit"?' in found["sources.x.page_limits"]
    assert set(found) == {"sources.x.page_limit", "sources.x.page_limits", "sources.x.hold_s"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "sources: there are none"),
        (MODERATION, "sources.moderation.path_token: missing, and nothing else proves the sender"),
        (MODERATION, 'sources.moderation.trust: "verify" by default and without an api_key'),
        (MODERATION, "sources.moderation.api_key: missing"),
        (MODERATION + 'path_token = "literal-but-long-enough"', "path_token: a literal secret stands in the file"),
        (MODERATION + 'path_token = "short"', "path_token: shorter than 16"),
        (MODERATION + 'trust = "payload"', "whatever is posted here is believed"),
        (MODERATION + 'base_url = "http://api.example.com"', "base_url: plain http"),
        ('[intake]\npublic_url = "http://h.example.com"', "intake.public_url: plain http"),
        ('[app]\nurl = "http://app/"', "app.secret: missing"),
        ('[app]\nurl = "http://app/"\nsecret = "plain"', "app.secret: not `whsec_`"),
        ('[app]\nurl = "http://app/"\nsecret = ["whsec_AAAA"]', "app.secret: not `whsec_`"),
        (MODERATION + 'app_url = "http://app/"', "app_url: pushes are not signed"),
        (MODERATION + 'app_url = "http://app/"\napp_secret = "whsec_*"', "app_secret: not `whsec_`"),
        (MODERATION + "ack_budget_s = 0.9", "ack_budget_s: 0.9 s is not above store.spill_after_s"),
    ],
)
def test_what_is_legal_but_unwise_is_warned_about(text: str, part: str) -> None:
    """Nothing here stops the start; each is one sentence naming its key."""
    assert [line for line in config.warnings(read(text)) if part in line]


def test_a_sound_configuration_has_no_warnings() -> None:
    """Silence means something."""
    text = (
        '[app]\nurl = "https://app.example.com/"\nsecret = "env:APP"\n[intake]\npublic_url = "https://h.example.com"\n'
        + MODERATION
        + 'path_token = "env:TOKEN"\napi_key = "env:KEY"\nbase_url = "http://127.0.0.1:9/"\n'
    )
    env = {"APP": "whsec_" + "A" * 44, "TOKEN": "t" * 20, "KEY": "k"}

    assert config.warnings(read(text, env)) == []
    assert config.warnings(read(text, env, "none")) == []
