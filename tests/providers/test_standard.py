"""`standard`: any sender, described in configuration: its proof, its pointers, its words."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from receiver import jsontext
from receiver.providers.base import Accepted, Authentication, RawRequest, Refused
from receiver.providers.standard import PROVIDER, resolve
from receiver.settings import SourceSettings
from receiver.states import Claim, Reason
from tests.providers.talk import delivered, read, source_of
from tests.support import START

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"type":"job.done","data":{"id":"j","status":"done"}}'
ODD: list[Any] = [None, 7, 1.5, True, [], {}, [{"id": "a"}], "", "\ud800", "x" * 5000]
BASE = "https://api.example.com"


def event(**data: Any) -> dict[str, Any]:
    """An event as the defaults expect it."""
    return {"type": "job.done", "data": {"id": "j", "status": "done", **data}}


# -- pointers -------------------------------------------------------------------------------------------------------

RFC_6901 = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RFC_6901),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
        ("/foo/2", None),
        ("/foo/-", None),
        ("/foo/-1", None),
        ("/foo/01", None),
        ("/foo/1.0", None),
        ("/foo/\u0661", None),
        ("/foo/99999999999999999999", None),
        ("/foo/0/0", None),
        ("/nothing/here", None),
        (None, None),
    ],
)
def test_pointers_are_those_of_the_rfc(pointer: str | None, value: Any) -> None:
    """RFC 6901, section 5; what is not there is nothing."""
    assert resolve(RFC_6901, pointer) == value


trees: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.text() | st.integers(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
)


@given(document=trees, pointer=st.text())
def test_no_pointer_raises(document: Any, pointer: str) -> None:
    """Configuration checks their form; here even a malformed one finds nothing."""
    resolve(document, pointer)
    resolve(document, "/" + pointer)


# -- who sent it ----------------------------------------------------------------------------------------------------


def judged(
    headers: tuple[tuple[str, str], ...], *, body: bytes = BODY, now: float = START, **keys: Any
) -> Authentication:
    """What is made of a delivery to a source with these keys."""
    return PROVIDER.authenticate(RawRequest(headers, body), source_of("standard", **keys), now)


def reference(body: bytes = BODY, secret: str = SECRET, at: float = START) -> tuple[tuple[str, str], ...]:
    """The headers as the specification's own library makes them."""
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(at, UTC), body.decode())
    return ("webhook-id", "msg_1"), ("webhook-timestamp", str(int(at))), ("webhook-signature", signature)


def test_standard_webhooks_agrees_with_the_reference_library() -> None:
    """The default once there is a secret."""
    keys: dict[str, Any] = {"secret": SECRET, "verify": "standard-webhooks"}

    assert judged(reference(), **keys) == Accepted(proven=True)
    assert judged(reference(), secret=SECRET) == Accepted(proven=True)
    assert judged(reference(), secret=["whsec_bmV3ZXI=", SECRET]) == Accepted(proven=True)
    assert judged(reference(), secret="whsec_b3RoZXI=") == Refused("signature")
    assert judged(reference(), **keys, body=BODY + b" ") == Refused("signature")
    assert judged(reference(), **keys, now=START + 301) == Refused("stale_signature")
    assert judged((), **keys) == Refused("signature")


def test_a_shared_secret_stands_in_its_header_alone() -> None:
    """Equal, once, under the configured name."""
    keys: dict[str, Any] = {"verify": "header", "secret": ["new", "old"], "secret_header": "X-Own"}

    assert judged((("x-own", "old"),), **keys) == Accepted(proven=True)
    for headers in ((), (("x-own", "other"),), (("x-own", "new"), ("x-own", "new")), (("x-other", "new"),)):
        assert judged(headers, **keys) == Refused("secret")


def test_nothing_is_proven_where_nothing_is_checked() -> None:
    """`verify = "none"`."""
    assert judged(()) == Accepted(proven=False)
    assert judged(reference(), verify="none") == Accepted(proven=False)


def mac(message: bytes, key: bytes = b"key") -> bytes:
    """HMAC-SHA256."""
    return hmac.digest(key, message, hashlib.sha256)


HMAC: dict[str, Any] = {"verify": "hmac", "secret": "key", "secret_header": "X-Sig"}


@pytest.mark.parametrize(
    "value",
    [mac(BODY).hex(), mac(BODY).hex().upper(), "sha256=" + mac(BODY).hex(), base64.b64encode(mac(BODY)).decode()],
)
def test_an_hmac_of_the_body_is_taken_in_each_usual_dress(value: str) -> None:
    """Hex or base64, with or without `sha256=`."""
    assert judged((("x-sig", value),), **HMAC) == Accepted(proven=True)
    assert judged((("x-sig", value),), body=BODY + b"\n", **HMAC) == Refused("signature")
    assert judged((("x-sig", value), ("x-sig", value)), **HMAC) == Refused("signature")


