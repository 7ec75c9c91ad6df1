"""A provider is one file: that of docs/write-a-provider.md, dropped into a folder; and the API of docs/any-api.md."""

import contextlib
import hmac
import http.server
import json
import re
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import receiver.providers
from receiver.errors import ConfigError
from receiver.providers import add_folder, provider_named, provider_names
from receiver.providers.base import Accepted, Provider, RawRequest, Refused
from receiver.settings import SourceSettings
from receiver.states import Claim, Reason
from tests.providers import test_contract as contract
from tests.providers.talk import answers, delivered, job_of, read, reply_of, source_of, talk
from tests.support import ROOT, START, RunningProcess, eventually, free_port


def block(document: str, language: str) -> str:
    """The first code block of this language in a page of the documentation."""
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / document).read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the file of the documentation."""
    where = tmp_path / "providers"
    where.mkdir()
    (where / "acme.py").write_text(block("write-a-provider.md", "python"))
    return where


@pytest.fixture
def unfound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds is forgotten after it."""
    provider_names()
    monkeypatch.setattr(receiver.providers, "_found", dict(receiver.providers._found))
    monkeypatch.setattr(receiver.providers, "_scanned", set(receiver.providers._scanned))


@pytest.fixture
def acme(folder: Path, unfound: None) -> Provider:
    """The fifth provider, found."""
    add_folder(folder)
    return provider_named("acme")


# -- one file ---------------------------------------------------------------------------------------------------------


def test_a_file_in_a_folder_is_a_provider(acme: Provider) -> None:
    """Nothing else is edited: its name is taken in the configuration, and its facts are used."""
    source = source_of("acme", path_token="t")

    assert "acme" in provider_names()
    assert source.facts is acme
    assert source.effective_base_url == "https://api.acme.example"
    assert source.effective_timeouts("picture") == (60.0, 600.0)


