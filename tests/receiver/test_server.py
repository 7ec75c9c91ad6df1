"""The server under both listeners: bounds on time and size, kept connections, pipelining, streams."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from receiver.connections import Limits, Phase
from receiver.listeners import open_listener
from receiver.server import HttpServer, private_limits
from receiver.wire import Wire
from tests.receiver.wire import FIRST_ID, Caller, request, serving, statuses
from tests.support import aeventually

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SHORT = Limits(
    header_timeout_s=0.3,
    body_timeout_s=0.3,
    keep_alive_s=0.3,
    write_timeout_s=0.3,
    linger_s=0.3,
    half_close=True,
)


@contextlib.asynccontextmanager
async def app_serving(app: App, limits: Limits | None = None, grace_s: float = 1.0) -> AsyncIterator[HttpServer]:
    """Any application behind our server."""
    server = HttpServer(app, open_listener("127.0.0.1:0"), limits or private_limits())
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace_s)


async def connect(server: HttpServer) -> Caller:
    return Caller(*await asyncio.open_connection("127.0.0.1", server.listener.port))


def only_guard(server: HttpServer) -> Wire:
    """The one connection there is."""
    (guard,) = [each for phase in Phase for each in server.floor.connections.within(phase)]
    return guard


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with what it was sent."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begun",
    [b"", b"\r\n", b"P", b"POST /in/plain HTTP/1.1\r\n", b"POST /in/plain HTTP/1.1\r\nHost: x\r\nX-A: b"],
)
async def test_a_head_that_does_not_come_to_an_end_is_cut_off(begun: bytes) -> None:
    """Silent or dribbling, the connection is closed at the deadline without a word."""
    async with serving(limits=SHORT) as wire, await wire.connect() as caller:
        await caller.send(begun)

        assert await caller.rest(2.0) == b""
        assert wire.server.floor.cut == {"head" if begun else "fresh": 1}


async def test_the_deadline_of_a_head_holds_on_a_kept_connection_too() -> None:
    """A first good request buys no time for a second bad one."""
    async with serving(limits=SHORT) as wire, await wire.connect() as caller:
        assert (await caller.ask("/in/plain")).status == 200
        await caller.send(b"POST /in/plain HTTP/1.1\r\nX-")

        assert await caller.rest(2.0) == b""
        assert wire.server.floor.cut == {"head": 1}


async def test_a_dribble_does_not_move_the_deadline_of_a_head() -> None:
    """The clock starts with the first byte and no later byte restarts it."""
    async with serving(limits=SHORT) as wire, await wire.connect() as caller:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def dribble() -> None:
            await caller.send(b"POST /in/plain HTTP/1.1\r\nHost: x\r\n")
            while loop.time() - began < 3.0:
                await caller.send(b"X-A: b\r\n")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await asyncio.Event().wait()

        dribbling = asyncio.ensure_future(dribble())
        await caller.rest(2.5)
        took_s = loop.time() - began
        dribbling.cancel()

        assert took_s < 1.0


async def test_an_idle_connection_is_closed_quietly() -> None:
    """Between two requests: no error, no answer, just the end."""
    async with serving(limits=SHORT) as wire, await wire.connect() as caller:
        await caller.ask("/in/plain")

        assert await caller.rest(2.0) == b""
        assert wire.server.floor.cut == {"idle": 1}


async def test_the_deadline_of_a_body_holds_although_nobody_reads_it() -> None:
    """An application that never asks for the body does not keep the connection alive."""

    async def deaf(scope: Message, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async with app_serving(deaf, SHORT, grace_s=0.1) as server, await connect(server) as caller:
        await caller.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")

        assert statuses(await caller.rest(2.0)) == [408]


async def test_the_private_listener_waits_for_a_body_as_long_as_it_takes() -> None:
    """Uploads pass through it: only its heads have a deadline."""
    limits = private_limits()

    assert limits.body_timeout_s is None
    assert limits.of(Phase.BUSY) is None
    assert not limits.half_close


async def test_an_answer_that_is_not_read_is_cut_off() -> None:
    """A reader that stops reading does not hold an answer in memory for ever."""

    async def endless(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await asyncio.wait_for(receive_now(receive), 5.0)) is None:
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})

    async def receive_now(receive: Receive) -> Message | None:
        task = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait((task,), timeout=0)
        if not done:
            task.cancel()
            return None
        message = task.result()
        return message if message["type"] == "http.disconnect" else None

    async with app_serving(endless, SHORT, grace_s=0.1) as server:
        with socket.create_connection(("127.0.0.1", server.listener.port)) as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await aeventually(lambda: server.floor.cut.get("stuck") == 1, 5.0)

            assert server.open_connections == 0


async def test_a_slow_reader_that_reads_is_let_finish() -> None:
    """Deadlines are for who stops, not for who is slow."""
    size = 16_000_000
    never = asyncio.get_running_loop().create_future()

    async def large(scope: Message, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % size), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    async with app_serving(large, SHORT) as server:
        with socket.socket() as near:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            near.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(near, ("127.0.0.1", server.listener.port))
            await loop.sock_sendall(near, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            began, got = loop.time(), b""
            while data := await loop.sock_recv(near, 131_072):
                got += data
                await asyncio.wait((never,), timeout=0.004)

            assert loop.time() - began > 2 * SHORT.write_timeout_s
            assert len(got.partition(b"\r\n\r\n")[2]) == size


# -- size ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        [b"POST /in/plain HTTP/1.1\r\nHost: x\r\nX-Big: ", *[b"a" * 100_000] * 200],
        [b"POST /in/plain HTTP/1.1\r\nHost: x\r\n", *[b"X-Many: y\r\n" * 9_000] * 20],
        [b"POST /in/", *[b"a" * 100_000] * 20],
        [b"POST /in/plain HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 33_000 + b"\r\nContent-Length: 2\r\n\r\n{}"],
    ],
)
async def test_a_head_past_the_bound_is_431(pieces: list[bytes]) -> None:
    """One huge header, many small ones, a huge request line, or just over the line in one piece."""
    async with serving() as wire, await wire.connect() as caller:
        await caller.send(*pieces)

        assert statuses(await caller.rest()) in ([431], [])  # a reset may overtake the answer to megabytes
        assert not wire.kept
        assert wire.server.floor.cut == {"head_too_large": 1}


async def test_a_head_within_the_bound_is_taken_whatever_its_body_is() -> None:
    """Thirty kilobytes of headers are many, and legal; the bytes of the body are not the head's."""
    body = b'{"a":"' + b"x" * 200_000 + b'"}'
    async with serving() as wire:
        assert (await wire.ask("/in/plain", body, headers={"X-Big": "a" * 30_000})).status == 200


