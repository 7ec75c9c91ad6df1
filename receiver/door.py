"""The public listener's application, in raw ASGI: read a request within its bounds, let intake judge it, answer.

Owns the order "path, method, headers, then body": whoever has no business here is told so before a byte of his body
is read. It does as little work a request as it can; there is no framework between the socket and the judgement.
Bounds on time, heads and connections are the server's (`receiver.guard`): it alone notices what nobody reads.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

from receiver import answers
from receiver.admission import Claim
from receiver.answers import Answer, Reply
from receiver.intake import LARGE_BYTES, Intake, Visit
from receiver.providers.base import RawRequest
from receiver.records import Headers

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PLAIN = (b"", b"identity")


class Door:
    """The ASGI application of the public listener."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._max_body_bytes = intake.settings.max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"the public listener speaks HTTP only, not {scope['type']!r}")
        try:
            answer = await self._answer(scope, receive)
        except Exception as error:  # noqa: BLE001 - our own mistake must not look like an answer of the wire's
            answer = self._intake.failed(error)
        if answer is not None:
            await send(answer.start)
            await send(answer.body)

    def at_once(
        self, raw_path: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes, remote: str, reply: Reply
    ) -> bool:
        """The same for a small POST that is whole, without a task (`receiver.shortcut`)."""
        try:
            if len(body) > LARGE_BYTES or raw_path == b"/healthz":
                return False
            admitted = self._admit(raw_path, "POST", headers)
            if isinstance(admitted, Answer):
                reply(admitted)
                return True
            visit, claim = admitted
            taken = False
            try:
                taken = self._intake.take_now(visit, RawRequest(_decoded(headers), body), remote, claim, reply)
            finally:
                if not taken:
                    claim.release()
        except Exception as error:  # noqa: BLE001 - as above
            reply(self._intake.failed(error))
            return True
        return taken

    async def _answer(self, scope: Message, receive: Receive) -> Answer | None:
        """The answer to a request; None when its sender left before the body was complete."""
        path: bytes = scope["raw_path"]
        if path == b"/healthz":
            return answers.ALIVE if scope["method"] in ("GET", "HEAD") else answers.GET_ONLY
        admitted = self._admit(path, scope["method"], scope["headers"])
        if isinstance(admitted, Answer):
            return admitted
        visit, claim = admitted
        taken = False
        try:
            body = await self._read(visit, receive, claim)
            if not isinstance(body, bytes):
                return body
            taken = True
            client = scope.get("client")
            request = RawRequest(_decoded(scope["headers"]), body)
            return await self._intake.take(visit, request, client[0] if client else "unix", claim)
        finally:
            if not taken:
                claim.release()

    def _admit(self, path: bytes, method: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Visit, Claim] | Answer:
        """Whose door it is, and room for the body its head announces; or why not."""
        visit = self._intake.find(path)
        if isinstance(visit, Answer):
            return visit
        announced = self._judge_head(method, headers)
        if isinstance(announced, Answer):
            return self._intake.refuse(visit, announced)
        return (visit, claim) if (claim := self._intake.claim(visit, announced)) else self._intake.shed(visit)

    def _judge_head(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> int | Answer:
        """What the method and the headers alone decide; else how many bytes of body are announced."""
        if method != "POST":
            return answers.POST_ONLY
        announced = hosts = lengths = 0
        for name, value in headers:
            if name == b"content-length":
                if not value.isdigit() or len(value) > 15:
                    return answers.BAD_REQUEST
                announced = int(value)
                lengths += 1
            elif name == b"host":
                hosts += 1
            elif name == b"content-encoding" and any(part.strip() not in _PLAIN for part in value.lower().split(b",")):
                return answers.ENCODED
        if hosts > 1 or lengths > 1:
            return answers.BAD_REQUEST
        return announced if announced <= self._max_body_bytes else answers.TOO_LARGE

    async def _read(self, visit: Visit, receive: Receive, claim: Claim) -> bytes | Answer | None:
        """The whole body: never more than the cap, nor than there is room for. None when the sender left."""
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                if message.get("late"):  # the server has answered 408 and is gone; it knows no sources to count by
                    self._intake.refuse(visit, answers.TOO_SLOW)
                return None
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > self._max_body_bytes:
                return self._intake.refuse(visit, answers.TOO_LARGE)
            if not claim.cover(size):
                return self._intake.shed(visit)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers as text: every byte stands for the character of its number."""
    return tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])
