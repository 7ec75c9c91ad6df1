"""OmniAI's HTTP shape, as providers.md section 3 tells it."""

import hashlib
import hmac
import json
from typing import Any

import pytest

KEY = {"x-api-key": "k"}
PDF: Any = ("files", ("stmt.pdf", b"%PDF", "application/pdf"))


def events(hook: Any) -> dict[str, dict[str, Any]]:
    """The last body of each event name."""
    return {body["event"]: body for body in map(json.loads, hook.bodies)}


async def uploaded(run: Any, n: int = 1, **changes: Any) -> tuple[Any, Any, dict[str, Any]]:
    """A simulator, its client, and the answer to an upload of n files."""
    simulator = await run.start("omniai", **changes)
    client = await run.client(simulator, **KEY)
    answer = await client.post("/api/v1/documents", data={"leadId": "lead-1"}, files=[PDF] * n)
    return simulator, client, answer.json()


async def test_an_upload_answers_every_document_and_one_action(run: Any) -> None:
    """Each file is a document with an id; the answer has no status and no link."""
    simulator, _, told = await uploaded(run, 3)

    assert told["success"] is True
    assert [document["id"] for document in told["documents"]] == list(simulator.jobs)
    assert set(told["documents"][0]) == {
        "id", "filename", "size", "url", "mimeType", "uploadedAt", "associatedChecklistItemId",
    }  # fmt: skip
    assert all(job.refs == {"lead_id": "lead-1"} for job in simulator.truth())


async def test_metadata_sets_external_ids_by_position(run: Any, hook: Any) -> None:
    """metadata is a JSON string aligned with the files."""
    simulator = await run.start("omniai", webhook_url=hook.url, options={"revision": "newest"})
    client = await run.client(simulator, **KEY)
    data = {"leadId": "l", "metadata": json.dumps([{"externalId": "DOC-7"}])}

    await client.post("/api/v1/documents", data=data, files=[PDF])
    await simulator.idle()

    assert events(hook)["document.extracted"]["externalId"] == "DOC-7"


@pytest.mark.parametrize(
    ("data", "n"), [({}, 1), ({"leadId": "l"}, 0), ({"leadId": "l"}, 11), ({"leadId": "l", "metadata": "{"}, 1)]
)
async def test_an_incomplete_upload_is_400(run: Any, data: dict[str, str], n: int) -> None:
    """A lead, one to ten files, and readable metadata."""
    client = await run.client(await run.start("omniai"), **KEY)

    answer = await client.post("/api/v1/documents", data=data, files=[PDF] * n or [("x", ("a", b"", "x/y"))])

    assert answer.status_code == 400


async def test_a_lead_lists_its_documents_and_actions(run: Any) -> None:
    """One read a kind settles all of a lead: extraction status in the metadata, action status on the row."""
    simulator, client, told = await uploaded(run, 2)
    action = await simulator.submit("tool_call", {"lead_id": "lead-1"})
    await simulator.submit("tool_call", {"lead_id": "lead-2"})
    await simulator.idle()

    documents = (await client.get("/api/v1/leads/lead-1/documents")).json()
    actions = (await client.get("/api/v1/leads/lead-1/action-logs")).json()

    assert [row["id"] for row in documents] == [one["id"] for one in told["documents"]]
    assert {row["metadata"]["extractionStatus"] for row in documents} == {"completed"}
    assert {row["id"]: row["status"] for row in actions}[action.job_id] == "COMPLETED"
    assert {row["type"] for row in actions} == {"TOOL_CALL", "DOCUMENT_UPLOAD", "SYSTEM_NOTE"}
    assert told["actionLogId"] in {row["id"] for row in actions}


async def test_lists_can_come_wrapped(run: Any) -> None:
    """The described form: an object with a named array."""
    _, client, _ = await uploaded(run, options={"wrapped_lists": True})

    assert len((await client.get("/api/v1/leads/lead-1/documents")).json()["documents"]) == 1
    assert (await client.get("/api/v1/leads/lead-1/action-logs")).json()["actionLogs"]


