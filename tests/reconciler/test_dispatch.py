"""Telling as CONTRACT 7 has it: every message, in order within a job, and nobody holding up anybody else."""

import asyncio
import base64
import email.utils
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import standardwebhooks
import time_machine

from receiver.records import Message
from receiver.settings import AppSettings
from receiver.store.base import Store
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from reconciler.dispatch import DOWN_AFTER, FACTOR, IN_FLIGHT, JITTER, Dispatch
from tests.support import START, ManualClock, aeventually

SECRETS = ["whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)]
OLD_SECRET = "whsec_" + base64.b64encode(b"9" * 32).decode()

Answer = int | tuple[int, dict[str, str]] | OSError | asyncio.Event | Exception


@dataclass
class Application:
    """The user's application at the edge of ours: it keeps what it got, and answers as it is told to."""

    answers: Callable[[str], Answer] = lambda message_id: 200
    got: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def ids(self) -> list[str]:
        """The ids of the messages it got, in order of arrival."""
        return [headers["webhook-id"] for _, _, headers in self.got]

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        """One push."""
        self.got.append((url, body, headers))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = self.answers(headers["webhook-id"])
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                answer = 200
        finally:
            self.at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return (answer, {}) if isinstance(answer, int) else answer


@dataclass
class Post:
    """A record, a clock and the pushing side."""

    path: Path
    clock: ManualClock = field(default_factory=ManualClock)
    app: Application = field(default_factory=Application)
    apps: dict[str, AppSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        usual = AppSettings.model_validate({"url": "http://app.example.com/hook", "secret": SECRETS})
        self.apps = self.apps or {"src": usual}
        self.restart()

    def restart(self) -> None:
        """As after a crash: the file alone is left."""
        if hasattr(self, "store"):
            self.store.close()
        self.store: Store = SqliteStore(SqliteOptions(self.path), self.clock)
        self.dispatch = Dispatch(self.store, self.apps, lambda settings: self.app, self.clock, Random(5))

    async def stage(self, *ids: str, job_id: str | None = None, source: str = "src") -> None:
        """Messages to be told, each of a job of its own unless one is named."""
        now = self.clock.now()
        messages = [
            Message(each, source, job_id or f"job-{each}", "job.completed", json.dumps({"id": each, "n": "ü"}), now)
            for each in ids
        ]
        await self.store.write(lambda tx: [tx.outbox.add(message) for message in messages])

    async def message(self, message_id: str) -> Message:
        """A message as it stands."""
        found = await self.store.write(lambda tx: tx.outbox.get(message_id))
        assert found is not None
        return found

    async def run(self, seconds: float = 0.0, every_s: float = 1.0) -> None:
        """Push what is due, and go on doing so for a while."""
        await self.dispatch.run_once()
        until = self.clock.now() + seconds
        while self.clock.now() < until:
            self.clock.advance(every_s)
            await self.dispatch.run_once()


@pytest.fixture
def post(fast_folder: Path) -> Iterator[Post]:
    made = Post(fast_folder / "record.db")
    yield made
    made.store.close()


async def test_a_message_is_pushed_and_delivered(post: Post) -> None:
    """Its stored text goes out unchanged, with the id of the row; 2xx is success, counted as one attempt."""
    post.app.answers = lambda message_id: 204
    await post.stage("m1")
    await post.run()
    ((url, body, headers),) = post.app.got
    kept = await post.message("m1")

    assert (url, body.decode()) == ("http://app.example.com/hook", kept.payload)
    assert (headers["webhook-id"], headers["content-type"]) == ("m1", "application/json")
    assert (kept.state, kept.attempts, kept.delivered_at, kept.last_error) == ("delivered", 1, START, None)
    await post.run(100)
    assert len(post.app.got) == 1
    assert post.dispatch.counters.pushes == {"delivered": 1}


@pytest.mark.parametrize("secret", SECRETS)
async def test_the_signature_is_that_of_standard_webhooks(post: Post, secret: str) -> None:
    """The reference library takes it, with either of the active secrets, and not with another or for other bytes."""
    await post.stage("msg_1")
    await post.run()
    ((_, body, headers),) = post.app.got

    with time_machine.travel(START, tick=False):
        assert standardwebhooks.Webhook(secret).verify(body, headers) == json.loads(body)
        for bad_secret, bad_body in ((OLD_SECRET, body), (secret, body + b" ")):
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                standardwebhooks.Webhook(bad_secret).verify(bad_body, headers)


@pytest.mark.parametrize("secret", ["plain-secret", "whsec_tok_en-URL_safe-0123456789"])
async def test_a_secret_that_is_no_base64_is_signed_with_as_the_library_reads_it(
    fast_folder: Path, secret: str
) -> None:
    """Whoever gives the same text to the reference library, or its bytes to one's own, finds a signature that fits."""
    app = AppSettings.model_validate({"url": "http://app.example.com/", "secret": secret})
    post = Post(fast_folder / "r.db", apps={"src": app})
    await post.stage("m1")
    await post.run()
    ((_, body, headers),) = post.app.got

    with time_machine.travel(START, tick=False):
        for given in (secret, secret.encode()):
            assert standardwebhooks.Webhook(given).verify(body, headers) == json.loads(body)
    post.store.close()


async def test_every_attempt_has_the_same_id_and_a_fresh_signature(post: Post) -> None:
    """The application knows a repeat by its id; a late one is no stale one."""
    post.app.answers = lambda message_id: 500 if len(post.app.got) < 3 else 200
    await post.stage("msg_1")
    await post.run(3600, every_s=10)

    assert post.app.ids == ["msg_1"] * 3
    times = [int(headers["webhook-timestamp"]) for _, _, headers in post.app.got]
    assert times == sorted(set(times))
    with time_machine.travel(times[-1], tick=False):
        standardwebhooks.Webhook(SECRETS[0]).verify(post.app.got[-1][1], post.app.got[-1][2])


async def test_without_a_secret_nothing_is_signed(fast_folder: Path) -> None:
    """And the rest is the same."""
    post = Post(fast_folder / "r.db", apps={"src": AppSettings(url="http://app.example.com/")})
    await post.stage("m1")
    await post.run()

    assert set(post.app.got[0][2]) == {"content-type", "webhook-id", "webhook-timestamp"}
    post.store.close()


async def test_a_source_has_its_own_application(fast_folder: Path) -> None:
    """Its messages go there; those of a source without one wait to be pulled."""
    apps = {name: AppSettings(url=f"http://{name}.example.com/") for name in ("a", "b")}
    post = Post(fast_folder / "r.db", apps=apps)
    for source in ("a", "b", "pulled"):
        await post.stage(f"m-{source}", source=source)
    await post.run()

    assert sorted((url, headers["webhook-id"]) for url, _, headers in post.app.got) == [
        ("http://a.example.com/", "m-a"), ("http://b.example.com/", "m-b"),
    ]  # fmt: skip
    assert (await post.message("m-pulled")).state == "pending"
    post.store.close()


# -- order ---------------------------------------------------------------------------------------------------------


async def test_a_job_is_told_in_order_whatever_happens(post: Post) -> None:
    """Each message waits for the one before, through refusals and silence; jobs do not wait for each other."""
    ways: list[Answer] = [500, OSError("reset"), 503]

    def answers(message_id: str) -> Answer:
        tries, trouble = post.app.ids.count(message_id), sum(message_id.encode()) % 4
        return 200 if tries > trouble else ways[(tries + trouble) % 3]

    post.app.answers = answers
    jobs = {f"j{n}": [f"j{n}-{k}" for k in range(4)] for n in range(8)}
    for k in range(4):
        for job_id, ids in jobs.items():
            await post.stage(ids[k], job_id=job_id)
    await post.run(2000, every_s=5)

    for ids in jobs.values():
        last = [max(at for at, got in enumerate(post.app.ids) if got == each) for each in ids]
        first = [post.app.ids.index(each) for each in ids]
        assert all(done < following for done, following in zip(last, first[1:], strict=False))
    assert [(await post.message(each)).state for ids in jobs.values() for each in ids] == ["delivered"] * 32


async def test_one_bad_message_holds_up_no_other_job(post: Post) -> None:
    """It is refused again and again; everything else arrives at once, also what is staged later."""
    post.app.answers = lambda message_id: 500 if message_id == "bad" else 200
    await post.stage("bad", *(f"m{n}" for n in range(100)))
    await post.run()
    await post.stage("later")
    await post.run()

    assert Counter(post.app.ids) == {"bad": 1, "later": 1, **{f"m{n}": 1 for n in range(100)}}


async def test_one_hung_call_holds_up_no_other(post: Post) -> None:
    """While the application does not answer one message, others are sent, and those that become due meanwhile."""
    hung = asyncio.Event()
    post.app.answers = lambda message_id: hung if message_id == "hung" else 200
    await post.stage("hung", *(f"m{n}" for n in range(60)))
    running = asyncio.create_task(post.dispatch.run_once())
    await aeventually(lambda: len(post.app.got) == 61)
    await post.stage("later")
    await aeventually(lambda: "later" in post.app.ids)
    assert (await post.message("hung")).state == "pending"
    hung.set()

    assert await running == 62
    assert post.app.most_at_once <= IN_FLIGHT


async def test_an_application_that_hangs_holds_up_no_other_application(fast_folder: Path) -> None:
    """Each has its own share of calls under way."""
    apps = {name: AppSettings(url=f"http://{name}.example.com/") for name in ("slow", "quick")}
    post, hung = Post(fast_folder / "r.db", apps=apps), asyncio.Event()
    post.app.answers = lambda message_id: hung if message_id.startswith("s") else 200
    await post.stage(*(f"s{n}" for n in range(3 * IN_FLIGHT)), source="slow")
    await post.stage(*(f"q{n}" for n in range(2 * IN_FLIGHT)), source="quick")
    running = asyncio.create_task(post.dispatch.run_once())

    await aeventually(lambda: sum(each.startswith("q") for each in post.app.ids) == 2 * IN_FLIGHT)
    hung.set()
    await running
    post.store.close()


# -- trying again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [301, 400, 404, 429, 500, 503, OSError("reset"), TimeoutError("15 s"), KeyError("x")]
)
async def test_whatever_is_no_success_is_tried_again(post: Post, answer: Answer) -> None:
    """Waits of 5 s, 25 s, 2 min, … within jitter, the reason beside the message; nothing but 2xx and 410 ends it."""
    post.app.answers = lambda message_id: answer
    await post.stage("m1")
    await post.run(60, every_s=0.5)
    times = [int(headers["webhook-timestamp"]) - START for _, _, headers in post.app.got]
    kept = await post.message("m1")

    assert len(times) == 3
    assert times[1] == pytest.approx(5, abs=5 * JITTER + 1)
    assert times[2] - times[1] == pytest.approx(25, abs=25 * JITTER + 1)
    assert (kept.state, kept.attempts) == ("pending", 3)
    assert kept.last_error


async def test_what_was_put_off_is_awaited_no_longer_than_it_takes(fast_folder: Path) -> None:
    """A short wait of the schedule ends when it says, not at the next look a second later."""
    app = AppSettings(url="http://app.example.com/", retry_first_s=0.2)
    post = Post(fast_folder / "r.db", apps={"src": app})
    post.app.answers = lambda message_id: 500
    assert post.dispatch.rest_s(1.0) == 1.0
    await post.stage("m1")
    await post.run()
    rest_s = post.dispatch.rest_s(1.0)
    post.clock.advance(rest_s)
    await post.run()

    assert 0.2 * (1 - JITTER) <= rest_s <= 0.2 * (1 + JITTER) + 0.01
    assert len(post.app.got) == 2
    post.store.close()


async def test_a_used_up_schedule_is_the_end(post: Post) -> None:
    """Twelve attempts over about three days, then `dead`: kept, not sent again, and the next of its job goes out."""
    post.app.answers = lambda message_id: 500 if message_id == "m1" else 200
    await post.stage("m1", "m2", job_id="j")
    await post.run(400_000, every_s=400)
    first = [int(headers["webhook-timestamp"]) for _, _, headers in post.app.got if headers["webhook-id"] == "m1"]
    kept = await post.message("m1")

    assert (kept.state, kept.attempts, len(first)) == ("dead", 12, 12)
    assert 2 * 86_400 <= first[-1] - first[0] <= 4 * 86_400
    assert "attempt 12 was the last" in str(kept.last_error)
    assert (await post.message("m2")).state == "delivered"
    assert post.dispatch.counters.pushes["dead"] == 1


async def test_gone_is_gone(post: Post) -> None:
    """410: dead at once; redelivered by an operator it begins anew."""
    post.app.answers = lambda message_id: 410
    await post.stage("m1")
    await post.run(100)
    assert ((await post.message("m1")).state, len(post.app.got)) == ("dead", 1)
    post.app.answers = lambda message_id: 200
    await post.store.write(lambda tx: tx.outbox.revive("m1", post.clock.now()))
    await post.run()

    kept = await post.message("m1")
    assert (kept.state, kept.attempts, post.app.ids) == ("delivered", 1, ["m1", "m1"])


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [("120", 120), ("date", 121), ("1", 5), ("999999999", 43_200), ("soon", 5), ("-3", 5)],
)
async def test_the_applications_own_retry_after_is_kept(post: Post, header: str, wait_s: float) -> None:
    """Seconds or a date, never earlier than our own schedule, capped at the longest wait of it."""
    value = email.utils.formatdate(START + 120, usegmt=True)
    post.app.answers = lambda message_id: (503, {"retry-after": value if header == "date" else header})
    await post.stage("m1")
    await post.run()
    due = (await post.message("m1")).next_attempt_at

    assert due is not None
    assert due - START == pytest.approx(wait_s, abs=5 * JITTER + 0.1)


