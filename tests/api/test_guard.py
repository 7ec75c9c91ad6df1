"""Who may use the private listener."""

import base64
from typing import Any

import httpx
import pytest

from receiver.secrets import Place
from receiver.settings import Settings
from reconciler.api.guard import Guard, is_loopback_name
from tests.api.conftest import Open
from tests.api.office import Office

TOKEN = "a-token-that-nobody-guesses"
EVERYTHING = [
    ("GET", "/"),
    ("GET", "/page/page.css"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/outbox/stream"),
    ("PUT", "/v1/jobs/moderation/j1"),
    ("POST", "/v1/outbox/claim"),
    ("POST", "/submit/moderation/api/v1/moderate/prompt"),
    ("GET", "/nothing/here"),
    ("DELETE", "/v1/jobs"),
]


@pytest.fixture
def guarded(open_office: Open) -> Office:
    """An office with two tokens, as while one is replaced by another."""
    return open_office(config={"api": {"token": [TOKEN, "an-older-token"]}})


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Token {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": f"Bearer {TOKEN}x"},
        {"x-holdfast-token": "wrong", "authorization": f"Bearer {TOKEN}"},
        [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
        [("x-holdfast-token", TOKEN), ("x-holdfast-token", "wrong")],
    ],
)
async def test_with_a_token_nothing_is_answered_without_it(
    guarded: Office, method: str, path: str, headers: Any
) -> None:
    """Every path, known or not, is 401 with WWW-Authenticate unless exactly one right token comes along."""
    async with guarded.client() as client:
        answer = await client.request(method, path, headers=headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer   {TOKEN} "},
        {"authorization": "Bearer an-older-token"},
        {"x-holdfast-token": TOKEN},
        {"x-holdfast-token": TOKEN, "authorization": "Bearer for-somebody-else"},
    ],
)
async def test_the_token_opens(guarded: Office, headers: dict[str, str]) -> None:
    """The bearer of any active token is let in, by either header, under whatever Host name."""
    async with guarded.client(base_url="http://holdfast.internal:8081") as client:
        assert (await client.get("/v1/jobs", headers=headers)).status_code == 200


async def test_a_browser_shows_the_page_with_the_token_as_password(guarded: Office) -> None:
    """HTTP Basic opens what merely shows, and nothing that answers programs or changes anything."""
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()}
    async with guarded.client() as client:
        page = await client.get("/", headers=basic)
        asked = await client.get("/")
        linked = [await client.get(path, headers=basic) for path in ("/openapi.json", "/metrics", "/readyz")]
        jobs = await client.get("/v1/jobs", headers=basic)
        junk = await client.get("/", headers={"authorization": "Basic %%%"})

    assert page.status_code == 200
    assert {answer.status_code for answer in linked} == {200}
    assert "Basic" in asked.headers["www-authenticate"]
    assert (jobs.status_code, junk.status_code) == (401, 401)
    assert "Basic" not in jobs.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST:8081", True),
        ("127.0.0.1", True),
        ("127.0.0.1:80", True),
        ("127.9.8.7:1", True),
        ("[::1]", True),
        ("[::1]:8081", True),
        ("", False),
        ("::1", False),
        ("localhost.", False),
        ("localhost.evil.example", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("128.0.0.1", False),
        ("0.0.0.0", False),
        ("127.1", False),
        ("2130706433", False),
        ("localhost:port", False),
        ("user@localhost", False),
        ("[::1]x", False),
        ("[::2]", False),
        ("localhost:80:80", False),
    ],
)
def test_only_loopback_names_are_loopback(host: str, loopback: bool) -> None:
    """localhost, 127.0.0.0/8 and [::1] with any port, and nothing that merely resolves or looks alike."""
    assert is_loopback_name(host) is loopback


async def test_without_a_token_other_names_are_refused(office: Office) -> None:
    """A page that resolves its own name to loopback gets 403, on every path."""
    async with office.client(base_url="http://rebound.example:8081") as client:
        answers = [await client.request(method, path) for method, path in EVERYTHING]

    assert {answer.status_code for answer in answers} == {403}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://LOCALHOST:80"}, 200),
        ({"origin": "https://localhost"}, 200),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ([("origin", "http://localhost"), ("origin", "http://evil.example")], 403),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
async def test_what_a_browser_marks_as_foreign_is_refused(client: httpx.AsyncClient, headers: Any, status: int) -> None:
    """Another origin, or a fetch that another site makes, is 403."""
    assert (await client.get("/v1/jobs", headers=headers)).status_code == status


async def test_a_foreign_origin_is_refused_with_a_token_too(guarded: Office) -> None:
    """A right token does not make a foreign page's request welcome."""
    async with guarded.client() as client:
        headers = {"authorization": f"Bearer {TOKEN}", "origin": "http://evil.example"}
        assert (await client.get("/v1/jobs", headers=headers)).status_code == 403


@pytest.mark.parametrize("name", ["host", "content-length"])
async def test_a_doubled_framing_header_is_refused(client: httpx.AsyncClient, name: str) -> None:
    """Two Host or two Content-Length headers are 400, not a choice."""
    value = "localhost" if name == "host" else "0"
    answer = await client.get("/healthz", headers=[(name, value), (name, value)])

    assert answer.status_code == 400


async def test_unknown_paths_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    """The router's own answers are problems too; a path that differs by a slash or in case is another path."""
    for path in ("/v1", "/v1/jobs/", "//v1/jobs", "/V1/jobs", "/v1/jobs/moderation", "/v1/jobs//j1", "/submit"):
        answer = await client.get(path)
        assert (path, answer.status_code) == (path, 404)
        assert answer.headers["content-type"] == "application/problem+json"
    wrong = await client.delete("/v1/jobs")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
    assert wrong.headers["content-type"] == "application/problem+json"
    assert (await client.get("/v1/jobs/moderation/%FF")).status_code == 400
    assert (await client.request("TRACE", "/submit/moderation/x")).status_code == 405


async def test_head_is_a_get_without_its_body(client: httpx.AsyncClient) -> None:
    """HEAD answers what GET would, without the body."""
    answer = await client.head("/healthz")

    assert (answer.status_code, answer.content) == (200, b"")


async def test_history_names_the_token_that_did_it_by_its_place(open_office: Open) -> None:
    """What an operator does is recorded under the name of the token, never its value."""
    settings = Settings.model_validate(
        {"api": {"token": ["env:OLD", "env:NEW"]}}, context=Place(env={"OLD": TOKEN, "NEW": "new-token"})
    )
    guard = Guard(settings.api.token)

    def who(token: str) -> str:
        return guard.admit([(b"host", b"x"), (b"x-holdfast-token", token.encode())], basic=False)

    assert who("new-token") == "token env:NEW"
    assert who(TOKEN) == "token env:OLD"
