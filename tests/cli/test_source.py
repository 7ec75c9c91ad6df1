"""`holdfast source setup|rotate|test` against simulated providers that run as processes of their own."""

import hashlib
import hmac
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from holdfast.cli.source import ids_on_arrival
from receiver.providers.managing import TestSent
from receiver.settings import SourceSettings
from tests.cli.providers import PATH_TOKEN, Providers, Setting, command, setting, simulating
from tests.support import RunningProcess, eventually, free_port

pytestmark = pytest.mark.process
OLD = "whsec_the_old_one"
ELSEWHERE = "https://hooks.example.com/in/another/secret-token-of-another"
Capsys = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def providers() -> Iterator[Providers]:
    """Omnist and OmniFence, shared by the tests that leave them as they were or do not care."""
    with simulating("omnist", "omnifence") as running:
        yield running


@pytest.fixture
def made(tmp_path: Path, providers: Providers, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """A configuration for them."""
    monkeypatch.setenv("NEWS", OLD)
    providers.control("faults", api_error_5xx=0.0, api_unauthorized=0.0)
    return setting(tmp_path, {name: providers.base_url(name) for name in ("omnist", "omnifence")})


def test_without_yes_nothing_is_sent(capsys: Capsys, made: Setting, providers: Providers) -> None:
    """What would change is shown, what is there now with it, tokens masked; the provider keeps what it has."""
    providers.control("webhook", provider="omnist", url=ELSEWHERE)

    for action in ("setup", "rotate", "test"):
        ended = command(capsys, made, "source", action, "news")
        assert (ended.code, ended.err) == (0, "")
        assert "A dry run: nothing was sent" in ended.out
        assert PATH_TOKEN not in ended.out
        assert "secret-token-of-another" not in ended.out
        if action == "setup":
            assert "now:  https://hooks.example.com/in/another/********" in ended.out
            assert f"then: http://{made.intake}/in/news/********" in ended.out
            assert "whoever is behind the present URL gets nothing any more" in ended.out

    assert providers.ask("GET", "/v1/webhooks")["webhook"]["url"] == ELSEWHERE
    assert made.secret.read_text() == f"{OLD}\n"
    assert providers.truth("omnist")["webhook_url"] == ELSEWHERE


def test_setup_registers_the_url_and_doing_it_again_sends_nothing(
    capsys: Capsys, made: Setting, providers: Providers
) -> None:
    """The whole URL goes to the provider, a masked one to the terminal."""
    providers.control("webhook", provider="omnist", url=ELSEWHERE)

    first = command(capsys, made, "source", "setup", "news", "--yes")
    again = command(capsys, made, "source", "setup", "news", "--yes")

    assert (first.code, again.code) == (0, 0)
    assert f"news: http://{made.intake}/in/news/******** registered" in first.out
    assert "was registered already" in again.out
    assert "PUT" not in again.out
    assert PATH_TOKEN not in first.out + again.out
    registered = providers.ask("GET", "/v1/webhooks")["webhook"]
    assert (registered["url"], registered["enabled"]) == (f"http://{made.intake}/in/news/{PATH_TOKEN}", True)


def test_the_first_secret_is_kept_where_the_configuration_says(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Omnist tells it once, on the first registration of a workspace."""
    monkeypatch.setenv("NEWS", OLD)
    with simulating("omnist") as fresh:
        mine = setting(tmp_path, {"omnist": fresh.base_url("omnist")})
        ended = command(capsys, mine, "source", "setup", "news", "--yes")

    assert ended.code == 0
    new, old = mine.secret.read_text().splitlines()
    assert new.startswith("whsec_")
    assert (old, new in ended.out) == (OLD, False)


def test_omnifence_registers_the_accounts_only_webhook(capsys: Capsys, made: Setting, providers: Providers) -> None:
    """Its API tells neither what was there nor gives a secret; the URL with its token arrives."""
    dry = command(capsys, made, "source", "setup", "mod")
    assert (dry.code, providers.truth("omnifence")["webhook_url"]) == (0, None)
    assert "whatever it is, it will be replaced" in dry.out

    ended = command(capsys, made, "source", "setup", "mod", "--yes")

    assert (ended.code, ended.err) == (0, "")
    assert PATH_TOKEN not in ended.out
    assert providers.truth("omnifence")["webhook_url"] == f"http://{made.intake}/in/mod/{PATH_TOKEN}"


def test_rotating_rewrites_the_secret_file(capsys: Capsys, made: Setting, providers: Providers) -> None:
    """Mode 600 whatever it was, the new secret first and the old one behind it; neither is printed. A third rotation
    keeps two."""
    providers.control("webhook", provider="omnist", url=ELSEWHERE)
    os.chmod(made.secret, 0o644)

    ended = command(capsys, made, "source", "rotate", "news", "--yes")

    first, second = made.secret.read_text().splitlines()
    assert (ended.code, second, first != OLD) == (0, OLD, True)
    assert stat.S_IMODE(made.secret.stat().st_mode) == 0o600
    assert first not in ended.out + ended.err
    assert "30 h" in ended.out
    assert command(capsys, made, "source", "rotate", "news", "--yes").code == 0
    assert made.secret.read_text().splitlines()[1:] == [first]
    assert [path.name for path in made.folder.glob(".news*")] == [], "no copy of a secret is left lying about"


def test_a_secret_that_is_no_file_is_printed_once(capsys: Capsys, made: Setting, providers: Providers) -> None:
    """On stdout, by itself on a line, with where to put it."""
    providers.control("webhook", provider="omnist", url=ELSEWHERE)

    ended = command(capsys, made, "source", "rotate", "told", "--yes")

    printed = [line for line in ended.out.splitlines() if re.fullmatch(r"whsec_\S+", line)]
    assert (ended.code, len(printed)) == (0, 1)
    assert "env:NEWS" in ended.out


def test_providers_without_an_api_for_it_are_done_by_hand(capsys: Capsys, made: Setting) -> None:
    """The steps are printed, with or without --yes, and nobody is asked."""
    for source, action in (
        ("leads", "setup"),
        ("leads", "rotate"),
        ("leads", "test"),
        ("mod", "rotate"),
        ("mod", "test"),
    ):
        ended = command(capsys, made, "source", action, source, "--yes")
        assert (ended.code, ended.err) == (0, "")
        assert "By hand:" in ended.out
        assert "  1. " in ended.out
        assert PATH_TOKEN not in ended.out


@pytest.mark.parametrize("action", ["setup", "rotate", "test"])
@pytest.mark.parametrize("fault", ["api_error_5xx", "api_unauthorized"])
def test_a_provider_in_trouble_ends_with_69(
    capsys: Capsys, made: Setting, providers: Providers, action: str, fault: str
) -> None:
    """One line on stderr, nothing changed here."""
    providers.control("faults", provider="omnist", **{fault: 1.0}, api_scope="all")

    ended = command(capsys, made, "source", action, "news", "--yes")

    assert ended.code == 69
    assert len(ended.err.splitlines()) == 1
    assert "nothing was changed here" in ended.err
    assert made.secret.read_text() == f"{OLD}\n"


def test_a_provider_that_is_not_there_ends_with_69(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to look at."""
    monkeypatch.setenv("NEWS", OLD)
    mine = setting(tmp_path, {"omnist": f"http://127.0.0.1:{free_port()}"})

    ended = command(capsys, mine, "source", "rotate", "news", "--yes")

    assert ended.code == 69
    assert "check base_url and the network" in ended.err


def test_wrong_usage_is_said(capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No public_url: nobody knows what to register. No such source: which there are."""
    monkeypatch.setenv("NEWS", OLD)
    mine = setting(tmp_path, {}, public=False)

    unknown = command(capsys, mine, "source", "setup", "nobody")
    nowhere = command(capsys, mine, "source", "setup", "news")

    assert (unknown.code, nowhere.code) != (0, 0)
    assert "nobody" in unknown.err
    assert (nowhere.code, "public_url" in nowhere.err) == (2, True)


def test_a_secret_file_that_cannot_be_written_stops_before_the_provider_is_asked(
    capsys: Capsys, made: Setting, providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new secret is told once: found out before, not after."""
    providers.control("webhook", provider="omnist", url=ELSEWHERE)
    version = providers.ask("GET", "/v1/webhooks")["webhook"]["signing_secret"]["version"]
    really = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and really(path, mode))

    ended = command(capsys, made, "source", "rotate", "news", "--yes")

    assert (ended.code, "run this as its owner" in ended.err) == (1, True)
    assert providers.ask("GET", "/v1/webhooks")["webhook"]["signing_secret"]["version"] == version


# -- with the sidecar running ---------------------------------------------------------------------------------------


def refused(made: Setting) -> float:
    """How many requests the door refused for their signature so far."""
    text = httpx.get(f"http://{made.api}/metrics", trust_env=False, timeout=10.0).text
    found = re.findall(r'^holdfast_refused_total\{reason="signature",source="news"\} (\S+)', text, re.MULTILINE)
    return sum(float(each) for each in found)


def test_a_rotation_under_way_refuses_nothing(capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries come in all the time. The sidecar is not restarted; afterwards both secrets are accepted, nothing is
    refused, and everything that Omnist ever sent was acknowledged. Then a test delivery is watched arriving."""
    monkeypatch.setenv("NEWS", OLD)
    intake = None
    with simulating("omnist", secret=OLD) as omnist:
        made = setting(tmp_path, {"omnist": omnist.base_url("omnist")})
        intake = f"http://{made.intake}/in/news/{PATH_TOKEN}"
        with RunningProcess.holdfast("run", "--config", str(made.config), env={"NEWS": OLD}) as sidecar:
            sidecar.wait_for_output("sidecar.started")
            assert command(capsys, made, "source", "setup", "news", "--yes").code == 0
            stop = threading.Event()

            def coming_in() -> None:
                while not stop.is_set():
                    omnist.control("submit", provider="omnist", modality="run", n=3)

            sender = threading.Thread(target=coming_in)
            sender.start()
            try:
                eventually(lambda: omnist.truth("omnist")["counters"]["acknowledged"] > 10)
                rotated = command(capsys, made, "source", "rotate", "news", "--yes")
                before = refused(made)
                seen = omnist.truth("omnist")["counters"]["acknowledged"]
                eventually(lambda: omnist.truth("omnist")["counters"]["acknowledged"] > seen + 20)
            finally:
                stop.set()
                sender.join()
            omnist.control("idle", timeout_s=30)

            assert (rotated.code, refused(made)) == (0, before), "nothing was refused after the rotation"
            counters = omnist.truth("omnist")["counters"]
            assert counters["given_up"] == 0
            new, old = made.secret.read_text().splitlines()
            for number, secret in enumerate((new, old)):
                body = b'{"id":"event_by_hand_%d","type":"monitor.example","data":{}}' % number
                at = str(int(time.time()))
                digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
                headers = {"x-omnist-signature": f"t={at},v1={digest}"}
                assert httpx.post(intake, content=body, headers=headers, trust_env=False).status_code == 200

            tested = command(capsys, made, "source", "test", "news", "--yes", "--timeout-s", "15")
            assert (tested.code, tested.err) == (0, "")
            assert re.search(r"news: the test arrived as delivery \d+ after \d+\.\d\d s", tested.out)
            assert sidecar.terminate() == 0


def test_a_test_delivery_that_never_arrives_is_said(capsys: Capsys, made: Setting, providers: Providers) -> None:
    """With what the provider saw, and what to look at."""
    providers.control("webhook", provider="omnist", url=f"http://127.0.0.1:{free_port()}/in/news/x")
    with RunningProcess.holdfast("migrate", "--config", str(made.config), env={"NEWS": OLD}) as migrated:
        eventually(lambda: migrated.returncode == 0)

    ended = command(capsys, made, "source", "test", "news", "--yes", "--timeout-s", "0.3")

    assert ended.code == 1
    assert "nothing arrived in 0.3 s" in ended.err
    assert "public_url" in ended.err


def test_a_test_is_known_by_the_ids_of_its_headers() -> None:
    """Omnist writes `event_…` in its API and `evt_…` in the header, and where nothing interprets only that arrives."""
    news = SourceSettings.named("news", provider="omnist")

    assert "evt_1" in ids_on_arrival(news, TestSent("webhook.test", event_id="event_1", delivery_id="delivery_1"))
