"""How deep a text nests: fast for megabytes, and the same answer as counting letter by letter."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import jsontext
from receiver.jsontext import MAX_DEPTH, NotJson, parse


def by_letter(text: str) -> int:
    """The plain way to say it."""
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                return deepest
        elif char in "]}":
            depth -= 1
    return deepest


PIECES = st.sampled_from(["[", "{", "]", "}", '"', "\\", "a", "\n", "[" * 70, "]" * 70, '"[\\"', "{" * 150, "\x00é"])


@given(st.lists(PIECES, max_size=40).map("".join))
def test_depth_is_what_counting_says(text: str) -> None:
    """Strings, escapes, ends without beginnings and beginnings without ends."""
    counted, said = by_letter(text), jsontext._depth(text.encode())
    assert counted <= said
    assert (counted > MAX_DEPTH) == (said > MAX_DEPTH)


@given(st.integers(1, 230), st.booleans(), st.integers(0, 300))
def test_a_text_is_too_deep_from_one_level_on(depth: int, objects: bool, beside: int) -> None:
    """Whichever parser looks first, and however many brackets lie beside each other."""
    opening, closing = ('{"a":', "}") if objects else ("[", "]")
    body = (opening * depth + "[" + ",".join(["[]"] * beside) + "]" + closing * depth).encode()
    deep = depth + 1 + (beside > 0)
    if deep <= MAX_DEPTH:
        assert json.dumps(parse(body)) == json.dumps(json.loads(body))
    else:
        with pytest.raises(NotJson, match="too deep"):
            parse(body)


@pytest.mark.parametrize("broken", ["", "]", '"', "[1,"])
def test_what_is_both_deep_and_broken_is_too_deep(broken: str) -> None:
    """The reason on record does not depend on what stands behind the depth."""
    with pytest.raises(NotJson, match="too deep"):
        parse(b"[" * (MAX_DEPTH + 1) + broken.encode())


@pytest.mark.parametrize("text", ["[" + "1,[2]," * 300 + "NaN]", "[" + "[1]," * 300 + "01]", "[[]]" * 300])
def test_what_is_broken_but_not_deep_is_malformed(text: str) -> None:
    """The fast way and the slow way agree on the reason."""
    with pytest.raises(NotJson, match="malformed"):
        parse(text.encode())
