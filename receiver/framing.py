"""What a request's head says of where the request ends and whom it is for; whatever two readers may read differently
is refused (RFC 9112, 11.2).

The parser is strict already; this adds what it leaves to its user. Pure.
"""

from collections.abc import Sequence

from receiver import answers
from receiver.answers import Answer

WATCHED = frozenset((b"host", b"transfer-encoding", b"content-length"))
"""The headers that `watch` wants to see."""

_MOST_DIGITS = 18


class Framing:
    """The framing of one request at a time; `reset` begins the next."""

    __slots__ = ("_codings", "_hosts", "_unclear", "length_bytes")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A new head begins."""
        self._hosts = self._codings = 0
        self._unclear: Answer | None = None
        self.length_bytes = 0
        """The announced length of the body; 0 when none is announced."""

    def watch(self, name: bytes, value: bytes) -> None:
        """Take one of the WATCHED headers, its name in lower case."""
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            if not value.isdigit() or len(value) > _MOST_DIGITS:
                self._unclear = answers.BAD_REQUEST
            else:
                self.length_bytes = int(value)
        else:
            self._codings += 1
            if value.lower() != b"chunked" or self._codings > 1:
                self._unclear = answers.UNKNOWN_CODING

    def judge(self, version: str) -> Answer | None:
        """Why this head is not taken, or None. HTTP/1.1 names its host, once; HTTP/1.0 has no chunks."""
        if self._unclear is not None:
            return self._unclear
        if version == "1.1":
            return None if self._hosts == 1 else answers.BAD_REQUEST
        if version != "1.0" or self._hosts > 1 or self._codings:
            return answers.BAD_REQUEST
        return None

    @property
    def has_body(self) -> bool:
        """Whether a body was announced."""
        return self.length_bytes > 0 or self._codings > 0

    def plain_head(self) -> bytes:
        """A head that announces the same body, and nothing else."""
        body = b"transfer-encoding: chunked" if self._codings else b"content-length: %d" % self.length_bytes
        return b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % body


def size_of(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    """How many bytes a head has, near enough to bound it."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def split_target(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target: origin form, or absolute form as a proxy is sent it (RFC 9112, 3.2)."""
    target = url.partition(b"#")[0]
    if not target.startswith(b"/"):
        scheme, mark, rest = target.partition(b"://")
        if mark and scheme.lower() in (b"http", b"https"):
            slash = rest.find(b"/")
            target = rest[slash:] if slash >= 0 else b"/"
    path, _, query = target.partition(b"?")
    return path, query
