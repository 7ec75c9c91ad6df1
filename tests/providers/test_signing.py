"""Secrets and signatures on the way in: what proves a sender, and that nothing else does."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from receiver.providers.base import Accepted, RawRequest, Refused
from receiver.providers.signing import (
    check_configured_secret,
    check_hmac_header,
    check_shared_header,
    check_standard_webhooks,
    hmac_sha256_base64,
    hmac_sha256_hex,
    matches_any,
    sign_standard_webhooks,
    timestamp_s,
)
from tests.providers.talk import source_of, with_secret
from tests.support import START

PROVEN = Accepted(proven=True)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another key of some length").decode()
BODY = b'{"type":"x","data":{}}'
ANY_TEXT = st.text(st.characters(exclude_categories=()))


def request(*headers: tuple[str, str], body: bytes = BODY) -> RawRequest:
    """A delivery with these headers."""
    return RawRequest(headers=headers, body=body)


def signed(
    secret: str = SECRET, sent_at: float = START, body: bytes = BODY, signature: str | None = None
) -> RawRequest:
    """A delivery as Standard Webhooks sends it."""
    value = sign_standard_webhooks(secret, "msg_1", int(sent_at), body) if signature is None else signature
    return request(
        ("webhook-id", "msg_1"), ("webhook-timestamp", str(int(sent_at))), ("webhook-signature", value), body=body
    )


def test_our_signatures_are_those_of_the_reference_library() -> None:
    """What we sign, the reference library verifies; what it signs, we accept."""
    theirs = Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(START, UTC), BODY.decode())

    assert sign_standard_webhooks(SECRET, "msg_1", int(START), BODY) == theirs
    assert check_standard_webhooks(signed(signature=theirs), [SECRET], START, 300) == PROVEN


def test_during_a_rotation_either_secret_and_any_signature_will_do() -> None:
    """Several secrets are active, and a sender may send several signatures."""
    one, two = (sign_standard_webhooks(secret, "msg_1", int(START), BODY) for secret in (OTHER, SECRET))

    assert check_standard_webhooks(signed(), [OTHER, SECRET], START, 300) == PROVEN
    assert check_standard_webhooks(signed(signature=f"{one} v2,x v1a,y {two}"), [SECRET], START, 300) == PROVEN
    assert check_standard_webhooks(signed(OTHER), [SECRET], START, 300) == Refused("signature")


@pytest.mark.parametrize("off_s", [-301, 301, -86400, 86400])
def test_only_a_valid_signature_can_be_stale(off_s: float) -> None:
    """A forger never learns that only the time was wrong."""
    assert check_standard_webhooks(signed(sent_at=START + off_s), [SECRET], START, 300) == Refused("stale_signature")
    assert check_standard_webhooks(signed(OTHER, START + off_s), [SECRET], START, 300) == Refused("signature")


@pytest.mark.parametrize("off_s", [-300, 0, 300])
def test_the_tolerance_is_inclusive_and_goes_both_ways(off_s: float) -> None:
    """Clocks differ in either direction."""
    assert check_standard_webhooks(signed(sent_at=START + off_s), [SECRET], START, 300) == PROVEN


def test_every_byte_signed_counts() -> None:
    """Body, id and timestamp are all under the signature."""
    good = signed()
    for changed in (
        RawRequest(good.headers, BODY + b" "),
        RawRequest((("webhook-id", "msg_2"), *good.headers[1:]), BODY),
        RawRequest((good.headers[0], ("webhook-timestamp", str(int(START) + 1)), good.headers[2]), BODY),
        RawRequest((good.headers[0], ("webhook-timestamp", f"0{int(START)}"), good.headers[2]), BODY),
    ):
        assert check_standard_webhooks(changed, [SECRET], START, 300) == Refused("signature")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_missing_or_doubled_header_is_refused(index: int) -> None:
    """Two where one is expected is a refusal, not a choice."""
    headers = signed().headers

    assert check_standard_webhooks(request(*headers, headers[index]), [SECRET], START, 300) == Refused("signature")
    without = tuple(header for number, header in enumerate(headers) if number != index)
    assert check_standard_webhooks(request(*without), [SECRET], START, 300) == Refused("signature")


@pytest.mark.parametrize("timestamp", ["", "now", "1e9", "-5", "+5", " 5", "1_0", "٣", "9" * 13, "1776090600.5"])
def test_a_timestamp_is_plain_digits(timestamp: str) -> None:
    """`int()` takes blanks, signs, underscores and other scripts; a signature's timestamp does not."""
    assert timestamp_s(timestamp) is None


