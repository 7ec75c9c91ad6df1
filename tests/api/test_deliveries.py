"""Looking at deliveries, and an operator's second look."""

import base64
from typing import Any

import httpx
import pytest

from receiver.clock import text
from receiver.records import DeliveryId
from tests.api.office import Office
from tests.support import START


async def test_a_delivery_is_shown_raw(office: Office, client: httpx.AsyncClient) -> None:
    """The exact bytes come as base64 always, as text when they are text; headers in wire order; the id is a string."""
    text_body = await office.deliver(b'{"job_id": "\xc3\xa9"}')
    binary = await office.deliver(b"\xff\x00")

    shown = (await client.get(f"/v1/deliveries/{text_body.id}")).json()
    raw = (await client.get(f"/v1/deliveries/{binary.id}")).json()

    assert (shown["id"], shown["body"]) == (str(text_body.id), '{"job_id": "é"}')
    assert base64.b64decode(shown["body_base64"]) == text_body.body
    assert shown["headers"] == [["content-type", "application/json"]]
    assert shown["body_sha256"] == text_body.body_sha256
    assert "body" not in raw
    assert base64.b64decode(raw["body_base64"]) == b"\xff\x00"


@pytest.mark.parametrize("wrong", ["1", "0", "x", "-1", "9" * 19, "9" * 40, "1.0", "%20", "%D9%A1"])
async def test_an_unknown_delivery_is_404(client: httpx.AsyncClient, wrong: str) -> None:
    """An id that is not there, or is no id, is 404 for looking, replaying and releasing."""
    assert (await client.get(f"/v1/deliveries/{wrong}")).status_code == 404
    assert (await client.post(f"/v1/deliveries/{wrong}/replay")).status_code == 404
    assert (await client.post(f"/v1/deliveries/{wrong}/release")).status_code == 404


async def test_pages_of_fifty_by_number_and_by_cursor(office: Office, client: httpx.AsyncClient) -> None:
    """Pages hold 50 unless told otherwise; `page` counts from 1, and following `next` neither skips nor repeats."""
    ids = [str((await office.deliver({"n": n})).id) for n in range(60)]

    first = (await client.get("/v1/deliveries")).json()
    second = (await client.get("/v1/deliveries", params={"page": 2})).json()
    await office.deliver({"n": "late"})
    following = (await client.get("/v1/deliveries", params={"cursor": first["next"]})).json()

    newest_first = ids[::-1]
    assert (first["page"], second["page"]) == (1, 2)
    assert [row["id"] for row in first["deliveries"]] == newest_first[:50]
    assert [row["id"] for row in second["deliveries"]] == newest_first[50:]
    assert [row["id"] for row in following["deliveries"]] == newest_first[50:]
    assert (second["next"], following["next"]) == (None, None)


@pytest.mark.parametrize(("path", "rows"), [("deliveries", "deliveries"), ("jobs", "jobs"), ("messages", "messages")])
async def test_a_page_has_the_size_asked_for(office: Office, client: httpx.AsyncClient, path: str, rows: str) -> None:
    """Lists take up to 500 a page, by `size` as by `limit`; more is 400."""
    await office.told(*"abcd")
    for n in range(4):
        await office.deliver({"n": n})

    for name in ("size", "limit"):
        assert len((await client.get(f"/v1/{path}", params={name: 3})).json()[rows]) == 3
        assert (await client.get(f"/v1/{path}", params={name: 500})).status_code == 200
        assert (await client.get(f"/v1/{path}", params={name: 501})).status_code == 400


async def test_deliveries_are_filtered_by_window_source_and_verdict(office: Office, client: httpx.AsyncClient) -> None:
    """`start` is included, `end` is not; times may carry any offset; wrong ones are 400."""
    early = await office.deliver({"job_id": "a", "status": "completed"})
    office.clock.advance(60)
    late = await office.deliver({"job_id": "b", "status": "completed"}, "documents")
    await office.interpret()

    async def ids(**params: Any) -> list[str]:
        answer = await client.get("/v1/deliveries", params=params)
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()["deliveries"]]

    assert await ids(start=text(START), end=text(START + 60)) == [str(early.id)]
    assert await ids(start=text(START + 0.001)) == [str(late.id)]
    assert await ids(end="2026-04-13T16:30:30+02:00") == [str(early.id)]
    assert await ids(source="documents") == [str(late.id)]
    assert await ids(verdict="held") == [str(early.id)]
    assert await ids(start="9999-01-01T00:00:00Z") == []
    for wrong in (
        "start=x",
        "end=2026-13-01",
        "verdict=lost",
        "page=0",
        "page=x",
        "start=0001-01-01T00:00:00%2B23:59x",
    ):
        assert (wrong, (await client.get(f"/v1/deliveries?{wrong}")).status_code) == (wrong, 400)


async def test_a_quarantined_delivery_is_released_by_who_vouches(office: Office, client: httpx.AsyncClient) -> None:
    """Release puts the job on record and lets the delivery count; it says who did it."""
    delivery = await office.deliver({"job_id": "never-registered", "status": "completed", "result": {"ok": 1}})
    await office.interpret()

    answer = await client.post(f"/v1/deliveries/{delivery.id}/release")
    await office.interpret()

    assert (answer.status_code, answer.json()["id"]) == (200, str(delivery.id))
    assert "body" not in answer.json()
    job = (await client.get("/v1/jobs/moderation/never-registered")).json()
    assert (job["state"], len(job["messages"])) == ("completed", 1)
    assert office.poked == ["moderation"]


async def test_only_what_is_kept_back_is_released(office: Office, client: httpx.AsyncClient) -> None:
    """An accepted delivery is 409 for release; replaying it is recorded with who, and tells nothing twice."""
    await office.register("j1")
    delivery = await office.deliver({"job_id": "j1", "status": "completed", "result": {}})
    await office.interpret()

    released = await client.post(f"/v1/deliveries/{delivery.id}/release")
    replayed = await client.post(f"/v1/deliveries/{delivery.id}/replay", json={})
    await office.interpret()

    assert (released.status_code, replayed.status_code) == (409, 200)
    job = (await client.get("/v1/jobs/moderation/j1")).json()
    assert len(job["messages"]) == 1
    note = next(entry for entry in job["history"] if entry["by"] == "local")
    assert (note["note"], note["delivery_id"]) == (f"delivery {delivery.id} replayed (accepted)", str(delivery.id))


async def test_a_delivery_whose_body_is_gone_cannot_be_read_again(office: Office, client: httpx.AsyncClient) -> None:
    """Once retention has taken the body, replay and release are 409, and the delivery shows null for it."""
    delivery = await office.deliver({"job_id": "j1"})
    await office.store.write(lambda tx: tx.deliveries._c.execute("UPDATE deliveries SET body = NULL"))  # type: ignore[attr-defined]  # as retention may

    assert (await client.post(f"/v1/deliveries/{delivery.id}/replay")).status_code == 409
    shown = (await client.get(f"/v1/deliveries/{DeliveryId(delivery.id)}")).json()
    assert shown["body_base64"] is None
