"""Each provider's nasty cases through the real door, record, interpreter and sweep: told once, and told right."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from receiver.door import Door
from receiver.intake import Intake
from receiver.listeners import open_listener
from receiver.providers.base import Question, Reply
from receiver.server import HttpServer, public_limits
from receiver.settings import ReconcileSettings, SourceSettings
from reconciler.outbound import Exchange, Outbound, Unanswered
from reconciler.sweep import Sweep
from tests.providers.talk import reply_of
from tests.receiver.scene import Scene
from tests.support import START

OMNIA = "https://app.useomnia.com/api/v1"
LINK = f"{OMNIA}/insights/generation/generation_1"
TOKEN = "the-path-token"
KEY = "key-for-tests"
SECRET = "whsec_for_tests"
STANDARD = {
    "provider": "standard", "base_url": "https://api.example.com", "api_key": KEY, "verify": "hmac", "secret": SECRET,
    "secret_header": "x-signature", "event_pointer": "/event", "job_id_pointer": "/id", "status_pointer": "/status",
    "completed": ["done"], "failed": ["broken"], "poll_url": "{base_url}/jobs/{job_id}",
    "poll_status_pointer": "/status",
}  # fmt: skip


class Answers(Outbound):
    """A provider at the edge of the real sweep: answers by path (or URL), and remembers what it was asked."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.clock)
        self.clock = scene.clock
        self.known: dict[str, Any] = {}
        self.asked: list[str] = []

    async def ask(self, source: SourceSettings, question: Question, rules: ReconcileSettings) -> Exchange:
        """What is `known` there, else 404."""
        where = question.url or question.path or ""
        self.asked.append(where)
        found = self.known.get(where)
        status = 200 if found is not None else 404
        reply: Reply | Unanswered = reply_of(found if found is not None else {}, status, self.clock.now())
        return Exchange(f"GET {where}", 1, reply)


@dataclass
class Play:
    """The scene with its door open and its sweep at hand."""

    scene: Scene
    provider: Answers
    sweep: Sweep
    address: str
    client: httpx.AsyncClient
    told: list[tuple[str, str, Any]] = field(default_factory=list)

    async def post(self, source: str, body: bytes | dict[str, Any], headers: Any = None) -> int:
        """A webhook arrives at the door and, if it was taken, is read."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        token = f"/{TOKEN}" if source == "insights" else ""
        answer = await self.client.post(f"{self.address}/in/{source}{token}", content=raw, headers=headers)
        await self.scene.read()
        return answer.status_code

    async def asks(self, source: str, later_s: float = 0.0) -> None:
        """A pass of the sweep, so much later."""
        self.scene.clock.advance(later_s)
        await self.sweep.pass_once(source)

    async def messages(self, source: str) -> list[tuple[str | None, str, str | None]]:
        """(job id, state or event type, reason) of everything staged for the application, in order."""
        rows, _ = await self.scene.store.read(lambda view: view.messages(source=source, limit=500))
        told = [row["payload"]["data"] | {"type": row["type"]} for row in reversed(rows)]
        return [(each.get("job_id"), each.get("state") or each["type"], each.get("reason")) for each in told]

    async def verdicts(self, source: str) -> list[str]:
        """What became of the deliveries, in order of arrival."""
        rows, _ = await self.scene.store.read(lambda view: view.deliveries(source=source, limit=500))
        return [row["verdict"] for row in reversed(rows)]


@pytest.fixture
async def play(tmp_path: Path) -> AsyncIterator[Play]:
    """`insights` (Omnia), `lending` (OmniAI), `news` (Omnist, its secret in a file) and `other` (standard)."""
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    extra = {
        "insights": {"provider": "omnia", "api_key": KEY, "path_token": TOKEN},
        "lending": {"provider": "omniai", "api_key": KEY, "secret": SECRET, "secret_header": "x-webhook-secret"},
        "news": {"provider": "omnist", "api_key": KEY, "secret": f"file:{tmp_path / 'secret'}"},
        "other": STANDARD,
    }
    scene = Scene(tmp_path / "record.db", extra)
    provider = Answers(scene)
    settings = scene.settings
    sweep = Sweep(
        scene.store, settings.sources, settings.reconcile, scene.ledger,
        outbound=provider, clock=scene.clock, chance=Random(7),
    )  # fmt: skip
    intake = Intake(settings.intake, settings.sources, scene.store, scene.clock)
    server = HttpServer(Door(intake), open_listener("127.0.0.1:0"), public_limits(settings.intake))
    await server.start()
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as client:
            yield Play(scene, provider, sweep, server.listener.address, client)
    finally:
        await server.stop(1.0)
        intake.close()
        provider.close()
        scene.store.close()


def insight(generation: str, at: str = "2026-04-13T14:30:00.000Z", **data: Any) -> dict[str, Any]:
    """Omnia's documented webhook."""
    told = {"generationId": generation, "status": "completed", **data}
    return {"event": "insight_generated", "data": told, "webhookId": "wh_1", "timestamp": at}


def omnist(body: bytes, secret: str = SECRET, event_id: str = "evt_1") -> list[tuple[str, str]]:
    """Omnist's headers."""
    digest = hmac.new(secret.encode(), f"{int(START)}.".encode() + body, hashlib.sha256).hexdigest()
    return [("x-omnist-signature", f"t={int(START)},v1={digest}"), ("x-omnist-event-id", event_id)]


def standard(body: bytes) -> list[tuple[str, str]]:
    """The headers of a `standard` source with `verify = "hmac"`."""
    return [("x-signature", "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest())]


def omniai(body: bytes) -> list[tuple[str, str]]:
    """The header that OmniAI was configured to send."""
    return [("x-webhook-secret", SECRET)]


# -- Omnia: one task, two ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("webhook_first", [True, False])
async def test_both_ids_of_a_task_are_one_job_in_either_order(play: Play, webhook_first: bool) -> None:
    """The webhook names the link's id, the registration the other; retries with the same and with a fresh timestamp
    follow; the provider is asked for the result, and one outcome is told."""
    play.provider.known[LINK] = {
        "data": {"id": "task_1", "status": "completed", "results": [1]},
        "links": {"self": LINK},
    }

    async def registered() -> None:
        await play.scene.register("task_1", "insights", modality="insight", poll_url=LINK)

    async def announced() -> None:
        assert await play.post("insights", insight("generation_1")) == 200

    steps: list[Callable[[], Awaitable[None]]] = [announced, registered] if webhook_first else [registered, announced]
    for step in steps:
        await step()
    await play.scene.read()
    await play.asks("insights")
    await announced()
    assert await play.post("insights", insight("generation_1", "2026-04-13T14:31:00.000Z")) == 200
    await play.asks("insights", 120.0)

    assert await play.messages("insights") == [("task_1", "completed", None)]
    job = await play.scene.job("generation_1", "insights")
    assert (job["job_id"], job["alias"], job["result"]) == ("task_1", "generation_1", [1])
    assert set(play.provider.asked) == {LINK}


async def test_two_tasks_in_one_millisecond_are_two(play: Play) -> None:
    """The same `webhookId` and `timestamp`: neither is taken for a repeat of the other."""
    for number in (1, 2):
        await play.scene.register(f"generation_{number}", "insights", modality="insight")
    for number in (1, 2, 1, 2):
        assert await play.post("insights", insight(f"generation_{number}", results=[number])) == 200

    assert await play.messages("insights") == [("generation_1", "completed", None), ("generation_2", "completed", None)]
    assert await play.verdicts("insights") == ["accepted", "accepted", "duplicate", "duplicate"]


async def test_a_poll_url_on_another_host_is_never_called(play: Play) -> None:
    """However it got there: the job is not asked about, ends at its deadline and says why."""
    foreign = "https://app.useomnia.com.evil.example/api/v1/x"
    await play.scene.register("task_1", "insights", modality="insight", refs={"links_self": foreign})
    await play.scene.register("task_2", "insights", modality="insight", poll_url=foreign)
    for later_s in (0.0, 61.0, 900.0):
        await play.asks("insights", later_s)

    assert play.provider.asked == []
    for job_id in ("task_1", "task_2"):
        job = await play.scene.job(job_id, "insights")
        assert (job["state"], job["reason"], job["decided_by"]) == ("failed", "stale", "deadline")
        assert "does not lie on the configured origin" in str([entry["note"] for entry in job["history"]])


# -- OmniAI: what hangs on a lead -----------------------------------------------------------------------------------


async def test_a_lead_that_vanished_takes_its_jobs_with_it(play: Play) -> None:
    """404 for a whole lead is believed after three answers over five minutes; another lead's job is not touched."""
    await play.scene.register("doc-1", "lending", modality="document", refs={"lead_id": "gone"})
    await play.scene.register("doc-2", "lending", modality="document", refs={"lead_id": "here"})
    row = {"id": "doc-2", "metadata": {"extractionStatus": "processing"}}
    play.provider.known["/api/v1/leads/here/documents"] = [row]
    for later_s in (0.0, 121.0, 160.0, 160.0, 60.0):
        await play.asks("lending", later_s)

    assert await play.messages("lending") == [("doc-1", "failed", "not_found")]
    assert (await play.scene.job("doc-2", "lending"))["state"] == "pending"


# -- at the door ----------------------------------------------------------------------------------------------------

SIGNED: dict[str, tuple[Callable[[bytes], list[tuple[str, str]]], dict[str, Any]]] = {
    "news": (omnist, {"type": "monitor.run.completed", "data": {"run_id": "j-1", "status": "done"}}),
    "other": (standard, {"event": "render", "id": "j-1", "status": "done"}),
    "lending": (omniai, {"event": "document.extracted", "documentId": "j-1", "leadId": "l", "status": "completed"}),
}


@pytest.mark.parametrize("source", SIGNED)
async def test_doubled_and_missing_headers_are_refused(play: Play, source: str) -> None:
    """Twice where one is expected is no choice of ours, even when both are right; nothing of it is kept, and the real
    one is told."""
    sign, document = SIGNED[source]
    body = json.dumps(document).encode()
    headers = sign(body)

    assert await play.post(source, body, headers + headers[:1]) == 401
    assert await play.post(source, body, headers[1:]) == 401
    assert await play.verdicts(source) == []
    assert await play.post(source, body, headers) == 200
    assert await play.messages(source) == [("j-1", "completed", None)]


@pytest.mark.parametrize("source", ["news", "other"])
async def test_a_signature_over_other_bytes_is_refused(play: Play, source: str) -> None:
    """One byte more, less, other, or only written otherwise: the raw bytes count."""
    sign, document = SIGNED[source]
    body = json.dumps(document).encode()
    for altered in (body + b"\n", body[:-1], body.replace(b"j-1", b"j-2"), json.dumps(document, indent=1).encode()):
        assert await play.post(source, altered, sign(body)) == 401

    assert await play.messages(source) == []
    assert await play.verdicts(source) == []


async def test_a_retry_during_a_rotation_is_a_repeat(play: Play, tmp_path: Path) -> None:
    """The first sending was signed with the old secret, the second with the new one, a late third with the old again:
    one event, told once, none refused."""
    body = json.dumps(SIGNED["news"][1]).encode()
    assert await play.post("news", body, omnist(body)) == 200
    (tmp_path / "secret").write_text(f"whsec_new\n{SECRET}\n")
    assert await play.post("news", body, omnist(body, "whsec_new")) == 200
    assert await play.post("news", body, omnist(body)) == 200

    assert await play.verdicts("news") == ["accepted", "duplicate", "duplicate"]
    assert await play.messages("news") == [("j-1", "completed", None)]


@pytest.mark.parametrize("source", SIGNED)
async def test_five_megabytes_are_taken_and_told_whole(play: Play, source: str) -> None:
    """A body may be large; it is one outcome like any other, and a repeat of it is one too."""
    sign, document = SIGNED[source]
    body = json.dumps(document | {"blob": "x" * (5 * 1024 * 1024 - 400)}).encode()

    assert await play.post(source, body, sign(body)) == 200
    assert await play.post(source, body, sign(body)) == 200

    assert await play.messages(source) == [("j-1", "completed", None)]
    assert await play.verdicts(source) == ["accepted", "duplicate"]


@pytest.mark.parametrize("source", SIGNED)
async def test_a_body_over_the_cap_is_413(play: Play, source: str) -> None:
    """And not kept."""
    sign, document = SIGNED[source]
    body = json.dumps(document | {"blob": "x" * play.scene.settings.intake.max_body_bytes}).encode()

    assert await play.post(source, body, sign(body)) == 413
    assert await play.verdicts(source) == []


@pytest.mark.parametrize("source", SIGNED)
@pytest.mark.parametrize("written", ['"a\\u0000b"', '"\\u0000"', '"../../x"', '"j 1 \\u202e"', "17.50"])
async def test_odd_ids_are_ids_as_they_are_written(play: Play, source: str, written: str) -> None:
    """NUL, blanks, dots and numbers: told under that very id, once, and found on record by it."""
    sign, document = SIGNED[source]
    body = json.dumps(document).replace('"j-1"', written).encode()
    job_id = written if written[0] != '"' else json.loads(written)

    assert await play.post(source, body, sign(body)) == 200
    assert await play.post(source, body, sign(body)) == 200

    assert await play.messages(source) == [(job_id, "completed", None)]
    assert (await play.scene.job(job_id, source))["job_id"] == job_id


@pytest.mark.parametrize("source", SIGNED)
@pytest.mark.parametrize("written", ['"\\ud800"', '"a\\udc00b"', '""', "null", "true", "[]", '{"id": "j-1"}'])
async def test_what_cannot_be_an_id_ends_no_job(play: Play, source: str, written: str) -> None:
    """A lone surrogate cannot be stored as text: answered 200, kept byte for byte, no job ended by it."""
    sign, document = SIGNED[source]
    body = json.dumps(document).replace('"j-1"', written).encode()

    assert await play.post(source, body, sign(body)) == 200

    assert [state for _, state, _ in await play.messages(source) if state in ("completed", "failed")] == []
    rows, _ = await play.scene.store.read(lambda view: view.deliveries(source=source))
    kept = await play.scene.store.read(lambda view: view.delivery(int(rows[0]["id"])))  # type: ignore[arg-type]  # an id
    assert kept is not None
    assert kept["body"] == body
    assert kept["verdict"] in ("accepted", "quarantined")
