"""The short way of a small request: it answers, records and ends connections exactly as the long way does."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from receiver.admission import ByteBudget
from receiver.commits import Commits
from receiver.connections import Phase
from receiver.errors import StoreUnavailable
from receiver.records import Delivery, DeliveryId
from receiver.states import Verdict
from tests.receiver.test_intake import BODY, signature
from tests.receiver.wire import SECRET, TOKEN, Answered, MemoryRecorder, Wire, request, serving, statuses
from tests.support import START, ManualClock, aeventually


class Spied:
    """The application, with a count of what it took at once."""

    def __init__(self, wire: Wire) -> None:
        self._inner = wire.server.floor.application
        self.taken: list[bool] = []
        wire.server.floor.application = self

    def at_once(self, *given: Any) -> bool:
        assert self._inner is not None
        self.taken.append(self._inner.at_once(*given))
        return self.taken[-1]


REQUESTS: dict[str, tuple[str, bytes, list[tuple[str, str]]]] = {
    "good": ("/in/plain", BODY, []),
    "the last on its connection": ("/in/plain", BODY, [("Connection", "close")]),
    "with a token": (f"/in/tokened/{TOKEN}", BODY, [("X-Original-URL", f"/in/tokened/{TOKEN}")]),
    "with a query": ("/in/plain?a=1", BODY, []),
    "with a wrong token": ("/in/tokened/wrong", BODY, []),
    "to nobody": ("/in/nobody", BODY, []),
    "to nowhere": ("/healthz", BODY, []),
    "with a secret": ("/in/secret", BODY, [("X-Sender-Proof", SECRET)]),
    "with a wrong secret": ("/in/secret", BODY, [("X-Sender-Proof", "wrong")]),
    "signed": ("/in/signed", BODY, [("X-Omnist-Signature", signature(BODY, START))]),
    "signed long ago": ("/in/strict", BODY, [("X-Omnist-Signature", signature(BODY, START - 9999))]),
    "not JSON": ("/in/plain", b"{", []),
    "compressed": ("/in/plain", BODY, [("Content-Encoding", "gzip")]),
    "too large": ("/in/plain", b'{"a":"%b"}' % (b"x" * 3000), []),
    "with two hosts": ("/in/plain", BODY, [("Host", "a"), ("Host", "b")]),
    "with two lengths": ("/in/plain", BODY, [("Content-Length", "2"), ("Content-Length", "3")]),
}


async def seen(wire: Wire, path: str, body: bytes, headers: list[tuple[str, str]]) -> tuple[Any, ...]:
    """Everything that can be seen of one request: the answer, the rest of the connection, the record, the counts."""
    async with await wire.connect() as caller:
        first = await caller.ask(path, body, headers=headers)
        second: Answered | None = None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            second = await caller.ask("/in/plain", b'{"next":1}')
    kept = [replace(each, id=DeliveryId(0)) for each in wire.kept]
    return first.status, first.headers, first.body, second and second.status, kept, dict(wire.refused)


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_ways_answer_record_and_count_the_same(name: str) -> None:
    """Status, headers, body, what becomes of the connection, the row and the counters."""
    found = []
    for short in (True, False):
        async with serving(clock=ManualClock(), max_body_bytes=2048) as wire:
            if not short:
                wire.server.floor.application = None
            found.append(await seen(wire, *REQUESTS[name]))

    by_short, by_long = found
    assert [by_short[1][i] for i in range(len(by_short[1])) if by_short[1][i][0] != "date"] == [
        each for each in by_long[1] if each[0] != "date"
    ]
    assert (by_short[0], *by_short[2:]) == (by_long[0], *by_long[2:])


async def test_a_small_post_that_is_one_packet_goes_the_short_way() -> None:
    """The measure of this file: without it the other tests here would compare the long way with itself."""
    async with serving() as wire:
        spied = Spied(wire)

        assert (await wire.ask("/in/plain", BODY)).status == 200
        assert spied.taken == [True]


CHUNKED = b"POST /in/plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (request("/in/plain", BODY)[:-1], BODY[-1:]),
        (CHUNKED % (len(BODY), BODY), b""),
        (request("/in/plain", BODY, headers={"Expect": "100-continue"}), b""),
        (request("/in/plain", b'{"a":"%b"}' % (b"x" * 70_000)), b""),
    ],
    ids=["in two packets", "in chunks", "asking to be asked", "large"],
)
async def test_what_is_not_small_and_whole_goes_the_long_way(first: bytes, rest: bytes) -> None:
    """And arrives all the same."""
    async with serving() as wire, await wire.connect() as caller:
        spied = Spied(wire)
        await caller.send(first)
        if rest:
            await aeventually(lambda: wire.server.floor.connections.count(Phase.BODY) == 1)
            await caller.send(rest)
        while (answer := await caller.answer()).status == 100:
            pass

        assert answer.status == 200
        assert len(wire.kept) == 1
        assert spied.taken == []


async def test_what_one_packet_asks_twice_is_answered_twice_and_in_order() -> None:
    """The second waits for its turn while the first waits for its commit."""
    async with serving() as wire, await wire.connect() as caller:
        wire.recorder.holding = True
        await caller.send(
            request("/in/plain", b'{"n":1}') + request("/in/nobody", b"{}") + request("/in/plain", b'{"n":3}')
        )
        await aeventually(lambda: wire.recorder.waiting == 1)
        wire.recorder.let_go()
        wire.recorder.holding = False

        assert [(await caller.answer()).status for _ in range(3)] == [200, 404, 200]
        assert [each.body for each in wire.kept] == [b'{"n":1}', b'{"n":3}']


async def test_nothing_behind_the_last_request_is_taken() -> None:
    """`Connection: close` ends it, also when the next request came in the same packet."""
    async with serving() as wire, await wire.connect() as caller:
        await caller.send(request("/in/nobody", headers={"Connection": "close"}) + request("/in/plain", BODY))

        assert statuses(await caller.rest()) == [404]
        assert wire.kept == []


async def test_who_leaves_before_the_commit_takes_nothing_with_him() -> None:
    """The delivery is kept, its room is given back, and the others are answered."""
    async with serving() as wire, await wire.connect() as other:
        wire.recorder.holding = True
        async with await wire.connect() as leaving:
            await leaving.send(request("/in/plain", b'{"gone":1}'))
            await other.send(request("/in/plain", BODY))
            await aeventually(lambda: wire.recorder.waiting == 2)
        wire.recorder.let_go()

        assert (await other.answer()).status == 200
        assert len(wire.kept) == 2
        assert wire.intake.budget.waiting_bytes == 0


async def test_our_own_mistake_is_answered_500_and_leaves_no_claim() -> None:
    """An error in judging is logged and the sender comes again."""
    async with serving() as wire:

        def broken() -> DeliveryId:
            raise RuntimeError("no more ids")

        wire.recorder.next_id = broken  # type: ignore[method-assign]

        assert (await wire.ask("/in/plain", BODY)).status == 500
        assert wire.intake.budget.waiting_bytes == 0


async def test_one_answer_that_cannot_be_given_keeps_nobody_else_from_his() -> None:
    """Many wait for one commit; each is told by itself, whatever happens at the telling."""
    commits, recorder, budget = Commits(recorder := MemoryRecorder()), recorder, ByteBudget(10_000, ["plain"])
    told: list[bool | Exception] = []

    def unable(outcome: bool | Exception) -> None:
        raise ConnectionResetError

    for tell in (told.append, unable, told.append):
        claim = budget.claim("plain", 100)
        assert claim is not None
        commits.keep(Delivery(recorder.next_id(), "plain", START, "", (), b"{}", "", Verdict.NEW), claim, 5.0, tell)
    await aeventually(lambda: len(told) == 2)

    assert told == [True, True]
    assert budget.waiting_bytes == 0


async def test_a_delivery_that_is_late_is_told_so_once() -> None:
    """Its commit goes on; when that ends nobody is told again, and only then is its room given back."""
    recorder, budget = MemoryRecorder(), ByteBudget(10_000, ["plain"])
    recorder.holding = True
    commits, told = Commits(recorder), list[bool | Exception]()
    claim = budget.claim("plain", 100)
    assert claim is not None
    commits.keep(Delivery(recorder.next_id(), "plain", START, "", (), b"{}", "", Verdict.NEW), claim, 0.0, told.append)
    await aeventually(lambda: bool(told))
    waited = budget.waiting_bytes
    recorder.let_go(StoreUnavailable("too late to matter"))
    await aeventually(lambda: budget.waiting_bytes == 0)

    assert told == [False]
    assert waited == 100
