"""Answers: JSON as we write it, and RFC 9457 problems. No other file makes an error body."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from receiver import jsontext

PROBLEM = "application/problem+json"
RETRY_S = 5
"""Retry-After when the store takes nothing now."""


class ProblemError(Exception):
    """The request is answered with a problem. `more` are further members of the document (`errors`, `conflicts`)."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def reply(self) -> Response:
        """The answer."""
        title = HTTPStatus(self.status).phrase
        document = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}
        return json_reply(document, self.status, {"content-type": PROBLEM, **self.headers})


def not_found(what: str) -> ProblemError:
    """404 that says what is not there."""
    return ProblemError(404, f"{what} is not known here")


def bad_request(detail: str, errors: Sequence[Mapping[str, str]] = ()) -> ProblemError:
    """400; `errors` tell each wrong place and why."""
    return ProblemError(400, detail, errors=list(errors)) if errors else ProblemError(400, detail)


def unavailable(detail: str) -> ProblemError:
    """503: it may work in a moment."""
    return ProblemError(503, detail, {"retry-after": str(RETRY_S)})


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with a JSON body."""
    return raw_json(dumped(value), status, headers)


def raw_json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer whose JSON is written already."""
    return Response(body, status, {"content-type": "application/json", "cache-control": "no-store", **(headers or {})})


def dumped(value: Any) -> bytes:
    """JSON in ASCII. Columns may have been written by anybody, so what JSON cannot say (NaN) becomes null."""
    try:
        return jsontext.dump(value).encode("ascii")
    except ValueError:
        return jsontext.dump(_sayable(value)).encode("ascii")


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sayable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
