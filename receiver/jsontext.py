"""JSON as it arrives from strangers: bounded in depth, exact in its numbers, never an exception of another kind.

The standard parser accepts `NaN`, fails with RecursionError on deep input and with ValueError on very long integers,
and forgets how a number was written. Job ids may be numbers and are compared as they are written, so numbers keep
their text.
"""

import json
import re
from itertools import accumulate
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

MAX_DEPTH = 200
LONGEST_ID = 10_000
_LONGEST_NUMBER = 400


class NotJson(ValueError):  # noqa: N818 - it says what the text is not
    """The bytes are not a JSON text we take; the message says why in one or two words (it is stored as the reason)."""


class Int(int):
    """An integer that remembers how it was written (`-0` stays `-0`)."""

    text: str


class Float(float):
    """A float that remembers how it was written (`1.0`, `1e3`)."""

    text: str


def _int(written: str) -> int | str:
    if len(written) > _LONGEST_NUMBER:
        return written  # kept as text: converting it costs time that grows with the square of its length
    if written == "-0":
        value = Int(0)
        value.text = written
        return value
    return int(written)


def _float(written: str) -> float | str:
    value = Float(written)
    if value in (float("inf"), float("-inf")):
        return written  # `1e999` has no float; writing it out again must not say Infinity
    value.text = written
    return value


def _constant(written: str) -> Any:
    raise NotJson("malformed")


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, also one without an end."""
_ROUND = bytes.maketrans(b"[{]}", b"(())")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_STEP = tuple(1 if each == ord("(") else -1 for each in range(256))
_STRIDE = 8192
_ROUNDS = 24


def _depth(text: bytes) -> int:
    """How deep brackets nest outside strings; at most that where it is no more than MAX_DEPTH, else MAX_DEPTH + 1.

    Innermost pairs are taken away together, again and again: each round is one pass in C over what is left, and can
    hide one level. Only what goes deeper than documents do is counted step by step.
    """
    outside = _STRING.sub(b"", text) if b"\\" in text else b"".join(text.split(b'"')[::2])
    left = brackets = outside.translate(_ROUND, _NOT_BRACKETS)
    for hidden in range(_ROUNDS):
        if b"()" not in left:
            deepest = hidden + max(0, left.count(b"(") - left.count(b")"))
            if deepest <= MAX_DEPTH:
                return deepest
            break
        left = left.replace(b"()", b"")
    depth = deepest = 0
    for at in range(0, len(brackets), _STRIDE):
        levels = list(accumulate(map(_STEP.__getitem__, brackets[at : at + _STRIDE]), initial=depth))
        depth, deepest = levels[-1], max(deepest, max(levels))
        if deepest > MAX_DEPTH:
            return MAX_DEPTH + 1
    return deepest


_DECODER = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=_constant)


def parse(body: bytes) -> Any:
    """Parse a JSON text. Raises NotJson: `empty`, `bad UTF-8`, `too deep` or `malformed`."""
    if not body.strip(b" \t\r\n"):
        raise NotJson("empty")
    try:
        written = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson("bad UTF-8") from error
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise NotJson("too deep")
    try:
        return _DECODER.decode(written)
    except NotJson:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson("malformed") from error


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON text that must be an object. Raises NotJson, also with `not an object`."""
    value = parse(body)
    if not isinstance(value, dict):
        raise NotJson("not an object")
    return value


_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False, check_circular=False)


def dump(value: Any) -> str:
    """Write JSON compactly, in ASCII (a lone surrogate stays an escape and can be stored)."""
    return _ENCODER.encode(value)


def dump_texts(texts: dict[str, str | None], **written: str) -> str:
    """`dump` of an object of texts, followed by members that are JSON already. In half of the time, and what can be
    large is not written a second time. The names are ours: they are put in as they are."""
    members = [f'"{name}":{"null" if text is None else _quoted(text)}' for name, text in texts.items()]
    members += [f'"{name}":{text}' for name, text in written.items()]
    return f"{{{','.join(members)}}}"


def dump_shared(value: Any) -> str:
    """`dump` for what is written twice in a row, to two places: the same object is written out once. Nobody changes a
    value that was handed in here."""
    global _shared  # one value, exchanged whole: any thread may
    known, written = _shared
    if known is not value:
        written = dump(value)
        if len(written) <= _SHARED_CHARACTERS:
            _shared = (value, written)
    return written


_SHARED_CHARACTERS = 65_536
"""What is longer is written twice rather than kept."""
_shared: tuple[Any, str] = (None, "null")


def identifier(value: Any) -> str | None:
    """An id as text: a string as it is, a number as it was written; anything else (also empty) is no id.

    A lone surrogate cannot be stored as text, so such a string is no id either, nor is one of many thousand characters:
    it would be copied into every row about the job.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return str(getattr(value, "text", value))
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return value


def text_at(document: Any, *path: str) -> str | None:
    """The string at a path of object keys, or None when anything on the way is missing or of another type."""
    value = at(document, *path)
    return value if isinstance(value, str) else None


def at(document: Any, *path: str) -> Any:
    """The value at a path of object keys, or None."""
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document