async def test_an_application_that_is_down_uses_up_no_attempts(post: Post) -> None:
    """Hundreds wait through an outage of an hour; when it is back they all arrive, most at their first try or two."""
    down = True

    def answers(message_id: str) -> Answer:
        return OSError("connection refused") if down else 200

    post.app.answers = answers
    await post.stage(*(f"m{n}" for n in range(300)))
    await post.run(3600, every_s=1)
    tries = len(post.app.got)
    assert tries < 300, "a call now and then looks whether it is back"
    down = False
    await post.run(700, every_s=1)
    states = [await post.message(f"m{n}") for n in range(300)]

    assert [each.state for each in states] == ["delivered"] * 300
    assert max(each.attempts for each in states) < 12
    assert sum(each.attempts for each in states) <= tries + 300


async def test_one_job_without_an_answer_is_no_application_down(post: Post) -> None:
    """However often its calls end in silence, what is staged for another job is sent at once."""
    post.app.answers = lambda message_id: TimeoutError("15 s") if message_id == "hung" else 200
    await post.stage("hung")
    await post.run(700, every_s=5)
    assert len(post.app.got) > DOWN_AFTER
    hung, other = asyncio.Event(), asyncio.Event()
    post.app.answers = lambda message_id: hung if message_id == "hung" else other
    await post.store.write(lambda tx: tx.outbox.revive("hung", post.clock.now()))
    running = asyncio.create_task(post.dispatch.run_once())
    await aeventually(lambda: post.app.at_once == 1)
    await post.stage("later")
    await aeventually(lambda: "later" in post.app.ids)
    hung.set()
    other.set()

    assert await running == 2


