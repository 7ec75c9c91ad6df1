"""Anything, in any order, on the real store: what must hold after every single step, whatever came before."""

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from receiver import clock, registrar
from receiver.providers.base import Finding
from receiver.records import DeliveryId
from receiver.states import By, Claim, Evidence, Reason
from receiver.store.base import Retention, Tx
from receiver.store.sqlite import driver
from reconciler.findings import give_up
from tests.receiver.scene import Scene

SOURCES = st.sampled_from(["known", "verify", "trusted", "keyless"])
IDS = st.sampled_from(["j1", "j2", "../j3"])
WORDS = st.sampled_from(["completed", "failed", "processing", "Completed", "unheard-of"])
CLAIMS = st.sampled_from([Claim.COMPLETED, Claim.FAILED, Claim.RUNNING])


def said(source: str, job_id: str, word: str, twist: int) -> dict[str, Any]:
    """A webhook of the source's provider about a job; the twist makes bodies of one sending differ."""
    if source == "trusted":
        name = "failed" if word == "failed" else "completed"
        log = {"id": job_id, "type": "MESSAGE", "status": word.upper(), "leadId": "L", "twist": twist}
        return {"event": f"action_log.{name}", "actionLog": log}
    return {"job_id": job_id, "status": word, "twist": twist}