@pytest.mark.parametrize("secret", ["", "whsec_"])
def test_an_empty_secret_proves_nothing(secret: str) -> None:
    """With an empty key anybody can sign, and an empty header would equal an empty secret."""
    forged = "v1," + hmac_sha256_base64(b"", f"msg_1.{int(START)}.".encode() + BODY)
    hexed = hmac_sha256_hex(b"", BODY)

    assert check_standard_webhooks(signed(signature=forged), [secret], START, 300) == Refused("signature")
    assert check_shared_header(request(("x-s", secret)), "x-s", [""]) == Refused("secret")
    assert check_hmac_header(request(("x-s", hexed)), "x-s", [""]) == Refused("signature")
    assert not matches_any(b"", [b""])


def test_a_secret_in_plain_text_signs_as_it_is_written() -> None:
    """Some senders hand out text that is not base64; both sides take it as it is."""
    assert check_standard_webhooks(signed("not base64!"), ["not base64!"], START, 300) == PROVEN


def test_older_senders_use_another_prefix() -> None:
    """`svix-id` and its kind, with the same scheme."""
    headers = tuple((name.replace("webhook", "svix"), value) for name, value in signed().headers)

    assert check_standard_webhooks(request(*headers), [SECRET], START, 300, prefix="svix") == PROVEN
    assert check_standard_webhooks(request(*headers), [SECRET], START, 300) == Refused("signature")


@pytest.mark.parametrize("secret", ["plain", "with blank", "pässword", "日本"])
def test_a_shared_secret_is_compared_as_bytes(secret: str) -> None:
    """A server hands the header on as latin-1, whatever the bytes were."""
    arrived = secret.encode().decode("latin-1")

    assert check_shared_header(request(("x-s", arrived)), "X-S", ["older", secret]) == PROVEN
    assert check_shared_header(request(("x-s", arrived + "x")), "X-S", [secret]) == Refused("secret")


@pytest.mark.parametrize("form", ["{hex}", "sha256={hex}", "{HEX}", "{base64}", "sha256={base64}"])
def test_an_hmac_header_comes_in_several_dresses(form: str) -> None:
    """Hex in either case or base64, with or without `sha256=` in front."""
    hexed = hmac_sha256_hex(b"key", BODY)
    value = form.format(hex=hexed, HEX=hexed.upper(), base64=hmac_sha256_base64(b"key", BODY))

    assert check_hmac_header(request(("x-sig", value)), "X-Sig", ["old", "key"]) == PROVEN
    assert check_hmac_header(request(("x-sig", value), body=BODY + b"\n"), "X-Sig", ["key"]) == Refused("signature")
    assert check_hmac_header(request(("x-sig", value), ("x-sig", value)), "X-Sig", ["key"]) == Refused("signature")


def test_the_hmac_is_the_published_one() -> None:
    """RFC 4231, test case 2."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"

    assert hmac_sha256_hex(b"Jefe", b"what do ya want for nothing?") == expected
    assert base64.b64decode(hmac_sha256_base64(b"Jefe", b"what do ya want for nothing?")).hex() == expected


def test_a_secret_with_nowhere_to_look_for_it_refuses_everyone() -> None:
    """It was configured to be checked: not checking it would be the worse mistake."""
    source = with_secret(source_of("omnia"), "s", header=None)

    assert check_configured_secret(request(("x-s", "s")), source) == Refused("secret")
    assert check_configured_secret(request(("x-s", "s")), source, default_header="X-S") == PROVEN
    assert check_configured_secret(request(), source_of("omnia")) == Accepted(proven=False)


@given(values=st.lists(st.tuples(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), ANY_TEXT)))
def test_no_header_is_too_odd_to_be_refused(values: list[tuple[str, str]]) -> None:
    """Whatever a stranger writes is a refusal, never an exception."""
    odd = request(*values)

    assert check_standard_webhooks(odd, [SECRET, "\ud800"], START, 300) == Refused("signature")
    assert check_shared_header(odd, "webhook-id", [SECRET]) == Refused("secret")
    assert check_hmac_header(odd, "webhook-signature", [SECRET]) == Refused("signature")
