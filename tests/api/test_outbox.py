"""Claiming, acknowledging, looking at messages, and handing one over again."""

import random
from typing import Any

import anyio
import httpx
import pytest

from tests.api.office import Office


async def claim(client: httpx.AsyncClient, **body: Any) -> list[str]:
    answer = await client.post("/v1/outbox/claim", json=body)
    assert answer.status_code == 200, answer.text
    return [message["data"]["job_id"] for message in answer.json()["messages"]]


async def test_a_claim_hands_out_payloads_and_an_ack_ends_them(office: Office, client: httpx.AsyncClient) -> None:
    """Claim answers the payloads as they are pushed, oldest first; ack counts what it ended."""
    await office.told("a", "b")

    answer = await client.post("/v1/outbox/claim", json={"limit": 10, "lease_s": 30})
    messages = answer.json()["messages"]
    ids = [message["id"] for message in messages]
    acked = await client.post("/v1/outbox/ack", json={"ids": [*ids, "msg_unknown", "\x00", "é", ids[0]]})
    again = await client.post("/v1/outbox/ack", json={"ids": ids})

    assert [message["type"] for message in messages] == ["job.completed", "job.completed"]
    assert messages[0]["data"]["result"] == {"of": "a"}
    kept = await office.store.read(lambda view: view.message(ids[0]))
    assert kept is not None
    assert kept["payload"] == messages[0]
    assert (acked.json(), again.json()) == ({"acked": 2}, {"acked": 0})
    assert await claim(client) == []


async def test_a_lease_keeps_others_away_until_it_runs_out(office: Office, client: httpx.AsyncClient) -> None:
    """A leased message is claimable again once its lease ran out, counted as an attempt; a late ack still counts."""
    await office.told("a")

    assert await claim(client, lease_s=30) == ["a"]
    assert await claim(client) == []
    office.clock.advance(31)
    assert await claim(client, lease_s=30) == ["a"]
    office.clock.advance(31)
    row = (await client.get("/v1/messages")).json()["messages"][0]
    assert row["attempts"] == 1
    assert (await client.post("/v1/outbox/ack", json={"ids": [row["id"]]})).json() == {"acked": 1}
    assert await claim(client) == []


async def test_a_lease_is_renewed(office: Office, client: httpx.AsyncClient) -> None:
    """Extending counts from now on; what was never claimed or is done has no lease to renew."""
    await office.told("a", "b")
    message = (await client.post("/v1/outbox/claim", json={"limit": 1, "lease_s": 30})).json()["messages"][0]
    others = [row["id"] for row in (await client.get("/v1/messages")).json()["messages"] if row["id"] != message["id"]]
    office.clock.advance(20)

    extended = await client.post("/v1/outbox/extend", json={"ids": [message["id"], *others, "x"], "lease_s": 30})
    office.clock.advance(20)

    assert extended.json() == {"extended": 1}
    assert await claim(client, limit=10) == ["b"]


async def test_leases_survive_a_restart(office: Office) -> None:
    """After a crash a leased message is still leased, and comes back when the lease runs out."""
    await office.told("a")
    async with office.client() as client:
        assert await claim(client, lease_s=60) == ["a"]
    office.restart()
    async with office.client() as client:
        assert await claim(client) == []
        office.clock.advance(61)
        assert await claim(client) == ["a"]


async def test_messages_of_one_job_are_claimed_in_order(office: Office, client: httpx.AsyncClient) -> None:
    """A superseding message is handed out only after the first one is done."""
    from receiver.records import Observation
    from receiver.states import By, Claim, Evidence, Reason

    await office.register("a")
    stale = Observation("moderation", "a", Claim.GIVEN_UP, By.DEADLINE, Evidence.DEADLINE, Reason.STALE)
    await office.store.write(lambda tx: office.ledger.apply(tx, stale, office.clock.now()))
    await office.settle("a")

    first = (await client.post("/v1/outbox/claim", json={"limit": 10})).json()["messages"]
    await client.post("/v1/outbox/ack", json={"ids": [first[0]["id"]]})
    second = (await client.post("/v1/outbox/claim", json={"limit": 10})).json()["messages"]

    assert [message["type"] for message in first + second] == ["job.failed", "job.completed"]
    assert second[0]["data"]["supersedes"] == first[0]["id"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("claim", {"limit": 0}),
        ("claim", {"limit": 1001}),
        ("claim", {"limit": "5"}),
        ("claim", {"limit": 1.5}),
        ("claim", {"limit": True}),
        ("claim", {"lease_s": 0}),
        ("claim", {"lease_s": -1}),
        ("claim", {"lease_s": 1e9}),
        ("claim", {"leases": 5}),
        ("claim", []),
        ("ack", {}),
        ("ack", {"ids": "msg"}),
        ("ack", {"ids": [1]}),
        ("extend", {"ids": ["a"], "lease_s": None}),
    ],
)
async def test_bad_bodies_are_refused(client: httpx.AsyncClient, path: str, body: Any) -> None:
    """Wrong types, bounds and names are 400 and lease nothing."""
    import json

    answer = await client.post(f"/v1/outbox/{path}", content=json.dumps(body))

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_claim_may_come_without_a_body(office: Office, client: httpx.AsyncClient) -> None:
    """`curl -X POST …/claim` is enough."""
    await office.told("a")

    answer = await client.post("/v1/outbox/claim")

    assert len(answer.json()["messages"]) == 1


