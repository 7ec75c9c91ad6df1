"""One delivery: find its source, judge it on its raw bytes, have it recorded, answer.

Owns the order of the checks and what each one answers (CONTRACT 4). It never interprets: what a delivery says is read
later, off this path. It opens no connection, asks nobody, and holds no transaction; its one wait is for the recorder.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote_to_bytes

import structlog

from receiver import answers, jsontext
from receiver.admission import ByteBudget, Claim
from receiver.answers import Answer, Reply
from receiver.clock import Clock
from receiver.commits import Commits, Recorder
from receiver.counters import IntakeCounters
from receiver.errors import StoreUnavailable
from receiver.jsoncheck import check_object
from receiver.masking import mask_headers
from receiver.providers import provider_named
from receiver.providers.base import Parked, Provider, RawRequest, Refused
from receiver.records import Delivery, DeliveryId
from receiver.secrets import Secret
from receiver.settings import IntakeSettings, SourceSettings
from receiver.states import Verdict

DELIVERY_RECORDED = "delivery.recorded"
DELIVERY_REFUSED = "delivery.refused"
DELIVERY_NOT_KEPT = "delivery.not_kept"
INTAKE_FAILED = "intake.failed"

LARGE_BYTES = 65_536
"""Larger bodies are judged in a thread: hashing and parsing megabytes must not hold up everybody's answer."""
_SHED_S = 1.0
"""One word for all that had to be refused meanwhile: asking about open jobs once finds them all."""
_REREADS_PER_S = 20.0
"""A secret file is read again at most this often for each source, whatever strangers send."""
_MOST_VISITS = 1000
"""Ways to write the paths that are right; a source has few, but each of their bytes may be written in two ways."""
_QUIET_S = 10.0
"""A refusal of one kind is logged at most this often; a stranger must not fill the log. All are counted."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One source as the door knows it."""

    name: str
    settings: SourceSettings
    provider: Provider
    token: Secret | None
    budget_s: float
    """From the last byte of the body to the answer."""


@dataclass(slots=True)
class _Rereads:
    """How often one source's secret files may still be read again."""

    left: float = _REREADS_PER_S
    at: float = 0.0

    def allowed(self, at: float) -> bool:
        """Whether it may be done now; if so, it counts."""
        self.left = min(_REREADS_PER_S, self.left + max(0.0, at - self.at) * _REREADS_PER_S)
        self.at = at
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


@dataclass(frozen=True, slots=True)
class Visit:
    """A request whose path was right: the gate it came to, and what of its URL must never be written down."""

    gate: Gate
    hidden: tuple[str, ...] = ()


@dataclass(slots=True)  # not frozen: made for every delivery, and that costs three times as much
class _Judged:
    verdict: Verdict
    reason: str | None
    sha256: str
    answer: Answer | None
    """What to answer once it is recorded; None for 200."""


@dataclass(slots=True)  # not frozen, as above
class _Work:
    """What is being done for one request."""

    request: RawRequest
    remote: str
    claim: Claim
    started: float
    """When it began, on the clock that never steps."""
    now: float
    """When that was, of the day."""
    reply: Reply


