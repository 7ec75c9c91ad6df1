"""What the public door answers, row by row of the contract's table, over real sockets."""

import asyncio
import hashlib
import hmac
import json
import math
from typing import Any

import pytest

from receiver.commits import Done
from receiver.door import Door
from receiver.errors import StoreUnavailable
from receiver.records import Delivery
from receiver.settings import SourceSettings
from receiver.states import Verdict
from tests.receiver.wire import FIRST_ID, SECRET, TOKEN, MemoryRecorder, request, serving, sources
from tests.support import START, ManualClock, aeventually

BODY = b'{"job_id":"6f9619ff","status":"completed"}'


def signature(body: bytes, at: float, secret: str = SECRET) -> str:
    signed = f"{int(at)}.".encode() + body
    return f"t={int(at)},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


async def test_a_recorded_delivery_is_answered_200_with_its_id_as_a_string() -> None:
    """200 has exactly one body, and its id is the one on record."""
    async with serving() as wire:
        answer = await wire.ask("/in/plain", BODY)

        assert answer.status == 200
        assert answer.body == b'{"delivery": "%d"}' % (FIRST_ID + 1)
        assert [(each.id, each.source, each.verdict, each.reason) for each in wire.kept] == [
            (FIRST_ID + 1, "plain", Verdict.NEW, None)
        ]


async def test_a_delivery_is_kept_byte_for_byte() -> None:
    """The record has the exact bytes, their digest, the sender's address, the time and the headers in wire order."""
    clock = ManualClock()
    sent = b' {"b":1, "a":\t2} \r\n'
    async with serving(clock=clock) as wire:
        await wire.ask("/in/plain", sent, headers=[("X-B", "2"), ("x-a", "1"), ("X-B", "3")])

        kept = wire.kept[0]

    assert kept.body == sent
    assert kept.body_sha256 == hashlib.sha256(sent).hexdigest()
    assert kept.received_at == START
    assert kept.remote == "127.0.0.1"
    assert kept.headers == (
        ("host", "hooks.example.com"),
        ("x-b", "2"),
        ("x-a", "1"),
        ("x-b", "3"),
        ("content-length", str(len(sent))),
    )


async def test_a_repeat_is_a_delivery_too() -> None:
    """The same bytes twice: both are recorded, both answered 200, with two ids."""
    async with serving() as wire:
        first, second = await wire.ask("/in/plain", BODY), await wire.ask("/in/plain", BODY)

        assert (first.status, second.status) == (200, 200)
        assert first.body != second.body
        assert len(wire.kept) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"{", "malformed"),
        (b"{} {}", "malformed"),
        (b'{"a":NaN}', "malformed"),
        (b"[]", "not an object"),
        (b'"text"', "not an object"),
        (b"null", "not an object"),
        (b'{"a":"\xff"}', "bad UTF-8"),
        (b'{"a":' * 201 + b"1" + b"}" * 201, "too deep"),
    ],
)
@pytest.mark.parametrize("path", ["/in/plain", f"/in/tokened/{TOKEN}"])
async def test_what_is_no_json_object_is_kept_in_quarantine_and_answered_400(
    path: str, body: bytes, reason: str
) -> None:
    """Unreadable but from somebody with a right to send: kept byte for byte, with the reason, and 400."""
    async with serving() as wire:
        answer = await wire.ask(path, body)

        kept = wire.kept[0]
        assert answer.status == 400
        assert answer.header("content-type") == "application/problem+json"
        assert (kept.verdict, kept.reason, kept.body) == (Verdict.QUARANTINED, reason, body)


@pytest.mark.parametrize(
    "body", [b'{"a":"\\ud800"}', b'{"a":' + b"9" * 5000 + b"}", b'{"a":' + b"[" * 199 + b"]" * 199 + b"}"]
)
async def test_odd_but_well_formed_objects_are_taken(body: bytes) -> None:
    """A lone surrogate, a very long integer and nesting up to the limit are JSON objects."""
    async with serving() as wire:
        assert (await wire.ask("/in/plain", body)).status == 200
        assert wire.kept[0].verdict is Verdict.NEW


