"""The standard sender: each way to prove itself, verified by somebody else's code where there is some."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError


async def told(run: Any, hook: Any, **changes: Any) -> Any:
    """A simulator that has told of one job."""
    simulator = await run.start("standard", webhook_url=hook.url, **changes)
    await simulator.submit("job")
    await simulator.idle()
    return simulator


async def test_a_job_is_made_and_read(run: Any) -> None:
    """202 with an id, then status and result at /jobs/{id}."""
    simulator = await run.start("standard")
    client = await run.client(simulator)

    made = await client.post("/jobs", json={"task": "x"})
    await simulator.idle()
    read = (await client.get(f"/jobs/{made.json()['id']}")).json()

    assert (made.status_code, made.json()["status"]) == (202, "queued")
    assert (read["status"], read["result"]) == ("completed", simulator.truth()[0].facts)
    assert (await client.get("/jobs/none")).status_code == 404


@pytest.mark.parametrize("body", ["[]", "x", '{"webhook_url": 1}', '{"webhook_url": "ftp://x"}'])
async def test_a_wrong_submission_is_400(run: Any, body: str) -> None:
    """The body is an object; a webhook_url in it is an http URL."""
    client = await run.client(await run.start("standard"))

    assert (await client.post("/jobs", content=body)).status_code == 400


async def test_signed_by_standard_webhooks(run: Any, hook: Any) -> None:
    """The reference library takes the webhook, and refuses the forgery."""
    faults = {"forged": 1.0, "forged_lie": 1.0, "forged_knows_url": True}
    simulator = await told(run, hook, faults=faults)
    verifier = Webhook(simulator.secret)

    good = []
    for request, body in zip(hook.received, hook.bodies, strict=True):
        try:
            verifier.verify(body, dict(request.headers))
            good.append(json.loads(body)["data"]["id"])
        except WebhookVerificationError:
            continue
    assert len(hook.bodies) == 2
    assert good == [simulator.truth()[0].job_id]


async def test_every_attempt_has_the_same_webhook_id(run: Any, hook: Any) -> None:
    """A retry is the same message, signed anew."""
    hook.answers = [500, 503]
    await told(run, hook, time_scale=0.0)

    assert len(hook.bodies) == 3
    assert len({request.headers["webhook-id"] for request in hook.received}) == 1


async def test_a_shared_secret_in_a_header(run: Any, hook: Any) -> None:
    """verify header: the secret as it is."""
    await told(run, hook, webhook_secret="s", options={"verify": "header", "header": "X-Own"})

    assert hook.received[0].headers["x-own"] == "s"


@pytest.mark.parametrize("encoding", ["hex", "base64"])
async def test_an_hmac_in_a_header(run: Any, hook: Any, encoding: str) -> None:
    """verify hmac: over the body, hex or base64, with a prefix if wished."""
    options = {"verify": "hmac", "encoding": encoding, "prefix": "sha256="}
    await told(run, hook, webhook_secret="s", options=options)

    digest = hmac.new(b"s", hook.bodies[0], hashlib.sha256).digest()
    written = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
    assert hook.received[0].headers["x-signature"] == f"sha256={written}"


async def test_without_proof(run: Any, hook: Any) -> None:
    """verify none: nothing but the body."""
    await told(run, hook, options={"verify": "none"})

    assert not [name for name in hook.received[0].headers if "sign" in name or name.startswith("webhook")]


async def test_words_are_options(run: Any, hook: Any) -> None:
    """A sender with other words for its ends."""
    await told(run, hook, failed_share=1.0, options={"failed": "ERRORED"})

    assert json.loads(hook.bodies[0])["data"]["status"] == "ERRORED"
    assert json.loads(hook.bodies[0])["type"] == "job.failed"
