"""Whatever stands in a configuration file, reading it gives settings or a ConfigError."""

import contextlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.errors import ConfigError
from receiver.settings import Settings, SourceSettings
from tests.receiver.config_text import read

_KEYS = sorted({*Settings.model_fields, *SourceSettings.model_fields, "listen", "url", "a", "a b", ""})
_VALUES = st.recursive(
    st.one_of(
        st.booleans().map(lambda flag: "true" if flag else "false"),
        st.integers().map(str),
        st.floats().map(str),
        st.sampled_from(
            ['"env:X"', '"file:/dev/null"', '"omnifence"', '"known"', '"127.0.0.1:1"', '"http://x"', "2026-01-01",
             '"http://[::1"', '"unix:\\u0000"', '"sqlite:///\\u0000"', '"credential:x"', "{}", "[]", '"{base_url}/{"']
        ),
        st.text(max_size=8).map(lambda text: "'''" + text.replace("'", "").replace("\0", "") + "'''"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(st.sampled_from(_KEYS), inner, max_size=2).map(
            lambda items: "{" + ", ".join(f'"{key}" = {value}' for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=4,
)  # fmt: skip
_LINES = st.one_of(
    st.builds('"{}" = {}'.format, st.sampled_from(_KEYS), _VALUES),
    st.builds('[{}."{}"]'.format, st.sampled_from(["sources", "intake", "app", "sources.a"]), st.sampled_from(_KEYS)),
    st.sampled_from([f"[{table}]" for table in Settings.model_fields] + ["[[sources]]", "[[sources.a]]"]),
    st.text(max_size=10),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_LINES, max_size=8).map("\n".join))
def test_no_text_whatever_raises_anything_but_a_config_error(text: str) -> None:
    """Any text is settings or a ConfigError with problems, each with a message."""
    try:
        answer: Settings | ConfigError = read(text)
    except ConfigError as error:
        answer = error

    if isinstance(answer, ConfigError):
        assert answer.problems
        assert all(each.message for each in answer.problems)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_no_noise_whatever_raises_anything_but_a_config_error(text: str) -> None:
    """The same for text that is rarely TOML at all."""
    with contextlib.suppress(ConfigError):
        assert isinstance(read(text), Settings)
