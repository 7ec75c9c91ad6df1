"""What a job must be asked about by reaches the record with the submission, and no byte of it changes."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.conftest import Open
from tests.api.upstream import ACCEPTED, PATH, Upstream, jobs_of, passing, reply

UPLOADED = reply("200 OK", b'{"success": true, "documents": [{"id": "doc-1"}], "actionLogId": "log-1"}')
UPLOAD = "/submit/moderation/api/v1/documents"
OMNIAI: dict[str, Any] = {"provider": "omniai"}
FILE = {"files": ("statement.pdf", b"\x00\xff%PDF" * 30_000, "application/pdf")}


async def submitted(open_office: Open, **request: Any) -> tuple[dict[str, Any] | None, Upstream, int]:
    """(the refs on record of the uploaded document, the provider, the answer's status)."""
    upstream = Upstream(UPLOADED)
    async with passing(open_office, upstream, **OMNIAI) as (office, client):
        answer = await client.post(UPLOAD, **request)
        jobs = await jobs_of(office)
    return (jobs["doc-1"]["refs"] if "doc-1" in jobs else None), upstream, answer.status_code


@pytest.mark.parametrize(
    "request_",
    [
        {"data": {"leadId": "lead-7", "note": "x"}, "files": FILE},
        {"data": {"leadId": "lead-7"}, "files": {"files": ("a.txt", b"short", "text/plain")}},
        {"json": {"leadId": "lead-7"}},
        {"data": {"leadId": "lead-7"}},
        {"json": {}, "headers": {"x-holdfast-refs": '{"lead_id": "lead-7"}'}},
        {"files": FILE, "headers": {"x-holdfast-refs": '{"lead_id": "lead-7"}'}},
        {"json": {"leadId": "another"}, "headers": {"x-holdfast-refs": '{"lead_id": "lead-7"}'}},
    ],
)
async def test_the_lead_of_an_upload_reaches_the_record(open_office: Open, request_: dict[str, Any]) -> None:
    """From the form, from JSON, or from our own header, which wins and is never forwarded."""
    refs, upstream, status = await submitted(open_office, **request_)

    assert (refs, status) == ({"lead_id": "lead-7"}, 200)
    assert upstream.requests[0].all("x-holdfast-refs") == []


async def test_the_body_arrives_as_it_was_sent(open_office: Open) -> None:
    """Chunked or not, larger than what is looked into, in pieces that cut the form anywhere."""
    form = (
        b'--b0\r\nContent-Disposition: form-data; name="leadId"\r\n\r\nlead-7\r\n--b0\r\n'
        b'Content-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
        + b"\x00\r\n--b" * 40_000
        + b"\r\n--b0--\r\n"
    )

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(form), 999):
            yield form[at : at + 999]

    headers = {"content-type": "multipart/form-data; boundary=b0"}
    refs, upstream, status = await submitted(open_office, content=pieces(), headers=headers)

    assert (refs, status) == ({"lead_id": "lead-7"}, 200)
    assert upstream.requests[0].digest == hashlib.sha256(form).hexdigest()


PART = b'--b0\r\nContent-Disposition: form-data; name="leadId"%s\r\n\r\n%s'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=b0", PART % (b"", b"lead-7")),  # never ends
        ("multipart/form-data; boundary=b0", PART % (b'; filename="f"', b"lead-7\r\n--b0--\r\n")),
        ("multipart/form-data; boundary=b0", PART % (b"", b"\xff\r\n--b0--\r\n")),
        ("multipart/form-data; boundary=b0", PART % (b"", b"x" * 5000 + b"\r\n--b0--\r\n")),
        ("multipart/form-data", PART % (b"", b"lead-7\r\n--b0--\r\n")),
        ("multipart/form-data; boundary=b0", b"x" * 70_000 + PART % (b"", b"lead-7\r\n--b0--\r\n")),
        ("application/json", b'{"leadId": ["lead-7"]}'),
        ("application/json", b'{"leadId": "lead-7"'),
        ("application/json", json.dumps({"leadId": "lead-7", "more": "x" * 70_000}).encode()),
        ("application/json", b'{"leadId": "\\ud800"}'),
        ("application/x-www-form-urlencoded", b"leadId=%ff"),
        ("application/x-www-form-urlencoded", b"leadId=\xff"),
        ("text/plain", b'{"leadId": "lead-7"}'),
        ("", b""),
    ],
)
async def test_what_cannot_be_read_is_passed_on_all_the_same(open_office: Open, kind: str, body: bytes) -> None:
    """The job is on record without a lead; the provider got every byte."""
    refs, upstream, status = await submitted(open_office, content=body, headers={"content-type": kind} if kind else {})

    assert (refs, status) == (None, 200)
    assert upstream.requests[0].digest == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    "value", ["", "[]", "lead-7", '{"lead_id": ""}', '{"lead_id": ["a"]}', '{"lead_id": null}', "{" + " " * 9000 + "}"]
)
async def test_refs_that_make_no_sense_are_400(open_office: Open, value: str) -> None:
    """And nothing is sent to the provider."""
    refs, upstream, status = await submitted(open_office, json={}, headers={"x-holdfast-refs": value})

    assert (refs, status, upstream.connections) == (None, 400, 0)


async def test_a_provider_that_names_no_fields_has_none_taken(open_office: Open) -> None:
    """A `leadId` sent to somebody else is nobody's business; the header holds for everybody."""
    upstream = Upstream(ACCEPTED)
    async with passing(open_office, upstream) as (office, client):
        await client.post(PATH, json={"leadId": "lead-7"})
        assert (await jobs_of(office))["j-1"]["refs"] is None
        await client.post(PATH, json={}, headers={"x-holdfast-refs": '{"ticket": 12}'})
        assert (await jobs_of(office))["j-1"]["refs"] == {"ticket": "12"}
