"""Finds and reads the configuration file: TOML in, `Settings` out, or every problem at once.

Owns where the file is looked for, what a syntax error looks like, and that one wrong key hides no other.
Never prints, never logs, and reads no secret that the process was not started to hold.
"""

import copy
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from receiver import toml_lines
from receiver.config_problems import problem
from receiver.config_warnings import secrets_of, warnings
from receiver.errors import ConfigError, Problem
from receiver.secrets import Need, Place
from receiver.settings import Settings
from receiver.toml_lines import Path as KeyPath

__all__ = ["DEFAULT_PATHS", "find", "load", "loads", "secrets_of", "warnings"]

DEFAULT_PATHS = (Path("holdfast.toml"), Path("/etc/holdfast/holdfast.toml"))
"""Where the file is looked for when neither `--config` nor $HOLDFAST_CONFIG names one."""
_ROUNDS = 8
"""Faults between keys show only once single keys are right: as often is the rest looked at again."""
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)\Z")


def find(path: Path | None, env: Mapping[str, str] = os.environ) -> Path:
    """The configuration file: `path`, $HOLDFAST_CONFIG, ./holdfast.toml, /etc/holdfast/holdfast.toml.

    Raises ConfigError when the named file, or with none named every default, is missing.
    """
    named = path if path is not None else Path(env["HOLDFAST_CONFIG"]) if env.get("HOLDFAST_CONFIG") else None
    if named is not None:
        if not _exists(named):
            origin = "" if path is not None else " (from $HOLDFAST_CONFIG)"
            raise _refusal("there is no such file", f"`holdfast init --path {named}` writes one{origin}", str(named))
        return named
    for candidate in DEFAULT_PATHS:
        if _exists(candidate):
            return candidate
    looked = ", ".join(str(each) for each in DEFAULT_PATHS)
    raise _refusal(f"found none at {looked}", "`holdfast init` writes one, `--config PATH` names one")


def load(path: Path | None = None, *, env: Mapping[str, str] = os.environ, need: Need = "all") -> Settings:
    """Read the configuration. `need` says which secrets this process holds; the others are neither read nor missed.

    Raises ConfigError with every problem found. `$HOLDFAST_PROVIDERS` names folders with further providers.
    """
    file = find(path, env)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refusal("is not UTF-8 text", "save it as UTF-8", str(file)) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "cannot be read"
        raise _refusal(f"cannot be read: {why.lower()}", "look at its owner and mode", str(file)) from None
    settings = loads(text, Place(file.absolute().parent, env, need), file=str(file))
    settings._file = file.absolute()
    return settings


def loads(text: str, place: Place, *, file: str = "") -> Settings:
    """Read a configuration from its text. Raises ConfigError with every problem found, and nothing else."""
    _add_providers(place.env)
    try:
        raw = tomllib.loads(text)
    except RecursionError:
        raise _refusal("is nested too deeply", "a configuration has two levels", file) from None
    except ValueError as error:
        raise ConfigError([_syntax(error, text)], file=file) from None
    settings, errors = _validated(raw, place)
    if settings is not None and not errors:
        return settings
    try:
        lines = toml_lines.locate(text)
    except (ValueError, RecursionError):
        lines = {}
    problems = {problem(error, raw, lines): None for error in errors}
    raise ConfigError(sorted(problems, key=lambda each: (each.line or 0, each.path)), file=file)


def _validated(raw: dict[str, Any], place: Place) -> tuple[Settings | None, list[ErrorDetails]]:
    """The settings, or every error: what is wrong is taken away and the rest is looked at again."""
    told: list[ErrorDetails] = []
    rest, removed = raw, list[KeyPath]()
    for _ in range(_ROUNDS):
        try:
            return Settings.model_validate(rest, context=place), told
        except ValidationError as error:
            met = error.errors(include_url=False)
        told += [each for each in met if not removed or _is_news(each, removed)]
        rest = copy.deepcopy(rest)
        now: list[KeyPath] = []
        for each in met:
            beside = each["type"] == "missing" or each["loc"][-1:] == ("[key]",)
            path = each["loc"][:-1] if beside else each["loc"]
            if not any(path[: len(gone)] == gone for gone in now):  # several errors may sit in one key
                now.append(_without(rest, path))
        removed += now
        place = replace(place, need="none")
    return None, told


def _is_news(error: ErrorDetails, removed: Sequence[KeyPath]) -> bool:
    """Whether an error of a later round is the file's own, not the work of what was taken away before."""
    if error["type"] != "between":
        return False
    keys: list[str] = error["ctx"]["keys"]
    table = error["loc"][: len(error["loc"]) - len(keys[0].split("."))]
    involved = [(*table, *key.split(".")) for key in keys]
    return not any(_overlap(path, gone) for path in involved for gone in removed)


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _without(raw: dict[str, Any], path: KeyPath) -> KeyPath:
    """Takes the key at `path` out of `raw`, or the table around it when there is no such key. Answers what went."""
    table: Any = raw
    for depth, part in enumerate(path):
        inner = table.get(part) if isinstance(table, dict) else None
        if depth == len(path) - 1 or not isinstance(inner, dict):
            gone = path[: depth + 1] if isinstance(table, dict) and part in table else path[:depth]
            return _take(raw, gone)
        table = inner
    return path


def _take(raw: dict[str, Any], path: KeyPath) -> KeyPath:
    table = raw
    for part in path[:-1]:
        table = table[str(part)]
    if path:
        table.pop(str(path[-1]), None)
    return path


def _syntax(error: ValueError, text: str) -> Problem:
    if not isinstance(error, tomllib.TOMLDecodeError):
        return Problem("", None, "holds a number that cannot be read", "shorten it")
    met = str(error)
    position = _POSITION.search(met)
    what = met[: position.start()] if position else met
    line, column = (position.group(1), position.group(2)) if position else (None, None)
    where = f"column {column}" if column else "at the end"
    at = int(line) if line else text.count("\n") + 1
    return Problem("", at, f"is not TOML: {what[:1].lower()}{what[1:]} ({where})", "toml.io has the syntax")


def _add_providers(env: Mapping[str, str]) -> None:
    folders = [Path(each) for each in env.get("HOLDFAST_PROVIDERS", "").split(os.pathsep) if each]
    if not folders:
        return
    from receiver.providers import add_folder

    for folder in folders:
        if not folder.is_dir():
            raise _refusal(f"$HOLDFAST_PROVIDERS names {folder}, which is no folder", "correct or unset it")
        add_folder(folder)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _refusal(message: str, hint: str, file: str = "") -> ConfigError:
    return ConfigError([Problem("", None, message, hint)], file=file)