@pytest.mark.parametrize(
    "path",
    [
        "/in/unknown",
        "/in/Plain",
        "/in/plain/",
        "/in//plain",
        "//in/plain",
        "/in/plain/token",
        "/IN/plain",
        "/in",
        "/in/",
        "/",
        "/healthz/",
        "/Healthz",
        "/in/plain%2F",
        "/in%2Fplain",
        "/in/plain%00",
        "/in/tokened",
        "/in/tokened/",
        "/in/tokened/wrong",
        f"/in/tokened/{TOKEN}x",
        f"/in/tokened/{TOKEN[:-1]}",
        f"/in/tokened/{TOKEN.upper()}",
        f"/in/tokened/{TOKEN}/",
        f"/in/tokened//{TOKEN}",
        f"/in/plain/{TOKEN}",
        f"/x/../in/tokened/{TOKEN}",
        f"/in/tokened?token={TOKEN}",
    ],
)
async def test_any_other_path_is_404_and_never_redirected(path: str) -> None:
    """No sender follows a redirect, and none is told how near it was."""
    async with serving() as wire:
        answer = await wire.ask(path, BODY)

        assert answer.status == 404
        assert answer.header("location") is None
        assert not wire.kept
        document = json.loads(answer.body)
        assert document == {"type": "about:blank", "title": "Not Found", "status": 404, "detail": document["detail"]}


@pytest.mark.parametrize("path", [f"/in/tokened/{TOKEN}", "/in/pl%61in", "/%69n/plain", "/in/plain?retry=2"])
async def test_segments_are_compared_as_they_decode(path: str) -> None:
    """An escaped letter is the letter, and a query is no part of the path."""
    async with serving() as wire:
        assert (await wire.ask(path, BODY)).status == 200
        assert len(wire.kept) == 1


async def test_an_absolute_target_is_taken_as_its_path() -> None:
    """A proxy's form of the request line means the same."""
    async with serving() as wire:
        assert (await wire.ask("http://hooks.example.com/in/plain", BODY)).status == 200


async def test_refusals_are_counted_by_names_from_the_configuration() -> None:
    """A stranger cannot make up labels: an unknown source is counted under none."""
    async with serving() as wire:
        for path in ("/in/made-up", "/in/also-made-up", "/in/tokened/no", "/in/tokened", "/in/plain/x"):
            await wire.ask(path, BODY)
        await wire.ask("/in/secret", BODY)
        await wire.ask("/in/plain", method="GET")

        assert wire.refused == {
            ("", "unknown_source"): 2,
            ("tokened", "path_token"): 2,
            ("plain", "path_token"): 1,
            ("secret", "secret"): 1,
            ("plain", "method"): 1,
        }


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-sender-proof", "wrong")],
        [("x-sender-proof", "")],
        [("x-sender-proof", SECRET), ("x-sender-proof", SECRET)],
        [("x-sender-proof", SECRET), ("X-Sender-Proof", "wrong")],
        [("x-other", SECRET)],
    ],
)
async def test_a_secret_that_is_wrong_missing_or_doubled_is_401(headers: list[tuple[str, str]]) -> None:
    """Nothing is kept, and every case is answered with the same bytes: the sender does not learn which part it was."""
    async with serving() as wire:
        answer = await wire.ask("/in/secret", BODY, headers=headers)
        plainly_wrong = await wire.ask("/in/secret", BODY, headers=[("x-sender-proof", "no")])

        assert (answer.status, answer.body) == (401, plainly_wrong.body)
        assert answer.header("www-authenticate") is not None
        assert not wire.kept


