"""`holdfast check --live` asks each provider one authenticated question and says what came of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.cli.check_live import PROBE_JOB
from tests.support import free_port


class Server(ThreadingHTTPServer):
    """A provider that answers everything with one status, and remembers what it was asked."""

    status = 404

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    """Answers GET with the server's status and an empty object."""

    def do_GET(self) -> None:
        """Remember the path and the credentials."""
        assert isinstance(self.server, Server)
        self.server.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[Server]:
    """A provider on loopback."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def remarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], port: int, source: str
) -> tuple[int, list[tuple[str, str]]]:
    """Exit code, and (level, text) of what was said live."""
    path = tmp_path / "holdfast.toml"
    base = f'base_url = "http://127.0.0.1:{port}"'
    listen = 'listen = "127.0.0.1:0"'
    path.write_text(f"[intake]\n{listen}\n[api]\n{listen}\n[sources.x]\n{base}\n{source}\n")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["check", "--live", "--json", "--config", str(path)])
    assert isinstance(caught.value.code, int)
    checks = json.loads(capsys.readouterr().out)["checks"]
    return caught.value.code, [(each["level"], each["text"]) for each in checks if each["check"] == "live"]


OMNIFENCE = 'provider = "omnifence"\napi_key = "the-key-itself"'


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, (0, "ok", "answered 404")),
        (401, (69, "problem", "look at api_key")),
        (403, (69, "problem", "look at api_key")),
        (503, (69, "problem", "try again later")),
        (302, (69, "problem", "look at base_url")),
        (429, (0, "warning", "proves nothing")),
    ],
)
def test_the_answer_tells_whether_the_key_is_good(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    provider: Server,
    status: int,
    expected: tuple[int, str, str],
) -> None:
    """An unknown job is the expected answer; a refused key and a provider in trouble end with 69."""
    provider.status = status

    ended, said = remarks(tmp_path, capsys, provider.server_port, OMNIFENCE)

    code, level, part = expected
    assert (ended, [each for each, _ in said]) == (code, [level])
    assert part in said[0][1]
    assert "the-key-itself" not in said[0][1]
    assert [(PROBE_JOB in path, sent) for path, sent in provider.asked] == [(True, "Bearer the-key-itself")]


def test_a_provider_that_is_not_there_ends_with_69(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No answer at all is a problem with what to do."""
    ended, said = remarks(tmp_path, capsys, free_port(), OMNIFENCE)

    assert ended == 69
    assert said[0][0] == "problem"
    assert "look at base_url and the network" in said[0][1]


def test_nothing_is_asked_without_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str], provider: Server) -> None:
    """A source without an api_key is a warning and costs no request."""
    ended, said = remarks(tmp_path, capsys, provider.server_port, 'provider = "omnifence"')

    assert (ended, [each for each, _ in said], provider.asked) == (0, ["warning"], [])


@pytest.mark.parametrize("provider_name", ["omnia", "omniai", "omnist"])
def test_a_refused_key_is_found_where_jobs_cannot_be_asked_about_by_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], provider: Server, provider_name: str
) -> None:
    """A place where the provider's jobs lie is asked, not the base URL, which may answer anybody."""
    source = f'provider = "{provider_name}"\napi_key = "k"'

    assert [each for each, _ in remarks(tmp_path, capsys, provider.server_port, source)[1]] == ["ok"]
    provider.status = 401
    assert remarks(tmp_path, capsys, provider.server_port, source)[0] == 69
    assert "/" not in [path for path, _ in provider.asked]


def test_a_provider_that_cannot_be_asked_by_id_is_reached_at_least(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], provider: Server
) -> None:
    """Without a poll URL there is none to ask: its base URL is asked, and that this proves no key is said."""
    source = 'provider = "standard"\napi_key = "k"\npoll_url = ""'
    ended, said = remarks(tmp_path, capsys, provider.server_port, source)

    assert (ended, [each for each, _ in said]) == (0, ["warning"])
    assert "no question that proves the key" in said[0][1]
    assert [path for path, _ in provider.asked] == ["/"]
