"""Secrets come from where they are said to, rotate, compare, and never show."""

import contextlib
import copy
import json
import pickle
import traceback
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from receiver.errors import SecretNotHeld
from receiver.secrets import MAX_FILE_BYTES, Held, Need, Place, Secret
from receiver.settings_base import Table

PRECIOUS = "precious-value-4711"


class Keys(Table):
    """One secret of each kind."""

    door: Annotated[Secret, Held("intake", many=True)] | None = None
    key: Annotated[Secret, Held("all", shape="header")] | None = None
    token: Annotated[Secret, Held("intake", shape="segment")] | None = None


def door(reference: object, folder: Path = Path("/nowhere"), need: Need = "all", **env: str) -> Secret:
    """The secret that `reference` leads to."""
    keys = Keys.model_validate({"door": reference}, context=Place(folder, env, need))
    assert keys.door is not None
    return keys.door


def complaint(reference: object, folder: Path = Path("/nowhere"), key: str = "door", **env: str) -> str:
    """What is said of a reference that is refused."""
    with pytest.raises(ValidationError) as caught:
        Keys.model_validate({key: reference}, context=Place(folder, env))
    return " ".join(f"{each['loc']} {each['ctx']['message']}; {each['ctx']['hint']}" for each in caught.value.errors())


def test_a_secret_comes_from_the_environment() -> None:
    """env:NAME is the value of that variable, exactly as it is."""
    secret = door("env:X", X=" two words ")

    assert secret.values() == (" two words ",)
    assert (secret.reference, secret.is_literal) == ("env:X", False)


def test_a_literal_is_taken_and_known_as_one() -> None:
    """Whatever has none of the three prefixes is the secret itself, colons or not."""
    secret = door("whatever:it:is")

    assert secret.values() == ("whatever:it:is",)
    assert (secret.reference, secret.is_literal) == ("literal", True)


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (b"one\n", ("one",)),
        (b"one", ("one",)),
        (b" one \r\n", (" one ",)),
        (b"new\nold\n\nolder\n", ("new", "old", "older")),
    ],
)
def test_a_file_holds_the_current_secret_and_older_ones(tmp_path: Path, content: bytes, values: tuple[str]) -> None:
    """The first line is current; each further line that is not empty is still accepted; nothing else is trimmed."""
    (tmp_path / "s").write_bytes(content)

    secret = door("file:s", tmp_path)

    assert secret.values() == values
    assert secret.current == values[0]
    assert secret.paths == (tmp_path / "s",)


def test_a_credential_comes_from_systemds_folder(tmp_path: Path) -> None:
    """credential:NAME is a file in $CREDENTIALS_DIRECTORY; `source rotate` has no file to rewrite."""
    (tmp_path / "api").write_text("from-systemd\n")

    secret = door("credential:api", CREDENTIALS_DIRECTORY=str(tmp_path))

    assert secret.values() == ("from-systemd",)
    assert secret.paths == ()


def test_a_list_is_accepted_while_secrets_rotate(tmp_path: Path) -> None:
    """Every value of every reference is accepted, the first being current."""
    (tmp_path / "s").write_text("b\nc\n")

    secret = door(["env:X", "file:s"], tmp_path, X="a")

    assert secret.values() == ("a", "b", "c")
    assert secret.reference == "env:X, file:s"
    assert all(secret.matches(each) for each in (b"a", b"b", b"c"))
    assert not secret.matches(b"d")