def test_a_time_may_be_signed_in_a_header_of_its_own() -> None:
    """Then it is required, once, and fresh."""
    keys: dict[str, Any] = {**HMAC, "timestamp_header": "X-Time"}
    at = str(int(START))
    signed = ("x-sig", mac(at.encode() + b"." + BODY).hex())

    assert judged((signed, ("x-time", at)), **keys) == Accepted(proven=True)
    assert judged((signed, ("x-time", at)), now=START + 301, **keys) == Refused("stale_signature")
    joined = ("x-sig", mac(at.encode() + BODY).hex())
    assert judged((joined, ("x-time", at)), sign_format="concat", **keys) == Accepted(proven=True)
    plain = ("x-sig", mac(BODY).hex())
    for headers in (
        (signed,),
        (signed, ("x-time", at), ("x-time", at)),
        (signed, ("x-time", str(int(START) + 1))),
        (signed, ("x-time", "")),
        (signed, ("x-time", "soon")),
        (plain, ("x-time", at)),
    ):
        assert judged(headers, **keys) == Refused("signature")


def test_a_time_may_stand_beside_the_signature() -> None:
    """`t=…,v1=…`, several signatures during a rotation."""
    at = int(START)
    good = mac(b"%d." % at + BODY).hex()

    for value in (f"t={at},v1={good}", f"t={at},v0=x,v1={'0' * 64},v1={good}", f" t={at}, v1={good}"):
        assert judged((("x-sig", value),), **HMAC) == Accepted(proven=True)
    assert judged((("x-sig", f"t={at},v1={good}"),), now=START - 400, **HMAC) == Refused("stale_signature")
    for value in (
        f"t={at}",
        f"t={at},v1=",
        f"t={at},t={at},v1={good}",
        f"t={at + 1},v1={good}",
        "t=,v1=" + mac(BODY).hex(),
    ):
        assert judged((("x-sig", value),), **HMAC) == Refused("signature")


modes = st.sampled_from(
    [
        {"secret": SECRET},
        HMAC,
        {**HMAC, "timestamp_header": "x-time"},
        {**HMAC, "verify": "header", "secret_header": "x-sig"},
    ]
)
names = st.sampled_from(["x-sig", "x-time", "webhook-id", "webhook-timestamp", "webhook-signature"])
scraps = st.text() | st.from_regex(r"(t=\d*,?|v1=?|sha256=|v1,|[0-9a-f]{2}|,| ){0,8}", fullmatch=True)


@given(keys=modes, headers=st.lists(st.tuples(names, scraps), max_size=5), body=st.binary(max_size=10))
def test_no_malformed_header_is_good_or_raises(
    keys: dict[str, Any], headers: list[tuple[str, str]], body: bytes
) -> None:
    """A refusal, never an exception."""
    assert isinstance(judged(tuple(headers), body=body, **keys), Refused)


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "claim", "reason"),
    [
        ("completed", Claim.COMPLETED, None),
        ("SUCCEEDED", Claim.COMPLETED, None),
        ("failed", Claim.FAILED, Reason.PROVIDER),
        ("Cancelled", Claim.FAILED, Reason.CANCELLED),
        ("canceled", Claim.FAILED, Reason.CANCELLED),
        ("expired", Claim.FAILED, Reason.PROVIDER),
        ("rendering", Claim.RUNNING, None),
        (7, Claim.RUNNING, None),
        (True, Claim.RUNNING, None),
    ],
)
def test_words_say_how_a_job_stands(status: Any, claim: Claim, reason: Reason | None) -> None:
    """In any case; a word in neither list means that it still runs."""
    said = read(PROVIDER, event(status=status), source_of("standard")).said

    assert said is not None
    assert (said.job_id, said.claim, said.reason, said.has_result) == ("j", claim, reason, True)


def test_words_may_be_numbers_and_truths() -> None:
    """A sender may say `"ok": true`, or a code."""
    source = source_of(
        "standard", status_pointer="/ok", completed=["true", "200"], failed=["false"], job_id_pointer="/id"
    )

    claims = [read(PROVIDER, {"id": 1, "ok": ok}, source).said for ok in (True, False, 200, 1)]
    assert [said.claim if said else None for said in claims] == [
        Claim.COMPLETED,
        Claim.FAILED,
        Claim.COMPLETED,
        Claim.RUNNING,
    ]


