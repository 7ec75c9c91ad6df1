"""A secret file rewritten while the door is open: taken at the next request, and read again only so often."""

import hashlib
import hmac
from pathlib import Path

import pytest

from receiver import secrets
from receiver.settings import SourceSettings
from tests.receiver.wire import serving
from tests.support import START, ManualClock

BODY = b'{"id":"event_1","type":"monitor.example","data":{}}'
LARGE = b'{"id":"event_2","data":"' + b"x" * 100_000 + b'"}'


def signed(secret: str, body: bytes = BODY) -> dict[str, str]:
    """The header of Omnist."""
    digest = hmac.new(secret.encode(), f"{int(START)}.".encode() + body, hashlib.sha256).hexdigest()
    return {"x-omnist-signature": f"t={int(START)},v1={digest}"}


def source_at(path: Path) -> dict[str, SourceSettings]:
    """One Omnist source whose secret stands in a file."""
    path.write_text("whsec_old\n")
    return {"news": SourceSettings.named("news", provider="omnist", secret=f"file:{path}")}


async def test_a_rewritten_secret_file_is_taken_without_a_restart(tmp_path: Path) -> None:
    """The first request signed with the new secret is let in, small or large, and the old one goes on being accepted;
    once its line is gone it is refused."""
    path = tmp_path / "secret"
    async with serving(source_at(path), clock=ManualClock()) as wire:
        assert (await wire.ask("/in/news", BODY, headers=signed("whsec_new"))).status == 401
        path.write_text("whsec_new\nwhsec_old\n")

        answers = [
            await wire.ask("/in/news", LARGE, headers=signed("whsec_new", LARGE)),
            await wire.ask("/in/news", BODY, headers=signed("whsec_new")),
            await wire.ask("/in/news", BODY, headers=signed("whsec_old")),
        ]
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert wire.refused == {("news", "signature"): 1}
        path.write_text("whsec_new\n")
        assert (await wire.ask("/in/news", BODY, headers=signed("whsec_wrong"))).status == 401
        assert (await wire.ask("/in/news", BODY, headers=signed("whsec_old"))).status == 401


async def test_a_file_that_is_gone_or_empty_changes_nothing(tmp_path: Path) -> None:
    """Whoever rewrites it in two steps is not refused in between."""
    path = tmp_path / "secret"
    async with serving(source_at(path), clock=ManualClock()) as wire:
        for spoil in (path.unlink, lambda: path.write_text(""), lambda: path.write_bytes(b"\xff\xfe")):
            spoil()
            assert (await wire.ask("/in/news", BODY, headers=signed("whsec_wrong"))).status == 401
            assert (await wire.ask("/in/news", BODY, headers=signed("whsec_old"))).status == 200


async def test_strangers_cannot_make_us_read_files_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty readings a second for a source, however many are refused; and a rotation is noticed a moment later."""
    path, clock = tmp_path / "secret", ManualClock()
    async with serving(source_at(path), clock=clock) as wire:
        reads: list[str] = []
        really = secrets._read_lines

        def counted(reference: str, of: Path) -> tuple[str, ...]:
            reads.append(reference)
            return really(reference, of)

        monkeypatch.setattr(secrets, "_read_lines", counted)
        async with await wire.connect() as caller:
            for _ in range(60):
                assert (await caller.ask("/in/news", BODY, headers=signed("whsec_guess"))).status == 401
            assert len(reads) == 20
            path.write_text("whsec_new\n")
            clock.advance(0.1)
            assert (await caller.ask("/in/news", BODY, headers=signed("whsec_new"))).status == 200
        assert len(reads) == 21


async def test_a_secret_that_is_no_file_costs_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A literal secret is refused as before."""
    literal = {"news": SourceSettings.named("news", provider="omnist", secret="whsec_old")}

    def never(reference: str, of: Path) -> tuple[str, ...]:
        raise AssertionError(reference)

    async with serving(literal, clock=ManualClock()) as wire:
        monkeypatch.setattr(secrets, "_read_lines", never)
        assert (await wire.ask("/in/news", BODY, headers=signed("whsec_new"))).status == 401
        assert (await wire.ask("/in/news", BODY, headers=signed("whsec_old"))).status == 200
