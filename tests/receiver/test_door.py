"""The parts of the public door by themselves: masking, counting, the fast check of JSON, connections in order."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver import answers, jsontext
from receiver.connections import MOST_LATE, Connections, Limits, Phase
from receiver.counters import ACK_BOUNDS_S, IntakeCounters
from receiver.framing import Framing, split_target
from receiver.jsoncheck import check_object
from receiver.masking import mask_headers


def judged(check: Any, body: bytes) -> str:
    try:
        check(body)
    except jsontext.NotJson as problem:
        return str(problem)
    return "object"


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.binary(max_size=60) | JSONISH.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="replace"))
)
@example(b'{"a":' + b"[" * 199 + b"]" * 199 + b"}")
@example(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}")
@example(b'{"a":"\\ud800"}')
@example(b'{"a":"\\ud800\\u0041"}')
@example(b'{"a":' + b"9" * 5000 + b"}")
@example(b'{"a":1e999,"b":-0,"c":-1e-999}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a":"\xed\xa0\x80"}')
@example(b'{"a":1}\x00')
@example(b'{"a":"\x00"}')
@example(b'{"a":Infinity}')
@example(b'{"a":1,"a":2}')
@example(b"\x0c{}")
@example(b"{},{}")
@example(b"{},")
@example(b"{}],[{}")
def test_the_fast_check_says_what_the_exact_parser_says(body: bytes) -> None:
    """Two parsers, one verdict and one reason, for any bytes."""
    assert judged(check_object, body) == judged(jsontext.parse_object, body)


@pytest.mark.parametrize(
    "name",
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "x-hub-signature-256", "x-gitlab-token",
     "client-secret", "x-sender-proof"],
)  # fmt: skip
def test_secrets_are_masked_by_name_and_by_configuration(name: str) -> None:
    """The value is gone, name and place stay."""
    headers = (("host", "x"), (name, "hush"), ("accept", "*/*"))

    assert mask_headers(headers, "x-sender-proof") == (("host", "x"), (name, "***"), ("accept", "*/*"))


def test_a_value_that_repeats_a_hidden_text_is_masked_whole() -> None:
    """A proxy may hand on the URL with its token."""
    headers = (("referer", "https://x/in/a/t0k%2Fn"), ("x-url", "/in/a/t0k/n"), ("x-other", "/in/a"))
    masked = mask_headers(headers, None, ("t0k%2Fn", "t0k/n"))

    assert [value for _, value in masked] == ["***", "***", "/in/a"]


def test_a_latency_is_counted_in_the_bucket_it_fits_in() -> None:
    """A bound belongs to its bucket; what took longer than all of them has one of its own."""
    counters = IntakeCounters()
    for took_s in (0.0, 0.005, 0.006, 10.0, 10.1):
        counters.acknowledge("a", took_s, 60.0)

    counts = counters.acks["a"].counts
    assert (counts[0], counts[1], counts[len(ACK_BOUNDS_S) - 1], counts[-1]) == (2, 1, 1, 1)
    assert sum(count for _, _, _, count, _ in counters.take_acks()) == 5


def test_counts_that_nobody_takes_away_do_not_grow_for_ever() -> None:
    """A month of minutes in a process without a reader stays bounded; the totals are exact."""
    counters = IntakeCounters()
    for minute in range(60_000):
        counters.refuse("a", "signature", minute * 60.0)
        counters.acknowledge("a", 0.001, minute * 60.0)

    assert counters.refused == {("a", "signature"): 60_000}
    assert len(counters.take_refusals()) <= 20_000
    assert len(counters.take_acks()) <= 20_000


class Someone:
    """A connection that only stands in a queue."""

    def too_late(self, phase: Phase) -> None:
        raise AssertionError("nobody asked for this")


def test_the_longest_silent_connection_gives_way_first() -> None:
    """Whoever is between requests or has not begun goes before whoever is sending, and nobody who is answered goes."""
    connections: Connections[Someone] = Connections(Limits())
    order = [Phase.BUSY, Phase.BODY, Phase.HEAD, Phase.FRESH, Phase.IDLE, Phase.FRESH, Phase.STUCK]
    people = [Someone() for _ in order]
    for moment, (someone, phase) in enumerate(zip(people, order, strict=True)):
        connections.enter(someone, phase, float(moment))

    gone: list[Phase] = []
    while (first := connections.dispensable()) is not None:
        gone.append(order[people.index(first)])
        connections.leave(first)

    assert gone == [Phase.FRESH, Phase.IDLE, Phase.FRESH, Phase.HEAD, Phase.BODY, Phase.STUCK]
    assert len(connections) == 1


def test_time_in_a_phase_counts_from_its_beginning() -> None:
    """Entering a phase again changes nothing; another phase begins anew."""
    connections: Connections[Someone] = Connections(Limits(header_timeout_s=10.0, keep_alive_s=20.0))
    someone = Someone()
    connections.enter(someone, Phase.HEAD, 0.0)
    connections.enter(someone, Phase.HEAD, 9.0)

    assert connections.late(9.9) == []
    assert connections.late(10.0) == [(someone, Phase.HEAD)]
    connections.enter(someone, Phase.IDLE, 10.0)
    assert connections.late(29.9) == []
    assert connections.late(30.0) == [(someone, Phase.IDLE)]
    connections.leave(someone)
    connections.leave(someone)
    assert connections.late(99.0) == []


def test_thousands_that_are_late_together_are_ended_a_few_at_a_time() -> None:
    """Longest late first, and all of them in the end: who is heard meanwhile does not wait for all of that."""
    connections: Connections[Someone] = Connections(Limits(header_timeout_s=10.0))
    crowd = [Someone() for _ in range(3 * MOST_LATE + 1)]
    for each in crowd:
        connections.enter(each, Phase.HEAD, 0.0)
    ended: list[Someone] = []
    looks = 0
    while late := connections.late(10.0):
        looks += 1
        assert len(late) <= MOST_LATE
        for each, _ in late:
            connections.leave(each)
            ended.append(each)

    assert ended == crowd
    assert looks == 4


@pytest.mark.parametrize(
    ("version", "headers", "status"),
    [
        ("1.1", [(b"host", b"a")], None),
        ("1.1", [], 400),
        ("1.1", [(b"host", b"a"), (b"host", b"a")], 400),
        ("1.0", [], None),
        ("1.0", [(b"transfer-encoding", b"chunked")], 400),
        ("2.0", [(b"host", b"a")], 400),
        ("1.1", [(b"host", b"a"), (b"transfer-encoding", b"chunked")], None),
        ("1.1", [(b"host", b"a"), (b"transfer-encoding", b"Chunked")], None),
        ("1.1", [(b"host", b"a"), (b"transfer-encoding", b"gzip, chunked")], 501),
        ("1.1", [(b"host", b"a"), (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], 501),
        ("1.1", [(b"host", b"a"), (b"content-length", b"+2")], 400),
        ("1.1", [(b"host", b"a"), (b"content-length", b"9" * 40)], 400),
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(
    version: str, headers: list[tuple[bytes, bytes]], status: int | None
) -> None:
    """One host, one length, one coding, in a version that has them."""
    framing = Framing()
    for name, value in headers:
        framing.watch(name, value)
    answer = framing.judge(version)

    assert (answer.status if answer else None) == status


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/in/a?b=c?d", b"/in/a", b"b=c?d"),
        (b"/in/a#b?c", b"/in/a", b""),
        (b"http://host/in/a?b", b"/in/a", b"b"),
        (b"HTTPS://host", b"/", b""),
        (b"*", b"*", b""),
        (b"host:443", b"host:443", b""),
        (b"//in/a", b"//in/a", b""),
    ],
)
def test_a_request_target_has_a_path_and_a_query(target: bytes, path: bytes, query: bytes) -> None:
    """Origin form and absolute form; anything else is a path that leads nowhere."""
    assert split_target(target) == (path, query)


def test_a_raw_answer_is_whole_and_the_last() -> None:
    """Status, headers, length and body, and the connection's end."""
    head, _, body = answers.HEAD_TOO_LARGE.raw().partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"\r\nconnection: close" in head
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body)["status"] == 431
