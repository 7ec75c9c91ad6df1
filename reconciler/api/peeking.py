"""What a submission itself says that its answer does not: the refs a job is asked about by, such as a lead's id.

Told by the caller in `X-Holdfast-Refs`, or read from the first bytes of the body as they stream by. Reading never
changes, delays or holds back a byte, and what cannot be read is simply not known.
"""

import re
from collections.abc import AsyncIterator, Mapping
from urllib.parse import parse_qsl

from receiver import jsontext
from reconciler.api.guard import values
from reconciler.api.problem import bad_request
from reconciler.passing import HeaderPairs

REFS_HEADER = b"x-holdfast-refs"
PEEKED_BYTES = 65_536
"""So much of a body is looked into; a form that has files should have its fields before them."""
LONGEST_FIELD = 1000
LONGEST_HEADER = 8192
MOST_PARTS = 100
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_NAME = re.compile(rb'content-disposition:[^\r\n]*;\s*name="([^"\r\n]*)"', re.IGNORECASE)
_FILE = re.compile(rb"content-disposition:[^\r\n]*;\s*filename\*?=", re.IGNORECASE)


def refs_in(headers: HeaderPairs) -> dict[str, str]:
    """What the caller says of the job's refs; empty without the header. Raises ProblemError 400."""
    given = values(headers, REFS_HEADER)
    if not given:
        return {}
    wrong = bad_request('X-Holdfast-Refs is not one JSON object of texts, as in {"lead_id": "…"}')
    if len(given) > 1 or len(given[0]) > LONGEST_HEADER:
        raise wrong
    try:
        told = jsontext.parse_object(given[0].encode("latin-1"))
    except jsontext.NotJson:
        raise wrong from None
    refs = {name: jsontext.identifier(value) for name, value in told.items()}
    if not all(refs.values()):
        raise wrong
    return {name: value for name, value in refs.items() if value}


class Peek:
    """A body on its way, of which the beginning is remembered."""

    def __init__(self, body: AsyncIterator[bytes], headers: HeaderPairs) -> None:
        self._body = body
        self._kind = next(iter(values(headers, b"content-type")), "")
        self._encoded = bool(values(headers, b"content-encoding"))
        self._seen = bytearray()
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            if len(self._seen) < PEEKED_BYTES:
                self._seen += chunk[: PEEKED_BYTES - len(self._seen)]
                self._whole = False
            yield chunk
        self._whole = len(self._seen) < PEEKED_BYTES

    def refs(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """The refs among the fields seen so far: `wanted` says which field is which ref. Never raises."""
        if not wanted or self._encoded:
            return {}
        fields = self._fields()
        found = {ref: jsontext.identifier(fields.get(name)) for name, ref in wanted.items()}
        return {ref: value for ref, value in found.items() if value and len(value) <= LONGEST_FIELD}

    def _fields(self) -> dict[str, object]:
        kind = self._kind.partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            boundary = _BOUNDARY.search(self._kind)
            return _parts(bytes(self._seen), (boundary[1] or boundary[2]).encode("latin-1")) if boundary else {}
        if not self._whole:
            return {}  # half a text may end in half a value
        if kind == "application/x-www-form-urlencoded":
            return _pairs(bytes(self._seen))
        if kind and not kind.endswith("json"):
            return {}
        try:
            return jsontext.parse_object(bytes(self._seen))
        except jsontext.NotJson:
            return {}


def _pairs(body: bytes) -> dict[str, object]:
    try:
        return dict(parse_qsl(body.decode("ascii"), errors="strict", max_num_fields=1000))
    except ValueError:
        return {}


def _parts(body: bytes, boundary: bytes) -> dict[str, object]:
    """The short text fields of a form (RFC 7578), as far as each is there to its end."""
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MOST_PARTS)
    fields: dict[str, object] = {}
    for part in parts[1:-1]:
        head, found, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not found or name is None or _FILE.search(head) or len(value) > LONGEST_FIELD:
            continue
        try:
            fields.setdefault(name[1].decode(), value.decode())
        except UnicodeDecodeError:
            continue
    return fields