async def test_what_was_told_to_wait_waits_though_the_application_was_down(post: Post) -> None:
    """Retry-After holds when the application is back after an outage; only what got no answer is sent at once."""
    down = True

    def answers(message_id: str) -> Answer:
        if message_id == "told":
            return 503, {"retry-after": "7200"}
        return OSError("connection refused") if down else 200

    post.app.answers = answers
    await post.stage("told")
    await post.run()
    await post.stage(*(f"m{n}" for n in range(50)))
    await post.run(600)
    down = False
    await post.run(60)

    assert post.app.ids.count("told") == 1
    assert {(await post.message(f"m{n}")).state for n in range(50)} == {"delivered"}


async def test_an_application_that_is_back_is_found_out_soon(post: Post) -> None:
    """Within half a minute, whatever the outage lasted."""
    post.app.answers = lambda message_id: OSError("connection refused")
    await post.stage(*(f"m{n}" for n in range(100)))
    await post.run(1800, every_s=1)
    back = post.clock.now()
    post.app.answers = lambda message_id: 200
    tried = len(post.app.got)
    while len(post.app.got) == tried:
        await post.run(1)

    assert post.clock.now() - back <= 31
    assert len(post.app.got) - tried >= 60, "and then everything goes out that has not been tried lately"


async def test_an_application_that_refuses_is_not_down(post: Post) -> None:
    """500 is an answer: the others are sent all the same, as many at once as ever."""
    post.app.answers = lambda message_id: 500
    await post.stage(*(f"m{n}" for n in range(5 * DOWN_AFTER)))
    await post.run()

    assert len(post.app.got) == 5 * DOWN_AFTER


