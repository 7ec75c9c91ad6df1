"""The three ways a sender proves itself: a shared secret in a header, an HMAC header, Standard Webhooks.

Owns every comparison of secrets on the way in, over the raw bytes, in constant time and with several secrets active
at once (rotation). Pure; the time is handed in. Never raises on what a stranger sent: malformed, missing or doubled
is `Refused`, and an empty secret matches nothing.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from receiver.providers.base import Accepted, Authentication, RawRequest, Refused

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

SECRET = "secret"  # noqa: S105 - a word for metrics, not a secret
SIGNATURE = "signature"
STALE = "stale_signature"
PROVEN, UNPROVEN = Accepted(proven=True), Accepted(proven=False)
_LONGEST_TIMESTAMP = 12
_HEX_DIGITS = 64
_MOST_SIGNATURES = 32


def wire_bytes(value: str) -> bytes:
    """A header value as the bytes it came in as (the server decodes them as latin-1)."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def matches_any(given: bytes, wanted: Iterable[bytes]) -> bool:
    """Whether `given` equals one of these; all are compared, so the time taken does not say which. Empty never does."""
    found = False
    for candidate in wanted:
        found |= hmac.compare_digest(given, candidate) and candidate != b""
    return found


def keys_of(secrets: Iterable[str]) -> list[bytes]:
    """Secrets as HMAC keys; empty ones are left out, for with an empty key anybody can sign."""
    return [secret.encode("utf-8", "surrogatepass") for secret in secrets if secret]


def hmac_sha256_hex(key: bytes, message: bytes) -> str:
    """HMAC-SHA256 in lower-case hex."""
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def hmac_sha256_base64(key: bytes, message: bytes) -> str:
    """HMAC-SHA256 in standard base64, padded."""
    return base64.b64encode(hmac.digest(key, message, "sha256")).decode("ascii")


def timestamp_s(written: str) -> int | None:
    """A timestamp of a signature in whole seconds, or None: plain ASCII digits only, of a sane length."""
    if written.isascii() and written.isdigit() and len(written) <= _LONGEST_TIMESTAMP:
        return int(written)
    return None


def check_shared_header(request: RawRequest, header: str, secrets: Iterable[str]) -> Authentication:
    """The header (any case) is there once and holds one of the secrets."""
    values = request.all(header.lower())
    if len(values) == 1 and matches_any(wire_bytes(values[0]), keys_of(secrets)):
        return PROVEN
    return Refused(SECRET)


@lru_cache(maxsize=64)
def _keyed(key: bytes) -> "hmac.HMAC":
    """The state of an HMAC that has seen its key: a short body then costs less than the key, and, unlike the one-shot
    function, does not let go of the interpreter's lock on the acknowledgement path."""
    return hmac.new(key, digestmod="sha256")


def check_hmac_header(request: RawRequest, header: str, secrets: Iterable[str]) -> Authentication:
    """The header (any case) is there once and holds the HMAC-SHA256 of the body: hex in either case or base64, with or
    without `sha256=` in front (CONTRACT 10, `verify = "hmac"`)."""
    values = request.all(header.lower())
    if len(values) != 1:
        return Refused(SIGNATURE)
    given = values[0].strip().removeprefix("sha256=")
    in_hex = len(given) == _HEX_DIGITS  # as base64 it is 44 characters long; how a digest is written is no secret
    written = wire_bytes(given.lower() if in_hex else given)
    found = False
    for key in keys_of(secrets):
        keyed = _keyed(key).copy()
        keyed.update(request.body)
        digest = keyed.digest()
        found |= hmac.compare_digest(written, digest.hex().encode() if in_hex else base64.b64encode(digest))
    return PROVEN if found else Refused(SIGNATURE)


def check_configured_secret(
    request: RawRequest, source: "SourceSettings", default_header: str | None = None
) -> Authentication:
    """For senders that do not sign of themselves: what `secret`, `secret_header` and `secret_mode` ask for.

    Without a `secret` there is nothing to check: accepted, not proven. A secret without a header to look in fails
    closed: it was configured to be checked.
    """
    if source.secret is None:
        return UNPROVEN
    header = source.secret_header or default_header
    if not header:
        return Refused(SECRET)
    if source.secret_mode == "hmac_sha256_hex":  # noqa: S105 - the name of a way to check, not a secret
        return check_hmac_header(request, header, source.secret.values())
    return check_shared_header(request, header, source.secret.values())


def standard_webhooks_key(secret: str) -> bytes:
    """The key in a Standard Webhooks secret: base64 behind `whsec_`. What is not base64 is taken as it is written,
    as some senders hand out plain text; the answer is empty only for an empty secret, which must never be used."""
    written = secret.removeprefix("whsec_")
    try:
        return base64.b64decode(written + "=" * (-len(written) % 4), validate=True)
    except (ValueError, binascii.Error):
        return secret.encode("utf-8", "surrogatepass")


def sign_standard_webhooks(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` value for a message: `v1,` and the base64 HMAC of `id.timestamp.body`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + hmac_sha256_base64(standard_webhooks_key(secret), signed)


def sign_for_any_reader(secret: str, message_id: str, timestamp: int, body: bytes) -> list[str]:
    """The signatures for a receiver that was given this same text. One, where it is base64. Where it is not, one for
    who takes its bytes, and one for the reference library, which decodes it and passes over what does not belong."""
    signatures = [sign_standard_webhooks(secret, message_id, timestamp, body)]
    with contextlib.suppress(ValueError):  # the library would refuse it
        key = base64.b64decode(secret.removeprefix("whsec_") + "==")
        if key and key != standard_webhooks_key(secret):
            signed = f"{message_id}.{timestamp}.".encode() + body
            signatures.append("v1," + hmac_sha256_base64(key, signed))
    return signatures


def check_standard_webhooks(
    request: RawRequest, secrets: Iterable[str], now: float, tolerance_s: float, prefix: str = "webhook"
) -> Authentication:
    """Verify as the Standard Webhooks specification says: `{prefix}-id`, `-timestamp` and `-signature` each once, one
    `v1` signature that fits one secret, and a timestamp within `tolerance_s` of `now` either way.

    The signature is judged first: only its owner may be told apart as stale. `prefix` is `svix` for older senders.
    """
    found = [request.all(f"{prefix}-{part}") for part in ("id", "timestamp", "signature")]
    if any(len(values) != 1 for values in found):
        return Refused(SIGNATURE)
    message_id, timestamp, signatures = (values[0] for values in found)
    sent_at = timestamp_s(timestamp)
    given = [wire_bytes(part[3:]) for part in signatures.split(" ")[:_MOST_SIGNATURES] if part.startswith("v1,")]
    if not message_id or sent_at is None or not given:
        return Refused(SIGNATURE)
    signed = wire_bytes(message_id) + b"." + timestamp.encode() + b"." + request.body
    keys = [key for secret in secrets if secret and (key := standard_webhooks_key(secret))]
    wanted = [hmac_sha256_base64(key, signed).encode() for key in keys]
    proven = False
    for one in given:
        proven |= matches_any(one, wanted)
    if not proven:
        return Refused(SIGNATURE)
    return PROVEN if abs(now - sent_at) <= tolerance_s else Refused(STALE)
