"""What can go wrong in a way a person should read about.

    HoldfastError            1    it did not work
    ├── UsageError           2    the command was not asked for in a way it understands
    ├── ConfigError         78    the configuration is wrong; carries every problem at once
    ├── StoreUnavailable    69    the database cannot be used
    ├── ProviderUnavailable 69    a provider cannot be asked
    ├── LockHeld            75    another instance is at work; trying later may do
    └── SecretNotHeld        1    this process was started without that secret, on purpose

Every message has three parts: what we were doing, what we met, what to do (`sentence` joins them). Messages never
contain a secret or a request body. This module imports nothing of ours and never prints.
"""

from collections.abc import Sequence
from dataclasses import dataclass


def sentence(doing: str, met: str, todo: str) -> str:
    """The one readable line of an error: what we were doing, what we met, what to do."""
    return f"{doing}: {met}; {todo}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in the configuration."""

    path: str
    """Dotted path of the key, `sources.moderation.trust`; empty when it is the file itself."""
    line: int | None
    """Line in the file, from 1; None when it has none (a key that is missing from an absent table)."""
    message: str
    """What we met."""
    hint: str = ""
    """What to do."""

    def __str__(self) -> str:
        where = f"{self.path} (line {self.line})" if self.path and self.line else self.path
        where = where or (f"line {self.line}" if self.line else "")
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}; {self.hint}" if self.hint else text


class HoldfastError(Exception):
    """It did not work. `str()` is for a person, `exit_code` for the shell."""

    default_exit_code = 1

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = self.default_exit_code if exit_code is None else exit_code


class UsageError(HoldfastError):
    """The command was not asked for in a way it understands."""

    default_exit_code = 2


class ConfigError(HoldfastError):
    """The configuration is wrong. `problems` lists everything found, not only the first; it is never empty."""

    default_exit_code = 78

    def __init__(self, message: str | Sequence[Problem], exit_code: int | None = None, *, file: str = "") -> None:
        self.problems = (Problem("", None, message),) if isinstance(message, str) else tuple(message)
        self.file = file
        super().__init__(message if isinstance(message, str) else _listed(self.problems, file), exit_code)


class StoreUnavailable(HoldfastError):  # noqa: N818 - named for what was met
    """The database cannot be opened, written or trusted."""

    default_exit_code = 69


class ProviderUnavailable(HoldfastError):  # noqa: N818 - named for what was met
    """A provider cannot be asked: no network, no key, or it is in trouble."""

    default_exit_code = 69


class LockHeld(HoldfastError):  # noqa: N818 - named for what was met
    """Another instance holds what only one may hold (EX_TEMPFAIL)."""

    default_exit_code = 75


class SecretNotHeld(HoldfastError):  # noqa: N818 - named for what was met
    """A secret was asked for in a process that does not hold it (`holdfast receive` has no provider keys)."""


def _listed(problems: Sequence[Problem], file: str) -> str:
    doing = f"reading {file}" if file else "reading the configuration"
    if len(problems) == 1:
        return f"{doing}: {problems[0]}"
    lines = "".join(f"\n  {problem}" for problem in problems)
    return f"{doing}: {len(problems)} problems; put these right and start again{lines}"