def test_adding_a_folder_twice_changes_nothing(acme: Provider, folder: Path) -> None:
    """However its name is written."""
    add_folder(folder)
    add_folder(folder / ".." / folder.name)

    assert provider_named("acme") is acme


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("x = 1", "has no PROVIDER"),
        ("PROVIDER = 7", "has no PROVIDER"),
        ("class P:\n    name = 'p'\nPROVIDER = P()", "has no PROVIDER"),
        ("def broken(:", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_file_that_is_no_provider_is_told_and_stops_the_start(
    text: str, met: str, tmp_path: Path, unfound: None
) -> None:
    """With its path, and what is wrong with it."""
    (tmp_path / "bad.py").write_text(text)

    with pytest.raises(ConfigError, match=met) as caught:
        add_folder(tmp_path)
    assert "bad" in str(caught.value)


def test_two_files_of_one_name_are_refused(tmp_path: Path, unfound: None) -> None:
    """Which one would be used must not depend on the order of a folder."""
    (tmp_path / "mine.py").write_text(block("write-a-provider.md", "python").replace('"acme"', '"omnia"'))

    with pytest.raises(ConfigError, match="two files name the provider 'omnia'"):
        add_folder(tmp_path)


def test_a_helper_beside_it_is_passed_over(folder: Path, unfound: None) -> None:
    """A name that begins with an underscore is no provider."""
    (folder / "_helper.py").write_text("x = 1")
    add_folder(folder)

    assert "acme" in provider_names()


# -- what the page promises -------------------------------------------------------------------------------------------


def test_the_example_keeps_the_promises_it_explains(acme: Provider) -> None:
    """Signed, read, asked and recognised as the page says."""
    source = source_of("acme", secret="shh", secret_header=None)
    request = delivered({"render": "r-1", "phase": "Finished", "picture": "p"})
    signature = hmac.digest(b"shh", request.body, "sha256").hex()
    signed = RawRequest((("x-acme-signature", signature),), request.body)

    assert acme.authenticate(signed, source, START) == Accepted(proven=True)
    assert isinstance(acme.authenticate(request, source, START), Refused)
    assert read(acme, {"phase": "finished"}, source).problem == "missing_render"
    said = read(acme, {"render": 7, "phase": "withdrawn"}, source).said
    assert said is not None
    assert (said.job_id, said.claim, said.reason) == ("7", Claim.FAILED, Reason.CANCELLED)
    replies = answers(reply_of({"phase": "broken"}), reply_of({}, 404), reply_of(b"<html>"))
    had = talk(acme, [job_of("a/b"), job_of("gone"), job_of("odd")], source, replies)
    assert had.questions[0].path == "/renders/a%2Fb"
    assert had.told["a/b"].claim is Claim.FAILED
    assert had.told["gone"].missing
    assert had.told["odd"].problem
    assert [one.job_id for one in acme.submitted("POST", "/renders", {"render": "r"}, source)] == ["r"]


@pytest.mark.parametrize(
    "promise",
    [
        contract.test_no_stranger_is_proven_and_none_makes_it_raise,
        contract.test_whatever_is_delivered_is_read_into_something_that_can_be_kept,
        contract.test_asking_survives_any_server,
        contract.test_a_server_in_trouble_settles_nothing,
        contract.test_any_answer_is_classified,
        contract.test_any_answer_to_a_submission_is_taken_or_left,
    ],
    ids=lambda promise: promise.__name__,
)
def test_the_example_passes_the_contract_tests(promise: Callable[..., None], acme: Provider) -> None:
    """The page would be a bad teacher otherwise."""
    promise(name=acme.name)


def test_the_ten_lines_for_any_api_make_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand on the page, and they read and ask what the page says."""
    monkeypatch.setenv("RENDERFARM_KEY", "k")
    monkeypatch.setenv("RENDERFARM_SECRET", "s")
    text = block("any-api.md", "toml")
    source = SourceSettings.named("renders", **tomllib.loads(text)["sources"]["renders"])
    standard = source.facts
    request = delivered({"event": "x", "render": {"id": "r-1", "state": "ready", "url": "u"}})
    signed = RawRequest((("x-farm-signature", hmac.digest(b"s", request.body, "sha256").hex()),), request.body)

    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    assert standard.authenticate(signed, source, START) == Accepted(proven=True)
    said = standard.read(signed, json.loads(request.body), source).said
    assert said is not None
    assert (said.job_id, said.claim) == ("r-1", Claim.COMPLETED)
    had = talk(standard, [job_of("r-1")], source, answers(reply_of({"status": "ready"})))
    assert (had.questions[0].path, had.told["r-1"].claim) == ("/renders/r-1", Claim.COMPLETED)
    made = standard.submitted("POST", "renders", {"id": "r-2", "status": "queued"}, source)
    assert [one.job_id for one in made] == ["r-2"]


def test_every_key_on_the_page_is_one_and_every_key_is_on_the_page() -> None:
    """The table of any-api.md names what a `standard` source understands beyond other sources."""
    page = (ROOT / "docs" / "any-api.md").read_text()
    extras = provider_named("standard").Settings.model_fields
    standard = source_of("standard").standard
    assert standard is not None

    for key in {*extras, *type(standard).model_fields} - {"kinds"}:
        assert f"`{key}`" in page or f"{key} =" in page or f'"{key}"' in page, key
    assert "`kinds.MODALITY" in page


# -- end to end -------------------------------------------------------------------------------------------------------


class Farm(http.server.BaseHTTPRequestHandler):
    """Acme's API on loopback: `GET /renders/ID` tells what the class was told, and only to whoever has the key."""

    phases: dict[str, str] = {}

    def do_GET(self) -> None:
        render = self.path.removeprefix("/renders/")
        known = self.headers["authorization"] == "Bearer k3y" and render in self.phases
        body = json.dumps({"render": render, "phase": self.phases.get(render), "picture": f"{render}.png"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not a word on stderr."""


@contextlib.contextmanager
def farm() -> Iterator[str]:
    """The API, serving; its base URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Farm) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


CONFIG = """
[store]
url = "sqlite:///fifth.db"
[intake]
listen = "127.0.0.1:{intake}"
[api]
listen = "127.0.0.1:{api}"
[reconcile]
tick_s = 0.1
poll_min_s = 0.1
not_yet_s = 0.1
[sources.pictures]
provider = "acme"
base_url = "{base}"
api_key = "k3y"
secret = "shh"
timeouts.picture = {{ poll_after_s = 0.2, fail_after_s = 30.0 }}
[sources.told]
provider = "acme"
secret = "shh"
"""


@pytest.mark.process
def test_a_fifth_provider_works_end_to_end(folder: Path, tmp_path: Path) -> None:
    """Dropped into `$HOLDFAST_PROVIDERS`: one job is settled by its webhook, one by asking, each told once."""
    intake, api = free_port(), free_port()
    with farm() as base:
        Farm.phases = {"r-asked": "broken"}
        (tmp_path / "holdfast.toml").write_text(CONFIG.format(intake=intake, api=api, base=base))
        with (
            RunningProcess.holdfast("run", cwd=tmp_path, env={"HOLDFAST_PROVIDERS": str(folder)}) as sidecar,
            httpx.Client(base_url=f"http://127.0.0.1:{api}", trust_env=False, timeout=20) as client,
        ):
            eventually(lambda: client.get("/readyz").status_code == 200, 20, ignoring=(AssertionError, httpx.HTTPError))
            for source, render in (("pictures", "r-asked"), ("told", "r-told")):
                put = client.put(f"/v1/jobs/{source}/{render}", json={"modality": "picture"})
                assert put.status_code == 201, put.text
            body = json.dumps({"render": "r-told", "phase": "finished", "picture": "r-told.png"}).encode()
            hook, good = f"http://127.0.0.1:{intake}/in/told", hmac.digest(b"shh", body, "sha256").hex()

            statuses = [
                client.post(hook, content=body, headers={"x-acme-signature": signature}).status_code
                for signature in (good, good, "0" * 64)
            ]
            ended = [
                client.get(f"/v1/jobs/{source}/{render}/wait", params={"timeout_s": 15}).json()
                for source, render in (("pictures", "r-asked"), ("told", "r-told"))
            ]
            told = client.post("/v1/outbox/claim", json={"limit": 10, "lease_s": 30}).json()["messages"]
            assert sidecar.terminate() == 0, sidecar.output

    assert statuses == [200, 200, 401]
    assert [(job["state"], job["reason"], job["decided_by"]) for job in ended] == [
        ("failed", "provider", "poll"),
        ("completed", None, "webhook"),
    ]
    assert ended[1]["result"]["picture"] == "r-told.png"
    assert sorted((message["type"], message["data"]["job_id"]) for message in told) == [
        ("job.completed", "r-told"),
        ("job.failed", "r-asked"),
    ]
