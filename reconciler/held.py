"""Deliveries whose job nobody registered: when their time is over each such job is asked about once.

Whoever posts can make up ids, so they come last: few a pass, none while a job on record waits, and an id that the
provider cannot speak of is never asked about again. What was held in vain is quarantined `unknown_job`. Deliveries of
a job on record are not meant here; they stay held until somebody can be asked.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

from receiver import registrar
from receiver.clock import Clock
from receiver.interpret import understood
from receiver.providers.base import Finding
from receiver.records import Delivery, Job
from receiver.settings import SourceSettings
from receiver.states import Verdict
from receiver.store.base import Store, Tx
from reconciler.asking import Asked, Asker
from reconciler.findings import Judge, found_job

A_PASS = 3
STEP = 500
"""Rows a transaction at the most, so that intake never waits long."""
MOST_FAILURES = 3
"""So many times may the provider itself fail (5xx) over an unknown id while it answers others: it may well be the id
that it fails over. While it answers nobody it proves nothing, and the delivery stays held."""
LOOKED_AT = 50
"""Held deliveries among which those of ids that met no failure come first: an id that fails holds up no other."""


@dataclass(slots=True)
class Held:
    """The held deliveries of one source."""

    store: Store
    source: SourceSettings
    judge: Judge
    clock: Clock
    failures: dict[str, tuple[int, float]] = field(default_factory=dict)
    """job id -> (5xx answers, when the first came); only in memory, losing it costs a question."""

    async def ask(self, asker: Asker, others_wait: Callable[[], Awaitable[bool]]) -> AsyncIterator[Asked]:
        """Ask about a few jobs whose deliveries were held in vain; yields what each run did. Stops when the source is
        in trouble or may not be asked, and after the first while others wait. Raises StoreUnavailable."""
        for asked_before, stub in enumerate(await self.store.write(self._stubs)):
            if asked_before and await others_wait():
                return
            if self.source.facts.cannot_ask(stub, self.source) is not None:
                await self._refuse(stub.job_id)
                continue
            asked = await asker.run([stub], apply=functools.partial(self._found, stub))
            yield asked
            if asked.stopped is not None or (asked.trouble is not None and not await self._blames_id(asked, stub)):
                return
            await self._refuse(stub.job_id)  # nothing to refuse when the job was found

    def _stubs(self, tx: Tx) -> list[Job]:
        now = self.clock.now()
        held = tx.deliveries.held_before(self.source.name, now - self.source.hold_s, LOOKED_AT)
        first: dict[str | None, Delivery] = {}
        for delivery in held:
            first.setdefault(delivery.job_id, delivery)
        least_failed = sorted(first.values(), key=lambda each: self.failures.get(each.job_id or "", (0, 0.0))[0])
        return [self._stub(tx, each, now) for each in least_failed[:A_PASS]]

    def _stub(self, tx: Tx, delivery: Delivery, now: float) -> Job:
        """The job as the delivery tells of it: some can only be asked about with what stands in there (a lead)."""
        whole = tx.deliveries.get(delivery.id)
        said = understood(whole, self.source).reading.said if whole is not None else None
        stub = Job(self.source.name, delivery.job_id or "", registered_at=now)
        return stub if said is None else stub.with_(alias=said.alias, modality=said.modality, refs=said.refs)

    async def _blames_id(self, asked: Asked, stub: Job) -> bool:
        """Whether trouble is the id's own: it is refused, or fails again and again while others are answered. What
        failed for `give_up_after_s` is not asked about any more either."""
        outcome = asked.trouble.outcome if asked.trouble else ""
        if outcome != "unavailable":
            return outcome in ("refused", "redirected")
        now = self.clock.now()
        if len(self.failures) > STEP:
            self.failures.clear()
        count, first_at = self.failures.get(stub.job_id, (0, now))
        self.failures[stub.job_id] = (count + 1, first_at)
        state = await self.store.write(lambda tx: tx.sources.get(self.source.name))
        answers = state.answered_at is not None and state.answered_at > first_at
        return count + 1 >= MOST_FAILURES and (answers or now - first_at >= self.source.give_up_after_s)

    def _found(self, stub: Job, tx: Tx, finding: Finding, poll_id: int | None, now: float) -> None:
        if finding.job_id != stub.job_id or finding.claim is None:
            return
        told = found_job(self.source.name, finding, "asked", now)
        refs = {**(stub.refs or {}), **(told.refs or {})} or None
        registrar.adopt(tx, told.with_(alias=told.alias or stub.alias, refs=refs), self.source, now)
        self.judge.apply(tx, finding, poll_id, now)

    async def _refuse(self, job_id: str) -> None:
        self.failures.pop(job_id, None)
        before = self.clock.now() - self.source.hold_s

        def refuse(tx: Tx) -> None:
            for delivery in tx.deliveries.held_before(self.source.name, before, STEP):
                if delivery.job_id == job_id:
                    self._quarantine(tx, delivery)

        await self.store.write(refuse)

    async def expire(self) -> None:
        """Without a key nobody can be asked: what was held in vain is quarantined. Raises StoreUnavailable."""
        before = self.clock.now() - self.source.hold_s

        def expire(tx: Tx) -> None:
            for delivery in tx.deliveries.held_before(self.source.name, before, STEP):
                self._quarantine(tx, delivery)

        await self.store.write(expire)

    @staticmethod
    def _quarantine(tx: Tx, delivery: Delivery) -> None:
        refused = replace(delivery, verdict=Verdict.QUARANTINED, reason="unknown_job")
        if tx.deliveries.decide(refused, Verdict.HELD) and delivery.event_key is not None:
            tx.deliveries.release_key(delivery.source, delivery.event_key, delivery.id)  # a repeat is judged anew
