"""Addresses in the configuration: listeners, URLs and the database's path, read as text alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.addresses import (
    Listen,
    absolute_store_url,
    check_url,
    is_loopback_host,
    is_plain_http_off_loopback,
    parse_listen,
    store_path,
)


@pytest.mark.parametrize(
    ("text", "listen", "private"),
    [
        ("127.0.0.1:8080", Listen("tcp", "127.0.0.1", 8080), True),
        ("127.9.9.9:1", Listen("tcp", "127.9.9.9", 1), True),
        ("LocalHost:80", Listen("tcp", "localhost", 80), True),
        ("[::1]:80", Listen("tcp", "::1", 80), True),
        ("[::]:80", Listen("tcp", "::", 80), False),
        ("0.0.0.0:0", Listen("tcp", "0.0.0.0", 0), False),
        ("hooks.example.com:443", Listen("tcp", "hooks.example.com", 443), False),
        ("unix:/run/x.sock", Listen("unix", path="/run/x.sock"), True),
        ("fd:3", Listen("fd", fd=3), False),
    ],
)
def test_listening_addresses_are_taken_apart(text: str, listen: Listen, private: bool) -> None:
    """Each form, and whether only this machine can reach it; written out and read again it is the same."""
    assert parse_listen(text) == listen
    assert listen.is_private is private
    assert parse_listen(str(listen)) == listen


@pytest.mark.parametrize(
    "text",
    [
        "", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536",
        "127.0.0.1:٣", "::1:80", "[::1]", "[127.0.0.1]:80", "[x]:80", "*:80", "a b:80", "http://x:80",
        "unix:", "unix:a\0b", "unix:/" + "x" * 107, "fd:", "fd:2", "fd:x", "fd:-3", "fd:99999999999", "UNIX:/x",
    ],
)  # fmt: skip
def test_other_listening_addresses_are_refused(text: str) -> None:
    """What no socket could be opened for, or the wrong one."""
    with pytest.raises(ValueError, match=r"."):
        parse_listen(text)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "localhost:1", True),
        ("127.0.0.1:1", "10.0.0.1:1", False),
        ("0.0.0.0:1", "10.0.0.1:1", True),
        ("[::]:1", "127.0.0.1:1", True),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("fd:3", "fd:3", True),
        ("fd:3", "fd:4", False),
        ("unix:/a", "127.0.0.1:1", False),
    ],
)
def test_two_listeners_clash_when_one_address_serves_both(one: str, other: str, clash: bool) -> None:
    """In either order."""
    assert parse_listen(one).clashes(parse_listen(other)) is clash
    assert parse_listen(other).clashes(parse_listen(one)) is clash


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "http://127.0.0.1:3000/x",
        "https://[::1]:8443/",
        "HTTPS://a/b%20c",
        "http://app_1:80/",
    ],
)
def test_plain_urls_are_taken(url: str) -> None:
    """http and https, with a host, a port and a path."""
    check_url(url, query=False)
    check_url(f"{url}?a=b", query=True)


@pytest.mark.parametrize(
    "url",
    [
        "", "api.example.com", "//api.example.com", "ftp://x", "file:///etc/passwd", "https://", "https:///x",
        "https://user@x", "https://user:pw@x", "https://@x", "https://x#frag", "https://x#", "https://x?",
        "https://x?a=b",
        "https://x y", "https://x/\n", "https://x\\@y", "https://x:0", "https://x:99999", "https://x:port", "https://[::1",
        "https://[x]", "https://ex ample", "https://münchen.example", "https://a..b", "https://-a",
        "javascript:alert(1)",
        "https:/x", "https:x", "\thttps://x",
    ],
)  # fmt: skip
def test_other_urls_are_refused_without_being_repeated(url: str) -> None:
    """Credentials, fragments, queries where paths are appended, other schemes, and what is no URL."""
    with pytest.raises(ValueError, match=r".") as caught:
        check_url(url, query=False)
    assert not url or url not in str(caught.value)


def test_plain_http_matters_off_loopback_only() -> None:
    """A key sent over plain http stays on this machine or does not."""
    assert is_plain_http_off_loopback("http://api.example.com/")
    assert not is_plain_http_off_loopback("https://api.example.com/")
    assert not is_plain_http_off_loopback("http://127.0.0.1:9/")
    assert not is_plain_http_off_loopback("http://[::1]:9/")
    assert (is_loopback_host("a.localhost."), is_loopback_host("127.0.0.1.example.com")) == (True, False)


def test_a_store_url_becomes_a_path() -> None:
    """Relative to the given folder, or absolute; without a folder it stays relative."""
    assert store_path(absolute_store_url("sqlite:///a/../x.db", Path("/srv"))) == Path("/srv/x.db")
    assert store_path(absolute_store_url("sqlite:////var/x.db", Path("/srv"))) == Path("/var/x.db")
    assert store_path(absolute_store_url("sqlite:///x.db", None)) == Path("x.db")


@given(st.text(max_size=40), st.sampled_from(["", "http://", "https://[", "unix:", "fd:", "sqlite:///", "a:"]))
def test_any_text_is_read_or_refused(text: str, prefix: str) -> None:
    """Reading an address raises nothing but ValueError."""
    for reader in (parse_listen, lambda each: check_url(each, query=True), lambda each: absolute_store_url(each, None)):
        try:
            answer = reader(prefix + text)
        except ValueError as error:
            answer = str(error)
        assert answer != ""
