"""Registering jobs and looking at them."""

import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from receiver.states import Claim
from tests.api.office import BASE_URL, Office

STRANGE = [
    "plain",
    "../../etc/passwd",
    "a/b?c#d",
    "..",
    ".",
    "%2F",
    "line\nbreak\r\n",
    "snow ☃ and 🦉",
    " leading and trailing ",
    "x" * 5000,
    "?",
    "wait",
    "a;b=c,d&e+f",
    '"quoted"\\',
]


def path_of(job_id: str, source: str = "moderation", behind: str = "") -> str:
    escaped = quote(job_id, safe="")
    return f"/v1/jobs/{source}/{escaped.replace('.', '%2E') if set(job_id) <= {'.'} else escaped}{behind}"


async def test_a_job_is_registered_once_and_again(office: Office, client: httpx.AsyncClient) -> None:
    """PUT answers 201 with the whole job, and the same facts again 200."""
    facts = {
        "modality": "video",
        "submitted_at": "2026-04-13T14:29:00.000Z",
        "poll_url": f"{BASE_URL}/api/v1/job/j1",
        "alias": "other",
        "refs": {"lead_id": "l1"},
        "metadata": {"order": [1, 2.5, None]},
    }

    first = await client.put("/v1/jobs/moderation/j1", json=facts)
    second = await client.put("/v1/jobs/moderation/j1", json=facts)

    assert (first.status_code, second.status_code) == (201, 200)
    job = first.json()
    assert {name: job[name] for name in facts} == facts
    assert (job["state"], job["reason"], job["result"]) == ("pending", None, None)
    assert [entry["note"] for entry in job["history"]] == ["registered"]
    assert (job["deliveries"], job["polls"], job["messages"]) == ([], [], [])
    assert office.poked == ["moderation", "moderation"]


async def test_another_fact_is_a_conflict(client: httpx.AsyncClient) -> None:
    """A given fact that differs is 409 and changes nothing; one that was not recorded is filled in."""
    await client.put("/v1/jobs/moderation/j1", json={"modality": "video"})

    differs = await client.put("/v1/jobs/moderation/j1", json={"modality": "image", "alias": "a"})
    fills = await client.put("/v1/jobs/moderation/j1", json={"alias": "b"})

    assert differs.status_code == 409
    assert differs.headers["content-type"] == "application/problem+json"
    assert differs.json()["conflicts"] == ["modality"]
    assert (fills.status_code, fills.json()["modality"], fills.json()["alias"]) == (200, "video", "b")


@pytest.mark.parametrize("job_id", STRANGE, ids=range(len(STRANGE)))
async def test_any_id_is_one_segment(job_id: str, client: httpx.AsyncClient) -> None:
    """Whatever an id holds, it is registered, found, polled and waited for under exactly that id."""
    put = await client.put(path_of(job_id), json={"modality": "prompt"})
    got = await client.get(path_of(job_id))
    wait = await client.get(path_of(job_id, behind="/wait"), params={"timeout_s": 0})
    poll = await client.post(path_of(job_id, behind="/poll"))

    assert [each.status_code for each in (put, got, wait, poll)] == [201, 200, 202, 202]
    assert put.json()["job_id"] == got.json()["job_id"] == poll.json()["job_id"] == job_id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b"\xff",
        b'{"modality": 5}',
        b'{"modality": ""}',
        b'{"modality": "a\\u0000b"}',
        b'{"modality": "\\ud800"}',
        b'{"modalty": "video"}',
        b'{"submitted_at": "yesterday"}',
        b'{"submitted_at": 5}',
        b'{"refs": []}',
        b'{"alias": true}',
        b'{"alias": ""}',
        b'{"metadata": NaN}',
        b"[" * 300,
    ],
)
async def test_a_bad_body_is_refused(body: bytes, client: httpx.AsyncClient) -> None:
    """A body that is not JSON, not an object, of wrong types or with unknown names is 400 and registers nothing."""
    answer = await client.put("/v1/jobs/moderation/j1", content=body)

    assert answer.status_code == 400
    assert answer.json()["title"] == "Bad Request"
    assert (await client.get("/v1/jobs/moderation/j1")).status_code == 404