class Life(RuleBasedStateMachine):
    """One record through many lives. The machine itself knows nothing of what is right; the invariants do."""

    deliveries: Bundle[tuple[str, DeliveryId]] = Bundle("deliveries")

    @initialize()
    def begin(self) -> None:
        """A fresh record."""
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=memory if memory.is_dir() else None))
        self.runner = asyncio.Runner()
        self.scene = self.runner.run(self._scene())
        self.eye = driver.open_reader(self.folder / "record.db")
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}

    async def _scene(self) -> Scene:
        return Scene(self.folder / "record.db")

    # -- what happens -------------------------------------------------------------------------------------------

    @rule(source=SOURCES, job_id=IDS, told=st.booleans())
    def registers(self, source: str, job_id: str, told: bool) -> None:
        """The application registers a job, perhaps again, perhaps with its modality."""
        refs = {"lead_id": "L"} if source == "trusted" else None
        self.runner.run(self.scene.register(job_id, source, modality="prompt" if told else None, refs=refs))

    @rule(target=deliveries, source=SOURCES, job_id=IDS, word=WORDS, twist=st.integers(0, 1), times=st.integers(1, 2))
    def sends(self, source: str, job_id: str, word: str, twist: int, times: int) -> Any:
        """A webhook comes in once or twice and is recorded; reading it is another step."""
        document = said(source, job_id, word, twist)
        sent = [self.runner.run(self.scene.deliver(document, source)) for _ in range(times)]
        return multiple(*((source, delivery.id) for delivery in sent))

    @rule()
    def reads(self) -> None:
        """The interpreter catches up."""
        self.runner.run(self.scene.read())

    @rule(source=SOURCES, job_id=IDS, claim=CLAIMS)
    def answers(self, source: str, job_id: str, claim: Claim) -> None:
        """The provider answers about a job, on record or not."""
        self.runner.run(self.scene.poll(job_id, claim, source, status=claim.value, result={"by": "poll"}))

    @rule(source=SOURCES, job_id=IDS, how=st.sampled_from(["missing", "trouble"]))
    def does_not_answer(self, source: str, job_id: str, how: str) -> None:
        """404, or no answer that can be read."""
        facts: dict[str, Any] = {"missing": True} if how == "missing" else {"problem": "503"}
        self.runner.run(self.scene.poll(job_id, None, source, **facts))

    @rule(source=SOURCES, job_id=IDS, claim=CLAIMS)
    def lists(self, source: str, job_id: str, claim: Claim) -> None:
        """A list tells of a job; it is adopted unless it is on record."""
        finding = Finding(job_id, claim=claim, submitted_at=self.scene.clock.now() - 100, unlisted=True)
        judge = self.scene.judges[source]
        self.write(lambda tx: judge.adopt(tx, finding, 0.0, self.scene.clock.now()))

    @rule(source=SOURCES, job_id=IDS, reason=st.sampled_from([Reason.STALE, Reason.UNREACHABLE, Reason.NOT_FOUND]))
    def gives_up(self, source: str, job_id: str, reason: Reason) -> None:
        """We stop waiting for a job."""

        def work(tx: Tx) -> None:
            job = tx.jobs.find(source, job_id)
            if job is not None:
                give_up(tx, self.scene.ledger, job, self.scene.clock.now(), reason=reason, by=By.DEADLINE, note="x")

        self.write(work)

    @rule(one=deliveries, trusted=st.booleans())
    def looks_again(self, one: tuple[str, DeliveryId], trusted: bool) -> None:
        """An operator replays a delivery, or lets it through."""
        now = self.scene.clock.now()
        self.write(
            lambda tx: registrar.release(tx, one[1], now, "me") if trusted else registrar.replay(tx, one[1], now)
        )

    @rule(seconds=st.sampled_from([0.0, 30.0, 400.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        """A moment, a poll interval, a timeout, a day."""
        self.scene.clock.advance(seconds)

    @rule()
    def tells(self) -> None:
        """The application takes what is due and answers."""
        now = self.scene.clock.now()

        def work(tx: Tx) -> None:
            claimed = tx.outbox.claim(now, now + 20, 3, pull=True)
            tx.outbox.delivered([message.id for message in claimed], now, pushed=True)

        self.write(work)

    @rule()
    def prunes(self) -> None:
        """Retention of a quarter of a day, the keys apart."""
        old = self.scene.clock.now() - 21_600
        self.write(lambda tx: tx.meta.prune(Retention(old, old, None, old), 5))

    @rule()
    def dies(self) -> None:
        """The process is gone; the file is opened again."""
        self.scene.restart()

    def write(self, work: Any) -> None:
        self.runner.run(self.scene.store.write(work))

    # -- what must hold -----------------------------------------------------------------------------------------

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """The tables as anybody may read them."""

        return self.eye.execute(statement).fetchall()

    @invariant()
    def every_end_is_told_once(self) -> None:
        """As many messages as decisions; each supersedes the one before; the last says how the job stands."""
        chains: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        for row in self.rows(
            "SELECT source, job_id, id, supersedes, payload ->> '$.data.state', payload ->> '$.data.reason'"
            " FROM outbox WHERE job_id IS NOT NULL ORDER BY seq"
        ):
            chains.setdefault(row[:2], []).append(row)
        jobs = self.rows("SELECT source, job_id, revision, state, reason, last_message_id FROM jobs")
        for source, job_id, revision, state, reason, last in jobs:
            chain = chains.get((source, job_id), [])
            ended = self.ends.get((source, job_id), 0)
            assert revision == ended, "every decision is in the history"
            assert (state == "pending") == (revision == 0)
            if not chain:  # told and pruned, or nothing to tell
                continue
            assert [row[3] for row in chain[1:]] == [row[2] for row in chain[:-1]], "a chain without a gap"
            assert (chain[-1][2], chain[-1][4], chain[-1][5]) == (last, state, reason)
            assert all(one[4:] != following[4:] for one, following in itertools.pairwise(chain))
            assert len(chain) <= revision

    @property
    def ends(self) -> dict[tuple[str, str], int]:
        """How often the history says that a job ended or was corrected."""
        return {
            (row[0], row[1]): row[2]
            for row in self.rows(
                "SELECT source, job_id, count(*) FROM job_history WHERE to_state <> 'pending'"
                " AND (from_state = 'pending' OR note LIKE 'corrects%' OR from_state <> to_state)"
                " GROUP BY source, job_id"
            )
        }

    @invariant()
    def nothing_regresses(self) -> None:
        """No job is reopened, no decision undone, no evidence weakened; a stronger answer is never overruled."""
        for source, job_id, state, revision, evidence, reason in self.rows(
            "SELECT source, job_id, state, revision, evidence, reason FROM jobs"
        ):
            now = {"state": state, "revision": revision, "evidence": evidence, "reason": reason}
            before = self.seen.get((source, job_id), now)
            assert before["state"] == "pending" or state != "pending"
            assert revision >= before["revision"]
            if before["state"] != "pending":
                assert evidence >= before["evidence"]
            if before["evidence"] == Evidence.POLL:
                assert (state, reason) == (before["state"], before["reason"])
            self.seen[source, job_id] = now

    @invariant()
    def pending_means_not_settled(self) -> None:
        """A finished state has a finished time, a witness and, if it failed, a reason; a pending one has a due time."""
        for state, settled_at, decided_by, reason, due, deadline in self.rows(
            "SELECT state, settled_at, decided_by, reason, next_poll_at, deadline_at FROM jobs"
        ):
            pending = state == "pending"
            assert (settled_at is None) == (decided_by is None) == pending
            assert (reason is not None) == (state == "failed")
            assert not pending or (due is not None and deadline is not None)
            for instant in (settled_at, due, deadline):
                assert instant is None or clock.is_text(instant)

    @invariant()
    def the_kept_counts_are_the_real_ones(self) -> None:
        """`tallies` costs no counting and is never wrong."""
        kept = {(row[0], row[1], row[2]): row[3] for row in self.rows("SELECT kind, source, state, n FROM tallies")}
        real: Counter[tuple[str, str, str]] = Counter()
        for kind, column in (("jobs", "state"), ("outbox", "state"), ("deliveries", "verdict")):
            for source, value, count in self.rows(f"SELECT source, {column}, count(*) FROM {kind} GROUP BY 1, 2"):
                if value != "new":
                    real[kind, source, value] = count
        assert {key: n for key, n in kept.items() if n and key[0] not in ("settled", "polls")} == dict(real)
        settled = Counter({key[1]: n for key, n in kept.items() if key[0] == "settled"})
        for source, ended in self.rows("SELECT source, count(*) FROM jobs WHERE revision > 0 GROUP BY 1"):
            assert sum(n for key, n in kept.items() if key[:2] == ("settled", source)) == ended
        assert all(n >= 0 for n in settled.values())

    @invariant()
    def a_sending_has_one_owner(self) -> None:
        """An event key belongs to one delivery that was not refused; all others with it are duplicates or released."""
        for verdict, count in self.rows(
            "SELECT d.verdict, count(*) FROM deliveries d JOIN event_keys k ON k.delivery_id = d.id GROUP BY 1"
        ):
            assert verdict != "duplicate" or count == 0
        held = self.rows(
            "SELECT count(*) FROM deliveries d WHERE verdict = 'held' AND NOT EXISTS"
            " (SELECT 1 FROM event_keys k WHERE k.delivery_id = d.id)"
        )
        assert held == [(0,)], "what waits keeps its key"

    def teardown(self) -> None:
        """Close the record; whatever was left unread is read first, and must hold too."""
        if not hasattr(self, "scene"):
            return
        try:
            self.reads()
            self.every_end_is_told_once()
            assert self.rows("SELECT count(*) FROM deliveries WHERE verdict = 'new'") == [(0,)]
        finally:
            self.eye.close()
            self.scene.store.close()
            self.runner.close()
            shutil.rmtree(self.folder, ignore_errors=True)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=40)