def test_the_name_of_an_event_may_be_its_status() -> None:
    """`status_pointer` at the event's name, or no status at all and a name that is a word."""
    named = source_of("standard", status_pointer="/type", completed=["job.done"], failed=["job.broken.canceled"])
    words = source_of("standard", completed=["job.done"])

    for source in (named, words):
        said = read(PROVIDER, {"type": "job.done", "data": {"id": "j"}}, source).said
        assert said is not None
        assert said.claim is Claim.COMPLETED
    broken = read(PROVIDER, {"type": "Job.Broken.Canceled", "data": {"id": "j"}}, named).said
    assert broken is not None
    assert broken.reason is Reason.CANCELLED
    other = read(PROVIDER, {"type": "job.started", "data": {"id": "j"}}, named)
    assert (other.said, other.passes_on, other.event) == (None, True, "job.started")


@pytest.mark.parametrize("value", [None, True, [], {}, "", "\ud800"])
def test_without_a_job_id_a_named_event_is_told_and_a_nameless_one_is_not(value: Any) -> None:
    """Kept in either case."""
    source = source_of("standard")
    named = read(PROVIDER, event(id=value), source)
    nameless = read(PROVIDER, {"data": {"id": value, "status": "done"}}, source)

    assert (named.passes_on, named.problem, named.event) == (True, None, "job.done")
    assert (nameless.passes_on, nameless.problem) == (False, "missing_job_id")


@pytest.mark.parametrize("value", [None, [], {}, ""])
def test_without_a_status_nothing_is_decided(value: Any) -> None:
    """A named event is told; a nameless one cannot be acted on."""
    source = source_of("standard")

    assert read(PROVIDER, event(status=value), source).passes_on
    assert read(PROVIDER, {"data": {"id": "j", "status": value}}, source).problem == "missing_status"


def test_the_result_is_where_it_points_else_all_of_it() -> None:
    """A good end whose result is not there is fetched; a bad one is told with everything it says."""
    source = source_of("standard", result_pointer="/data/output")

    def said(**data: Any) -> tuple[Any, bool]:
        told = read(PROVIDER, event(**data), source).said
        assert told is not None
        return told.result, told.has_result

    assert said(output=[1]) == ([1], True)
    assert said(output=None) == (event(output=None), False)
    assert said() == (event(), False)
    assert said(status="failed") == (event(status="failed"), True)
    assert said(status="running") == (event(status="running"), True)
    fetching = read(PROVIDER, event(output=[1]), source_of("standard", fetch_result=True)).said
    assert fetching is not None
    assert not fetching.has_result


def test_the_message_id_is_the_key_where_it_is_signed() -> None:
    """Elsewhere anybody could choose it: the digest of the body counts."""
    signed, plain = source_of("standard", secret=SECRET), source_of("standard", verify="none")

    assert read(PROVIDER, event(), signed, ("webhook-id", "msg_1")).event_key == "msg_1"
    assert read(PROVIDER, event(), plain, ("webhook-id", "msg_1")).event_key is None
    assert read(PROVIDER, event(), signed).event_key is None


@pytest.mark.parametrize("field", ["type", "data", "id", "status", "output"])
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_any_field_may_be_anything(field: str, value: Any) -> None:
    """Read into one thing that can be kept, and never raised."""
    source = source_of("standard", result_pointer="/data/output")
    body = {**event(), field: value} if field in ("type", "data") else event(**{field: value})
    reading = read(PROVIDER, body, source)

    assert [reading.problem is not None, reading.said is not None, reading.passes_on].count(True) == 1
    jsontext.dump([reading.event, reading.said.status if reading.said else None])


def test_ids_are_compared_as_they_are_written() -> None:
    """A number is its text; nothing is trimmed or folded."""
    source = source_of("standard")

    def job_id(raw: bytes) -> str | None:
        body = b'{"data":{"status":"done","id":' + raw + b"}}"
        told = PROVIDER.read(RawRequest((), body), jsontext.parse_object(body), source).said
        return told.job_id if told else None

    assert [job_id(raw) for raw in (b"1.50", b"1e3", b"-0", b'" J "', b'"a\\u0000b"')] == [
        "1.50",
        "1e3",
        "-0",
        " J ",
        "a\0b",
    ]


def test_reading_says_the_same_every_time() -> None:
    """A retry is the same claim."""
    request = delivered(event())
    document = json.loads(request.body)
    source: SourceSettings = source_of("standard")

    assert PROVIDER.read(request, document, source) == PROVIDER.read(request, document, source)