async def test_one_document_has_a_link_and_no_status(run: Any) -> None:
    """Reading one document by id tells nothing about its extraction."""
    _, client, told = await uploaded(run)

    shown = (await client.get(f"/api/v1/documents/{told['documents'][0]['id']}")).json()

    assert shown["signedUrl"]
    assert "extractionStatus" not in json.dumps(shown)


@pytest.mark.parametrize("path", ["/leads/none/documents", "/leads/none/action-logs", "/leads/none", "/documents/none"])
async def test_what_does_not_exist_is_404(run: Any, path: str) -> None:
    """Unknown leads and documents."""
    client = await run.client(await run.start("omniai"), **KEY)

    assert (await client.get(f"/api/v1{path}")).status_code == 404


async def test_the_key_is_in_its_own_header(run: Any) -> None:
    """A bearer token is not a key here."""
    client = await run.client(await run.start("omniai"))

    assert (await client.get("/api/v1/leads/none")).status_code == 401


@pytest.mark.parametrize(
    ("revision", "word", "extra"),
    [
        ("oldest", "completed", set()),
        ("middle", "COMPLETED", {"externalLeadId", "externalId"}),
        ("newest", "completed", {"externalLeadId", "externalId", "summary", "type", "classification"}),
    ],
)
async def test_the_revisions_of_extracted(run: Any, hook: Any, revision: str, word: str, extra: set[str]) -> None:
    """document.received first, then document.extracted with the fields and the spelling of its revision."""
    simulator, _, told = await uploaded(run, webhook_url=hook.url, options={"revision": revision})
    await simulator.idle()

    extracted = events(hook)["document.extracted"]
    base = {"event", "leadId", "status", "documentId", "workspaceId", "parentActionId", "extractionResult"}
    assert set(extracted) == base | extra
    assert extracted["status"] == word
    assert extracted["parentActionId"] == told["actionLogId"]
    assert events(hook)["document.received"]["document"]["id"] == extracted["documentId"]


@pytest.mark.parametrize(("revision", "told"), [("oldest", False), ("middle", False), ("newest", True)])
async def test_a_failed_extraction(run: Any, hook: Any, revision: str, told: bool) -> None:
    """Only the newest revision tells of it; the list always knows."""
    changes = {"webhook_url": hook.url, "failed_share": 1.0, "options": {"revision": revision}}
    simulator, client, _ = await uploaded(run, **changes)
    await simulator.idle()

    row = (await client.get("/api/v1/leads/lead-1/documents")).json()[0]

    assert row["metadata"]["extractionStatus"] == "failed"
    assert ("document.extracted" in events(hook)) == told
    assert not told or events(hook)["document.extracted"]["status"] == "failed"


async def test_actions_end_in_three_ways(run: Any, hook: Any) -> None:
    """completed and failed are told, cancelled is only read; each agrees with the list."""
    options = {"cancelled_share": 0.5, "approval_share": 0.0}
    simulator = await run.start("omniai", webhook_url=hook.url, failed_share=0.6, options=options)
    for _ in range(20):
        await simulator.submit("tool_call", {"lead_id": "l"})
    await simulator.idle()
    client = await run.client(simulator, **KEY)

    read = {row["id"]: row["status"] for row in (await client.get("/api/v1/leads/l/action-logs")).json()}
    told = {body["actionLog"]["id"]: body["actionLog"]["status"] for body in map(json.loads, hook.bodies)}

    assert set(read.values()) == {"COMPLETED", "FAILED", "CANCELLED"}
    assert told == {job_id: status for job_id, status in read.items() if status != "CANCELLED"}
    assert {job.reason for job in simulator.truth()} == {None, "provider", "cancelled"}
    assert set(events(hook)) == {"action_log.completed", "action_log.failed"}
    assert {"error", "agentId", "tool"} <= set(events(hook)["action_log.failed"]["actionLog"])


