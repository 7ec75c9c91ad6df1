"""`config.example.toml` shows every key there is, and is itself a configuration."""

import re
from pathlib import Path

import pytest

from receiver import config
from receiver.providers import provider_named, provider_names
from receiver.secrets import Place
from receiver.settings import ReconcileSettings, Settings, SourceSettings, StandardSettings, Timeouts
from receiver.settings_standard import preset_names
from tests.support import ROOT

EXAMPLE = (ROOT / "config.example.toml").read_text("utf-8")
COMMENTED = re.compile(r"^# (?=\[?[a-z_.]+\]?(?: = |$))", re.MULTILINE)


class Everything(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, key: str, default: object = None) -> str:
        """The same harmless value whatever is asked for, but for the names the reader itself looks at."""
        return "" if key == "HOLDFAST_PROVIDERS" else "whsec_" + "A" * 40


def read(text: str) -> Settings:
    """The example as it stands in its folder, with all its secrets set."""
    return config.loads(text, Place(Path("/etc/holdfast"), Everything(), "all"))


def uncommented() -> str:
    """The example with every commented key in force."""
    return COMMENTED.sub("", EXAMPLE)


def test_the_example_loads_as_it_stands() -> None:
    """With its secrets set it is a configuration, and one that `check` finds little to say about."""
    settings = read(EXAMPLE)

    assert set(settings.sources) >= {"moderation", "insights", "documents", "visibility", "renders"}
    assert {source.provider for source in settings.sources.values()} <= set(provider_names())
    assert [line for line in config.warnings(settings) if "api_key: missing" not in line] == []


def test_every_commented_key_works_when_it_is_uncommented() -> None:
    """No example value is out of date, and no commented line is only prose."""
    text = uncommented()

    settings = read(text)

    assert text.count("\n# ") <= EXAMPLE.count("\n# ") - 60
    assert settings.sources["moderation"].tick_s == 0.5
    assert settings.sources["renders"].standard is not None


def test_every_preset_is_named() -> None:
    """Whoever looks for their API finds it, and none is promised that does not ship."""
    shown = re.search(r'(?m)^# preset = "(\w+)" +# .*: (.*);$', EXAMPLE)

    assert shown is not None
    assert sorted(shown[2].split(", ")) == preset_names()
    assert shown[1] in preset_names()


def test_a_key_shown_with_its_default_shows_the_default() -> None:
    """What is behind `# ` in the fixed tables is what holds without it."""
    shown, silent = read(uncommented()), read(EXAMPLE)

    for table in ("store", "intake", "api", "app", "retention", "reconcile", "alerts"):
        assert getattr(shown, table).model_dump(exclude={"spill_dir"}) == getattr(silent, table).model_dump(
            exclude={"spill_dir"}
        )
    assert shown.store.spill_path == silent.store.spill_path
    standard, words = shown.sources["renders"].standard, StandardSettings()
    assert standard is not None
    assert (standard.completed, standard.failed) == (words.completed, words.failed)


@pytest.mark.parametrize(
    "key",
    sorted(
        {
            *Settings.model_fields,
            *(
                key
                for field in Settings.model_fields.values()
                for model in (field.annotation, *getattr(field.annotation, "__args__", ()))
                for key in getattr(model, "model_fields", {})
            ),
            *SourceSettings.model_fields,
            *ReconcileSettings.model_fields,
            *StandardSettings.model_fields,
            *Timeouts.model_fields,
            *(key for name in provider_names() for key in provider_named(name).Settings.model_fields),
        }
    ),
)
def test_every_key_is_in_the_example(key: str) -> None:
    """A key that nobody can find does not exist."""
    assert re.search(rf"(?m)(^(# )?{key}(\.\w+)? = |\[{key}\]|\[{key}\.|[{{,] {key} = )", EXAMPLE), key


@pytest.mark.parametrize("provider", provider_names())
def test_every_provider_is_in_the_example(provider: str) -> None:
    """Each adapter that ships is shown with a source of its own."""
    assert f'provider = "{provider}"' in EXAMPLE
