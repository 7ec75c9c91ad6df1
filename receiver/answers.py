"""The answers of the public listener, made once: status, headers and body of each, as ASGI messages and as raw bytes.

Errors are `application/problem+json` (RFC 9457). A refusal never says which part of a secret was wrong. This module
knows no source, no request and no clock.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any

RETRY_LATER_S = 5
"""Retry-After when the store takes nothing: a database needs seconds, not milliseconds, to come back."""
RETRY_SOON_S = 1
"""Retry-After when too much is waiting: bodies in flight are gone within a moment."""


@dataclass(slots=True)
class Answer:
    """One whole answer. `reason` is the word in `holdfast_refused_total`, empty when nothing was refused."""

    status: int
    reason: str
    start: dict[str, Any]
    """The ASGI message `http.response.start`."""
    body: dict[str, Any]
    """The ASGI message `http.response.body`."""

    def raw(self) -> bytes:
        """The answer as it goes over the wire where no application speaks; it is the last on its connection."""
        status = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n".encode()
        headers = b"".join(name + b": " + value + b"\r\n" for name, value in self.start["headers"])
        return status + headers + b"connection: close\r\n\r\n" + bytes(self.body["body"])


Reply = Callable[[Answer], object]
"""Takes the answer to one request, once, on the event loop."""


def made(status: int, reason: str, content_type: bytes, body: bytes, *more: tuple[bytes, bytes]) -> Answer:
    """An answer from its parts, with its length declared."""
    headers = ((b"content-type", content_type), (b"content-length", b"%d" % len(body)), *more)
    return Answer(
        status,
        reason,
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


def problem(status: int, reason: str, detail: str, *more: tuple[bytes, bytes]) -> Answer:
    """A refusal as RFC 9457 has it; `more` are further headers."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return made(status, reason, b"application/problem+json", json.dumps(document).encode(), *more)


def recorded(delivery_id: int) -> Answer:
    """200: these bytes survive. The id is a string, for JSON readers that know only 53-bit numbers."""
    body = b'{"delivery": "%d"}' % delivery_id
    return Answer(200, "", _start_of_json(len(body)), {"type": "http.response.body", "body": body})


@lru_cache(maxsize=64)
def _start_of_json(length: int) -> dict[str, Any]:
    """All ids of an age are of one length, so nearly every answer begins with the same message."""
    return made(200, "", b"application/json", b" " * length).start


def _retry(seconds: int) -> tuple[bytes, bytes]:
    return (b"retry-after", b"%d" % seconds)


ALIVE = made(200, "", b"application/json", b'{"status":"ok"}')
BAD_REQUEST = problem(400, "bad_request", "The request is not well-formed HTTP/1.1.")
NOT_JSON = problem(400, "not_json", "The body is not a JSON object. It was kept for an operator to look at.")
UNPROVEN = problem(
    401, "signature", "The sender did not prove itself.", (b"www-authenticate", b'Signature realm="holdfast"')
)
NOT_FOUND = problem(404, "", "There is nothing here.")
UNKNOWN_SOURCE = problem(404, "unknown_source", "There is nothing here.")
WRONG_TOKEN = problem(404, "path_token", "There is nothing here.")
POST_ONLY = problem(405, "method", "Deliveries are posted.", (b"allow", b"POST"))
GET_ONLY = problem(405, "", "This is only read.", (b"allow", b"GET, HEAD"))
TOO_SLOW = problem(408, "body_timeout", "The body did not arrive in time.")
TOO_LARGE = problem(413, "too_large", "The body is larger than this receiver takes.")
ENCODED = problem(415, "content_encoding", "Bodies are taken as they are: no Content-Encoding but identity.")
HEAD_TOO_LARGE = problem(431, "head_too_large", "The request line and headers are too large together.")
UNEXPECTED = problem(500, "error", "Something went wrong here.")
UNKNOWN_CODING = problem(501, "transfer_encoding", "No transfer coding but chunked is understood.")
TOO_MUCH_WAITING = problem(503, "too_much_waiting", "Too much is waiting to be written.", _retry(RETRY_SOON_S))
NOT_KEPT = problem(503, "store", "The delivery could not be written down.", _retry(RETRY_LATER_S))
STOPPING = problem(503, "stopping", "This process is stopping; the next one will answer.", _retry(RETRY_SOON_S))
NOT_IN_TIME = problem(503, "ack_budget", "The delivery was not written down in time.", _retry(RETRY_LATER_S))