@pytest.mark.parametrize(
    ("reference", "part"),
    [
        ("env:MISSING", "env:MISSING is not set"),
        ("env:EMPTY", "env:EMPTY is empty"),
        ("env:", "not followed by a name"),
        ("env:A=B", "cannot be the name"),
        ("file:", "not followed by a name"),
        ("file:none", "file:none cannot be read: no such file"),
        ("file:empty", "empty first line"),
        ("file:blank", "empty first line"),
        ("file:binary", "not UTF-8"),
        ("file:huge", "larger than"),
        ("file:.", "cannot be read"),
        ("file:tab", "control character"),
        ("env:BREAK", "control character"),
        ("env:BYTES", "not UTF-8"),
        ("credential:a", "$CREDENTIALS_DIRECTORY is not set"),
        ("credential:../a", "bare name"),
        ("credential:..", "bare name"),
        ("", "cannot be empty"),
        ([], "empty list"),
        (7, "must be text or a list"),
        (True, "must be text or a list"),
        (["a", 7], "must be text or a list"),
        ([["a"]], "must be text or a list"),
        ({"env": "X"}, "must be text or a list"),
        ("a\nb", "control character"),
    ],
)
def test_a_reference_that_leads_nowhere_says_so(tmp_path: Path, reference: object, part: str) -> None:
    """The complaint names the reference and what to do, whatever is wrong with it."""
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "blank").write_bytes(b"\nold\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "tab").write_bytes(b"a\tb\n")
    (tmp_path / "huge").write_bytes(b"a" * (MAX_FILE_BYTES + 1))

    text = complaint(reference, tmp_path, EMPTY="", BREAK="a\nb", BYTES="a\udcff")

    assert part in text
    assert not text.endswith("; ")


def test_every_wrong_item_of_a_list_is_told() -> None:
    """A list with two missing secrets gives two complaints, each with its place."""
    text = complaint(["env:A", "fine", "env:B"])

    assert "(0,)" not in text
    assert "('door', 0) env:A is not set" in text
    assert "('door', 2) env:B is not set" in text


@pytest.mark.parametrize("value", ["two words", "naïve", "tab\t", "\x7f"])
def test_a_key_must_fit_a_header(value: str) -> None:
    """What no HTTP header can carry is refused at the start, not at the first request."""
    assert "HTTP header" in complaint(value, key="key")


@pytest.mark.parametrize("value", ["a/b", "a?b", "a#b", "a%20", "..", ".", "a b", "ä", "a\\b"])
def test_a_path_token_must_fit_a_url(value: str) -> None:
    """A token that would be escaped, cut off or climbed over in a path could never match."""
    assert "URL path" in complaint(value, key="token")


def test_a_key_takes_no_list() -> None:
    """An api_key is one secret."""
    assert "must be text" in complaint(["a"], key="key")


def test_a_process_neither_needs_nor_reads_what_it_may_not_hold(tmp_path: Path) -> None:
    """The public door holds its own secrets and no keys: a key's environment variable or file may be absent."""
    place = Place(tmp_path, {"DOOR": "d"}, "intake")

    keys = Keys.model_validate({"door": "env:DOOR", "key": "file:absent", "token": "tok"}, context=place)

    assert keys.door is not None
    assert keys.door.values() == ("d",)
    assert keys.key is not None
    assert not keys.key.is_held
    assert keys.key.reference == "file:absent"
    with pytest.raises(SecretNotHeld, match="file:absent is not held by this process"):
        keys.key.values()
    with pytest.raises(SecretNotHeld):
        keys.key.matches(b"")


def test_a_literal_that_may_not_be_held_is_dropped() -> None:
    """Standing in the file is no reason for the public door to keep a key in memory."""
    keys = Keys.model_validate({"key": PRECIOUS}, context=Place(Path(), {}, "intake"))

    assert keys.key is not None
    assert not keys.key.is_held


def test_nothing_is_held_when_nothing_is_needed() -> None:
    """`need="none"` reads no secret at all, and still refuses a malformed reference."""
    assert not door("env:MISSING", need="none").is_held
    with pytest.raises(ValidationError):
        door("env:", need="none")


def test_a_secret_never_shows(tmp_path: Path) -> None:
    """No way of turning a secret, or the table around it, into text gives its value."""
    (tmp_path / "s").write_text(PRECIOUS)
    for reference in (PRECIOUS, "env:X", "file:s", [PRECIOUS, "env:X"]):
        keys = Keys.model_validate({"door": reference}, context=Place(tmp_path, {"X": PRECIOUS}))
        secret = keys.door

        texts = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{secret:>40}", f"{secret}", "%s" % secret]  # noqa: UP031 - every way
        texts += [repr(keys), str(keys), keys.model_dump_json(), json.dumps(keys.model_dump(mode="json"))]
        texts += [repr(keys.model_dump()), repr(Place(tmp_path, {"X": PRECIOUS}))]

        assert not [text for text in texts if PRECIOUS in text]
        assert secret is not None
        assert not hasattr(secret, "__dict__")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret)


def test_an_error_about_a_secret_does_not_repeat_it() -> None:
    """Neither the complaint nor the traceback of a refused value contains it."""
    for key, value in (("key", f"{PRECIOUS} blank"), ("token", f"{PRECIOUS}/x"), ("door", [f"{PRECIOUS}\n"])):
        with pytest.raises(ValidationError) as caught:
            Keys.model_validate({key: value}, context=Place(Path(), {}))

        assert PRECIOUS not in "".join(traceback.format_exception(caught.value))


def test_copies_are_the_secret_itself() -> None:
    """Copying settings does not multiply secrets in memory."""
    secret = Secret.literal("a", "b")

    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret
    assert (secret == Secret.literal("a", "b"), secret == Secret.literal("a"), secret == "a") == (True, False, False)
    assert len({secret, Secret.literal("a", "b")}) == 1


def test_a_secret_handed_in_is_taken_as_it_is() -> None:
    """Code may build settings from a Secret."""
    secret = Secret.literal("x")

    assert Keys(door=secret).door is secret


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1), st.binary())
def test_matching_is_equality_with_one_of_the_values(values: list[str], candidate: bytes) -> None:
    """matches() says yes to each value's bytes and to nothing else."""
    secret = Secret.literal(*values)

    assert secret.matches(candidate) == (candidate in [value.encode() for value in values])
    assert all(secret.matches(value.encode()) for value in values)


@given(
    st.one_of(
        st.text(max_size=30),
        st.builds("{}:{}".format, st.sampled_from(["env", "file", "credential"]), st.text(max_size=20)),
        st.lists(st.text(max_size=5), max_size=3),
        st.integers(),
        st.none(),
    )
)
def test_no_reference_whatever_makes_anything_but_a_complaint(reference: object) -> None:
    """Any value under a secret's key is taken or refused by validation; nothing else is ever raised."""
    place = Place(Path("/nonexistent-folder"), {"CREDENTIALS_DIRECTORY": "/nonexistent-folder"})
    with contextlib.suppress(ValidationError):
        keys = Keys.model_validate({"door": reference}, context=place)

        assert keys.door is None or keys.door.is_held
