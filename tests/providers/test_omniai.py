"""OmniAI: words that change case, failures in disguise, and what is the same sending."""

import itertools
from typing import Any

import pytest

from receiver import jsontext
from receiver.providers import signing
from receiver.providers.base import Accepted, RawRequest, Refused
from receiver.providers.omniai import PROVIDER
from receiver.settings import SourceSettings
from receiver.states import Claim, Reason
from tests.providers.talk import delivered, read, source_of, with_secret
from tests.support import START

LEAD = {"lead_id": "lead-1"}
ODD: list[Any] = [None, 7, 1.5, True, False, [], {}, [{"id": "a"}], "", "\ud800", "x" * 5000]
"""What may stand where something else was promised."""


@pytest.fixture
def source() -> SourceSettings:
    """An OmniAI source with a key and no secret."""
    return source_of("omniai")


def action(event: str = "action_log.completed", **changes: Any) -> dict[str, Any]:
    """An action log's event as in the seed."""
    log = {"id": "a-1", "type": "MESSAGE", "status": "COMPLETED", "leadId": "lead-1", "summary": "s", **changes}
    return {"event": event, "actionLog": log, "occurredAt": "2025-10-30T20:07:17.567Z", "workspaceId": "w"}


def extracted(**changes: Any) -> dict[str, Any]:
    """`document.extracted` as in the seed; the newest revision adds fields."""
    return {
        "event": "document.extracted",
        "leadId": "lead-1",
        "status": "completed",
        "documentId": "d-1",
        "workspaceId": "w",
        "parentActionId": "p-1",
        "extractionResult": {"items": [], "extractedCount": 0},
        **changes,
    }


def lead_event(event: str, **data: Any) -> dict[str, Any]:
    """A lead event."""
    return {"event": event, "data": {"leadId": "lead-1", "externalId": "CRM-7", **data}}


WHOLE: dict[str, dict[str, Any]] = {
    "action_log.completed": action(),
    "action_log.failed": action("action_log.failed", type="TOOL_CALL", status="FAILED", error="e", tool=None),
    "document.extracted": extracted(summary=None, type="Bank Statement", classification={}),
    "document.received": {"event": "document.received", "document": {"id": "d-1", "leadId": "lead-1"}},
    "lead.created": lead_event("lead.created", firstName="A"),
    "lead.updated": lead_event("lead.updated", checklistItems=[]),
    "lead.completed": lead_event("lead.completed"),
}


# -- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [str, str.lower, str.upper, str.title])
@pytest.mark.parametrize(
    ("event", "status", "claim", "reason"),
    [
        ("action_log.completed", "COMPLETED", Claim.COMPLETED, None),
        ("action_log.completed", "FAILED", Claim.FAILED, Reason.PROVIDER),
        ("action_log.completed", "CANCELLED", Claim.FAILED, Reason.CANCELLED),
        ("action_log.completed", "PENDING", Claim.COMPLETED, None),
        ("action_log.failed", "FAILED", Claim.FAILED, Reason.PROVIDER),
        ("action_log.failed", "COMPLETED", Claim.FAILED, Reason.PROVIDER),
        ("action_log.failed", "CANCELLED", Claim.FAILED, Reason.CANCELLED),
        ("action_log.failed", "WHATEVER", Claim.FAILED, Reason.PROVIDER),
    ],
)
def test_an_action_ends_as_its_status_says_in_any_case(
    event: str, status: str, claim: Claim, reason: Reason | None, style: Any, source: SourceSettings
) -> None:
    """A failed event is a failed job whatever the word in it; a completed one may hide a failure (OA-3, OA-4)."""
    body = action(event, status=style(status))

    said = read(PROVIDER, body, source).said

    assert said is not None
    assert (said.job_id, said.claim, said.reason, said.status) == ("a-1", claim, reason, style(status))
    assert said.result == body["actionLog"]
    assert said.refs == LEAD


@pytest.mark.parametrize(
    ("kind", "modality"),
    [
        ("MESSAGE", "message"),
        ("FOLLOW_UP_MESSAGE", "message"),
        ("TOOL_CALL", "tool_call"),
        ("tool_call", "tool_call"),
        ("MANUAL_UPDATE", "manual_update"),
        ("SOMETHING_NEW", "something_new"),
        (None, None),
        (7, None),
    ],
)
def test_the_type_of_an_action_is_its_modality(kind: Any, modality: str | None, source: SourceSettings) -> None:
    """The set of types is open."""
    said = read(PROVIDER, action(type=kind), source).said

    assert said is not None
    assert said.modality == modality