@pytest.mark.parametrize("what", ["trailers", "extension", "one trailer"])
async def test_a_megabyte_behind_the_body_is_not_taken_in(what: str) -> None:
    """Trailers and chunk extensions are bounded, many or one."""
    head = b"POST /in/plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    tail = {
        "trailers": b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 170_000 + b"\r\n",
        "extension": b"2;" + b"e" * 1_000_000 + b"\r\n{}\r\n0\r\n\r\n",
        "one trailer": b"2\r\n{}\r\n0\r\na: " + b"b" * 1_000_000 + b"\r\n\r\n",
    }[what]
    async with serving() as wire, await wire.connect() as caller:
        await caller.send(head, *[tail[at : at + 50_000] for at in range(0, len(tail), 50_000)])

        assert statuses(await caller.rest()) in ([431], [])
        assert not wire.kept
        assert wire.server.floor.cut == {"trailers": 1}


async def test_trailers_never_become_headers() -> None:
    """A short trailer is legal, and changes nothing of what was judged."""
    async with serving() as wire, await wire.connect() as caller:
        await caller.send(
            b"POST /in/secret HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\n{}\r\n0\r\nX-Sender-Proof: s3cret-of-the-sender\r\n\r\n"
        )
        assert (await caller.answer()).status == 401

        await caller.send(
            b"POST /in/plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n"
        )
        assert (await caller.answer()).status == 200
        assert wire.kept[0].headers == (("host", "x"), ("transfer-encoding", "chunked"))


# -- connections ---------------------------------------------------------------------------------------------------