class Intake:
    """The judge at the public door. All methods belong to the event loop."""

    def __init__(
        self,
        settings: IntakeSettings,
        sources: Mapping[str, SourceSettings],
        recorder: Recorder,
        clock: Clock,
        *,
        when_shed: Callable[[str], object] = lambda source: None,
    ) -> None:
        """`when_shed(source)` is called within a second after deliveries had to be refused that their sender will not
        send again."""
        self.settings = settings
        self.counters = IntakeCounters()
        self.budget = ByteBudget(settings.max_waiting_bytes, sources)
        self._recorder = recorder
        self._commits = Commits(recorder)
        self._clock = clock
        self._when_shed = when_shed
        self._gates = {name.encode(): _gate(name, source, settings) for name, source in sources.items()}
        self._open = {b"/in/" + name: Visit(gate) for name, gate in self._gates.items() if gate.token is None}
        """The paths without a token, whole: nothing about them is secret, so they are looked up."""
        self._visits: dict[bytes, Visit] = {}
        """What paths with a token led to, once the token was found right."""
        self._rereads = {name: _Rereads() for name in sources}
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="intake")
        self._log = structlog.get_logger("receiver.intake").bind()
        self._shed_soon: dict[str, asyncio.TimerHandle] = {}
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    def close(self) -> None:
        """Stop the thread that judges large bodies, and tell of sources that had to be refused in the last second.
        Nothing that was handed to the recorder is touched."""
        for source, timer in list(self._shed_soon.items()):
            timer.cancel()
            self._tell_shed(source)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def find(self, raw_path: bytes) -> Visit | Answer:
        """Whose door this is: exactly `/in/SOURCE` or `/in/SOURCE/TOKEN`, as the source has it (CONTRACT 4)."""
        if visit := self._open.get(raw_path):
            return visit
        segments = raw_path.split(b"/")
        if b"%" in raw_path:
            segments = [unquote_to_bytes(segment) for segment in segments]
        if not 3 <= len(segments) <= 4 or segments[0] or segments[1] != b"in":
            return self._refused("", answers.UNKNOWN_SOURCE)
        gate = self._gates.get(segments[2])
        if gate is None:
            return self._refused("", answers.UNKNOWN_SOURCE)
        if gate.token is None:
            return Visit(gate) if len(segments) == 3 else self._refused(gate.name, answers.WRONG_TOKEN)
        given = segments[3] if len(segments) == 4 else b""
        if not gate.token.matches(given) or not given:
            return self._refused(gate.name, answers.WRONG_TOKEN)
        visit = self._visits.get(raw_path)  # only now: who guesses learns nothing from how long the look takes
        if visit is None:
            written = raw_path.rpartition(b"/")[2].decode("latin-1")
            visit = Visit(gate, tuple({written, given.decode("latin-1")}))
            if len(self._visits) < _MOST_VISITS:
                self._visits[raw_path] = visit
        return visit

    def refuse(self, visit: Visit, answer: Answer) -> Answer:
        """Count a refusal the door itself made (method, size, encoding, time), and hand the answer back."""
        return self._refused(visit.gate.name, answer)

    def claim(self, visit: Visit, announced_bytes: int) -> Claim | None:
        """Room for a body; None when too much is waiting."""
        return self.budget.claim(visit.gate.name, announced_bytes)

    async def take(self, visit: Visit, request: RawRequest, remote: str, claim: Claim) -> Answer:
        """Judge a whole request and have it recorded. From here on `claim` is ours to release."""
        started, now = self._clock.monotonic(), self._clock.now()
        gate = visit.gate
        try:
            known = _secrets(gate)
            judged = await self._judged(gate, request, now)
            if isinstance(judged, Refused) and known is not None and await self._changed(gate, known):
                judged = await self._judged(gate, request, now)
        except BaseException:
            claim.release()
            raise
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def reply(answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        self._go_on(visit, _Work(request, remote, claim, started, now, reply), judged)
        return await answered

    def take_now(self, visit: Visit, request: RawRequest, remote: str, claim: Claim, reply: Reply) -> bool:
        """`take` for a small body, without a task: `reply` is called once, on the loop. False: this one must be taken
        by `take` (what refuses it may have been rewritten, and reading that would keep the others waiting); then
        nothing has been done, and `claim` is the caller's."""
        started, now = self._clock.monotonic(), self._clock.now()
        judged = _judge(visit.gate, request, now)
        if isinstance(judged, Refused) and _secrets(visit.gate) is not None:
            return False
        self._go_on(visit, _Work(request, remote, claim, started, now, reply), judged)
        return True

    def _go_on(self, visit: Visit, work: "_Work", judged: "_Judged | Refused") -> None:
        """What follows from a judgement: an answer at once, or one after the commit."""
        gate = visit.gate
        try:
            if isinstance(judged, Refused):
                work.claim.release()
                work.reply(self._refused(gate.name, answers.UNPROVEN, judged.reason))
                return
            delivery = self._delivery(visit, work.request, work.remote, work.now, judged)
            left_s = gate.budget_s - (self._clock.monotonic() - work.started)
            tell = partial(self._kept, gate, delivery.id, judged, work)
            self._commits.keep(delivery, work.claim, left_s, tell)
        except BaseException:
            work.claim.release()
            raise

    def _kept(
        self, gate: Gate, delivery_id: DeliveryId, judged: "_Judged", work: "_Work", outcome: bool | Exception
    ) -> None:
        """A delivery is durable, or not, or not yet: say so."""
        if outcome is True:
            self.counters.acknowledge(gate.name, self._clock.monotonic() - work.started, work.now)
            self._log.debug(DELIVERY_RECORDED, source=gate.name, id=delivery_id, verdict=judged.verdict.value)
            answer = judged.answer or answers.recorded(delivery_id)
        elif outcome is False:  # the commit goes on; its sender may come again
            answer = self._shed(gate, answers.NOT_IN_TIME)
        elif isinstance(outcome, StoreUnavailable):
            self._log.error(DELIVERY_NOT_KEPT, source=gate.name, error=str(outcome))
            answer = self._shed(gate, answers.NOT_KEPT)
        else:
            answer = self.failed(outcome)
        work.reply(answer)

    async def _judged(self, gate: Gate, request: RawRequest, now: float) -> "_Judged | Refused":
        if len(request.body) <= LARGE_BYTES:
            return _judge(gate, request, now)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _judge, gate, request, now)

    async def _changed(self, gate: Gate, known: tuple[str, ...]) -> bool:
        """Whether the source's secrets are others than those a request was refused by: a rotation rewrites the file
        while we run, and what the new secret signed must not be refused for it."""
        secret = gate.settings.secret
        assert secret is not None
        if secret.values() == known and self._rereads[gate.name].allowed(self._clock.monotonic()):
            await asyncio.get_running_loop().run_in_executor(self._threads, secret.refresh)
        return secret.values() != known

    def _delivery(self, visit: Visit, request: RawRequest, remote: str, now: float, judged: _Judged) -> Delivery:
        """What is kept of a request, secrets masked."""
        return Delivery(
            id=self._recorder.next_id(),
            source=visit.gate.name,
            received_at=now,
            remote=remote,
            headers=mask_headers(request.headers, visit.gate.settings.secret_header, visit.hidden),
            body=request.body,
            body_sha256=judged.sha256,
            verdict=judged.verdict,
            reason=judged.reason,
        )

    def shed(self, visit: Visit) -> Answer:
        """Refuse because too much is waiting."""
        return self._shed(visit.gate, answers.TOO_MUCH_WAITING)

    def failed(self, error: Exception) -> Answer:
        """Our own mistake: logged with its traceback, answered so that the sender comes again."""
        self._log.error(INTAKE_FAILED, error=str(error), exc_info=error)
        return self._refused("", answers.UNEXPECTED)

    def _shed(self, gate: Gate, answer: Answer) -> Answer:
        if not gate.provider.retries and gate.name not in self._shed_soon:
            self._shed_soon[gate.name] = asyncio.get_running_loop().call_later(_SHED_S, self._tell_shed, gate.name)
        return self._refused(gate.name, answer)

    def _tell_shed(self, source: str) -> None:
        del self._shed_soon[source]
        self._when_shed(source)

    def _refused(self, source: str, answer: Answer, reason: str = "") -> Answer:
        reason = reason or answer.reason
        self.counters.refuse(source, reason, self._clock.now())
        now = self._clock.monotonic()
        last, quiet = self._logged.get((source, reason), (float("-inf"), 0))
        if now - last < _QUIET_S:
            self._logged[source, reason] = (last, quiet + 1)
        else:
            self._logged[source, reason] = (now, 0)
            self._log.warning(
                DELIVERY_REFUSED, source=source, reason=reason, status=answer.status, since_last=quiet + 1
            )
        return answer


def _gate(name: str, source: SourceSettings, intake: IntakeSettings) -> Gate:
    provider = provider_named(source.provider)
    budgets = [intake.ack_budget_s, provider.ack_budget_s, source.ack_budget_s or intake.ack_budget_s]
    return Gate(name, source, provider, source.path_token, min(budgets))


def _secrets(gate: Gate) -> tuple[str, ...] | None:
    """The source's secrets, if they stand in files that may be rewritten."""
    secret = gate.settings.secret
    return secret.values() if secret is not None and secret.paths else None


def _judge(gate: Gate, request: RawRequest, now: float) -> _Judged | Refused:
    """Whether the sender is the one it should be, and whether its body can be worked with. Pure; any thread."""
    proof = gate.provider.authenticate(request, gate.settings, now)
    if isinstance(proof, Refused):
        return proof
    digest = hashlib.sha256(request.body).hexdigest()
    try:
        check_object(request.body)
    except jsontext.NotJson as problem:
        return _Judged(Verdict.QUARANTINED, str(problem), digest, answers.NOT_JSON)
    if isinstance(proof, Parked):
        return _Judged(Verdict.QUARANTINED, proof.reason, digest, None)
    return _Judged(Verdict.NEW, None, digest, None)
