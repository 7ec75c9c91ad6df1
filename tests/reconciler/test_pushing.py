"""The application's answers over real sockets: which count, what an answer may look like, and what is kept open."""

import asyncio
import ssl

import pytest

from reconciler import pushing
from reconciler.outbound import tls_context
from reconciler.pushing import Pusher
from tests.reconciler.peer import Writer, http, listening
from tests.support import aeventually


def pusher(timeout_s: float = 5.0) -> Pusher:
    """A pusher as the sidecar has it."""
    return Pusher(timeout_s, 4, tls_context)


async def test_a_push_is_one_post_with_its_body_and_headers() -> None:
    """What the application reads is what was to be told, to the byte."""
    async with listening(http(b"thanks", "202 Accepted", "Retry-After: 7")) as peer:
        status, headers = await pusher().post(f"{peer.url}/in?a=b", b'{"x":1}', {"webhook-id": "msg_1"})
    assert (status, headers["retry-after"]) == (202, "7")
    assert peer.heads[0].startswith(b"POST /in?a=b HTTP/1.1\r\n")
    assert peer.header("host") == [f"127.0.0.1:{peer.port}"]
    assert peer.header("webhook-id") == ["msg_1"]
    assert peer.bodies == [b'{"x":1}']


ANSWERS = {
    "a length": http(b"x" * 100),
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "an interim answer first": b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + http(b"done"),
    "a refusal": http(b"", "503 Service Unavailable"),
    "a redirect, which is not followed": http(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:9/"),
}


@pytest.mark.parametrize("form", ANSWERS)
async def test_every_form_of_answer_is_read_and_its_connection_kept(form: str) -> None:
    """A second push goes over the same connection, and its answer is its own."""
    connections = set()

    async def answer(writer: Writer) -> None:
        connections.add(writer.get_extra_info("peername"))
        writer.write(ANSWERS[form])

    async with listening(answer) as peer:
        calls = pusher()
        first, _ = await calls.post(peer.url, b"{}", {})
        second, _ = await calls.post(peer.url, b"{}", {})
        await calls.close()
    assert first == second == int(ANSWERS[form].rpartition(b"HTTP/1.1 ")[2][:3])
    assert len(connections) == 1


async def test_an_answer_that_ends_with_its_connection_counts() -> None:
    """HTTP allows it, and small applications do it."""

    async def answer(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nand so on")
        writer.close()

    async with listening(answer) as peer:
        calls = pusher()
        assert (await calls.post(peer.url, b"{}", {}))[0] == 200
        assert (await calls.post(peer.url, b"{}", {}))[0] == 200


NO_ANSWER = {
    "silence and the end": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "something else": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
}


@pytest.mark.parametrize("form", NO_ANSWER)
async def test_what_is_no_answer_is_told_as_none(form: str) -> None:
    """The message stays due; nothing of another kind escapes."""

    async def answer(writer: Writer) -> None:
        writer.write(NO_ANSWER[form])
        await writer.drain()
        writer.close()

    async with listening(answer) as peer:
        with pytest.raises(OSError, match=r"^\w+: "):
            await pusher().post(peer.url, b"{}", {})


async def test_a_kept_connection_that_has_gone_costs_no_attempt() -> None:
    """The application closes what lies idle at the very moment it is used again: the call is made anew."""
    calls_seen = 0

    async def answer(writer: Writer) -> None:
        nonlocal calls_seen
        calls_seen += 1
        if calls_seen == 2:
            writer.transport.abort()
        else:
            writer.write(http())

    async with listening(answer) as peer:
        calls = pusher()
        await calls.post(peer.url, b"1", {})
        assert (await calls.post(peer.url, b"2", {}))[0] == 200
    assert peer.bodies == [b"1", b"2", b"2"]


async def test_silence_ends_in_time_and_closes_its_connection() -> None:
    """A call that hung never lends its connection, on which its answer may still come, to another."""
    async with listening(b"") as peer:
        with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
            await pusher(0.05).post(peer.url, b"{}", {})
        await aeventually(lambda: peer.gone.is_set())


async def test_a_long_body_is_not_waited_for() -> None:
    """The status has been told; a stranger's megabytes are not read for it."""

    async def answer(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (pushing.LARGEST_BODY_BYTES + 1))

    async with listening(answer) as peer:
        assert (await pusher().post(peer.url, b"{}", {}))[0] == 200
        await aeventually(lambda: peer.gone.is_set())


async def test_what_comes_unasked_is_never_the_next_answer() -> None:
    """An application that says more than it was asked loses the connection, not the next message's truth."""
    async with listening(http(b"", "500 Internal Server Error") + b"HTTP/1.1 200 OK\r\n") as peer:
        calls = pusher()
        statuses = [(await calls.post(peer.url, b"{}", {}))[0] for _ in range(3)]
    assert set(statuses) <= {500}


async def test_a_header_cannot_break_the_call_in_two() -> None:
    """A message id is a column anybody may have written."""
    async with listening(http()) as peer:
        with pytest.raises(OSError, match="webhook-id"):
            await pusher().post(peer.url, b"{}", {"webhook-id": "a\r\nx: y"})
    assert peer.heads == []


async def test_nobody_there_is_an_os_error() -> None:
    """As the dispatcher's promise has it."""
    async with listening(http()) as peer:
        url = peer.url
    with pytest.raises(OSError, match=r"^\w+: "):
        await pusher().post(url, b"{}", {})


async def test_https_asks_for_a_certificate_and_its_name() -> None:
    """The context verifies whom it talks to, and plain text is never taken for TLS."""
    context = tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    async with listening(http()) as peer:
        with pytest.raises(OSError, match=r"no answer|: "):
            await pusher(0.3).post(peer.url.replace("http:", "https:"), b"{}", {})


async def test_many_at_once_each_hear_their_own_answer() -> None:
    """Answers never cross."""

    async def answer(writer: Writer) -> None:
        writer.write(http(b"", f"{200 + int(peer.bodies[-1])} OK"))

    async with listening(answer) as peer:
        calls = pusher()
        numbers = [int(b) for b in range(16)]
        statuses = await asyncio.gather(*(calls.post(peer.url, str(n).encode(), {}) for n in numbers))
        await calls.close()
    assert sorted(status for status, _ in statuses) == sorted(200 + n for n in numbers)