async def test_past_the_limit_the_longest_idle_connection_goes_and_the_new_sender_is_served() -> None:
    """Three hundred that keep quiet do not keep one out that speaks."""
    limits = Limits(max_connections=5)
    async with serving(limits=limits) as wire, contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(await wire.connect()) for _ in range(5)]
        await idle[0].ask("/in/plain")
        await aeventually(lambda: wire.server.open_connections == 5)

        assert (await wire.ask("/in/plain")).status == 200
        assert await idle[1].rest(2.0) == b""
        assert (await idle[0].ask("/in/plain")).status == 200
        assert wire.server.floor.cut == {"too_many": 1}


async def test_who_is_being_answered_is_never_sent_away() -> None:
    """With every connection at work a further one is taken all the same."""
    async with serving(limits=Limits(max_connections=2)) as wire:
        wire.recorder.holding = True
        asked = []
        for others in range(4):
            asked.append(asyncio.ensure_future(wire.ask("/in/plain")))
            await aeventually(lambda: wire.recorder.waiting > others)  # noqa: B023 - awaited before the next turn
        wire.recorder.let_go()

        assert [(await each).status for each in asked] == [200] * 4


async def test_a_kept_connection_takes_request_after_request() -> None:
    """Keep-alive, also after refusals that were read whole."""
    async with serving() as wire, await wire.connect() as caller:
        answers = [await caller.ask(path) for path in ("/in/plain", "/in/nobody", "/in/secret", "/in/plain")]

        assert [each.status for each in answers] == [200, 404, 401, 200]
        assert wire.server.open_connections == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_sender_that_wants_to_close_is_closed_with(version: str) -> None:
    """HTTP/1.0 and `Connection: close` end the connection after the answer."""
    async with serving() as wire, await wire.connect() as caller:
        await caller.send(
            f"POST /in/plain HTTP/{version}\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        got = await caller.rest()

        assert statuses(got) == [200]
        assert b"connection: close" in got


async def test_a_sender_that_closes_its_direction_is_answered() -> None:
    """Half-closed after sending is not gone: the public listener answers, the commit was made."""
    async with serving() as wire, await wire.connect() as caller:
        wire.recorder.holding = True
        await caller.send(request("/in/plain"))
        caller.writer.write_eof()
        await aeventually(lambda: wire.recorder.waiting == 1)
        wire.recorder.let_go()

        assert statuses(await caller.rest()) == [200]


async def test_five_hundred_requests_in_one_piece_are_answered_in_order() -> None:
    """Pipelined: none lost, none out of turn, never more than a few of them in the making."""
    async with serving() as wire, await wire.connect() as caller:
        await caller.send(b"".join(request("/in/plain", b'{"n":%d}' % each) for each in range(500)))
        got = [(await caller.answer()).body for _ in range(500)]

        assert got == [b'{"delivery": "%d"}' % (FIRST_ID + 1 + each) for each in range(500)]
        assert [each.body for each in wire.kept] == [b'{"n":%d}' % each for each in range(500)]


async def test_requests_behind_one_that_waits_stay_with_their_sender() -> None:
    """Twenty megabytes of them: what cannot be answered yet is not read either, and is answered when its turn comes."""
    many = 200_000
    async with serving() as wire, await wire.connect() as caller:
        wire.recorder.holding = True
        sending = asyncio.ensure_future(caller.send(request("/in/plain") + request("/healthz", method="GET") * many))
        await aeventually(lambda: wire.recorder.waiting == 1)
        await asyncio.wait((sending,), timeout=0.3)
        assert not sending.done()

        wire.recorder.let_go()
        for _ in range(1000):
            assert (await caller.answer()).status == 200
        caller.writer.transport.abort()
        await sending


async def test_requests_sent_before_closing_are_all_answered() -> None:
    """Half-closed behind three requests: three answers, then the end."""
    async with serving() as wire, await wire.connect() as caller:
        wire.recorder.holding = True
        await caller.send(request("/in/plain", b'{"a":"' + b"x" * 5000 + b'"}') * 3)
        caller.writer.write_eof()
        for waiting in range(3):
            await aeventually(lambda: wire.recorder.waiting == 1)
            wire.recorder.let_go()
            await aeventually(lambda: len(wire.kept) == waiting + 1)  # noqa: B023 - awaited in this turn

        assert statuses(await caller.rest()) == [200, 200, 200]


async def test_a_pipelined_large_body_arrives_whole() -> None:
    """What is kept back behind a request that waits is fed on when its turn comes, body and all."""
    large = b'{"a":"' + b"x" * 300_000 + b'"}'
    async with serving() as wire, await wire.connect() as caller:
        wire.recorder.holding = True
        await caller.send(request("/in/plain") + request("/in/plain", large) + request("/in/plain", large + b" "))
        for waiting in range(3):
            await aeventually(lambda: wire.recorder.waiting == 1)
            wire.recorder.let_go()
            assert (await caller.answer()).status == 200, waiting

        assert [len(each.body or b"") for each in wire.kept] == [2, len(large), len(large) + 1]


async def test_nonsense_behind_a_good_request_does_not_take_its_answer() -> None:
    """The good one is answered as what it is; then the connection ends, without an answer nobody asked for."""
    async with serving() as wire, await wire.connect() as caller:
        wire.recorder.holding = True
        await caller.send(request("/in/plain") + b"NONSENSE\0\r\n\r\n")
        await aeventually(lambda: wire.recorder.waiting == 1)
        wire.recorder.let_go()

        got = await caller.rest()
        assert statuses(got) == [200]
        assert b"connection: close" in got


async def test_a_broken_body_behind_a_good_request_does_not_take_its_answer() -> None:
    """The same when the second one breaks in the middle."""
    broken = b"POST /in/plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
    async with serving() as wire, await wire.connect() as caller:
        wire.recorder.holding = True
        await caller.send(request("/in/plain") + broken)
        await aeventually(lambda: wire.recorder.waiting == 1)
        wire.recorder.let_go()

        assert statuses(await caller.rest()) == [200]
        assert len(wire.kept) == 1


async def test_an_upgrade_is_not_made_and_the_request_is_taken() -> None:
    """Java's client offers h2c with its first request; it goes on in HTTP/1.1 on the same connection."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABk"}
    chunked = offer | {"Transfer-Encoding": "chunked"}
    async with serving() as wire, await wire.connect() as caller:
        assert (await caller.ask("/in/plain", b'{"n":1}', headers=offer)).status == 200
        assert (await caller.ask("/healthz", method="GET", headers=offer)).status == 200
        assert (await caller.ask("/in/plain", b'7\r\n{"n":2}\r\n0\r\n\r\n', headers=chunked)).status == 200
        await caller.send(request("/in/plain", b'{"n":3}', headers=offer)[:-4])
        await caller.send(b'":3}' + request("/in/plain", b'{"n":4}', headers=offer))
        assert [(await caller.answer()).status for _ in range(2)] == [200, 200]
        assert [each.body for each in wire.kept] == [b'{"n":%d}' % n for n in (1, 2, 3, 4)]


async def test_an_early_refusal_reaches_a_sender_that_is_still_sending() -> None:
    """The answer is not lost to a reset: what still comes is read and thrown away for a moment."""
    async with serving(max_body_bytes=1000) as wire, await wire.connect() as caller:
        await caller.send(
            b"POST /in/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n", *[b"x" * 100_000] * 30
        )

        got = await caller.rest()
        assert statuses(got) == [413]
        assert b"connection: close" in got


async def test_answers_on_a_kept_connection_are_not_held_back() -> None:
    """TCP_NODELAY is set on what is accepted, or each would wait 44 ms for the other side."""
    async with serving() as wire, await wire.connect() as caller:
        await caller.ask("/in/plain")
        accepted = only_guard(wire.server).transport.get_extra_info("socket")

        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- applications --------------------------------------------------------------------------------------------------


async def test_a_large_body_streams_through_with_its_reader_setting_the_pace() -> None:
    """The private listener takes uploads larger than memory should hold: unread bytes stay with their sender."""
    size = 20_000_000
    most = 0

    async def count(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal most
        got, more = 0, True
        while more:
            message = await receive()
            most = max(most, len(message["body"]))
            got, more = got + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"%8d" % got})

    async with app_serving(count) as server, await connect(server) as caller:
        await caller.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size, *[b"x" * 1_000_000] * 20)

        assert int((await caller.answer()).body) == size
        assert most < 1_000_000


async def test_a_stream_is_heard_from_its_beginning() -> None:
    """The head of an answer without a length leaves at once, before its first part."""
    go = asyncio.Event()

    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await go.wait()
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with app_serving(stream) as server, await connect(server) as caller:
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await asyncio.wait_for(caller.reader.readuntil(b"\r\n\r\n"), 2.0)
        go.set()
        rest = await asyncio.wait_for(caller.reader.readuntil(b"0\r\n\r\n"), 2.0)

        assert b"transfer-encoding: chunked" in head
        assert rest == b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"


async def test_an_answer_without_length_to_http_1_0_ends_with_the_connection() -> None:
    """A reader that knows no chunks gets none."""

    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    async with app_serving(stream) as server, await connect(server) as caller:
        await caller.send(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = (await caller.rest()).partition(b"\r\n\r\n")

        assert b"chunked" not in head
        assert body == b"onetwo"


async def test_who_leaves_a_long_wait_is_noticed_on_the_private_listener() -> None:
    """Closing is leaving there: the application hears of it and stops waiting."""
    left = asyncio.Event()

    async def wait(scope: Message, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with app_serving(wait) as server:
        async with await connect(server) as caller:
            await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await aeventually(lambda: server.open_connections == 1)
        await asyncio.wait_for(left.wait(), 2.0)


@pytest.mark.parametrize("name", [b"x-a\r\nset-cookie", b"x a"])
async def test_an_answer_cannot_be_broken_in_two(name: bytes) -> None:
    """A header with a line break in it is the application's mistake: 500, and nothing of it leaves."""

    async def careless(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(name, b"1")]})
        await send({"type": "http.response.body", "body": b""})

    async with app_serving(careless) as server, await connect(server) as caller:
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        assert b"set-cookie" not in await caller.rest()


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
STREAM = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([], [500]),
        ([START], [500]),
        ([{"type": "http.response.body", "body": b"{}"}], [500]),
        ([START, {"type": "http.response.body", "body": b"{"}], [200]),
        ([START, {"type": "http.response.body", "body": b"{}}"}], [500]),
        ([START, START], [500]),
        ([STREAM, {"type": "http.response.body", "body": b"{", "more_body": True}], [200]),
    ],
)
async def test_a_half_answer_is_never_taken_for_a_whole_one(messages: list[Message], wanted: list[int]) -> None:
    """What has not left yet becomes 500; what has is cut off, so that its reader knows."""

    async def careless(scope: Message, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async with app_serving(careless) as server, await connect(server) as caller:
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = await caller.rest(3.0)

        assert statuses(got) == wanted
        assert not got.endswith(b"0\r\n\r\n")


async def test_there_are_never_more_connections_than_descriptors() -> None:
    """A limit past what the system gives would refuse newcomers at random."""
    async with app_serving(echo, Limits(max_connections=10**9)) as server:
        assert 0 < server.floor.limits.max_connections < 10**9
        assert server.address == f"http://127.0.0.1:{server.listener.port}"


async def test_an_application_that_fails_is_answered_500() -> None:
    """Whatever it raises, its caller gets an answer."""

    async def broken(scope: Message, receive: Receive, send: Send) -> None:
        raise ValueError("a mistake")

    async with app_serving(broken) as server, await connect(server) as caller:
        assert (await caller.ask("/")).status == 500


async def test_a_unix_socket_serves_as_well(tmp_path: Any) -> None:
    """The same door behind a path; its visitors have no address."""
    listener = open_listener(f"unix:{tmp_path}/door.sock")
    async with serving(listener=listener) as wire:
        caller = Caller(*await asyncio.open_unix_connection(f"{tmp_path}/door.sock"))
        async with caller:
            assert (await caller.ask("/in/plain")).status == 200
        assert wire.kept[0].remote == "unix"
    assert not (tmp_path / "door.sock").exists()


async def test_the_application_sees_the_request_as_it_was() -> None:
    """Method, path, raw path, query and headers, decoded as ASGI wants them."""
    seen: list[Message] = []

    async def look(scope: Message, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    async with app_serving(look) as server, await connect(server) as caller:
        await caller.ask("/a%20b/%C3%A9?q=%20", method="GET", headers=[("X-A", "1")])

        scope = seen[0]
        assert (scope["method"], scope["path"], scope["raw_path"], scope["query_string"]) == (
            "GET",
            "/a b/\u00e9",
            b"/a%20b/%C3%A9",
            b"q=%20",
        )
        assert (b"x-a", b"1") in scope["headers"]
