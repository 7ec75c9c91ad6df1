"""Omnist: a signature whose details are settings, and events nobody documented."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import jsontext
from receiver.providers import signing
from receiver.providers.base import Accepted, Authentication, Parked, RawRequest, Refused
from receiver.providers.omnist import PROVIDER
from receiver.settings import SourceSettings
from receiver.states import Claim, Reason
from tests.providers.talk import delivered, read, source_of
from tests.support import START

SECRET = "whsec_example_do_not_use"
SENT_AT = 1760000000
BODY = b'{"id":"evt_demo_1","type":"webhook.test","data":{}}'
CHECKS = {
    ("dot", "full"): "6cdfbb59eaa6c05b95f08c09c8110f5c65c05c1a2550364d82e8ab8089025ea9",
    ("concat", "full"): "cb1dfdc7e48e9005b504d938bd1770a4400d8ffb547cb268ff8d4b8fca47ec75",
    ("dot", "strip_prefix"): "65f2b36b78cb0b73f2debb678f69ad4909ed54467814f999107a688c1e4d10cb",
}
"""The check values of providers.md 4.8."""
GOOD = CHECKS["dot", "full"]
ODD: list[Any] = [None, 7, 1.5, True, [], {}, [{"id": "a"}], "", "\ud800", "x" * 5000]
SIGNATURE = "x-omnist-signature"


@pytest.fixture
def source() -> SourceSettings:
    """An Omnist source with a key and no secret."""
    return source_of("omnist")


def signed(
    value: str | None, *more: tuple[str, str], now: float = SENT_AT, body: bytes = BODY, **keys: Any
) -> Authentication:
    """What is made of a delivery with this signature header."""
    source = source_of("omnist", **{"secret": SECRET, **keys})
    headers = ((SIGNATURE, value),) if value is not None else ()
    return PROVIDER.authenticate(RawRequest((*headers, *more), body), source, now)


# -- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", CHECKS)
@pytest.mark.parametrize("configured", CHECKS)
def test_a_signature_is_checked_as_configured(made: tuple[str, str], configured: tuple[str, str]) -> None:
    """The check values fit their own settings and no others."""
    sign_format, key_form = configured

    judged = signed(f"t={SENT_AT},v1={CHECKS[made]}", sign_format=sign_format, key_form=key_form)

    assert judged == (Accepted(proven=True) if made == configured else Refused("signature"))


def test_a_key_may_be_base64_behind_its_prefix() -> None:
    """`strip_prefix_base64`; a secret that is no base64 then matches nothing rather than everything."""
    keys: dict[str, Any] = {"key_form": "strip_prefix_base64", "secret": "whsec_c2VjcmV0"}
    good = signing.hmac_sha256_hex(b"secret", b"%d." % SENT_AT + BODY)
    empty = signing.hmac_sha256_hex(b"", b"%d." % SENT_AT + BODY)

    assert signed(f"t={SENT_AT},v1={good}", **keys) == Accepted(proven=True)
    assert signed(f"t={SENT_AT},v1={empty}", **{**keys, "secret": "whsec_!!"}) == Refused("signature")
    assert signed(f"t={SENT_AT},v1={empty}", **{**keys, "secret": "whsec_"}) == Refused("signature")


@pytest.mark.parametrize(
    "value",
    [
        f"t={SENT_AT},v1={GOOD}",
        f"v1={GOOD},t={SENT_AT}",
        f"t={SENT_AT}, v1={GOOD}",
        f"t={SENT_AT},v1={GOOD.upper()}",
        f"t={SENT_AT},v1={'0' * 64},v1={GOOD}",
        f"t={SENT_AT},v1={GOOD},v1={'0' * 64}",
        f"t={SENT_AT},v0=x,v1={GOOD},v2=y==",
    ],
)
def test_several_signatures_may_stand_in_the_header(value: str) -> None:
    """Any `v1` may fit; other versions are passed over."""
    assert signed(value) == Accepted(proven=True)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        ",",
        "t",
        "=",
        GOOD,
        f"v1={GOOD}",
        f"t={SENT_AT}",
        f"t={SENT_AT},v1=",
        f"t={SENT_AT},v1={GOOD},",
        f"t={SENT_AT},v1={GOOD},junk",
        f"t={SENT_AT},t={SENT_AT},v1={GOOD}",
        f"t={SENT_AT + 1},v1={GOOD}",
        f"t=+{SENT_AT},v1={GOOD}",
        f"t= {SENT_AT},v1={GOOD}",
        f"t={SENT_AT}.0,v1={GOOD}",
        "t=١٧٦٠٠٠٠٠٠٠,v1=" + GOOD,
        f"t=,v1={GOOD}",
        f"t={'9' * 400},v1={GOOD}",
        f"t={SENT_AT},v2={GOOD}",
        f"t={SENT_AT},v1={GOOD[:-1]}",
        f"t={SENT_AT},v1=é\udc80",
        f"t={SENT_AT}," + ",".join(f"v1={n:064x}" for n in range(100)) + f",v1={GOOD}",
    ],
)
def test_any_other_header_is_refused(value: str | None) -> None:
    """Missing, malformed, doubled, or simply wrong: one answer."""
    assert signed(value) == Refused("signature")


@pytest.mark.parametrize("header", [SIGNATURE, "x-omnist-event-id", "x-omnist-delivery-id"])
def test_a_doubled_header_is_a_refusal(header: str, source: SourceSettings) -> None:
    """Not a choice, even when both are good; and also where no secret is configured."""
    good = (SIGNATURE, f"t={SENT_AT},v1={GOOD}")
    more = (good,) if header == SIGNATURE else ((header, "a"), (header, "a"))

    assert signed(good[1], *more) == Refused("signature")
    assert PROVIDER.authenticate(RawRequest((good, *more, good), BODY), source, START) == Refused("signature")


def test_altered_bytes_are_refused() -> None:
    """The raw body is signed, blanks and order included."""
    assert signed(f"t={SENT_AT},v1={GOOD}", body=BODY + b" ") == Refused("signature")
    assert signed(f"t={SENT_AT},v1={GOOD}", body=b"") == Refused("signature")


def test_old_and_new_secret_are_both_good_during_a_rotation() -> None:
    """Whichever signs, nothing is refused in between (OS-5)."""
    for secrets in ([SECRET, "whsec_new"], ["whsec_new", SECRET]):
        assert signed(f"t={SENT_AT},v1={GOOD}", secret=secrets) == Accepted(proven=True)
    assert signed(f"t={SENT_AT},v1={GOOD}", secret=["whsec_new", "whsec_newer"]) == Refused("signature")


@pytest.mark.parametrize("off_s", [-1e9, -301.0, -300.0, 0.0, 300.0, 301.0, 90000.0])
def test_the_tolerance_holds_both_ways(off_s: float) -> None:
    """A clock that is behind is as bad as one that is ahead; by default the stale are parked (OS-4)."""
    header = f"t={SENT_AT},v1={GOOD}"
    fresh = abs(off_s) <= 300

    assert signed(header, now=SENT_AT + off_s) == (Accepted(proven=True) if fresh else Parked("stale_signature"))
    rejected = signed(header, now=SENT_AT + off_s, stale_policy="reject")
    assert rejected == (Accepted(proven=True) if fresh else Refused("stale_signature"))
    wide = signed(header, now=SENT_AT + off_s, tolerance_s=2e9)
    assert wide == Accepted(proven=True)


def test_a_wrong_signature_is_never_parked() -> None:
    """Only its owner may have a stale one kept."""
    assert signed(f"t={SENT_AT},v1={'0' * 64}", now=SENT_AT + 9999) == Refused("signature")


def test_without_a_secret_nobody_is_proven(source: SourceSettings) -> None:
    """Whatever the header says."""
    for headers in ((), ((SIGNATURE, f"t={SENT_AT},v1={GOOD}"),), ((SIGNATURE, "junk"),)):
        assert PROVIDER.authenticate(RawRequest(headers, BODY), source, START) == Accepted(proven=False)


@given(
    value=st.text() | st.from_regex(r"(t=\d*,?|v1=[0-9a-f]*,?|,| ){0,8}", fullmatch=True), body=st.binary(max_size=20)
)
def test_no_header_is_good_by_chance(value: str, body: bytes) -> None:
    """And none raises."""
    assert signed(value, body=body) == Refused("signature")


# -- reading --------------------------------------------------------------------------------------------------------


def event(name: Any = "monitor.backfill.finished", **data: Any) -> dict[str, Any]:
    """An event as it is assumed to be (4.7)."""
    told = {"monitor_id": "mon_1", "task_id": "task_1", "status": "succeeded", **data}
    return {"id": "evt_1", "type": name, "data": {key: each for key, each in told.items() if each is not None}}


@pytest.mark.parametrize(
    ("status", "claim", "reason"),
    [
        ("succeeded", Claim.COMPLETED, None),
        ("SUCCESS", Claim.COMPLETED, None),
        ("Done", Claim.COMPLETED, None),
        ("failed", Claim.FAILED, Reason.PROVIDER),
        ("partial_failed", Claim.FAILED, Reason.PROVIDER),
        ("Cancelled", Claim.FAILED, Reason.CANCELLED),
        ("canceled", Claim.FAILED, Reason.CANCELLED),
    ],
)
@pytest.mark.parametrize(("id_key", "modality"), [("task_id", "backfill"), ("run_id", "run")])
def test_an_end_of_a_job_is_read(
    status: str, claim: Claim, reason: Reason | None, id_key: str, modality: str, source: SourceSettings
) -> None:
    """By the words of 4.3, in any case, from either place a field may stand."""
    nested = event("x", **{"task_id": None, id_key: "j-1", "status": status})
    flat = {"event": "x", id_key: "j-1", "status": status, "monitor_id": "mon_1"}

    for body in (nested, flat):
        said = read(PROVIDER, body, source).said
        assert said is not None
        assert (said.job_id, said.modality, said.claim, said.reason) == ("j-1", modality, claim, reason)
        assert (said.refs, said.result, said.status) == ({"monitor_id": "mon_1"}, body, status)


@pytest.mark.parametrize("status", [*ODD, "running", "queued", "new_word"])
def test_what_is_no_end_is_told_as_an_event(status: Any, source: SourceSettings) -> None:
    """Kept and told, and no job moves."""
    body = {"type": "x", "task_id": "t", "status": status}
    reading = read(PROVIDER, body, source)

    assert (reading.said, reading.passes_on, reading.problem) == (None, True, None)


@pytest.mark.parametrize(
    ("name", "job_id"),
    [
        ("monitor.backfill.finished", "task_1"),
        ("monitor.run.completed", "run_1"),
        ("run_completed", "run_1"),
        ("monitor.BACKFILL_done", "task_1"),
        ("monitor.finished", None),
        ("backfill.run.completed", None),
        (None, None),
    ],
)
def test_of_two_ids_the_events_name_tells_which_is_meant(
    name: str | None, job_id: str | None, source: SourceSettings
) -> None:
    """A run inside a backfill must not end the backfill: where the name does not tell, nothing is decided."""
    reading = read(PROVIDER, event(name, run_id="run_1"), source)

    assert (reading.said.job_id if reading.said else None) == job_id
    assert reading.passes_on == (job_id is None)


def test_the_words_are_settings() -> None:
    """Nobody has documented them."""
    source = source_of("omnist", completed_words=["FINI"], failed_words=["kaputt"])

    claims = [read(PROVIDER, event(status=word), source).said for word in ("fini", "Kaputt", "succeeded")]
    assert [said.claim if said else None for said in claims] == [Claim.COMPLETED, Claim.FAILED, None]


@pytest.mark.parametrize("key", ["event_type", "type", "event"])
def test_a_test_delivery_is_kept_and_not_told(key: str, source: SourceSettings) -> None:
    """`webhook.test` reaches the same URL (OS-6)."""
    reading = read(PROVIDER, {key: "webhook.test", "id": "evt_1", "task_id": "t", "status": "done"}, source)

    assert (reading.event, reading.said, reading.passes_on, reading.problem) == ("webhook.test", None, False, None)


@pytest.mark.parametrize(
    ("headers", "body", "key"),
    [
        ([("x-omnist-event-id", "evt_h")], {"event_id": "evt_b", "id": "i"}, "evt_h"),
        ([], {"event_id": "evt_b", "id": "i"}, "evt_b"),
        ([], {"id": "i"}, "i"),
        ([], {"id": 17}, "17"),
        ([], {"id": {}}, None),
        ([], {}, None),
        ([("x-omnist-event-id", "")], {"id": "i"}, "i"),
        ([("x-omnist-delivery-id", "del_1")], {}, None),
    ],
)
def test_the_event_id_is_the_key(
    headers: list[tuple[str, str]], body: dict[str, Any], key: str | None, source: SourceSettings
) -> None:
    """Of the header, else of the body, else the digest of it; a delivery id is for logs (4.10)."""
    assert read(PROVIDER, body, source, *headers).event_key == key


@pytest.mark.parametrize("field", ["id", "type", "data", "monitor_id", "task_id", "status", "run_id"])
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_any_field_may_be_anything(field: str, value: Any, source: SourceSettings) -> None:
    """All fields are optional: such a delivery is told or a job's end, never a problem, and never raised."""
    for body in (
        {**event(), field: value},
        event(**{field: value}) if field not in ("id", "type", "data") else event(),
    ):
        reading = read(PROVIDER, body, source)
        assert reading.problem is None
        assert (reading.said is not None) != reading.passes_on
        jsontext.dump([reading.event, reading.event_key])


def test_a_delivery_is_read_the_same_however_often(source: SourceSettings) -> None:
    """A retry says the same of the same sending."""
    request = delivered(event(), ("x-omnist-event-id", "evt_1"))
    readings = [PROVIDER.read(request, jsontext.parse_object(request.body), source) for _ in range(3)]

    assert readings[0] == readings[1] == readings[2]


# -- credentials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "style", "header"),
    [
        ("omni_live_1", None, {"authorization": "Bearer omni_live_1"}),
        ("om_sk_1", None, {"x-api-key": "om_sk_1"}),
        ("om_sk_1", "authorization", {"authorization": "Bearer om_sk_1"}),
        ("omni_live_1", "x-api-key", {"x-api-key": "omni_live_1"}),
    ],
)
def test_the_key_goes_into_the_header_it_looks_made_for(key: str, style: str | None, header: dict[str, str]) -> None:
    """The documents disagree (OS-1); the last word is the operator's."""
    assert PROVIDER.auth_headers(source_of("omnist", api_key=key, api_key_header=style)) == header
