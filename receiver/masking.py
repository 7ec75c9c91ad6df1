"""Which headers of a delivery are written down, and which only as `***`.

Owns the one step between the wire and the record: after it no secret, signature or path token is left in the headers.
Names and order stay, so that an operator still sees what was sent. Pure.
"""

from collections.abc import Sequence
from functools import lru_cache

from receiver.records import Headers

MASK = "***"

_WORDS = ("authorization", "signature", "secret", "token", "password", "cookie", "api-key", "api_key", "apikey")
"""Parts of a name that tell of a secret (CONTRACT 9); they cover `proxy-authorization`, `x-api-key`, `set-cookie`."""


@lru_cache(maxsize=1024)
def names_a_secret(name: str) -> bool:
    """Whether a header of this lower-case name carries a secret or proves knowledge of one."""
    return any(word in name for word in _WORDS)


def mask_headers(headers: Headers, secret_header: str | None, hidden: Sequence[str] = ()) -> Headers:
    """The headers as they may be stored.

    `secret_header`: the header this source proves itself with, lower case. `hidden`: texts that must not be stored
    wherever they stand: a proxy may repeat the whole URL, path token and all, in a header of its own.
    """
    kept = [(pair[0], MASK) if pair[0] == secret_header or names_a_secret(pair[0]) else pair for pair in headers]
    for text in hidden:
        kept = [(pair[0], MASK) if text in pair[1] else pair for pair in kept]
    return tuple(kept)
