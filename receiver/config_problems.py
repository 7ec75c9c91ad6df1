"""Turns what validation met into problems a person can act on: dotted path, line, what was met, what to do.

Never repeats a text value: it may be a secret that stands under the wrong key. Numbers are repeated.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from receiver.errors import Problem
from receiver.settings import Settings, SourceSettings, StandardSettings, Timeouts
from receiver.settings_source import extras_model
from receiver.toml_lines import Path, nearest

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WANTS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "tuple_type": "a list",
    "list_type": "a list",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def dotted(path: Path) -> str:
    """A path as it would be written in TOML; list items in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else json.dumps(part))
    return text


def problem(error: ErrorDetails, raw: Mapping[str, Any], lines: dict[Path, int]) -> Problem:
    """One validation error as a problem."""
    path = tuple(part for part in error["loc"] if part != "[key]")
    message, hint = _unknown(path, raw) if error["type"] == "extra_forbidden" else _told(error)
    return Problem(dotted(path), nearest(lines, path), message, hint)


def _told(error: ErrorDetails) -> tuple[str, str]:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if "message" in context and "hint" in context:
        return str(context["message"]), str(context["hint"])
    if kind == "missing":
        return "is required", "add it"
    if kind in _WANTS:
        wants = _WANTS[kind]
        quoted = isinstance(given, str) and _reads_as(wants, given)
        return f"must be {wants}, not {_kind(given)}", "write it without quotes" if quoted else ""
    if kind in _BOUNDS:
        key, word = _BOUNDS[kind]
        return f"must be {word} {context[key]:g}, not {_number(given)}", ""
    if kind == "literal_error":
        return _literal(str(context["expected"]), given)
    if kind == "finite_number":
        return "must be a finite number", ""
    return error["msg"], ""


def _literal(expected: str, given: object) -> tuple[str, str]:
    words = re.findall(r"'([^']*)'", expected)
    message = f"must be {expected}".replace("'", '"')
    near = difflib.get_close_matches(given.lower(), words, n=1) if isinstance(given, str) else []
    return message, f'did you mean "{near[0]}"?' if near else ""


def _unknown(path: Path, raw: Mapping[str, Any]) -> tuple[str, str]:
    key, parent = str(path[-1]), path[:-1]
    in_source = len(parent) == 2 and parent[0] == "sources"
    provider = _provider(parent, raw) if in_source else None
    if in_source and key in StandardSettings.model_fields:
        return "is unknown here", f'only a source with provider = "standard" has it, and this one is "{provider}"'
    home = next((table for table, model in _tables().items() if key in model.model_fields and parent != (table,)), None)
    known = sorted(_known(parent, provider))
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    if home is not None and not (near and near[0] == key.lower()):
        return "is unknown here", f"it belongs in [{home}]"
    if near:
        return "is unknown", f'did you mean "{near[0]}"?'
    return "is unknown", f"known here: {', '.join(known)}" if len(known) <= 12 else "config.example.toml has every key"


def _provider(parent: Path, raw: Mapping[str, Any]) -> str | None:
    table: Any = raw
    for part in (*parent, "provider"):
        table = table.get(part) if isinstance(table, Mapping) else None
    return table if isinstance(table, str) else None


def _tables() -> dict[str, type[BaseModel]]:
    """The fixed tables, by name."""
    fixed: dict[str, type[BaseModel]] = {}
    for name, field in Settings.model_fields.items():
        candidates = (field.annotation, *getattr(field.annotation, "__args__", ()))
        model = next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)
        if model is not None:
            fixed[name] = model
    return fixed


def _known(parent: Path, provider: str | None) -> Iterable[str]:
    if not parent:
        return set(Settings.model_fields)
    if parent[0] != "sources":
        model = _tables().get(str(parent[0]))
        return set(model.model_fields) if model else set()
    if len(parent) > 2:
        return set(Timeouts.model_fields)
    extras = extras_model(provider) if provider else None
    own = set(StandardSettings.model_fields) if provider == "standard" else set()
    return {*SourceSettings.model_fields, *own, *(extras.model_fields if extras else ())}


def _kind(given: object) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number with a fraction"),
        (str, "text"),
        (list, "a list"),
        (dict, "a table"),
    )
    return next((word for kind, word in kinds if isinstance(given, kind)), "a date or time")


def _number(given: object) -> str:
    text = f"{given:.17g}" if isinstance(given, float) else str(given) if isinstance(given, int) else "this"
    return text if len(text) <= 24 else "a number that long"


def _reads_as(wants: str, given: str) -> bool:
    readers: dict[str, Callable[[str], object]] = {"a number": float, "a whole number": int}
    if wants == "true or false":
        return given.lower() in ("true", "false")
    try:
        return wants in readers and readers[wants](given) is not None
    except ValueError:
        return False
