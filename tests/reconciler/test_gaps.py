"""What Omnist says it delivered is compared with what arrived: over a real socket, from its log to the status."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.status import gather
from receiver.records import Registration
from receiver.registrar import register
from reconciler import overview, service
from reconciler.gaps import Timing, want_scan
from tests.reconciler.news import News, opened
from tests.support import aeventually

MINUTE_S, SCAN_S = 61.0, 901.0


async def watched(news: News) -> None:
    """The first look only puts down since when we watch."""
    assert await news.look() == 0
    assert await news.questions() == []
    news.clock.advance(1.0)


async def test_what_never_arrived_is_found_shown_and_asked_about(tmp_path: Path) -> None:
    """Three webhooks got lost on the way and two arrived: three are missing, and the open jobs are due at once."""
    async with opened(tmp_path) as news:
        await watched(news)
        await news.sends(2)
        await news.sends(3, drop=1.0)

        assert await news.look(10.0) == 0, "a minute after the start at the earliest"
        assert await news.look(MINUTE_S) == 3

        now = news.clock.now()
        assert await news.questions() == ["/v1/webhooks/stats", "/v1/webhooks/events"]
        assert await news.missed() == 3
        state = await news.store.write(lambda tx: tx.sources.get("news"))
        assert state.sweep_wanted_at == pytest.approx(now, abs=0.01)
        [shown] = (await news.store.read(lambda view: gather(view, news.settings, now)))["sources"]
        assert shown["missed"] == 3
        seen = await news.store.read(lambda view: overview.look(view, now))
        [row] = overview.source_rows(news.settings, seen, now)
        assert row["missed"] == 3
        assert row["gap_scan"]["records"] == 5
        assert await news.look(SCAN_S) == 0, "what is known to be missing is no news"


async def test_a_gap_is_closed_when_its_delivery_arrives_after_all(tmp_path: Path) -> None:
    """By the next look, without waiting for the next scan; also when it is parked and never read."""
    async with opened(tmp_path) as news:
        await watched(news)
        await news.sends(2, drop=1.0)
        assert await news.look(MINUTE_S) == 2
        lost = news.simulator.sender.log
        asked = await news.questions()

        await news.simulator.sender.send_once(lost[0], str(news.simulator.webhook_url), news.simulator)
        assert await news.look(1.0) == 0
        assert await news.missed() == 1
        stale = news.clock.now() - 4000
        raw = news.simulator.encode(lost[1], lost[1].body, 1)
        client = news.simulator.sender._opened()
        answer = await client.post(
            str(news.simulator.webhook_url), content=raw, headers=news.simulator.headers(lost[1], raw, stale)
        )
        assert answer.status_code == 200
        await news.look(1.0)

        assert await news.missed() == 0
        assert await news.questions() == asked, "closing asks nobody"


async def test_a_parked_delivery_has_arrived(tmp_path: Path) -> None:
    """A stale signature is kept and not read; its headers tell which event it was."""
    async with opened(tmp_path) as news:
        await watched(news)
        await news.sends(2, stale=1.0)

        assert await news.look(MINUTE_S) == 0
        assert await news.missed() == 0


async def test_a_count_of_nothing_hides_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's counts may leave out the present hour: its log is read all the same."""
    async with opened(tmp_path) as news:
        monkeypatch.setattr("holdfast.simulator._omnist_webhooks.stats", lambda rows, bucket_minutes: [])
        await watched(news)
        await news.sends(1, drop=1.0)

        assert await news.look(MINUTE_S) == 1


async def test_what_was_sent_before_we_watched_is_not_missed(tmp_path: Path) -> None:
    """An application of the past had those webhooks, not we."""
    async with opened(tmp_path) as news:
        await news.sends(2, drop=1.0)
        news.clock.advance(5.0)
        await watched(news)

        assert await news.look(MINUTE_S) == 0
        assert await news.missed() == 0


async def test_nobody_is_asked_while_the_source_is_paused(tmp_path: Path) -> None:
    """And as soon as it goes on, the whole time is made up for."""
    async with opened(tmp_path) as news:
        await watched(news)
        await news.store.write(lambda tx: tx.sources.put(replace(tx.sources.get("news"), paused=True)))
        await news.sends(1, drop=1.0)
        assert await news.look(MINUTE_S) == 0
        assert await news.questions() == []
        await news.store.write(lambda tx: tx.sources.put(replace(tx.sources.get("news"), paused=False)))

        assert await news.look(MINUTE_S) == 1


async def test_a_log_we_may_not_read_says_nothing_of_the_jobs(tmp_path: Path) -> None:
    """A key without the right to the log opens no circuit; it is tried again later."""
    async with opened(tmp_path) as news:
        await watched(news)
        await news.sends(1, drop=1.0)
        news.simulator.order({"api_forbidden": 1.0})

        assert await news.look(MINUTE_S) == 0
        state = await news.store.write(lambda tx: tx.sources.get("news"))
        assert (state.open_until, state.fail_streak, state.last_outcome) == (None, 0, None)
        news.simulator.order({"api_forbidden": 0.0})
        assert await news.look(1.0) == 0, "not at once"
        assert await news.look(MINUTE_S) == 1


async def test_a_provider_in_trouble_is_left_alone(tmp_path: Path) -> None:
    """5xx counts towards the circuit as ever."""
    async with opened(tmp_path) as news:
        await watched(news)
        news.simulator.order({"api_error_5xx": 1.0})
        await news.look(MINUTE_S)

        assert (await news.store.write(lambda tx: tx.sources.get("news"))).fail_streak > 0


async def test_an_operator_need_not_wait(tmp_path: Path) -> None:
    """`POST /v1/sources/{name}/reconcile` also has the log read, once."""
    async with opened(tmp_path) as news:
        await watched(news)
        await news.sends(1, drop=1.0)
        news.clock.advance(11.0)
        await news.store.write(lambda tx: want_scan(tx, "news", news.clock.now()))

        assert await news.look() == 1
        asked = await news.questions()
        await news.look(1.0)
        assert await news.questions() == asked


async def test_many_pages_are_read_under_the_budget(tmp_path: Path) -> None:
    """A log of 120 deliveries is three pages; every page cost a token."""
    async with opened(tmp_path, Timing(every_s=100_000.0)) as news:
        await watched(news)
        await news.sends(120, drop=1.0)

        assert await news.look(MINUTE_S) == 120
        assert (await news.questions()).count("/v1/webhooks/events") == 3
        state = await news.store.write(lambda tx: tx.sources.get("news"))
        assert state.budget is not None
        assert state.budget < 10.0


async def test_the_reconciler_watches_and_asks_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it runs in the sidecar: a run whose webhook got lost is settled by asking long before it would be due."""
    monkeypatch.setattr(service, "GAP_LOOK_S", 0.05)
    async with opened(tmp_path) as news:
        reconciler = service.Reconciler(news.settings, news.store, news.clock)
        reconciler.start()
        try:
            await aeventually(lambda: seen_since(news))
            news.clock.advance(1.0)
            await news.sends(1, drop=1.0)
            [job] = news.simulator.jobs.values()
            told = Registration("news", job.job_id, "run", refs=dict(job.refs))
            source = news.settings.sources["news"]
            await news.store.write(lambda tx: register(tx, told, news.clock.now(), source))
            news.clock.advance(MINUTE_S)
            row = await aeventually(lambda: settled(news, job.job_id))
        finally:
            await reconciler.stop(2.0)

        assert (row["state"], row["decided_by"]) == ("completed", "poll")
        assert await news.missed() == 1


async def seen_since(news: News) -> bool:
    """Whether the watch has begun."""
    return "gap_scan" in (await news.store.write(lambda tx: tx.sources.get("news"))).extra


async def settled(news: News, job_id: str) -> dict[str, Any] | None:
    """The job once it has ended."""
    row = await news.store.read(lambda view: view.job("news", job_id))
    return row if row is not None and row["state"] != "pending" else None


async def test_no_source_is_watched_without_a_key(tmp_path: Path) -> None:
    """Nobody could be asked."""
    async with opened(tmp_path, api_key=None) as news:
        assert news.watch.sources == []
