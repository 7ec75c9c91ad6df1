"""What the configuration tests share: reading a text, and what is told of a wrong one."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from receiver import config
from receiver.errors import ConfigError, Problem
from receiver.secrets import Need, Place
from receiver.settings import Settings

HERE = Path("/srv/holdfast")

MODERATION = '[sources.moderation]\nprovider = "omnifence"\n'


def read(text: str, env: Mapping[str, str] | None = None, need: Need = "all") -> Settings:
    """Settings from text, as if it stood in HERE."""
    return config.loads(text, Place(HERE, env or {}, need))


def problems(text: str, env: Mapping[str, str] | None = None) -> list[Problem]:
    """Everything wrong with a text."""
    with pytest.raises(ConfigError) as caught:
        read(text, env)
    assert caught.value.exit_code == 78
    return list(caught.value.problems)


def told(text: str) -> dict[str, str]:
    """Dotted path -> message and hint."""
    return {each.path: f"{each.message}; {each.hint}" for each in problems(text)}
