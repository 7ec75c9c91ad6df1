"""Reads recorded deliveries and lets their claims reach the ledger. Off the acknowledgement path, in batches.

Reading (JSON, the provider's words) happens on a snapshot, outside any transaction; deciding happens in one short
transaction a batch, guarded by the verdict `new`, so that it can be stopped and repeated at any row and two readers do
no harm. A delivery that cannot be decided is quarantined by itself; it never holds up the ones behind it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from receiver import jsontext, registrar
from receiver.clock import Clock
from receiver.errors import StoreUnavailable
from receiver.ledger import Ledger, event_message
from receiver.providers.base import RawRequest, Reading, Said
from receiver.records import Delivery, HistoryEntry, Job, Observation, Registration
from receiver.settings import SourceSettings
from receiver.states import By, Claim, Evidence, JobState, Verdict
from receiver.store.base import Store, Tx
from receiver.store.views import View

log = structlog.get_logger("holdfast.interpret")

TEST_EVENT = "webhook.test"
"""Recorded and told to nobody, whoever sends it (CONTRACT 5)."""
BATCH = 256
"""Deliveries of one transaction at the most: they share the price of its sync."""
SHORT_BATCH = 32
"""The same while deliveries wait at the door: they wait for this transaction too, and are to be acknowledged first."""
CROWD = 8
"""So many waiting at the door are a crowd."""
BATCH_BYTES = 4 << 20


class Understood(NamedTuple):
    """A delivery with what its provider made of it."""

    delivery: Delivery
    document: dict[str, Any]
    reading: Reading

    @property
    def key(self) -> str | None:
        """What makes a second sending of the same event known; None for what cannot be read."""
        if self.reading.problem is not None:
            return None
        return self.reading.event_key or f"sha256:{self.delivery.body_sha256}"


def understood(delivery: Delivery, source: SourceSettings | None) -> Understood:
    """A delivery as its provider reads it; what cannot be read is a problem in the reading, never an exception."""
    if source is None:
        return Understood(delivery, {}, Reading(problem="source_not_configured"))
    if delivery.body is None:
        return Understood(delivery, {}, Reading(problem="body_pruned"))
    if hashlib.sha256(delivery.body).hexdigest() != delivery.body_sha256:
        return Understood(delivery, {}, Reading(problem="damaged"))
    try:
        document = jsontext.parse_object(delivery.body)
    except jsontext.NotJson as error:
        return Understood(delivery, {}, Reading(problem=str(error)))
    try:
        reading = source.facts.read(RawRequest(delivery.headers, delivery.body), document, source)
    except Exception:  # an adapter is anybody's file: what it cannot read must not hold up the rest
        log.exception("delivery.not_understood", delivery=delivery.id, source=delivery.source)
        reading = Reading(problem="internal_error")
    return Understood(delivery, document, reading)


class Interpreter:
    """Takes new deliveries in id order. `wake` is told (source, job_id) when a job is to be asked about at once."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, SourceSettings],
        ledger: Ledger,
        clock: Clock,
        wake: Callable[[str, str], None] = lambda source, job_id: None,
    ) -> None:
        self._store = store
        self._sources = sources
        self._trust = {name: source.effective_trust() for name, source in sources.items()}
        self._ledger = ledger
        self._clock = clock
        self._wake = wake
        self.crowd = 0
        """How many waited at the door, of late."""

    async def run_once(self) -> int:
        """Interpret a batch of deliveries; answers how many they were, 0 when there are none. Raises
        StoreUnavailable."""
        # One look may fall between two commits, when everybody has just been answered: what was seen before counts on.
        self.crowd = max(self._store.waiting(), self.crowd // 2)
        limit = SHORT_BATCH if self.crowd > CROWD else BATCH
        batch = await self._store.read(lambda view: self._understand(view, limit))
        if not batch:
            return 0
        now = self._clock.now()
        try:
            urged = await self._store.write(lambda tx: self._decide_all(tx, batch, now))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one delivery does, the others go on
            if len(batch) == 1:
                await self._give_up(batch[0], error)
                return 1
            urged = [await self._decide_alone(each, now) for each in batch]  # one spoils it: the others do not wait
        for job in urged:  # after the commit and on the caller's thread: whoever is woken looks at the record
            if job is not None:
                self._wake(job.source, job.job_id)
        return len(batch)

    async def _decide_alone(self, each: Understood, now: float) -> Job | None:
        try:
            return await self._store.write(lambda tx: self._decide(tx, each, now))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - kept as the delivery's own verdict
            await self._give_up(each, error)
            return None

    async def _give_up(self, each: Understood, error: Exception) -> None:
        log.error("delivery.not_understood", delivery=each.delivery.id, source=each.delivery.source, exc_info=error)
        spoiled = each.delivery.with_(verdict=Verdict.QUARANTINED, reason="internal_error")
        await self._store.write(lambda tx: tx.deliveries.decide(spoiled, Verdict.NEW))

    # -- reading ------------------------------------------------------------------------------------------------

    def _understand(self, view: View, limit: int) -> list[Understood]:
        return [understood(each, self._sources.get(each.source)) for each in view.next_unread(limit, BATCH_BYTES)]

    # -- deciding, inside one transaction -----------------------------------------------------------------------

    def _decide_all(self, tx: Tx, batch: Sequence[Understood], now: float) -> list[Job | None]:
        """Give each its verdict. What all of them will ask the record for is asked for once."""
        known = [(each.delivery, each.key) for each in batch]
        tx.deliveries.claim_ahead([(one.source, key, one.id, one.received_at) for one, key in known if key is not None])
        tx.jobs.look_ahead([(each.delivery.source, each.reading.said.job_id) for each in batch if each.reading.said])
        return [self._decide(tx, each, now) for each in batch]

    def _decide(self, tx: Tx, each: Understood, now: float) -> Job | None:
        """Give one delivery its verdict; answers the job that is to be asked about at once, if there is one."""
        delivery, reading, key = each.delivery, each.reading, each.key
        said = reading.said
        told = delivery.with_(
            event=reading.event, job_id=said.job_id if said else None, event_key=key or delivery.event_key
        )
        if key is None:
            self._close(tx, told, Verdict.QUARANTINED, reading.problem)
            return None
        owner = tx.deliveries.claim_key(delivery.source, key, delivery.id, delivery.received_at, reading.key_window_s)
        if owner != delivery.id and not self._takes_over(tx, told, owner):
            first = tx.deliveries.get(owner)
            differs = first is not None and first.body_sha256 != delivery.body_sha256
            self._close(tx, told, Verdict.DUPLICATE, f"body differs from delivery {owner}" if differs else None)
            return None
        if said is not None:
            return self._hear(tx, told, said, now)
        if reading.passes_on and (reading.event or "").lower() != TEST_EVENT:
            provider = self._sources[delivery.source].provider
            identity = key if reading.key_window_s is None else f"{key}:{delivery.id}"
            event = reading.event or "unknown"
            tx.outbox.stage(event_message(told, event, each.document, now, provider=provider, key=identity))
        self._close(tx, told, Verdict.ACCEPTED, None)
        return None

    @staticmethod
    def _takes_over(tx: Tx, told: Delivery, owner: int) -> bool:
        """An operator who releases a repeat lets it through although the first sending holds the key."""
        return told.reason == registrar.RELEASED

    @staticmethod
    def _close(tx: Tx, told: Delivery, verdict: Verdict, reason: str | None) -> None:
        tx.deliveries.conclude(told, verdict, reason)
        if verdict is Verdict.QUARANTINED and told.event_key is not None:
            tx.deliveries.release_key(told.source, told.event_key, told.id)  # a repeat is to be judged anew

    def _hear(self, tx: Tx, told: Delivery, said: Said, now: float) -> Job | None:
        source = self._sources[told.source]
        released = told.reason == registrar.RELEASED
        trust = "payload" if released else self._trust[told.source]
        job = tx.jobs.find(told.source, said.job_id) or (tx.jobs.find(told.source, said.alias) if said.alias else None)
        if job is None and trust == "payload":
            job = self._put_on_record(tx, told, said, now, "operator" if released else "delivery")
        if job is None:
            self._hold(tx, told, source)
            return None
        job = self._learn(tx, job, said, now, source)
        evidence = self._evidence(trust, job)
        asks = source.api_key is not None and source.facts.cannot_ask(job, source) is None
        if evidence is None and said.claim is Claim.RUNNING:
            asks = False  # not trusted, and claims no end: there is nothing to verify
        elif evidence is not None and (said.has_result or not asks or said.claim is Claim.RUNNING):
            self._ledger.apply(tx, self._observation(told, job, said, evidence), now, job)
            asks = False
        elif asks:
            self._ask_now(tx, told, job, said, now)
        else:
            self._hold(tx, told, source)
            return None
        self._close(tx, told, Verdict.ACCEPTED, None)
        return job if asks else None

    @staticmethod
    def _evidence(trust: str, job: Job) -> Evidence | None:
        """How far this source's word goes for this job; None: not far enough to act on."""
        if trust == "payload":
            return Evidence.PAYLOAD
        if trust == "known" and job.vouched:
            return Evidence.KNOWN
        # A provider's own answer stands already: a webhook can only agree or be noted as a conflict.
        return Evidence.KNOWN if job.state is not JobState.PENDING and job.evidence is Evidence.POLL else None

    @staticmethod
    def _observation(told: Delivery, job: Job, said: Said, evidence: Evidence) -> Observation:
        return Observation(
            source=told.source,
            job_id=job.job_id,
            claim=said.claim,
            by=By.WEBHOOK,
            evidence=evidence,
            reason=said.reason,
            provider_status=said.status,
            result=said.result,
            delivery_id=told.id,
        )

    @staticmethod
    def _ask_now(tx: Tx, told: Delivery, job: Job, said: Said, now: float) -> None:
        registrar.make_due(tx, job, now, anew=True)
        tx.jobs.note(
            HistoryEntry(
                job.source,
                job.job_id,
                now,
                job.state,
                job.state,
                None,
                By.WEBHOOK.value,
                told.id,
                note=f"webhook says {said.status or said.claim.value}; the provider is asked",
            )
        )

    def _put_on_record(self, tx: Tx, told: Delivery, said: Said, now: float, by: str) -> Job | None:
        registration = Registration(
            told.source, said.job_id, said.modality, None, None, said.alias, said.refs, said.metadata, by
        )
        return registrar.register(tx, registration, now, self._sources[told.source]).job

    @staticmethod
    def _learn(tx: Tx, job: Job, said: Said, now: float, source: SourceSettings) -> Job:
        """Fill in what the record lacks and the delivery tells: the other id, the lead, the modality."""
        others = (each for each in (said.alias, said.job_id) if each and each != job.job_id)
        alias, modality = job.alias or next(others, None), job.modality or said.modality
        refs = {**said.refs, **(job.refs or {})} if said.refs else job.refs
        if (alias, refs, modality) == (job.alias, job.refs, job.modality):
            return job
        learned = job.with_(alias=alias, refs=refs or None, modality=modality)
        if learned.state is JobState.PENDING and (learned.modality != job.modality or learned.refs != job.refs):
            learned = registrar.schedule(learned, source, now).with_(wait_s=job.wait_s)
        tx.jobs.change(job, learned)
        return tx.jobs.find(job.source, job.job_id) or learned

    def _hold(self, tx: Tx, told: Delivery, source: SourceSettings) -> None:
        if tx.deliveries.count_held(told.source) >= source.max_held:
            self._close(tx, told, Verdict.QUARANTINED, "too_many_held")
        else:
            self._close(tx, told, Verdict.HELD, None)
