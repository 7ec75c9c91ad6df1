"""A `standard` source: any sender, described in configuration alone."""

from collections.abc import Mapping
from typing import Any

import pytest

from receiver import settings_standard
from receiver.settings import SourceSettings, StandardSettings
from receiver.settings_standard import preset, preset_names
from tests.receiver.config_text import read, told

STANDARD = '[sources.x]\nprovider = "standard"\n'
BASE = 'base_url = "https://api.example.com/v1"\n'

PRESET: Mapping[str, Any] = {
    "base_url": "https://api.preset.example/v2",
    "verify": "header",
    "secret_header": "X-Preset",
    "job_id_pointer": "/id",
    "completed": ["ok"],
    "timeouts": {"render": {"fail_after_s": 30}, "other": {"fail_after_s": 40}},
}


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One preset that no release can change."""
    monkeypatch.setattr(settings_standard, "preset_names", lambda: ["made-up"])
    monkeypatch.setattr(settings_standard, "preset", lambda name: {"made-up": PRESET}[name])


def standard_of(text: str) -> StandardSettings:
    """The standard keys of the one source."""
    found = read(text).sources["x"].standard
    assert found is not None
    return found


def test_everything_but_the_provider_has_a_default() -> None:
    """The defaults are those of a Standard Webhooks sender."""
    standard = standard_of(STANDARD)

    assert (standard.event_pointer, standard.job_id_pointer, standard.status_pointer) == (
        "/type", "/data/id", "/data/status",
    )  # fmt: skip
    assert standard.poll_url == "{base_url}/jobs/{job_id}"
    assert "completed" in standard.completed
    assert "failed" in standard.failed


def test_verification_follows_the_secret_unless_it_is_said() -> None:
    """A secret alone means Standard Webhooks; none means none; a word rules."""
    assert standard_of(STANDARD).verify == "none"
    assert standard_of(STANDARD + 'secret = "s"').verify == "standard-webhooks"
    said = read(STANDARD + 'secret = "s"\nverify = "hmac"\nsecret_header = "X-S"').sources["x"]
    assert said.standard is not None
    assert said.standard.verify == "hmac"
    assert said.effective_trust() == "payload"
    assert read(STANDARD + 'path_token = "t"').sources["x"].effective_trust() == "known"


@pytest.mark.parametrize(
    ("keys", "path", "part"),
    [
        ('verify = "hmac"\nsecret = "s"', "verify", "needs a secret_header"),
        ('verify = "header"\nsecret_header = "X"', "verify", "needs a secret"),
        ('verify = "standard-webhooks"', "verify", "needs a secret"),
        ('verify = "none"\nsecret = "s"', "secret", "checks no secret"),
        ('secret = "s"\nsecret_header = "X-S"', "secret_header", "is not used"),
        ('verify = "rsa"', "verify", '"standard-webhooks", "header", "hmac" or "none"'),
        ('api_key = "k"', "base_url", "goes to one origin alone"),
        ('preset = "no-such"', "preset", "is not a preset"),
        ("preset = 3", "preset", "must be text"),
        ('job_id_pointer = "id"', "job_id_pointer", "JSON pointer"),
        ('status_pointer = "/a~2"', "status_pointer", "JSON pointer"),
        ('completed = "done"', "completed", "must be a list"),
        ('completed = ["done", 3]', "completed[1]", "must be text"),
        ('completed = [" "]', "completed", "empty word"),
        ('failed = ["Completed"]', "failed", "stands in both"),
        ('poll_url = "{base_url}/jobs"', "poll_url", "must hold {job_id}"),
        ('poll_url = "/jobs/{job_id}"', "poll_url", "must begin with"),
        ('poll_url = "{base_url}/{job_id}/{secret}"', "poll_url", "nothing else in braces"),
        ('poll_url = "{base_url}/{{job_id}}"', "poll_url", "nothing else in braces"),
        ('poll_url = "{base_url}/{job_id!r}"', "poll_url", "must hold {job_id}"),
        ('poll_url = "{base_url}/a b/{job_id}"', "poll_url", "a URL must escape"),
        ('poll_url = "{base_url}/{job_id}/{base_url}"', "poll_url", "nothing else in braces"),
        (BASE + 'poll_url = "https://elsewhere.example/{job_id}"', "poll_url", "origin of base_url"),
        (BASE + 'poll_url = "http://api.example.com/{job_id}"', "poll_url", "origin of base_url"),
        (BASE + 'poll_url = "https://api.example.com{job_id}/"', "poll_url", "origin of base_url"),
        (BASE + 'poll_url = "https://[{job_id}"', "poll_url", "origin of base_url"),
        (BASE + 'poll_url = "https://api.example.com\\\\@x/{job_id}"', "poll_url", "a URL must escape"),
        ("event_pointr = '/a'", "event_pointr", 'did you mean "event_pointer"?'),
    ],
)
def test_what_cannot_work_is_refused(keys: str, path: str, part: str) -> None:
    """Half a verification, a pointer that is none, words that say both, an API key that could leave its origin."""
    found = told(STANDARD + keys)

    assert list(found) == [f"sources.x.{path}"]
    assert part in found[f"sources.x.{path}"]


@pytest.mark.parametrize(
    "keys",
    [
        'poll_url = ""',
        BASE + 'poll_url = "https://api.example.com/other/{job_id}?full=1"',
        BASE + 'poll_url = "https://api.example.com:443/other/{job_id}"',
        BASE + 'poll_url = "{base_url}/{job_id}?id={job_id}"',
        'result_pointer = ""\njob_id_pointer = "/a~1b/0/~0"',
        "completed = []",
    ],
)
def test_what_can_work_is_taken(keys: str) -> None:
    """Never asked; another path of the same origin; whole documents and escaped pointers."""
    assert standard_of(STANDARD + keys)


@pytest.mark.usefixtures("made_up")
def test_a_preset_fills_in_and_the_source_rules() -> None:
    """Keys of a preset hold where the source is silent, also those that every source has; timeouts one by one."""
    source = read(
        STANDARD + 'preset = "made-up"\nsecret = "s"\njob_id_pointer = "/mine"\ntimeouts.render = { fail_after_s = 5 }'
    ).sources["x"]

    assert source.standard is not None
    assert (source.standard.verify, source.secret_header) == ("header", "x-preset")
    assert (source.standard.job_id_pointer, source.standard.completed) == ("/mine", ("ok",))
    assert source.effective_base_url == "https://api.preset.example/v2"
    assert source.effective_timeouts("render")[1] == 5.0
    assert source.effective_timeouts("other")[1] == 40.0


@pytest.mark.usefixtures("made_up")
def test_an_unknown_preset_names_those_there_are() -> None:
    """And a problem that a preset brings along is told at the source."""
    assert told(STANDARD + 'preset = "made-upp"')["sources.x.preset"].endswith("there are: made-up")
    assert "needs a secret" in told(STANDARD + 'preset = "made-up"')["sources.x.verify"]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_that_ships_is_sound(name: str) -> None:
    """With a secret where it verifies, a preset is a whole source; it brings no secret of its own."""
    given = preset(name)
    keys = {"preset": name, "api_key": "k", **({"secret": "s"} if given.get("verify", "none") != "none" else {})}

    source = SourceSettings.named("x", provider="standard", **keys)

    assert source.standard is not None
    assert not {"secret", "api_key", "path_token", "app_secret", "provider", "preset"} & set(given)
    assert source.effective_base_url is not None


def test_a_preset_that_does_not_ship_is_not_read() -> None:
    """A name never becomes a path."""
    for name in ("../../pyproject", "/etc/passwd", "", "no-such"):
        with pytest.raises(KeyError):
            preset(name)


def test_standard_keys_are_for_standard_sources() -> None:
    """Elsewhere they would be read and never used."""
    found = told('[sources.x]\nprovider = "omnia"\nverify = "none"\ncompleted = []')

    assert set(found) == {"sources.x.verify", "sources.x.completed"}
    assert all('only a source with provider = "standard"' in text for text in found.values())