async def test_the_right_secret_and_the_right_signature_are_taken() -> None:
    """Both ways for a sender to prove itself, over the raw bytes."""
    clock = ManualClock()
    async with serving(clock=clock) as wire:
        by_secret = await wire.ask("/in/secret", BODY, headers={"X-Sender-Proof": SECRET})
        by_signature = await wire.ask("/in/signed", BODY, headers={"X-Omnist-Signature": signature(BODY, START)})
        of_other_bytes = await wire.ask("/in/signed", BODY, headers={"X-Omnist-Signature": signature(b"{}", START)})

        assert (by_secret.status, by_signature.status, of_other_bytes.status) == (200, 200, 401)


async def test_a_malformed_body_from_a_stranger_is_401_and_not_kept() -> None:
    """Who does not prove itself cannot fill the quarantine."""
    async with serving() as wire:
        assert (await wire.ask("/in/secret", b"{")).status == 401
        assert not wire.kept


async def test_a_stale_signature_is_parked_or_refused_as_the_source_says() -> None:
    """`park`: 200, kept, quarantined; `reject`: 401 and not kept."""
    clock = ManualClock()
    stale = {"X-Omnist-Signature": signature(BODY, START - 3600)}
    async with serving(clock=clock) as wire:
        parked = await wire.ask("/in/signed", BODY, headers=stale)
        rejected = await wire.ask("/in/strict", BODY, headers=stale)

        assert (parked.status, rejected.status) == (200, 401)
        assert [(each.source, each.verdict, each.reason) for each in wire.kept] == [
            ("signed", Verdict.QUARANTINED, "stale_signature")
        ]
        assert wire.refused == {("strict", "stale_signature"): 1}


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_only_post_is_taken(method: str) -> None:
    """Anything else is 405 and says what would do."""
    async with serving() as wire:
        answer = await wire.ask("/in/plain", method=method)

        assert (answer.status, answer.header("allow")) == (405, "POST")
        assert not wire.kept


async def test_the_method_is_not_discussed_with_who_has_no_token() -> None:
    """A wrong path is 404 whatever the method: 405 would tell that the source exists."""
    async with serving() as wire:
        assert (await wire.ask("/in/tokened", method="GET")).status == 404
        assert (await wire.ask(f"/in/tokened/{TOKEN}", method="GET")).status == 405


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_healthz_answers(method: str) -> None:
    """The one other thing on this listener."""
    async with serving() as wire:
        answer = await wire.ask("/healthz", method=method)

        assert (answer.status, answer.body) == (200, b'{"status":"ok"}' if method == "GET" else b"")
        assert (await wire.ask("/healthz")).header("allow") == "GET, HEAD"


async def test_a_body_of_exactly_the_cap_is_taken_and_one_byte_more_is_413() -> None:
    """Announced or counted, the cap is the same."""
    fits = b'{"a":"' + b"x" * (1000 - 8) + b'"}'
    chunked = [("transfer-encoding", "chunked")]
    async with serving(max_body_bytes=1000) as wire:
        taken = await wire.ask("/in/plain", fits)
        announced = await wire.ask("/in/plain", fits + b" ")
        counted = await wire.ask("/in/plain", b"3e9\r\n" + fits + b" \r\n0\r\n\r\n", headers=chunked)
        chunks = await wire.ask("/in/plain", b"3e8\r\n" + fits + b"\r\n0\r\n\r\n", headers=chunked)

        assert [each.status for each in (taken, announced, counted, chunks)] == [200, 413, 413, 200]
        assert wire.refused == {("plain", "too_large"): 2}