async def test_a_claim_is_bounded_in_size(open_office: Any) -> None:
    """Messages of many megabytes are handed out in several claims instead of one that fills the memory."""
    from reconciler.api.desk import Limits

    office = open_office(limits=Limits(claim_bytes=1))
    await office.told(*(f"j{n}" for n in range(130)))
    async with office.client() as client:
        assert len(await claim(client, limit=1000)) == 100
        assert len(await claim(client, limit=1000)) == 30


async def test_consumers_that_die_lose_and_share_nothing(office: Office, client: httpx.AsyncClient) -> None:
    """Twenty consumers at once, some of which die with their lease, round after round: no two ever hold one message,
    and every message is acknowledged in the end."""
    total, chance = 600, random.Random(7)
    for n in range(total):
        await office.register(f"j{n}")
    for n in range(total):
        await office.settle(f"j{n}")
    acked: set[str] = set()

    async def take(into: list[list[str]]) -> None:
        taken = await client.post("/v1/outbox/claim", json={"limit": 10, "lease_s": 30})
        into.append([message["id"] for message in taken.json()["messages"]])

    while len(acked) < total:
        hands: list[list[str]] = []
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(take, hands)
        held = [each for hand in hands for each in hand]
        assert len(held) == len(set(held)), "two hold one message"
        assert not acked & set(held), "what was acknowledged came again"
        assert held, "a message was lost"
        for hand in hands:
            if hand and chance.random() < 0.8:
                await client.post("/v1/outbox/ack", json={"ids": hand})
                acked.update(hand)
        office.clock.advance(31)

    tallies = await office.store.read(lambda view: view.tallies())
    assert tallies["outbox", "moderation", "delivered"] == total


async def test_messages_are_listed_and_shown(office: Office, client: httpx.AsyncClient) -> None:
    """Messages page newest first, filtered by source, state and job, with their payload as JSON."""
    await office.told("a", "b", "c")
    await office.told("d", source="documents")

    page = (await client.get("/v1/messages", params={"limit": 3})).json()
    rest = (await client.get("/v1/messages", params={"limit": 3, "cursor": page["next"]})).json()
    of_job = (await client.get("/v1/messages", params={"source": "moderation", "job_id": "b"})).json()["messages"]
    shown = (await client.get(f"/v1/messages/{of_job[0]['id']}")).json()

    assert [row["job_id"] for row in page["messages"] + rest["messages"]] == ["d", "c", "b", "a"]
    assert rest["next"] is None
    assert [row["job_id"] for row in of_job] == ["b"]
    assert shown["payload"]["data"]["job_id"] == "b"
    assert (await client.get("/v1/messages", params={"job_id": "b"})).status_code == 400
    assert (await client.get("/v1/messages", params={"state": "lost"})).status_code == 400
    assert (await client.get("/v1/messages/msg_unknown")).status_code == 404


async def test_a_message_is_handed_over_again(office: Office, client: httpx.AsyncClient) -> None:
    """Redeliver makes a dead or delivered message due again, with its attempts from zero, recorded with who."""
    await office.told("a")
    message_id = (await client.get("/v1/messages")).json()["messages"][0]["id"]
    await office.store.write(lambda tx: tx.outbox.bury(message_id, office.clock.now(), "410 gone"))
    assert await claim(client) == []

    answer = await client.post(f"/v1/messages/{message_id}/redeliver")

    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["attempts"]) == ("pending", 0)
    assert await claim(client) == ["a"]
    history = (await client.get("/v1/jobs/moderation/a")).json()["history"]
    assert (history[-1]["by"], history[-1]["note"]) == ("local", f"message {message_id} to be delivered again")
    assert (await client.post("/v1/messages/nope/redeliver")).status_code == 404
