"""The operator's page: one template, escaped by itself, with its own style sheet and script; nothing from outside.

It shows and changes nothing. It works without the script, which only fetches the page again from time to time.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from receiver.store.views import Row

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
"""Content-Security-Policy: whatever a provider or an application put into an id, it does not run."""
_SHOWN = 120

_pages = Environment(
    loader=PackageLoader("reconciler", "page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What the page shows."""

    at: str
    version: str
    warnings: list[str]
    sources: list[Row]
    outbox: dict[str, int]
    unread: int
    overdue: list[Row]
    held: list[Row]
    quarantined: list[Row]
    dead: list[Row]
    polls: list[Row]


def render(sight: Sight) -> str:
    """The page as HTML."""
    return _pages.get_template("page.html").render(sight=sight)


def asset(name: str) -> str:
    """The style sheet or the script."""
    return files("reconciler.page").joinpath(name).read_text("utf-8")


def short(value: Any) -> str:
    """Text cut to what a table cell can hold."""
    text = "" if value is None else str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def moment(value: Any) -> str:
    """An instant to the second, without its year: `04-13 14:30:00`, in UTC as everywhere; a dash for none."""
    text = "" if value is None else str(value)
    return text[5:19].replace("T", " ") or "–"  # noqa: RUF001 - a dash is meant


_pages.filters["short"] = short
_pages.filters["moment"] = moment