async def test_what_is_announced_too_large_is_answered_before_a_byte_of_it_is_read() -> None:
    """413 comes without the body, and without `100 Continue`."""
    async with serving(max_body_bytes=1000) as wire, await wire.connect() as caller:
        await caller.send(b"POST /in/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        answer = await caller.answer()

        assert (answer.status, answer.header("connection")) == (413, "close")


async def test_who_is_expected_is_told_to_continue() -> None:
    """A sender that waits for `100 Continue` gets it once everything but the body is right."""
    async with serving() as wire, await wire.connect() as caller:
        await caller.send(b"POST /in/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        interim = await caller.reader.readuntil(b"\r\n\r\n")
        await caller.send(b"{}")

        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
async def test_an_encoded_body_is_415(encoding: str) -> None:
    """Bodies are not inflated here, so they are not taken."""
    async with serving() as wire:
        assert (await wire.ask("/in/plain", BODY, headers={"Content-Encoding": encoding})).status == 415
        assert not wire.kept


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
async def test_identity_is_no_encoding(encoding: str) -> None:
    """What says that nothing was done to it is taken."""
    async with serving() as wire:
        assert (await wire.ask("/in/plain", BODY, headers={"Content-Encoding": encoding})).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml; charset=ebcdic", "", "multipart/form-data"])
async def test_the_content_type_is_not_judged(content_type: str) -> None:
    """Senders get it wrong and mean JSON all the same."""
    async with serving() as wire:
        assert (await wire.ask("/in/plain", BODY, headers={"Content-Type": content_type})).status == 200


async def test_a_body_that_does_not_come_is_408_and_the_connection_ends() -> None:
    """The deadline is over the whole body: a dribble does not move it."""
    async with serving(body_timeout_s=0.3) as wire, await wire.connect() as caller:
        await caller.send(b"POST /in/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        for _ in range(3):
            await caller.send(b"x")
        answer = await caller.answer(3.0)

        assert (answer.status, answer.header("connection")) == (408, "close")
        assert answer.header("content-type") == "application/problem+json"
        await aeventually(lambda: wire.refused == {("plain", "body_timeout"): 1})
        assert wire.intake.budget.waiting_bytes == 0


async def test_a_sender_that_leaves_in_the_middle_leaves_nothing_behind() -> None:
    """No delivery, and its room is free again."""
    async with serving() as wire:
        async with await wire.connect() as caller:
            await caller.send(b"POST /in/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            await aeventually(lambda: wire.intake.budget.waiting_bytes > 0)

        await aeventually(lambda: wire.intake.budget.waiting_bytes == 0)
        assert not wire.kept


async def test_what_is_not_written_in_the_budget_is_503_and_may_still_be_kept() -> None:
    """The sender hears in time; the commit is not cancelled; the room of the body stays taken until it is through."""
    async with serving(ack_budget_s=0.2) as wire:
        wire.recorder.holding = True
        answer = await wire.ask("/in/plain", BODY)

        assert answer.status == 503
        assert int(answer.header("retry-after") or "") > 0
        assert wire.intake.budget.waiting_bytes == len(BODY)

        wire.recorder.let_go()

        assert [each.body for each in wire.kept] == [BODY]
        await aeventually(lambda: wire.intake.budget.waiting_bytes == 0)
        assert wire.refused == {("plain", "ack_budget"): 1}


async def test_a_source_and_its_provider_can_tighten_the_budget() -> None:
    """The smallest of the three budgets rules."""
    tight = SourceSettings.named("tight", provider="omnifence", ack_budget_s=0.15)
    async with serving(sources(tight=tight), ack_budget_s=30.0) as wire:
        wire.recorder.holding = True
        async with asyncio.timeout(2.0):
            answer = await wire.ask("/in/tight", BODY)

        assert answer.status == 503
        wire.recorder.let_go()


@pytest.mark.parametrize("how", ["refusing", "broken"])
async def test_a_store_that_takes_nothing_is_503(how: str) -> None:
    """Neither database nor spill: the sender is told when to come again, and the room is free."""
    async with serving() as wire:
        setattr(wire.recorder, how, "the disk is gone")
        answer = await wire.ask("/in/plain", BODY)

        assert answer.status == 503
        assert int(answer.header("retry-after") or "") > 0
        assert wire.refused == {("plain", "store"): 1}
        assert wire.intake.budget.waiting_bytes == 0

        setattr(wire.recorder, how, "")
        assert (await wire.ask("/in/plain", BODY)).status == 200


async def test_a_refused_delivery_that_will_not_come_again_is_made_known_once() -> None:
    """OmniFence never retries: its open jobs are to be asked about. OmniAI retries: nothing is said."""
    async with serving() as wire:
        wire.recorder.broken = "the disk is gone"
        for _ in range(5):
            await wire.ask("/in/plain", BODY)
            await wire.ask("/in/secret", BODY, headers={"X-Sender-Proof": SECRET})
        wire.intake.close()

        assert wire.shed == ["plain"]


async def test_a_failure_of_our_own_is_500_and_the_next_delivery_is_taken() -> None:
    """A mistake is not an answer of the wire's; the connection and the listener live on."""

    class Mistaken(MemoryRecorder):
        mended = False

        def submit(self, delivery: Delivery, done: Done) -> None:
            if not self.mended:
                raise ValueError("a mistake")
            super().submit(delivery, done)

    recorder = Mistaken()
    async with serving(recorder=recorder) as wire:
        answer = await wire.ask("/in/plain", BODY)
        assert answer.status == 500
        assert answer.header("content-type") == "application/problem+json"
        assert wire.intake.budget.waiting_bytes == 0

        recorder.mended = True
        assert (await wire.ask("/in/plain", BODY)).status == 200


async def test_too_much_waiting_is_503_until_there_is_room() -> None:
    """All bodies together are bounded; whoever comes when there is no room is told to come again at once."""
    body = b'{"a":"' + b"x" * 60_000 + b'"}'
    async with serving(max_body_bytes=100_000, max_waiting_bytes=100_000, ack_budget_s=5.0) as wire:
        wire.recorder.holding = True
        first = asyncio.ensure_future(wire.ask("/in/plain", body))
        await aeventually(lambda: wire.recorder.waiting == 1)
        second = await wire.ask("/in/plain", body)

        assert (second.status, second.header("retry-after")) == (503, "1")
        assert wire.refused == {("plain", "too_much_waiting"): 1}

        wire.recorder.holding = False
        wire.recorder.let_go()
        assert (await first).status == 200
        assert (await wire.ask("/in/plain", body)).status == 200


async def test_a_body_that_outgrows_the_room_there_is_is_503_in_the_middle() -> None:
    """A sender that announced nothing is stopped where the room ends."""
    async with serving(max_body_bytes=500_000, max_waiting_bytes=500_000, ack_budget_s=5.0) as wire:
        wire.recorder.holding = True
        first = asyncio.ensure_future(wire.ask("/in/plain", b'{"a":"' + b"x" * 300_000 + b'"}'))
        await aeventually(lambda: wire.recorder.waiting == 1)
        async with await wire.connect() as caller:
            await caller.send(request("/in/plain", b"", headers={"Transfer-Encoding": "chunked"}))
            await caller.send(*[b"10000\r\n" + b"x" * 65_536 + b"\r\n"] * 5)
            answer = await caller.answer()

        assert (answer.status, answer.header("connection")) == (503, "close")
        wire.recorder.let_go()
        assert (await first).status == 200
        await aeventually(lambda: wire.intake.budget.waiting_bytes == 0)


@pytest.mark.parametrize(
    "headers",
    [[(b"content-length", b"+2")], [(b"content-length", b"2"), (b"content-length", b"2")], [(b"host", b"a")] * 2],
)
async def test_the_door_is_as_strict_behind_any_server(headers: list[tuple[bytes, bytes]]) -> None:
    """What the server should have refused, the application refuses itself, before reading."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("a refused body is not read")

    async def send(message: Any) -> None:
        sent.append(message)

    async with serving() as wire:
        scope = {"type": "http", "method": "POST", "raw_path": b"/in/plain", "headers": headers}
        await Door(wire.intake)(scope, receive, send)

        assert sent[0]["status"] == 400
        with pytest.raises(ValueError, match="websocket"):
            await Door(wire.intake)({"type": "websocket"}, receive, send)


async def test_secrets_and_tokens_are_never_written_down() -> None:
    """Masked before they are stored: by name, by configuration, and wherever a proxy repeats the URL."""
    headers = [
        ("Authorization", "Bearer abc-hidden"),
        ("Proxy-Authorization", "abc-hidden"),
        ("Cookie", "abc-hidden"),
        ("X-Api-Key", "abc-hidden"),
        ("X-Some-Signature", "abc-hidden"),
        ("X-Client-Secret", "abc-hidden"),
        ("X-Access-Token", "abc-hidden"),
        ("X-Original-Uri", f"/in/tokened/{TOKEN}"),
        ("X-Omnist-Event-Id", "evt_1"),
        ("X-Omnist-Delivery-Id", "del_1"),
        ("webhook-id", "msg_1"),
        ("webhook-timestamp", "1776090600"),
        ("webhook-signature", "v1,abc-hidden"),
    ]
    async with serving() as wire:
        await wire.ask(f"/in/tokened/{TOKEN}", BODY, headers=headers)
        await wire.ask("/in/secret", BODY, headers={"X-Sender-Proof": SECRET})

        kept = repr(wire.kept)
        assert "hidden" not in kept
        assert TOKEN not in kept
        assert SECRET not in kept
        assert wire.kept[1].header("x-sender-proof") == "***"
        shown = dict(wire.kept[0].headers)
        assert shown["x-original-uri"] == "***"
        assert [shown[name] for name in ("x-omnist-event-id", "x-omnist-delivery-id", "webhook-id")] == [
            "evt_1",
            "del_1",
            "msg_1",
        ]
        assert shown["webhook-timestamp"] == "1776090600"
        assert list(shown)[1:-1] == [name.lower() for name, _ in headers]


async def test_acknowledgements_are_timed_by_source_and_minute() -> None:
    """The histogram counts every 200, and the counts by minute are handed over once."""
    clock = ManualClock()
    async with serving(clock=clock) as wire:
        await wire.ask("/in/plain", BODY)
        await wire.ask("/in/plain", BODY)
        await wire.ask("/in/nobody", BODY)
        counters = wire.intake.counters

        assert sum(counters.acks["plain"].counts) == 2
        minute = math.floor(START / 60) * 60.0
        assert counters.take_acks() == [(minute, "plain", 0.005, 2, 0.0)]
        assert counters.take_refusals() == [(minute, "", "unknown_source", 1)]
        assert counters.take_acks() == []
        assert counters.take_refusals() == []


async def test_a_large_body_is_judged_aside() -> None:
    """Megabytes of JSON are judged in a thread, with the same verdicts."""
    large = b'{"a":[' + b",".join(b'{"k":%d}' % each for each in range(60_000)) + b"]}"
    async with serving() as wire:
        good, bad = await wire.ask("/in/plain", large), await wire.ask("/in/plain", large[:-1])

        assert (good.status, bad.status) == (200, 400)
        assert [each.reason for each in wire.kept] == [None, "malformed"]


async def test_a_doubled_host_or_length_is_400() -> None:
    """Two of what must be one: two readers could read it differently."""
    async with serving() as wire:
        for doubled in ([("host", "a"), ("host", "a")], [("content-length", "2"), ("content-length", "2")]):
            async with await wire.connect() as caller:
                await caller.send(request("/in/plain", b"{}", headers=doubled))
                answer = await caller.answer()

                assert (answer.status, answer.header("connection")) == (400, "close")
        assert not wire.kept


async def test_a_late_failure_is_not_reported_twice() -> None:
    """The sender was told 503; that the store failed afterwards changes nothing and frees the room."""
    async with serving(ack_budget_s=0.1) as wire:
        wire.recorder.holding = True
        assert (await wire.ask("/in/plain", BODY)).status == 503

        wire.recorder.let_go(StoreUnavailable("gone"))

        await aeventually(lambda: wire.intake.budget.waiting_bytes == 0)
        assert not wire.kept