async def test_some_tool_calls_wait_for_approval(run: Any) -> None:
    """AWAITING_APPROVAL is what an open action shows while a person thinks."""
    options = {"approval_share": 1.0}
    simulator = await run.start("omniai", faults={"stuck": 1.0}, options=options)
    await simulator.submit("tool_call", {"lead_id": "l"})
    client = await run.client(simulator, **KEY)

    rows = (await client.get("/api/v1/leads/l/action-logs")).json()

    assert [row["status"] for row in rows] == ["AWAITING_APPROVAL"]
    assert rows[0]["completedAt"] is None


async def test_statuses_drift_in_case(run: Any) -> None:
    """With status_case mixed the same status is spelled in several ways."""
    simulator = await run.start("omniai", options={"status_case": "mixed"})
    for _ in range(6):
        await simulator.submit("message", {"lead_id": "l"})
    await simulator.idle()
    client = await run.client(simulator, **KEY)

    rows = (await client.get("/api/v1/leads/l/action-logs")).json()

    assert {row["status"] for row in rows} == {"COMPLETED", "completed"}


@pytest.mark.parametrize("mode", ["equals", "hmac_sha256_hex"])
async def test_the_secret_goes_in_a_header(run: Any, hook: Any, mode: str) -> None:
    """As it is, or as an HMAC over the body; a forger has another one."""
    options = {"secret_mode": mode, "secret_header": "X-Own"}
    faults = {"forged": 1.0, "forged_lie": 1.0, "forged_knows_url": True}
    changes = {"webhook_url": hook.url, "webhook_secret": "s3cret", "options": options, "faults": faults}
    simulator = await run.start("omniai", **changes)
    await simulator.submit("message")
    await simulator.idle()

    right = []
    for request, body in zip(hook.received, hook.bodies, strict=True):
        digest = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
        right.append(request.headers["x-own"] == ("s3cret" if mode == "equals" else digest))
    assert sorted(right) == [False, True]


async def test_only_200_ends_a_delivery(run: Any, hook: Any) -> None:
    """A 202 is tried again; three attempts at most, each document.received with another signed link."""
    hook.status = 202
    simulator, _, _ = await uploaded(run, webhook_url=hook.url, time_scale=0.0, options={"revision": "newest"})
    await simulator.idle()

    bodies = [json.loads(body) for body in hook.bodies]
    links = {body["document"]["signedUrl"] for body in bodies if body["event"] == "document.received"}
    assert len(bodies) == 6
    assert len(links) == 3
    assert simulator.counters["given_up"] == 2


async def test_leads_are_told_of_without_a_job(run: Any, hook: Any) -> None:
    """Creating and changing a lead makes events of no job, which the truth keeps apart."""
    simulator = await run.start("omniai", webhook_url=hook.url)
    client = await run.client(simulator, **KEY)

    lead = (await client.post("/api/v1/leads", json={"firstName": "A", "externalLeadId": "CRM-7"})).json()["leadId"]
    await client.patch(f"/api/v1/leads/{lead}", json={"email": "a@example.com"})
    await client.patch(f"/api/v1/leads/{lead}", json={"status": "COMPLETED"})
    await simulator.idle()

    assert set(events(hook)) == {"lead.created", "lead.updated", "lead.completed"}
    assert {body["data"]["leadId"] for body in events(hook).values()} == {lead}
    assert events(hook)["lead.created"]["data"]["externalId"] == "CRM-7"
    assert simulator.snapshot()["events"][0]["event"] == "lead.created"
    assert simulator.counters["events"] == 3
    assert simulator.truth() == []


async def test_an_activity_is_an_action_that_is_done(run: Any) -> None:
    """It stands in the lead's actions, complete, and nobody is told."""
    simulator = await run.start("omniai")
    client = await run.client(simulator, **KEY)

    log = (await client.post("/api/v1/activity", json={"leadId": "l"})).json()["actionLogId"]
    rows = (await client.get("/api/v1/leads/l/action-logs")).json()

    assert [(row["id"], row["type"], row["status"]) for row in rows] == [(log, "API_ACTIVITY", "COMPLETED")]