@pytest.mark.parametrize(
    ("status", "claim", "reason"),
    [
        ("completed", Claim.COMPLETED, None),
        ("COMPLETED", Claim.COMPLETED, None),
        ("failed", Claim.FAILED, Reason.PROVIDER),
        ("Failed", Claim.FAILED, Reason.PROVIDER),
        ("cancelled", Claim.FAILED, Reason.CANCELLED),
    ],
)
@pytest.mark.parametrize("newer", [{}, {"externalId": "D", "externalLeadId": "L", "summary": None, "type": "t"}])
def test_an_extraction_ends_as_its_status_says_in_both_revisions(
    status: str, claim: Claim, reason: Reason | None, newer: dict[str, Any], source: SourceSettings
) -> None:
    """The event's name promises no success (OA-4)."""
    body = extracted(status=status, **newer)

    said = read(PROVIDER, body, source).said

    assert said is not None
    assert (said.job_id, said.modality, said.claim, said.reason) == ("d-1", "document", claim, reason)
    assert (said.result, said.refs) == (body, LEAD)


@pytest.mark.parametrize("status", [*ODD, "processing", "SKIPPED"])
def test_an_extraction_whose_status_is_no_end_is_told_and_decides_nothing(status: Any, source: SourceSettings) -> None:
    """A word nobody knows is no outcome, and is not lost either."""
    reading = read(PROVIDER, extracted(status=status), source)

    assert (reading.said, reading.passes_on, reading.problem) == (None, True, None)


def test_the_words_are_settings() -> None:
    """What 3.3 assumes can be put right without a release."""
    source = source_of("omniai", completed_words=["EXTRACTED"], failed_words=["broken", "failed"])

    assert [
        (said.claim if said else None)
        for said in (
            read(PROVIDER, extracted(status=word), source).said for word in ("extracted", "Broken", "completed")
        )
    ] == [Claim.COMPLETED, Claim.FAILED, None]


@pytest.mark.parametrize("event", ["document.received", "lead.created", "lead.updated", "lead.completed"])
def test_events_of_no_job_are_told_as_they_are(event: str, source: SourceSettings) -> None:
    """They have a key, and end nothing."""
    reading = read(PROVIDER, WHOLE[event], source)

    assert (reading.event, reading.said, reading.passes_on) == (event, None, True)
    assert reading.event_key


@pytest.mark.parametrize("event", ["action_log.cancelled", "lead.merged", "ACTION_LOG.COMPLETED", "x", "\ud800"])
def test_unknown_events_are_told_as_they_are(event: str, source: SourceSettings) -> None:
    """Names are compared as written; an unknown one is not refused."""
    reading = read(PROVIDER, {**action(), "event": event}, source)

    assert (reading.said, reading.passes_on, reading.problem) == (None, True, None)


@pytest.mark.parametrize(
    ("event", "path", "problem"),
    [
        ("action_log.completed", ("actionLog",), "missing_action_log_id"),
        ("action_log.failed", ("actionLog", "id"), "missing_action_log_id"),
        ("document.extracted", ("documentId",), "missing_document_id"),
        ("document.received", ("document",), "missing_document_id"),
        ("document.received", ("document", "id"), "missing_document_id"),
        ("lead.created", ("data",), "missing_lead_id"),
        ("lead.updated", ("data", "leadId"), "missing_lead_id"),
    ],
)
@pytest.mark.parametrize("value", [None, True, [], {}, "", "\ud800", "(absent)"])
def test_without_a_promised_id_a_delivery_is_quarantined(
    event: str, path: tuple[str, ...], problem: str, value: Any, source: SourceSettings
) -> None:
    """Nothing is claimed, and no key is taken that a complete repeat would need."""
    reading = read(PROVIDER, changed(WHOLE[event], path, value), source)

    assert (reading.problem, reading.said, reading.passes_on, reading.event_key) == (problem, None, False, None)


def test_a_completed_lead_without_an_id_is_told_all_the_same(source: SourceSettings) -> None:
    """Its fields are not documented, so none is promised."""
    reading = read(PROVIDER, {"event": "lead.completed", "lead": {}}, source)

    assert (reading.passes_on, reading.problem, reading.event_key) == (True, None, None)


@pytest.mark.parametrize("value", [None, 7, True, [], {}, "", "(absent)"])
def test_an_event_without_a_name_is_quarantined(value: Any, source: SourceSettings) -> None:
    """All events of this provider have one."""
    assert read(PROVIDER, changed(action(), ("event",), value), source).problem == "missing_event"


