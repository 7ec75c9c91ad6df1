"""Which operation a request is for. Paths are matched on the raw bytes, segment by segment, each decoded once.

A job's id may hold anything, slashes and dots included, and is always one escaped segment; a router that works on the
decoded path would see several. Nothing is redirected: a doubled or trailing slash is another path, hence 404.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel
from starlette.types import ASGIApp

from reconciler.api.problem import ProblemError, bad_request

if TYPE_CHECKING:
    from reconciler.api.call import Call

ANY = "*"
"""As a method: whichever; as the tail of a path (`{path…}`) see `Route`."""
BODY_BYTES = 1 << 20
TAIL = "{path…}"

Handler = Callable[["Call"], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One documented answer of an operation."""

    what: str
    model: type[BaseModel] | None = None
    media: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. `{name}` in the path is one segment, decoded; `{path…}` at the end is the raw rest."""

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    body_may_be_absent: bool = False
    max_body_bytes: int = BODY_BYTES
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers it looks at: name -> what they mean."""
    basic: bool = False
    """A browser may bring the token as the password of HTTP Basic; only for what merely shows."""
    tags: tuple[str, ...] = ()

    @property
    def segments(self) -> tuple[str, ...]:
        """The path, taken apart."""
        return tuple(self.path.split("/")[1:])

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return [part[1:-1] for part in self.segments if part.startswith("{") and part != TAIL]


class Router:
    """All operations by path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._by_path: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in routes:
            methods = self._by_path.setdefault(route.segments, {})
            assert route.method not in methods, f"two operations for {route.method} {route.path}"
            methods[route.method] = route

    def find(self, method: str, raw_path: bytes) -> tuple[Route, dict[str, str]]:
        """The operation and the values of its path. Raises ProblemError: 404, 405, or 400 for a segment not UTF-8."""
        parts = raw_path.split(b"/")[1:]
        for segments, methods in self._by_path.items():
            values = _matched(segments, parts)
            if values is None:
                continue
            route = methods.get(method) or methods.get(ANY) or (methods.get("GET") if method == "HEAD" else None)
            if route is None or method in ("CONNECT", "TRACE"):
                allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
                raise ProblemError(405, f"{method} is not offered here", {"allow": ", ".join(allowed)})
            return route, {
                name: _decoded(value) if name != "path" else value.decode("latin-1") for name, value in values
            }
        raise ProblemError(404, "There is nothing here. /openapi.json lists what there is.")


def _matched(segments: tuple[str, ...], parts: list[bytes]) -> list[tuple[str, bytes]] | None:
    if segments[-1] == TAIL:
        if len(parts) < len(segments) - 1:
            return None
        head = len(segments) - 1
        tail = [("path", b"/" + b"/".join(parts[head:]) if len(parts) > head else b"")]
        found = _matched(segments[:-1], parts[:head])
        return None if found is None else found + tail
    if len(segments) != len(parts):
        return None
    values = []
    for segment, part in zip(segments, parts, strict=True):
        if not segment.startswith("{"):
            if segment.encode() != part:
                return None
        elif not part:
            return None
        else:
            values.append((segment[1:-1], part))
    return values


def _decoded(segment: bytes) -> str:
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise bad_request("a segment of the path is not UTF-8") from None