# -- crashes and leases --------------------------------------------------------------------------------------------


async def test_an_application_that_failed_everybody_gets_what_waited_when_it_is_well(post: Post) -> None:
    """A proxy that answers 502 to all for hours: then the first success brings the rest, but for what was asked to
    wait. Attempts meanwhile keep to the schedule."""
    well = False

    def answer(message_id: str) -> Answer:
        if message_id == "asked":
            return 503, {"retry-after": "43000"}
        return 200 if well else 502

    post.app.answers = answer
    await post.stage("asked", *(f"m{n}" for n in range(20)))
    await post.run(10_000, 50.0)
    tries = Counter(post.app.ids)
    assert all(5 <= tries[f"m{n}"] <= 7 for n in range(20)), "no pause, and no more than the schedule allows"
    well = True
    await post.stage("fresh")
    await post.run(1.0)

    states = [(await post.message(f"m{n}")).state for n in range(20)]
    assert states == ["delivered"] * 20
    assert (await post.message("asked")).state == "pending"


async def test_an_application_that_failed_a_few_for_a_moment_keeps_them_waiting(post: Post) -> None:
    """Neither two jobs for an hour nor many for seconds prove that it was away."""
    bad = {"m1", "m2"}
    post.app.answers = lambda message_id: 500 if message_id in bad else 200
    await post.stage("m1", "m2")
    await post.run(3000, 50.0)
    bad |= {f"n{n}" for n in range(10)}
    await post.stage("well")
    await post.run()
    await post.stage(*(f"n{n}" for n in range(10)))
    await post.run()
    bad.clear()
    await post.stage("well again")
    before = len(post.app.got)
    await post.run()

    assert post.app.ids[before:] == ["well again"]


