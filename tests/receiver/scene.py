"""A record with everything that decides about jobs around it, and no network: what the tests of meaning play on."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from receiver import jsontext, timetable
from receiver.interpret import Interpreter
from receiver.ledger import Ledger
from receiver.providers.base import Finding
from receiver.records import Delivery, Job, Registration
from receiver.registrar import Registered, register
from receiver.settings import Settings
from receiver.states import Claim, Verdict
from receiver.store.base import Tx
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from reconciler.findings import Judge
from tests.support import ManualClock

TOKEN = "a-path-token-that-nobody-guesses"

SOURCES: dict[str, Any] = {
    "known": {"provider": "omnifence", "path_token": TOKEN, "api_key": "key"},
    "verify": {"provider": "omnifence", "api_key": "key"},
    "trusted": {"provider": "omniai", "secret": "a shared secret", "secret_header": "x-secret", "api_key": "key"},
    "keyless": {"provider": "omnifence", "path_token": TOKEN},
}


@dataclass
class Scene:
    """One SQLite file, one clock, and the parts that read and decide. `restart` is a crash without warning."""

    path: Path
    extra: dict[str, Any] = field(default_factory=dict)
    clock: ManualClock = field(default_factory=ManualClock)
    asked: list[tuple[str, str]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    store: SqliteStore = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings.model_validate({**self.config, "sources": {**SOURCES, **self.extra}})
        rules = {name: source.reconcile(self.settings.reconcile) for name, source in self.settings.sources.items()}

        def late(job: Job, now: float) -> float | None:
            return timetable.late_look_at(job, rules[job.source], now)

        self.ledger = Ledger(lambda source: self.settings.sources[source].provider, late)
        self.judges = {
            name: Judge(source, rules[name], self.ledger, Random(7)) for name, source in self.settings.sources.items()
        }
        self.restart()

    def restart(self) -> None:
        """Open the record again, as after a crash: nothing but the file is left."""
        if hasattr(self, "store"):
            self.store.close()
        self.store = SqliteStore(SqliteOptions(self.path), self.clock)
        self.interpreter = Interpreter(self.store, self.settings.sources, self.ledger, self.clock, self.wake)

    def wake(self, source: str, job_id: str) -> None:
        """Somebody is to ask about a job at once."""
        self.asked.append((source, job_id))

    async def register(self, job_id: str, source: str = "known", **facts: Any) -> Registered:
        """The application registers a job."""
        told = Registration(source, job_id, **({"modality": "prompt"} | facts))
        return await self.store.write(lambda tx: register(tx, told, self.clock.now(), self.settings.sources[source]))

    async def deliver(self, document: dict[str, Any] | bytes, source: str = "known") -> Delivery:
        """A webhook comes in and is kept; it is not read yet."""
        body = document if isinstance(document, bytes) else jsontext.dump(document).encode()
        digest = hashlib.sha256(body).hexdigest()
        delivery = Delivery(self.store.next_id(), source, self.clock.now(), "192.0.2.1", (), body, digest)
        await self.store.record(delivery)
        return delivery

    async def quarantine(self, body: bytes, reason: str, source: str = "known") -> None:
        """A delivery that intake kept and set aside."""
        digest = hashlib.sha256(body).hexdigest()
        came = (self.store.next_id(), source, self.clock.now(), "192.0.2.1", (), body, digest)
        await self.store.record(Delivery(*came, verdict=Verdict.QUARANTINED, reason=reason))

    async def register_all(self, job_ids: list[str], source: str = "known", **facts: Any) -> None:
        """The application registers many jobs in one transaction."""
        told = [Registration(source, job_id, **({"modality": "prompt"} | facts)) for job_id in job_ids]
        settings, now = self.settings.sources[source], self.clock.now()
        await self.store.write(lambda tx: [register(tx, each, now, settings) for each in told])

    async def deliver_all(self, documents: list[dict[str, Any]], source: str = "known") -> None:
        """Webhooks come in together; none is read yet."""
        await asyncio.gather(*(self.deliver(document, source) for document in documents))

    async def answer_all(
        self, findings: list[Finding], later_s: Mapping[str, float] | None = None, source: str = "known"
    ) -> None:
        """The provider answers about many jobs in one transaction, about each so much later than now."""
        judge, now, later = self.judges[source], self.clock.now(), later_s or {}

        def work(tx: Tx) -> None:
            for finding in findings:
                judge.apply(tx, finding, None, now + later.get(finding.job_id, 0.0))

        await self.store.write(work)

    async def read(self) -> None:
        """Everything new is interpreted."""
        while await self.interpreter.run_once():
            pass

    async def webhook(self, document: dict[str, Any] | bytes, source: str = "known") -> Delivery:
        """A webhook comes in and is read."""
        delivery = await self.deliver(document, source)
        await self.read()
        return delivery

    async def poll(self, job_id: str, claim: Claim | None = None, source: str = "known", **facts: Any) -> Job | None:
        """The provider answers about a job."""
        finding = Finding(job_id, claim=claim, **facts)
        return await self.store.write(lambda tx: self.judges[source].apply(tx, finding, None, self.clock.now()))

    def change_by_hand(self, statement: str) -> None:
        """Somebody else changes the file."""
        connection = sqlite3.connect(self.path)
        connection.execute("PRAGMA ignore_check_constraints=ON")
        with connection:
            connection.execute(statement)
        connection.close()

    async def job(self, job_id: str, source: str = "known") -> dict[str, Any]:
        """The job as the API shows it."""
        found = await self.store.read(lambda view: view.job(source, job_id))
        assert found is not None
        return found

    async def verdict(self, delivery: Delivery) -> tuple[str, str | None]:
        """(verdict, reason) of a delivery as it stands."""
        row = await self.store.read(lambda view: view.delivery(delivery.id))
        assert row is not None
        return row["verdict"], row["reason"]

    async def told(self, job_id: str, source: str = "known") -> list[dict[str, Any]]:
        """The messages staged for a job, in order."""
        return [message["payload"] for message in (await self.job(job_id, source))["messages"]]
