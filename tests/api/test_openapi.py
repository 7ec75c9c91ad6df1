"""The description of the API, and whether the running server keeps to it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from reconciler.api.app import DOCUMENTED
from reconciler.api.openapi import document
from tests.api.office import Office
from tests.support import eventually

DOCUMENT = document(DOCUMENTED)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
UNBOUNDED = {"/v1/outbox/stream"}
"""It never ends by itself; tests/api/test_stream.py reads it."""
OPERATIONS = {
    result.ok().label: result.ok()
    for result in SCHEMA.get_all_operations()
    if isinstance(result, Ok) and result.ok().path not in UNBOUNDED
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


class Running:
    """An office behind the real server, in a thread with a loop of its own."""

    def __init__(self, path: Path) -> None:
        self.address = ""
        self.ids: dict[str, list[str]] = {}
        self._path = path
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        eventually(lambda: self.address)

    async def _serve(self) -> None:
        office = Office(self._path)
        await office.told("ended", "../a?b")
        await office.register("open", alias="other")
        held = await office.deliver({"job_id": "unknown", "status": "completed"})
        quarantined = await office.deliver(b'{"status": "completed"}')
        await office.interpret()
        messages, _ = await office.store.read(lambda view: view.messages())
        self.ids = {
            "source": ["moderation", "documents", "keyless"],
            "name": ["moderation"],
            "job_id": ["ended", "../a?b", "open", "other"],
            "delivery_id": [str(held.id), str(quarantined.id)],
            "message_id": [str(row["id"]) for row in messages],
        }
        stop = asyncio.Event()
        self._stop = (asyncio.get_running_loop(), stop)
        async with office.served() as address:
            self.address = address
            await stop.wait()
        office.store.close()

    def close(self) -> None:
        """Stop serving."""
        assert self._stop is not None
        loop, stop = self._stop
        loop.call_soon_threadsafe(stop.set)
        self._thread.join(20)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = Running(tmp_path_factory.mktemp("openapi") / "record.db")
    yield server
    server.close()


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_answer_is_undocumented_and_none_a_server_error(label: str, running: Running) -> None:
    """Whatever is asked, good or bad: no 5xx, no status, type or shape that the description does not know."""
    operation = OPERATIONS[label]
    passes_on = operation.path.startswith("/submit/")
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)

    @hypothesis.settings(max_examples=25, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True)
    @hypothesis.given(data=st.data())
    def ask(data: st.DataObject) -> None:
        mode = data.draw(st.sampled_from(modes))
        try:
            case: Any = data.draw(operation.as_strategy(generation_mode=mode))
        except hypothesis.errors.Unsatisfiable:  # nothing about this operation can be wrong
            hypothesis.assume(False)
        for name in case.path_parameters or {}:
            if name in running.ids and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(running.ids[name]))
        if operation.path.endswith("/wait"):
            case.query = {**(case.query or {}), "timeout_s": data.draw(st.sampled_from(["0", "0.01", "-1", "x"]))}
        # Nobody is there for the source to pass on to: 502 is the documented answer.
        checks = [check for check in CHECKS if not (passes_on and check is not_a_server_error)]
        case.call_and_validate(base_url=running.address, checks=checks, timeout=20)

    ask()


async def test_the_description_is_served(office: Office, client: httpx.AsyncClient) -> None:
    """`/openapi.json` is the document that the models write: version 3.1, every operation with its answers."""
    answer = await client.get("/openapi.json")

    assert answer.status_code == 200
    assert answer.json() == json.loads(json.dumps(DOCUMENT))
    assert answer.json()["openapi"].startswith("3.1")


def test_every_path_of_the_contract_is_described() -> None:
    """CONTRACT 7 and 8, path by path, the operator's page too."""
    job, delivery, source = "/v1/jobs/{source}/{job_id}", "/v1/deliveries/{delivery_id}", "/v1/sources/{name}"

    assert set(DOCUMENT["paths"]) >= {
        *("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/submit/{source}/{path}"),
        *("/v1/jobs", job, f"{job}/wait", f"{job}/poll"),
        *("/v1/deliveries", delivery, f"{delivery}/replay", f"{delivery}/release"),
        *("/v1/outbox/claim", "/v1/outbox/ack", "/v1/outbox/stream"),
        *("/v1/messages", "/v1/messages/{message_id}/redeliver", "/v1/stats"),
        *("/v1/sources", f"{source}/pause", f"{source}/resume", f"{source}/reconcile"),
    }