async def test_a_message_on_its_way_at_a_crash_is_sent_again_with_its_id(post: Post) -> None:
    """Nobody knows whether it arrived: after its lease it goes out once more, counted, with the same id."""
    hung = asyncio.Event()
    post.app.answers = lambda message_id: hung
    await post.stage("m1", "m2", job_id="j")
    running = asyncio.create_task(post.dispatch.run_once())
    await aeventually(lambda: post.app.ids == ["m1"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await post.dispatch.drain(0.01)
    post.app.answers = lambda message_id: 200
    post.restart()
    await post.run(15)
    assert post.app.ids == ["m1"]
    await post.run(10)

    assert post.app.ids == ["m1", "m1", "m2"]
    assert (await post.message("m1")).attempts == 2


async def test_what_somebody_pulls_is_not_pushed(post: Post) -> None:
    """A leased message is left to whoever leased it; acknowledged, it is told."""
    await post.stage("m1")
    leased = await post.store.write(lambda tx: tx.outbox.claim(START, START + 60, 10, pull=True))
    await post.run(30)
    assert ([each.id for each in leased], post.app.got) == (["m1"], [])
    await post.store.write(lambda tx: tx.outbox.delivered(["m1"], post.clock.now(), pushed=False))
    await post.run(60)

    assert post.app.got == []


async def test_stopping_keeps_each_outcome_once(post: Post) -> None:
    """What is on its way is waited for and counted once; nothing new is sent."""
    hung = asyncio.Event()

    def answers(message_id: str) -> Answer:
        return hung if message_id == "m1" else 500

    post.app.answers = answers
    await post.stage("m1", "m2")
    running = asyncio.create_task(post.dispatch.run_once())
    await aeventually(lambda: len(post.app.got) == 2)
    stopping = asyncio.create_task(post.dispatch.drain(10))
    await post.stage("m3")
    hung.set()
    await stopping
    await running

    assert [(await post.message(each)).attempts for each in ("m1", "m2", "m3")] == [1, 1, 0]
    assert sorted(post.app.ids) == ["m1", "m2"]
    assert post.dispatch.counters.pushes == {"delivered": 1, "refused": 1}


async def test_stopping_does_not_wait_for_ever(post: Post) -> None:
    """An application that never answers is cut off; its message is sent again by the next life."""
    post.app.answers = lambda message_id: asyncio.Event()
    await post.stage("m1")
    running = asyncio.create_task(post.dispatch.run_once())
    await aeventually(lambda: post.app.ids == ["m1"])
    await post.dispatch.drain(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    kept: Any = await post.message("m1")
    assert (kept.state, kept.attempts) == ("pending", 0)


def test_the_schedule_is_the_one_the_contract_promises() -> None:
    """5 s growing fivefold to half a day: twelve attempts take about three days."""
    app = AppSettings(url="http://app.example.com/")
    waits = [min(app.retry_max_s, app.retry_first_s * FACTOR**n) for n in range(app.max_attempts - 1)]

    assert 2.5 <= sum(waits) / 86_400 <= 3.5