@pytest.mark.parametrize(
    "poll_url",
    [
        "https://evil.example/job/1",
        "http://127.0.0.1:10/job/1",
        "https://127.0.0.1:9/job/1",
        "http://user:pw@127.0.0.1:9/job",
        "http://127.0.0.1:9\\@evil.example/",
        "http://127.0.0.1:9@evil.example/",
        "http://127.0.0.1:9/a\nb",
        "//127.0.0.1:9/x",
        "/api/v1/job/1",
        "",
    ],
)
async def test_a_foreign_poll_url_is_refused(poll_url: str, client: httpx.AsyncClient) -> None:
    """A poll URL off the source's origin is 400, alone and in a batch: credentials would follow it."""
    alone = await client.put("/v1/jobs/moderation/j1", json={"poll_url": poll_url})
    item = {"source": "moderation", "job_id": "j1", "poll_url": poll_url}
    batch = await client.post("/v1/jobs", json=[item])

    assert alone.status_code == 400
    assert batch.json()["jobs"][0]["status"] == 400
    assert (await client.get("/v1/jobs/moderation/j1")).status_code == 404


async def test_an_unknown_source_is_404(client: httpx.AsyncClient) -> None:
    """Registering, looking, waiting and polling under a source that is not configured is 404."""
    answers = [
        await client.put("/v1/jobs/nobody/j1", json={"modality": "prompt"}),
        await client.get("/v1/jobs/nobody/j1"),
        await client.get("/v1/jobs/nobody/j1/wait", params={"timeout_s": 5}),
        await client.post("/v1/jobs/nobody/j1/poll"),
        await client.post("/v1/jobs/moderation/j1/poll"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 5
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


async def test_a_batch_is_judged_item_by_item(client: httpx.AsyncClient) -> None:
    """Each item of POST /v1/jobs has its own status; bad ones do not hinder the rest."""
    await client.put("/v1/jobs/moderation/known", json={"modality": "prompt"})
    items: list[Any] = [
        {"source": "moderation", "job_id": "new", "modality": "prompt"},
        {"source": "moderation", "job_id": "known", "modality": "prompt"},
        {"source": "moderation", "job_id": "known", "modality": "video"},
        {"source": "nobody", "job_id": "x"},
        {"source": "moderation"},
        {"source": "moderation", "job_id": 12.50},
        "nonsense",
        None,
        {"source": "moderation", "job_id": "new"},
    ]

    answer = await client.post("/v1/jobs", json=items)

    assert answer.status_code == 200
    jobs = answer.json()["jobs"]
    assert [job["status"] for job in jobs] == [201, 200, 409, 400, 400, 201, 400, 400, 200]
    assert jobs[0] == {"source": "moderation", "job_id": "new", "status": 201}
    assert jobs[5]["job_id"] == "12.5"
    assert all(job["detail"] for job in jobs if job["status"] >= 400)
    assert (await client.post("/v1/jobs", json={"a": 1})).status_code == 400


async def test_ten_thousand_registrations_with_a_few_bad_ones(office: Office, client: httpx.AsyncClient) -> None:
    """A batch of 10,000 is taken whole, in order, while deliveries go on being recorded between its transactions."""
    bad = {17, 5000, 9999}
    items = [
        {"source": "moderation", "job_id": f"j{n}", "modality": 5 if n in bad else "prompt"} for n in range(10_000)
    ]
    began = time.monotonic()

    answer = await client.post("/v1/jobs", json=items, timeout=60)

    jobs = answer.json()["jobs"]
    assert [job["job_id"] for job in jobs] == [item["job_id"] for item in items]
    assert {n for n, job in enumerate(jobs) if job["status"] == 400} == bad
    assert sum(job["status"] == 201 for job in jobs) == 9_997
    tallies = await office.store.read(lambda view: view.tallies())
    assert tallies["jobs", "moderation", "pending"] == 9_997
    assert time.monotonic() - began < 30


async def test_a_body_past_the_bound_is_413(client: httpx.AsyncClient) -> None:
    """A body larger than an operation takes is 413, by its header and by its count."""
    body = b'{"metadata": "' + b"x" * (1 << 20) + b'"}'

    async def chunks() -> Any:
        yield body[:1000]
        yield body[1000:]

    announced = await client.put("/v1/jobs/moderation/j1", content=body)
    counted = await client.put("/v1/jobs/moderation/j1", content=chunks())

    assert (announced.status_code, counted.status_code) == (413, 413)


async def test_lists_page_without_skipping_or_repeating(office: Office, client: httpx.AsyncClient) -> None:
    """Following `next` shows every job once, newest first, though jobs are registered meanwhile."""
    for n in range(12):
        await office.register(f"j{n}")
    seen: list[str] = []
    cursor: str | None = None

    while True:
        params: dict[str, Any] = {"limit": 5} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/jobs", params=params)).json()
        seen += [job["job_id"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            break
        await office.register(f"late{len(seen)}")

    assert seen == [f"j{n}" for n in reversed(range(12))]


async def test_lists_are_filtered(office: Office, client: httpx.AsyncClient) -> None:
    """Source, state, reason and overdue narrow the list; a wrong filter or an unknown name is 400."""
    await office.told("done")
    await office.register("lost")
    await office.settle("lost", claim=Claim.FAILED)
    await office.register("open")
    await office.register("elsewhere", "documents")
    office.clock.advance(3600)

    async def ids(**params: Any) -> set[str]:
        answer = await client.get("/v1/jobs", params=params)
        assert answer.status_code == 200
        return {job["job_id"] for job in answer.json()["jobs"]}

    assert await ids(source="documents") == {"elsewhere"}
    assert await ids(state="completed") == {"done"}
    assert await ids(reason="provider") == {"lost"}
    assert await ids(overdue="true") == {"open", "elsewhere"}
    assert await ids(overdue="true", source="moderation") == {"open"}
    assert await ids(overdue="true", state="failed") == set()
    for wrong in ("state=ended", "limit=0", "limit=501", "limit=x", "cursor=x", "cursor=-1", "sate=pending"):
        answer = await client.get(f"/v1/jobs?{wrong}")
        assert (wrong, answer.status_code) == (wrong, 400)
        assert answer.json()["errors"][0]["at"] == wrong.partition("=")[0]
    assert (await client.get("/v1/jobs?limit=5&limit=6")).status_code == 400


async def test_a_job_is_found_by_its_alias(office: Office, client: httpx.AsyncClient) -> None:
    """The alias finds the job everywhere its id does."""
    await office.register("id-1", alias="link-1")

    shown = await client.get("/v1/jobs/moderation/link-1")
    polled = await client.post("/v1/jobs/moderation/link-1/poll")

    assert shown.json()["job_id"] == "id-1"
    assert polled.json()["job_id"] == "id-1"
    assert office.asked == [("moderation", "id-1")]


async def test_a_poll_asked_for_is_in_the_history_with_who(office: Office, client: httpx.AsyncClient) -> None:
    """POST …/poll answers 202, also for a job that has ended, and is recorded."""
    await office.told("j1")

    answer = await client.post("/v1/jobs/moderation/j1/poll")

    assert answer.status_code == 202
    assert answer.json()["state"] == "completed"
    assert office.asked == [("moderation", "j1")]
    history = (await client.get("/v1/jobs/moderation/j1")).json()["history"]
    assert (history[-1]["by"], history[-1]["note"]) == ("local", "asked for a poll")
    assert history[-1]["from_state"] == history[-1]["to_state"] == "completed"


async def test_a_registration_makes_held_deliveries_readable(office: Office, client: httpx.AsyncClient) -> None:
    """A webhook that beat the registration counts as soon as the application registers the job."""
    await office.deliver({"job_id": "early", "status": "completed", "result": {"ok": True}})
    await office.interpret()
    held = (await client.get("/v1/deliveries", params={"verdict": "held"})).json()["deliveries"]

    await client.put("/v1/jobs/moderation/early", json={"modality": "prompt"})
    await office.interpret()

    assert [delivery["job_id"] for delivery in held] == ["early"]
    job = (await client.get("/v1/jobs/moderation/early")).json()
    assert (job["state"], job["decided_by"]) == ("completed", "webhook")
    assert [delivery["verdict"] for delivery in job["deliveries"]] == ["accepted"]
    assert len(job["messages"]) == 1


async def test_what_nobody_can_write_as_json_is_shown_all_the_same(office: Office, client: httpx.AsyncClient) -> None:
    """The tables are open to anybody; a column that holds NaN does not make the API fail."""
    await office.told("j1")
    await office.store.write(lambda tx: tx.jobs._c.execute("UPDATE jobs SET result = '{\"a\": NaN}'"))  # type: ignore[attr-defined]  # as an outsider would

    answer = await client.get("/v1/jobs/moderation/j1")

    assert answer.status_code == 200
    assert answer.json()["result"] == {"a": None}