def changed(body: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with one field of another value, or without it."""
    head, *rest = path
    if rest:
        return {**body, head: changed(body[head], tuple(rest), value)}
    left = {key: each for key, each in body.items() if key != head}
    return left if value == "(absent)" else {**left, head: value}


def paths_of(body: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every field of a body, by path."""
    if not isinstance(body, dict):
        return []
    return [path for key, each in body.items() for path in ((*prefix, key), *paths_of(each, (*prefix, key)))]


@pytest.mark.parametrize("event", WHOLE)
@pytest.mark.parametrize("value", [*ODD, "(absent)"], ids=range(len(ODD) + 1))
def test_any_field_may_be_anything(event: str, value: Any, source: SourceSettings) -> None:
    """Missing, null, of another type: read into one thing that can be kept, and never raised."""
    for path in paths_of(WHOLE[event]):
        reading = read(PROVIDER, changed(WHOLE[event], path, value), source)
        assert [reading.problem is not None, reading.said is not None, reading.passes_on].count(True) == 1
        jsontext.dump([reading.event, reading.event_key, reading.said.refs if reading.said else None])


# -- what is the same sending ---------------------------------------------------------------------------------------


def test_a_retry_is_the_same_sending_though_its_signed_url_differs(source: SourceSettings) -> None:
    """`signedUrl` and times may change between attempts (OA-7): they are not in the key."""
    first = {"event": "document.received", "document": {"id": "d-1", "signedUrl": "https://s/1"}, "occurredAt": "a"}
    again = {"event": "document.received", "document": {"id": "d-1", "signedUrl": "https://s/2"}, "occurredAt": "b"}

    assert read(PROVIDER, first, source).event_key == read(PROVIDER, again, source).event_key


def test_event_object_status_and_parent_tell_sendings_apart(source: SourceSettings) -> None:
    """The contract's key; the case of a status is not part of it."""
    bodies = [
        action(),
        action(id="a-2"),
        action("action_log.failed"),
        action(status="FAILED"),
        extracted(),
        extracted(documentId="d-2"),
        extracted(status="failed"),
        extracted(parentActionId="p-2"),
        extracted(parentActionId=None),
        WHOLE["document.received"],
        WHOLE["lead.created"],
    ]
    keys = [read(PROVIDER, body, source).event_key for body in bodies]

    assert len(set(keys)) == len(bodies)
    assert read(PROVIDER, action(status="completed"), source).event_key == keys[0]


def test_no_choice_of_ids_fakes_another_key(source: SourceSettings) -> None:
    """The parts of a key cannot be shifted into each other."""
    values = ["a", "a:b", "b", "a%3Ab", ":"]
    keys = {
        read(PROVIDER, extracted(documentId=one, parentActionId=two), source).event_key
        for one, two in itertools.product(values, repeat=2)
    }

    assert len(keys) == len(values) ** 2


def test_equal_updates_of_a_lead_are_one_sending_for_an_hour_only(source: SourceSettings) -> None:
    """The order of fields does not matter, the fields do, and later the same change is a new event (3.10)."""
    one = read(PROVIDER, lead_event("lead.updated", email="e", phoneNumber="p"), source)
    same = read(PROVIDER, lead_event("lead.updated", phoneNumber="p", email="e"), source)
    other = read(PROVIDER, lead_event("lead.updated", phoneNumber="q", email="e"), source)

    assert one.event_key == same.event_key != other.event_key
    assert one.key_window_s == 3600.0
    assert read(PROVIDER, WHOLE["lead.created"], source).key_window_s is None


# -- who sent it ----------------------------------------------------------------------------------------------------


def test_without_a_secret_nobody_is_proven(source: SourceSettings) -> None:
    """The feature may be gone at the provider (OA-2)."""
    assert PROVIDER.authenticate(delivered(action()), source, START) == Accepted(proven=False)


@pytest.mark.parametrize("mode", ["equals", "hmac_sha256_hex"])
def test_either_of_two_secrets_is_accepted_in_either_mode(mode: str, source: SourceSettings) -> None:
    """While a secret is rotated, the old one is refused nowhere."""
    guarded = with_secret(source, "new", "old", header="x-own", mode=mode)
    body = delivered(action()).body

    def judged(secret: str, *more: tuple[str, str]) -> object:
        value = secret if mode == "equals" else signing.hmac_sha256_hex(secret.encode(), body)
        return PROVIDER.authenticate(RawRequest((("x-own", value), *more), body), guarded, START)

    assert [judged("new"), judged("old")] == [Accepted(proven=True)] * 2
    assert judged("other") == judged("new", ("x-own", "new"))
    assert isinstance(judged("other"), Refused)
    assert isinstance(PROVIDER.authenticate(RawRequest((), body), guarded, START), Refused)


def test_a_signature_over_altered_bytes_is_refused(source: SourceSettings) -> None:
    """One blank more, and it is another body."""
    guarded = with_secret(source, "new", header="x-own", mode="hmac_sha256_hex")
    body = delivered(action()).body
    header = ("x-own", signing.hmac_sha256_hex(b"new", body))

    assert PROVIDER.authenticate(RawRequest((header,), body), guarded, START) == Accepted(proven=True)
    assert isinstance(PROVIDER.authenticate(RawRequest((header,), body + b" "), guarded, START), Refused)
