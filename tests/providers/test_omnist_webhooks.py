"""Omnist's webhooks managed, and its delivery log compared with what arrived: pure conversations, no network."""

from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.providers import managing
from receiver.providers.base import Question, Reply
from receiver.providers.managing import Change, DeliveryRecord, GapScan, NotDone, Rotated, SetUp, StatsBucket, TestSent
from receiver.providers.omnist import PROVIDER
from receiver.settings import SourceSettings
from tests.providers.talk import reply_of, source_of
from tests.support import START

T = TypeVar("T")
URL = "https://hooks.example.com/in/news/tok3n"
OTHER = "https://other.example/hook"


@pytest.fixture
def source() -> SourceSettings:
    """An Omnist source with a key."""
    return source_of("omnist")


def hold(
    talk: Generator[Question | Change, Reply | None, T] | Generator[Question, Reply | None, T],
    *replies: Reply,
    stop_at_change: bool = False,
) -> tuple[T | None, list[Question | Change]]:
    """Run a generator with these answers: its outcome, and what it wanted. A dry run stops at the first change."""
    wanted: list[Question | Change] = []
    left = iter(replies)
    reply: Reply | None = None
    while True:
        try:
            item = talk.send(reply)
        except StopIteration as ended:
            outcome: T = ended.value
            return outcome, wanted
        wanted.append(item)
        if stop_at_change and isinstance(item, Change):
            talk.close()
            return None, wanted
        reply = next(left)


def target(url: str | None, enabled: bool = True) -> Reply:
    """The workspace's webhook as the seed shows it."""
    held = {"configured": url is not None, "url": url, "enabled": enabled, "signing_secret": {"version": 2}}
    return reply_of({"webhook": held})


def test_omnist_offers_both(source: SourceSettings) -> None:
    """The commands look for these two interfaces."""
    assert isinstance(PROVIDER, managing.Manager)
    assert isinstance(PROVIDER, managing.Scanner)


# -- setup ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_reads_and_shows_what_it_would_replace(source: SourceSettings) -> None:
    """There is one target a workspace (OS-9): whoever has it now is shown, and nothing is sent."""
    outcome, wanted = hold(PROVIDER.manage_setup(source, URL), target(OTHER), stop_at_change=True)

    assert outcome is None
    change = wanted[-1]
    assert isinstance(change, Change)
    assert (change.before, change.after) == (OTHER, URL)
    assert any("gets nothing any more" in warning for warning in change.warnings)
    assert wanted[0] == Question(path="/v1/webhooks")


def test_setting_up_registers_the_url_and_hands_over_a_first_secret(source: SourceSettings) -> None:
    """`new_signing_secret` is told once, and never shown by accident."""
    answer = reply_of({"webhook": {"url": URL}, "new_signing_secret": "whsec_first"})

    outcome, wanted = hold(PROVIDER.manage_setup(source, URL), target(None), answer)

    assert isinstance(outcome, SetUp)
    assert (outcome.changed, outcome.previous_url, outcome.new_secret) == (True, None, "whsec_first")
    assert "whsec_first" not in repr(outcome)
    change = wanted[-1]
    assert isinstance(change, Change)
    assert (change.question.method, change.question.json) == ("PUT", {"url": URL, "enabled": True})
    assert change.warnings == ()


def test_nothing_is_sent_when_it_is_as_wanted(source: SourceSettings) -> None:
    """Running it twice changes nothing; a disabled target is enabled."""
    outcome, wanted = hold(PROVIDER.manage_setup(source, URL), target(URL))
    assert outcome == SetUp(changed=False, url=URL, previous_url=URL)
    assert len(wanted) == 1
    enabled, _ = hold(PROVIDER.manage_setup(source, URL), target(URL, enabled=False), target(URL))
    assert isinstance(enabled, SetUp)
    assert enabled.changed


def test_a_url_the_provider_will_not_take_is_warned_about(source: SourceSettings) -> None:
    """https only (4.9)."""
    _, wanted = hold(PROVIDER.manage_setup(source, "http://x/in/news"), target(None), stop_at_change=True)

    assert isinstance(wanted[-1], Change)
    assert any("https" in warning for warning in wanted[-1].warnings)


@pytest.mark.parametrize("answer", [reply_of({}, 500), reply_of(b"<html>"), reply_of([]), reply_of({}, 403)])
def test_what_cannot_be_read_is_not_overwritten(answer: Reply, source: SourceSettings) -> None:
    """Without knowing what is there nothing is changed."""
    outcome, wanted = hold(PROVIDER.manage_setup(source, URL), answer)

    assert isinstance(outcome, NotDone)
    assert len(wanted) == 1


def test_a_workspace_without_a_webhook_may_answer_404(source: SourceSettings) -> None:
    """Then there is nothing to replace."""
    outcome, _ = hold(PROVIDER.manage_setup(source, URL), reply_of({}, 404), reply_of({"webhook": {}}))

    assert isinstance(outcome, SetUp)


# -- rotate and test ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ({"new_signing_secret": "whsec_2"}, None),
        ({"new_signing_secret": {"secret": "whsec_2"}, "version": 3}, "3"),
        ({"webhook": {"new_signing_secret": "whsec_2", "signing_secret": {"version": 3}}}, "3"),
        ({"signing_secret": {"secret": "whsec_2", "version": 3}}, "3"),
        ({"secret": "whsec_2"}, None),
    ],
)
def test_a_rotation_hands_over_the_new_secret(answer: Any, version: str | None, source: SourceSettings) -> None:
    """Its field is not documented; the old secret stays good longer than the last retry (OS-5)."""
    outcome, wanted = hold(PROVIDER.manage_rotate(source), reply_of(answer))

    assert isinstance(outcome, Rotated)
    assert (outcome.new_secret, outcome.version) == ("whsec_2", version)
    assert outcome.old_accepted_s >= 28 * 3600
    assert "whsec_2" not in repr(outcome)
    assert isinstance(wanted[0], Change)
    assert wanted[0].question.path == "/v1/webhooks/rotate-signing-secret"


@pytest.mark.parametrize(
    "answer", [reply_of({}), reply_of({"new_signing_secret": ""}), reply_of({}, 500), reply_of(b"")]
)
def test_a_rotation_without_a_secret_is_not_called_done(answer: Reply, source: SourceSettings) -> None:
    """The operator must know that it has to be looked into."""
    outcome, _ = hold(PROVIDER.manage_rotate(source), answer)

    assert isinstance(outcome, NotDone)
    assert "rotating" in outcome.problem


def test_a_test_delivery_tells_what_to_watch_for(source: SourceSettings) -> None:
    """As the seed shows it."""
    sent = {
        "id": "delivery_1",
        "event_id": "event_1",
        "event_type": "webhook.test",
        "delivery_status": "succeeded",
        "attempt_count": 1,
        "last_http_status": 200,
    }
    outcome, _ = hold(PROVIDER.manage_test(source), reply_of({"delivery": sent}))

    assert outcome == TestSent("webhook.test", "event_1", "delivery_1", "succeeded", 1, 200)
    assert isinstance(hold(PROVIDER.manage_test(source), reply_of({"delivery": None}))[0], NotDone)


def test_a_hook_url_is_shown_without_its_token() -> None:
    """Dry runs are pasted into tickets."""
    assert managing.shown_url(URL) == "https://hooks.example.com/in/news/********"
    assert managing.shown_url("https://hooks.example.com/in/news") == "https://hooks.example.com/in/news"
    assert "s3cret" not in managing.shown_url(OTHER + "?token=s3cret")


# -- the delivery log -----------------------------------------------------------------------------------------------


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A record of the log as it is assumed to be."""
    return {
        "id": f"delivery_{number}",
        "event_id": f"event_{number}",
        "event_type": "monitor.run.completed",
        "delivery_status": "succeeded",
        "attempt_count": 1,
        "last_http_status": 200,
        **changes,
    }


def scanned(source: SourceSettings, *replies: Reply) -> tuple[GapScan, list[Question | Change]]:
    """A scan with these answers."""
    scan, wanted = hold(PROVIDER.gap_scan(source, START - 3600, START), *replies)
    assert scan is not None
    return scan, wanted


def test_the_log_is_read_page_by_page_until_one_is_not_full(source: SourceSettings) -> None:
    """Pages of 50 from 1 (4.4), for the window asked about."""
    first = reply_of({"events": [row(n) for n in range(50)]})
    second = reply_of({"events": [row(50)]})

    scan, wanted = scanned(source, first, second)

    assert (len(scan.records), scan.pages, scan.complete, scan.problem) == (51, 2, True, None)
    assert [question.query for question in wanted if isinstance(question, Question)] == [
        {"page": str(page), "start": "2026-04-13T13:30:00.000Z", "end": "2026-04-13T14:30:00.000Z"} for page in (1, 2)
    ]


def test_attempts_of_one_delivery_are_one_record(source: SourceSettings) -> None:
    """The latest one counts."""
    rows = [row(1, attempt_count=3, last_http_status=200), row(1, attempt_count=1, last_http_status=503), row(2)]

    scan, _ = scanned(source, reply_of(rows))

    assert [(record.delivery_id, record.attempts, record.http_status) for record in scan.records] == [
        ("delivery_1", 3, 200),
        ("delivery_2", 1, 200),
    ]


def test_what_never_arrived_is_a_gap_however_the_ids_are_spelled(source: SourceSettings) -> None:
    """Headers say `evt_` and `del_`, the API `event_` and `delivery_` (OS-2)."""
    rows = [row(1), row(2), row(3), row(4, attempt_count=0), row(5, delivery_status="failed", last_http_status=503)]
    scan, _ = scanned(source, reply_of({"data": [*rows, {"odd": True}]}))

    gaps = PROVIDER.gaps(scan, {"evt_1", "del_2", "something"})

    assert [record.event_id for record in gaps] == ["event_3", "event_5"]


@pytest.mark.parametrize(
    "replies",
    [
        [reply_of(b"<html>")],
        [reply_of({"error": "x"})],
        [reply_of({}, 404)],
        [reply_of({"events": [row(n) for n in range(50)]}), reply_of(b"")],
        [reply_of({"events": [row(n) for n in range(50)]})] * 2,
    ],
)
def test_a_log_not_read_to_its_end_says_so(replies: list[Reply], source: SourceSettings) -> None:
    """Unreadable, or the same page again and again."""
    scan, _ = scanned(source, *replies)

    assert not scan.complete
    assert scan.problem


def test_a_log_without_end_is_left(source: SourceSettings) -> None:
    """Ten thousand attempts in one window are enough."""
    pages = [reply_of({"events": [row(page * 50 + n) for n in range(50)]}) for page in range(200)]

    scan, wanted = scanned(source, *pages)

    assert (len(wanted), scan.complete) == (200, False)


cells: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just("9999-99-99")
)
log_rows = st.dictionaries(st.sampled_from([*row(1), "delivery_id", "status", "created_at"]), cells, max_size=8) | cells


@given(rows=st.lists(log_rows, max_size=6))
def test_any_record_is_read(rows: list[Any]) -> None:
    """The shape is not documented: nothing in it raises, and a record without ids is no gap."""
    scan, _ = scanned(source_of("omnist"), reply_of(rows))

    assert all(isinstance(record, DeliveryRecord) for record in scan.records)
    assert all(record.event_id or record.delivery_id for record in PROVIDER.gaps(scan, set()))


def test_the_providers_own_counts_are_read(source: SourceSettings) -> None:
    """Buckets as the seed shows them; what is not one is left out."""
    stats = [
        {"bucket_start": "2026-05-07T14:00:00Z", "delivery_status": "succeeded", "attempt_count": 12},
        {"bucket_start": "soon", "delivery_status": "failed", "attempt_count": 1},
        {"bucket_start": None, "delivery_status": None, "attempt_count": 1},
        {"delivery_status": "failed", "attempt_count": True},
        7,
    ]
    counted, _ = hold(PROVIDER.delivery_stats(source, START - 60, START), reply_of({"stats": stats}))

    assert counted == (StatsBucket(1778162400.0, "succeeded", 12), StatsBucket(None, "failed", 1))
    assert hold(PROVIDER.delivery_stats(source, START - 60, START), reply_of({"x": 1}))[0] is None
