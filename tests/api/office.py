"""A private listener over a real record, with a clock that stands still: what the tests of the API work with."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from receiver import jsontext
from receiver.interpret import Interpreter
from receiver.ledger import Ledger
from receiver.listeners import open_listener
from receiver.records import Delivery, Observation, Registration
from receiver.registrar import register
from receiver.server import HttpServer, private_limits
from receiver.settings import Settings
from receiver.states import By, Claim, Evidence, Reason
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from reconciler.api.app import PrivateApi, build_app
from reconciler.api.desk import Desk, IntakeCounters, Limits
from tests.support import ManualClock

BASE_URL = "http://127.0.0.1:9"
"""Where the simulated provider would be; nothing answers on the discard port."""

SOURCES: dict[str, Any] = {
    "moderation": {"provider": "omnifence", "base_url": BASE_URL, "api_key": "provider-key", "path_token": "tok"},
    "documents": {"provider": "omniai", "base_url": BASE_URL, "api_key": "documents-key"},
    "keyless": {"provider": "omnifence", "base_url": BASE_URL},
}


@dataclass
class Office:
    """One SQLite file, one clock, and the application of the private listener over them."""

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    counters: IntakeCounters | None = None
    trouble: list[str] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)
    poked: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = Settings.model_validate({**self.config, "sources": {**SOURCES, **self.sources}})
        self.ledger = Ledger(lambda source: self.settings.sources[source].provider, lambda job, now: None)
        self.store = SqliteStore(SqliteOptions(self.path), self.clock)
        self.app = self.build()

    def build(self) -> PrivateApi:
        """The application, anew."""

        async def poll_now(source: str, job_id: str) -> bool:
            self.asked.append((source, job_id))
            return True

        desk = Desk(
            store=self.store,
            settings=self.settings,
            clock=self.clock,
            poke=self.poked.append,
            poll_now=poll_now,
            intake_counters=self.counters,
            push_outcomes=lambda: {"delivered": 3},
            trouble=lambda: self.trouble,
            limits=self.limits,
        )
        return build_app(desk)

    def restart(self) -> None:
        """Open the record again, as after a crash: nothing but the file is left."""
        self.store.close()
        self.store = SqliteStore(SqliteOptions(self.path), self.clock)
        self.app = self.build()

    def client(self, base_url: str = "http://localhost", timeout_s: float = 30.0) -> httpx.AsyncClient:
        """A client without a network."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=base_url, timeout=timeout_s)

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """The application behind the real server; answers its address."""
        server = HttpServer(self.app, open_listener("127.0.0.1:0"), private_limits())
        await server.start()
        try:
            yield server.address
        finally:
            self.app.stop()
            await server.stop(2.0)

    async def register(self, job_id: str, source: str = "moderation", **facts: Any) -> None:
        """Put a job on record."""
        told, settings = Registration(source, job_id, **({"modality": "prompt"} | facts)), self.settings.sources[source]
        await self.store.write(lambda tx: register(tx, told, self.clock.now(), settings))

    async def settle(
        self, job_id: str, source: str = "moderation", claim: Claim = Claim.COMPLETED, result: Any = None
    ) -> None:
        """The provider's answer about a job arrives."""
        reason = Reason.PROVIDER if claim is Claim.FAILED else None
        seen = Observation(source, job_id, claim, By.POLL, Evidence.POLL, reason, "done", result)
        await self.store.write(lambda tx: self.ledger.apply(tx, seen, self.clock.now()))

    async def told(self, *job_ids: str, source: str = "moderation") -> None:
        """Jobs come on record and end: one message each."""
        for job_id in job_ids:
            await self.register(job_id, source)
            await self.settle(job_id, source, result={"of": job_id})

    async def deliver(self, document: Any, source: str = "moderation") -> Delivery:
        """A webhook comes in and is kept; it is not read yet."""
        body = document if isinstance(document, bytes) else jsontext.dump(document).encode()
        digest = hashlib.sha256(body).hexdigest()
        headers = (("content-type", "application/json"),)
        delivery = Delivery(self.store.next_id(), source, self.clock.now(), "192.0.2.1", headers, body, digest)
        await self.store.record(delivery)
        return delivery

    async def interpret(self) -> None:
        """Everything new is read."""
        interpreter = Interpreter(self.store, self.settings.sources, self.ledger, self.clock, lambda *urged: None)
        while await interpreter.run_once():
            pass
