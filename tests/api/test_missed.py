"""What a provider's own log says we missed, as an operator sees it."""

from receiver.records import DeliveryRecord
from reconciler.gaps import WANTED
from tests.api.conftest import Open
from tests.api.office import BASE_URL

NEWS = {"news": {"provider": "omnist", "base_url": BASE_URL, "api_key": "k"}}
LOST = [
    DeliveryRecord(f"delivery_{number}", f"event_{number}", "monitor.example", "failed", 5, 503) for number in (1, 2)
]


async def test_missed_deliveries_are_shown_until_they_arrive(open_office: Open) -> None:
    """In the list of sources and in the metrics; what arrives late is missed no more."""
    office = open_office(sources=NEWS)
    now = office.clock.now()
    async with office.client() as client:
        assert await office.store.write(lambda tx: tx.sources.add_gaps("news", LOST, now)) == 2
        assert await office.store.write(lambda tx: tx.sources.add_gaps("news", LOST, now)) == 0
        rows = {row["name"]: row["missed"] for row in (await client.get("/v1/sources")).json()["sources"]}
        assert (rows["news"], rows["moderation"]) == (2, 0)
        assert 'holdfast_missed_deliveries{source="news"} 2.0' in (await client.get("/metrics")).text

        assert await office.store.write(lambda tx: tx.sources.close_gaps("news", LOST[:1], now)) == 1
        assert 'holdfast_missed_deliveries{source="news"} 1.0' in (await client.get("/metrics")).text


async def test_reconcile_also_has_the_log_read(open_office: Open) -> None:
    """Where the provider keeps one; elsewhere nothing is left behind."""
    office = open_office(sources=NEWS)
    async with office.client() as client:
        for name in ("news", "moderation"):
            assert (await client.post(f"/v1/sources/{name}/reconcile")).status_code == 202
    states = await office.store.write(lambda tx: [tx.sources.get(name) for name in ("news", "moderation")])

    assert [WANTED in state.extra for state in states] == [True, False]
    assert all(state.sweep_wanted_at is not None and state.extra["actions"] for state in states)
