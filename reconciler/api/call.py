"""One request on its way through: what was asked, by whom, and the parts that answer it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.types import Receive

from receiver import jsontext
from receiver.settings import SourceSettings
from reconciler.api.bell import Bell
from reconciler.api.desk import Desk
from reconciler.api.guard import Guard
from reconciler.api.problem import ProblemError, bad_request, not_found
from reconciler.api.routing import Route
from reconciler.api.waiting import Waiting
from reconciler.passing import Passing

if TYPE_CHECKING:
    from reconciler.api.stream import Streams

M = TypeVar("M", bound=BaseModel)

_LARGE_BYTES = 65_536
"""Larger bodies are parsed off the event loop: deliveries may be coming in on it."""
_MOST_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Parts:
    """What all calls share."""

    desk: Desk
    guard: Guard
    bell: Bell
    waiting: Waiting
    streams: "Streams"
    passing: Passing
    openapi: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let in and matched."""

    parts: Parts
    route: Route
    request: Request
    path: Mapping[str, str]
    who: str

    @property
    def desk(self) -> Desk:
        """The parts of the running sidecar."""
        return self.parts.desk

    def source(self, name: str | None = None) -> SourceSettings:
        """The configured source named in the path. Raises ProblemError 404."""
        name = self.path["source"] if name is None else name
        if name not in self.desk.settings.sources:
            raise not_found(f"the source {name[:100]!r}")
        return self.desk.settings.sources[name]

    def query(self, model: type[M]) -> M:
        """The query, validated. Raises ProblemError 400."""
        assert model is self.route.query, f"{self.route.path} documents another query"
        given = self.request.query_params.multi_items()
        names = [name for name, _ in given]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise bad_request(f"a query parameter came twice: {', '.join(doubled)[:200]}")
        return checked(model, dict(given), "the query")

    async def body(self, model: type[M]) -> M:
        """The JSON body, validated. Raises ProblemError 400 or 413."""
        assert model is self.route.body, f"{self.route.path} documents another body"
        return checked(model, await self.document(), "the body")

    async def document(self) -> Any:
        """The body as JSON, not yet looked at. Raises ProblemError 400 or 413."""
        raw = await self._raw()
        if not raw and self.route.body_may_be_absent:
            return {}
        try:
            if len(raw) > _LARGE_BYTES:
                return await asyncio.to_thread(jsontext.parse, raw)
            return jsontext.parse(raw)
        except jsontext.NotJson as error:
            raise bad_request(f"the body is not JSON that is taken here: {error}") from None

    async def _raw(self) -> bytes:
        most = self.route.max_body_bytes
        announced = self.request.headers.get("content-length", "")
        if announced.isdigit() and len(announced) < 20 and int(announced) > most:
            raise ProblemError(413, f"the body is larger than {most} bytes")
        body = bytearray()
        async for chunk in self.request.stream():
            body += chunk
            if len(body) > most:
                raise ProblemError(413, f"the body is larger than {most} bytes")
        return bytes(body)


def checked(model: type[M], given: Any, where: str) -> M:
    """Validate; ProblemError 400 names every wrong place."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise bad_request(f"{where} is not as it should be", faults(error)) from None


def faults(error: ValidationError) -> list[dict[str, str]]:
    """What is wrong, place by place, without repeating what was given (it may hold a secret)."""
    listed = error.errors(include_url=False, include_input=False, include_context=False)[:_MOST_ERRORS]
    return [
        {
            "at": ".".join(str(part)[:100] for part in item["loc"]),
            "detail": "is not a JSON object" if item["type"] == "model_type" else item["msg"],
        }
        for item in listed
    ]


async def left(receive: Receive) -> None:
    """Return when the caller has gone away. What it still sends of its body is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass
