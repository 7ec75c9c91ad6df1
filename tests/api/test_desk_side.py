"""The operator's side: sources, statistics, metrics, health, the page."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from receiver.clock import text
from receiver.counters import IntakeCounters
from receiver.errors import StoreUnavailable
from receiver.records import Poll
from tests.api.conftest import Open
from tests.api.office import Office
from tests.support import START, aeventually

NAMES = """
build_info deliveries_total refused_total ack_seconds spill_bytes spill_records jobs oldest_pending_job_seconds
overdue_jobs polls_total poll_budget_remaining circuit_open settled_total held_deliveries outbox_messages
oldest_message_seconds pushes_total unread_deliveries store_bytes wal_bytes
"""
"""CONTRACT 10, each behind `holdfast_`."""


async def samples(client: httpx.AsyncClient) -> dict[str, float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def written_down(office: Office, counters: IntakeCounters) -> None:
    """The door writes its counts into the record."""
    refusals, acks = counters.take_refusals(), counters.take_acks()
    await office.store.write(lambda tx: tx.sources.count_refusals(refusals))
    await office.store.write(lambda tx: tx.sources.count_acks(acks))


async def busy(office: Office) -> None:
    """Something of everything."""
    await office.told("a", "b")
    await office.register("open")
    await office.deliver({"job_id": "unknown", "status": "completed"})
    await office.interpret()
    await office.deliver({"job_id": "unread"})
    poll = Poll("moderation", "open", office.clock.now(), "GET /api/v1/job/open", 200, "answered", 12)
    await office.store.write(lambda tx: tx.jobs.add_poll(poll))


async def test_metrics_have_every_name_of_the_contract(open_office: Open) -> None:
    """All names, with the labels of the configuration, and the values of the record."""
    counters = IntakeCounters()
    counters.refuse("moderation", "path_token", START)
    counters.refuse("", "unknown_source", START)
    counters.acknowledge("moderation", 0.02, START)
    counters.acknowledge("moderation", 30.0, START)
    office = open_office(counters=counters)
    await busy(office)
    office.clock.advance(10)
    async with office.client() as client:
        found = await samples(client)

    names = {re.sub(r"_(bucket|count|sum)$", "", name.partition("{")[0]) for name in found}
    assert {f"holdfast_{name}" for name in NAMES.split()} <= names
    assert found['holdfast_deliveries_total{source="moderation",verdict="held"}'] == 1
    assert found['holdfast_refused_total{reason="path_token",source="moderation"}'] == 1
    assert found['holdfast_refused_total{reason="unknown_source",source=""}'] == 1
    assert found['holdfast_ack_seconds_bucket{le="0.01",source="moderation"}'] == 0
    assert found['holdfast_ack_seconds_bucket{le="0.025",source="moderation"}'] == 1
    assert found['holdfast_ack_seconds_bucket{le="10",source="moderation"}'] == 1
    assert found['holdfast_ack_seconds_bucket{le="+Inf",source="moderation"}'] == 2
    assert found['holdfast_ack_seconds_sum{source="moderation"}'] == pytest.approx(30.02)
    assert found['holdfast_jobs{source="moderation",state="pending"}'] == 1
    assert found['holdfast_jobs{source="documents",state="failed"}'] == 0
    assert found['holdfast_oldest_pending_job_seconds{source="moderation"}'] == pytest.approx(10)
    assert found['holdfast_settled_total{by="poll",source="moderation"}'] == 2
    assert found['holdfast_settled_total{by="webhook",source="moderation"}'] == 0
    assert found['holdfast_polls_total{outcome="answered",source="moderation"}'] == 1
    assert found['holdfast_poll_budget_remaining{source="moderation"}'] == 10
    assert found['holdfast_circuit_open{source="moderation"}'] == 0
    assert found['holdfast_held_deliveries{source="moderation"}'] == 1
    assert found['holdfast_outbox_messages{state="pending"}'] == 2
    assert found["holdfast_oldest_message_seconds"] == pytest.approx(10)
    assert found['holdfast_pushes_total{outcome="delivered"}'] == 3
    assert found["holdfast_unread_deliveries"] == 1
    assert found["holdfast_store_bytes"] > 0


async def test_the_oldest_message_is_the_one_that_waits_longest(office: Office, client: httpx.AsyncClient) -> None:
    """A message that is tried again seldom, while fresh ones come, is not hidden behind them."""
    await office.told("first")
    pending = await office.store.write(lambda tx: tx.outbox.claim(START, START + 60, 10, pull=True))
    later = START + 40_000
    await office.store.write(lambda tx: tx.outbox.retry(pending[0].id, START, later, "no answer"))
    office.clock.advance(3600)
    await office.told("second")

    found = await samples(client)

    assert found["holdfast_oldest_message_seconds"] == pytest.approx(3600)


async def test_metrics_of_a_door_in_another_process(office: Office, client: httpx.AsyncClient) -> None:
    """Split in two, what the door wrote down is what is told."""
    counters = IntakeCounters()
    counters.refuse("moderation", "signature", START)
    counters.acknowledge("moderation", 0.02, START)
    counters.acknowledge("moderation", 0.2, START + 60)
    await written_down(office, counters)

    found = await samples(client)

    assert found['holdfast_refused_total{reason="signature",source="moderation"}'] == 1
    assert found['holdfast_ack_seconds_bucket{le="0.1",source="moderation"}'] == 1
    assert found['holdfast_ack_seconds_count{source="moderation"}'] == 2
    assert found['holdfast_ack_seconds_sum{source="moderation"}'] == pytest.approx(0.22)


async def test_labels_come_from_the_configuration_alone(office: Office, client: httpx.AsyncClient) -> None:
    """A source that is on record but no longer configured, and ids, make no series."""
    await busy(office)
    await office.store.write(lambda tx: tx.jobs._c.execute("UPDATE jobs SET source = 'gone' WHERE job_id = 'a'"))  # type: ignore[attr-defined]  # as after a change of the configuration

    answer = await client.get("/metrics")

    assert "gone" not in answer.text
    assert "unknown" not in answer.text


async def test_sources_tell_how_each_does(office: Office, client: httpx.AsyncClient) -> None:
    """Every configured source with its counts, its circuit and its budget; no secret among them."""
    await busy(office)
    await office.store.write(lambda tx: tx.sources.take_tokens("moderation", office.clock.now(), 12, 4))

    answer = await client.get("/v1/sources")

    sources = {source["name"]: source for source in answer.json()["sources"]}
    assert set(sources) == {"moderation", "documents", "keyless"}
    one = sources["moderation"]
    assert one["jobs"] == {"pending": 1, "completed": 2, "failed": 0}
    assert one["settled"] == {"webhook": 0, "poll": 2, "deadline": 0}
    assert (one["held"], one["overdue"], one["paused"], one["circuit_open"]) == (1, 0, False, False)
    assert (one["provider"], one["trust"], one["oldest_pending_at"]) == ("omnifence", "known", text(START))
    assert one["budget_left"] == 6
    assert "provider-key" not in answer.text


@pytest.mark.parametrize(
    ("action", "status", "paused"), [("pause", 200, True), ("resume", 200, False), ("reconcile", 202, False)]
)
async def test_levers_are_recorded_with_who_and_when(
    office: Office, client: httpx.AsyncClient, action: str, status: int, paused: bool
) -> None:
    """Pause, resume and reconcile are kept, with who and when, across a restart."""
    answer = await client.post(f"/v1/sources/moderation/{action}")
    office.restart()
    state = await office.store.write(lambda tx: tx.sources.get("moderation"))

    assert (answer.status_code, answer.json()["paused"]) == (status, paused)
    assert answer.json()["actions"] == [{"at": text(START), "who": "local", "action": action}]
    assert state.paused is paused
    assert state.sweep_wanted_at == (START if action == "reconcile" else None)
    assert office.poked == ([] if action == "pause" else ["moderation"])


async def test_levers_of_an_unknown_source_are_404(client: httpx.AsyncClient) -> None:
    """So is a lever that does not exist."""
    assert (await client.post("/v1/sources/nobody/pause")).status_code == 404
    assert (await client.post("/v1/sources/moderation/explode")).status_code == 404
    assert (await client.get("/v1/sources/moderation/pause")).status_code == 405


async def test_stats_count_by_bucket_source_and_verdict(office: Office, client: httpx.AsyncClient) -> None:
    """Counts per bucket and verdict with refusals among them, and latency beside them."""
    counters = IntakeCounters()
    counters.refuse("moderation", "path_token", START)
    counters.refuse("moderation", "signature", START)
    counters.acknowledge("moderation", 0.02, START)
    await written_down(office, counters)
    await office.deliver({"job_id": "a", "status": "completed"})
    await office.interpret()
    office.clock.advance(3600)
    await office.deliver({"job_id": "b", "status": "completed"})

    hours = (await client.get("/v1/stats", params={"start": text(START - 3600)})).json()
    day = (await client.get("/v1/stats", params={"bucket_minutes": 1440, "source": "documents"})).json()

    assert hours["bucket_minutes"] == 60
    assert hours["stats"] == [
        {"bucket_start": "2026-04-13T14:00:00.000Z", "source": "moderation", "verdict": "held", "count": 1},
        {"bucket_start": "2026-04-13T14:00:00.000Z", "source": "moderation", "verdict": "refused", "count": 2},
        {"bucket_start": "2026-04-13T15:00:00.000Z", "source": "moderation", "verdict": "new", "count": 1},
    ]
    latency = hours["ack_latency"][0]
    assert (latency["source"], latency["count"], latency["mean_ms"], latency["p99_ms"]) == ("moderation", 1, 20.0, 25.0)
    assert day["stats"] == []


@pytest.mark.parametrize(
    "query",
    [
        "bucket_minutes=0",
        "bucket_minutes=1.5",
        "bucket_minutes=99999999",
        "start=2026-04-14&end=2026-04-13",
        "bucket_minutes=1&start=2000-01-01&end=2199-01-01",
        "start=x",
        "bucket=5",
    ],
)
async def test_bad_windows_are_refused(client: httpx.AsyncClient, query: str) -> None:
    """A window that makes no sense, or too many buckets, is 400."""
    assert (await client.get(f"/v1/stats?{query}")).status_code == 400


@pytest.mark.parametrize(
    "query", ["start=0001-01-01&end=0001-01-02", "start=9999-01-01&end=9999-12-31", "end=1969-01-01"]
)
async def test_windows_at_the_ends_of_time_are_empty(client: httpx.AsyncClient, query: str) -> None:
    """The years 1 and 9999 are years like any other."""
    answer = await client.get(f"/v1/stats?{query}")

    assert (answer.status_code, answer.json()["stats"]) == (200, [])


async def test_health_and_readiness(open_office: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """healthz: the process lives. readyz: the store takes writes, else 503 with why; missing rows keep it 200."""
    office = open_office()
    async with office.client() as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"], ready.json()["missing"]) == (200, "ready", 0)

        office.trouble.append("the scheduler has not ticked for 99 s")
        troubled = await client.get("/readyz")
        assert (troubled.status_code, "retry-after" in troubled.headers) == (503, True)
        assert "99 s" in troubled.json()["detail"]
        office.trouble.clear()

        monkeypatch.setattr(office.store, "_missing", 3)
        missing = await client.get("/readyz")
        assert (missing.status_code, missing.json()["missing"]) == (200, 3)
        assert "missing" in missing.json()["warning"]

        async def refuse(work: object) -> None:
            raise StoreUnavailable("the disk is full")

        monkeypatch.setattr(office.store, "write", refuse)
        full = await client.get("/readyz")
        assert (full.status_code, full.headers["content-type"]) == (503, "application/problem+json")
        assert "the disk is full" in full.json()["detail"]
        put = await client.put("/v1/jobs/moderation/j1", json={})
        assert (put.status_code, "retry-after" in put.headers) == (503, True)


async def test_a_store_that_somebody_holds_is_not_ready(office: Office, client: httpx.AsyncClient) -> None:
    """A database that another process has locked takes no writes, and readyz says so in seconds, without hanging."""
    from receiver.store.sqlite.driver import sqlite3

    holder = sqlite3.connect(office.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        held = await client.get("/readyz")
        reads = await client.get("/v1/jobs")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    await aeventually(lambda: office.store.health().takes_writes)
    assert (await client.get("/readyz")).status_code == 200

    assert (held.status_code, reads.status_code) == (503, 200)
    assert "lock" in held.json()["detail"]


class Outline(HTMLParser):
    """What a browser would make of a page, roughly."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data + "\n"


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}"


async def test_the_page_shows_everything_and_runs_nothing(office: Office, client: httpx.AsyncClient) -> None:
    """Whatever stands in ids and errors is text; all tables are there; nothing comes from outside."""
    await busy(office)
    await office.register(EVIL)
    await office.deliver({"job_id": EVIL + "2", "status": "completed"})
    await office.deliver({"status": "completed", "nothing": EVIL})
    await office.interpret()
    messages, _ = await office.store.read(lambda view: view.messages())
    await office.store.write(lambda tx: tx.outbox.bury(messages[0]["id"], office.clock.now(), EVIL))
    poll = Poll("moderation", EVIL, office.clock.now(), f"GET /{EVIL}", None, "unavailable", None, EVIL)
    await office.store.write(lambda tx: tx.jobs.add_poll(poll))
    office.clock.advance(3600)

    answer = await client.get("/")
    page = Outline()
    page.feed(answer.text)

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert [script.get("src") for script in scripts] == ["/page/page.js"]
    assert "img" not in [tag for tag, _ in page.tags]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    links = [attributes.get("href") or attributes.get("src") for tag, attributes in page.tags]
    assert not [link for link in links if link and not link.startswith("/")]
    assert page.words.count(EVIL) >= 4
    for title in ("Sources", "Outbox", "Overdue jobs", "Dead messages", "Held", "Quarantined", "Recent polls"):
        assert title in page.words


async def test_the_page_of_an_empty_record(open_office: Open) -> None:
    """Before anything has happened the page is whole, and warns of what is wrong."""
    office = open_office(trouble=["the loop dispatch has ended"])
    async with office.client() as client:
        answer = await client.get("/")
        assert "the loop dispatch has ended" in answer.text
        assert answer.text.count('class="none"') == 5
        for path, kind in (("/page/page.css", "text/css"), ("/page/page.js", "text/javascript")):
            asset = await client.get(path)
            assert (asset.status_code, asset.headers["content-type"].partition(";")[0]) == (200, kind)
            assert "http" not in asset.text
