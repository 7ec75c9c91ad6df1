"""The form of a spill journal file: how a delivery becomes bytes, and how records are found again in damaged bytes.

Pure: bytes in, bytes out. A file is a sequence of records

    marker 16 | delivery id 8, bytes of fields 4, bytes of body 4, digest of both 16 | check of those 8 | fields | body

with the fields as JSON and the body raw. The marker and the key of the digests are drawn at random for every file and
stand in its name: looking for the next marker after a damaged stretch can then never be led astray by a body in which
a stranger wrote a record of his own.
"""

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from receiver.records import Delivery, DeliveryId
from receiver.states import Verdict

NONCE_BYTES = 12
_MAGIC = b"HFs1"
_FACTS = struct.Struct("<qII16s")
_NO_BODY = 0xFFFFFFFF
_CHECK_BYTES = 8
HEAD_BYTES = len(_MAGIC) + NONCE_BYTES + _FACTS.size + _CHECK_BYTES
_FIELDS = frozenset(field.name for field in dataclasses.fields(Delivery)) - {"id", "body"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A delivery ready to be written; the file's own marker and digests are added by `frame`."""

    id: int
    fields: bytes
    body: bytes | None

    @property
    def size_bytes(self) -> int:
        """What it will take in a file."""
        return HEAD_BYTES + len(self.fields) + len(self.body or b"")


@dataclass(frozen=True, slots=True)
class Found:
    """A record whose header is sound; offsets are into the file."""

    id: int
    start: int
    fields: int
    body: int
    end: int
    has_body: bool
    digest: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch that is no record."""

    start: int
    end: int
    torn: bool
    """At the end of the file and incomplete: it was being written, so nobody was told that it is safe."""


def encode(delivery: Delivery) -> Encoded:
    """Everything about a delivery that must come back."""
    fields = {name: getattr(delivery, name) for name in _FIELDS}
    return Encoded(int(delivery.id), json.dumps(fields, separators=(",", ":")).encode("ascii"), delivery.body)


def frame(part: Encoded, nonce: bytes) -> bytes:
    """The record as it stands in the file with this nonce."""
    payload = part.fields + (part.body or b"")
    length = _NO_BODY if part.body is None else len(part.body)
    facts = _FACTS.pack(part.id, len(part.fields), length, _digest(payload, nonce))
    return b"".join((_MAGIC, nonce, facts, _check(facts, nonce), payload))


def scan(data: bytes, nonce: bytes) -> Iterator[Found | Gap]:
    """Everything in a file in order: records by their headers, and what lies between and after them.

    Payload digests are left to `decode`: counting what is in the journal at the start must be quick.
    """
    at = 0
    while at < len(data):
        found = _found_at(data, at, nonce)
        if found is not None and found.end <= len(data):
            yield found
            at = found.end
            continue
        if found is not None or len(data) - at < HEAD_BYTES:
            yield Gap(at, len(data), torn=True)
            return
        following = _following(data, at + 1, nonce)
        end = len(data) if following is None else following
        # Zeros up to the end: the file had grown, and the power went before the bytes arrived.
        yield Gap(at, end, torn=following is None and not any(data[at:]))
        at = end


def decode(found: Found, data: bytes, nonce: bytes) -> Delivery | None:
    """The delivery of a record, or None when its bytes are not those that were written."""
    if _digest(data[found.fields : found.end], nonce) != found.digest:
        return None
    try:
        fields = json.loads(data[found.fields : found.body])
        known = {name: value for name, value in fields.items() if name in _FIELDS}
        known["headers"] = tuple((name, value) for name, value in known["headers"])
        known["verdict"] = Verdict(known["verdict"])
        body = data[found.body : found.end] if found.has_body else None
        return Delivery(id=DeliveryId(found.id), body=body, **known)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # whole, but written by a version with other words


def _found_at(data: bytes, at: int, nonce: bytes) -> Found | None:
    marker = _MAGIC + nonce
    if len(data) - at < HEAD_BYTES or not data.startswith(marker, at):
        return None
    start = at + len(marker)
    facts = data[start : start + _FACTS.size]
    if data[start + _FACTS.size : at + HEAD_BYTES] != _check(facts, nonce):
        return None
    id, fields_bytes, body_bytes, digest = _FACTS.unpack(facts)
    has_body = body_bytes != _NO_BODY
    fields = at + HEAD_BYTES
    body = fields + fields_bytes
    return Found(id, at, fields, body, body + (body_bytes if has_body else 0), has_body, digest)


def _following(data: bytes, at: int, nonce: bytes) -> int | None:
    while (at := data.find(_MAGIC + nonce, at)) >= 0:
        if _found_at(data, at, nonce) is not None:
            return at
        at += 1
    return None


def _digest(payload: bytes, nonce: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16, key=nonce).digest()


def _check(facts: bytes, nonce: bytes) -> bytes:
    return hashlib.blake2b(facts, digest_size=_CHECK_BYTES, key=nonce).digest()
