"""Many consumers of one outbox that die, come back, acknowledge late, twice, and what is not theirs, while the sidecar
is killed under them: every message is handled, and none is ever held by two at once.

Whether two held one message is judged from outside, by when each claim was sent and answered: a second claim that was
answered before the first one's lease can have run out is a fault. It says nothing about power loss (`power.py`).
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults import Result
from faults.product import PATH, Product
from tests.support import aeventually

DEATHS = ("before handling", "before acknowledging", "while claiming")


@dataclass(frozen=True, slots=True)
class Grant:
    """One message in the answer to one claim."""

    message: str
    sent_at: float
    answered_at: float


def shared(grants: Sequence[Grant], lease_s: float) -> list[str]:
    """Messages that were granted again before the first lease can have run out: it began no earlier than its claim was
    sent, and the second grant was made no later than it was answered."""
    of: dict[str, list[Grant]] = defaultdict(list)
    for grant in grants:
        of[grant.message].append(grant)
    found = []
    for message, theirs in of.items():
        in_order = sorted(theirs, key=lambda grant: grant.answered_at)
        if any(b.answered_at < a.sent_at + lease_s for a, b in itertools.pairwise(in_order)):
            found.append(message)
    return found


class Line:
    """One connection to a listener of the product, made anew when it broke."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, document: object, *, leave: bool = False) -> bytes | None:
        """POST; the body of a 200. None when nobody answered, or when we leave without listening."""
        body = json.dumps(document).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
            reader, writer = self._streams
            writer.write(head.encode() + body)
            await writer.drain()
            if leave:
                self.break_off()
                return None
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            got = await reader.readexactly(int(answer.partition("content-length: ")[2].partition("\r")[0]))
        except (OSError, asyncio.IncompleteReadError):
            self.break_off()
            return None
        assert " 200 " in answer.partition("\r")[0], (answer, got)
        return got

    def break_off(self) -> None:
        """Close without a word, as a process that died."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


@dataclass(slots=True)
class Crowd:
    """The consumers, and what they know."""

    port: int
    lease_s: float
    chance: random.Random
    wanted: int
    death_share: float
    grants: list[Grant] = field(default_factory=list)
    handled: set[str] = field(default_factory=set)
    ended: dict[str, float] = field(default_factory=dict)
    """When the answer to a message's acknowledgement arrived."""
    again_after_end: list[str] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)
    acked: int = 0

    async def work(self, count: int) -> None:
        """So many consumers, until every message was acknowledged."""
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._consume())

    async def reached(self, ended: int) -> None:
        """Wait until so many messages were acknowledged."""
        await aeventually(lambda: len(self.ended) >= ended, 120.0)

    async def _consume(self) -> None:
        line = Line(self.port)
        while len(self.ended) < self.wanted:
            fate = self.chance.choice(DEATHS) if self.chance.random() < self.death_share else None
            if fate is not None:
                self.deaths[fate] += 1
            sent_at = time.monotonic()
            answer = await line.ask(
                "/v1/outbox/claim", {"limit": 10, "lease_s": self.lease_s}, leave=fate == "while claiming"
            )
            messages = self._noted(answer, sent_at)
            if fate == "before handling":
                line.break_off()
            elif messages:
                await self._handle(line, messages, dies=fate is not None)
            else:
                await asyncio.sleep(0.05)
        line.break_off()

    def _noted(self, answer: bytes | None, sent_at: float) -> list[str]:
        now = time.monotonic()
        messages = [each["id"] for each in json.loads(answer)["messages"]] if answer else []
        self.grants += [Grant(message, sent_at, now) for message in messages]
        self.again_after_end += [each for each in messages if self.ended.get(each, now) < sent_at]
        return messages

    async def _handle(self, line: Line, messages: list[str], *, dies: bool) -> None:
        self.handled.update(messages)
        if dies:
            line.break_off()
            return
        manner = self.chance.random()
        if manner < 0.02:
            await asyncio.sleep(self.lease_s * 1.2)  # too late: somebody else may have it by now
        theirs = [self.chance.choice(self.grants).message] if manner > 0.98 else []
        theirs = [each for each in theirs if each in self.handled]
        for _ in range(2 if manner > 0.95 else 1):
            document = {"ids": [*messages, *theirs, "msg_of_nobody"]}
            while (answer := await line.ask("/v1/outbox/ack", document)) is None:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)  # the sidecar is away: whether it took it is not known, so say it again
            self.acked += json.loads(answer)["acked"]
            now = time.monotonic()
            for message in (*messages, *theirs):
                self.ended.setdefault(message, now)


def run(
    folder: Path, consumers: int, messages: int, *, seed: int = 1, lease_s: float = 1.0, crashes: int = 0
) -> Result:
    """So many consumers take so many messages; the sidecar is killed `crashes` times meanwhile."""
    result = Result(f"{consumers} consumers, {messages} messages")
    with Product(folder, source='trust = "payload"\n') as product:
        product.start("run")
        began = time.monotonic()
        asyncio.run(_fill(product, messages))
        filled_s = time.monotonic() - began
        crowd = Crowd(product.api_port, lease_s, random.Random(seed), messages, 0.1)
        began = time.monotonic()
        asyncio.run(_take(product, crowd, consumers, crashes))
        taken_s = time.monotonic() - began
        product.stop()
        states = dict(product.rows("SELECT state, count(*) FROM outbox GROUP BY state"))
        ids = {row[0] for row in product.rows("SELECT id FROM outbox")}
    twice = shared(crowd.grants, lease_s)
    result.figures |= {"filled_s": round(filled_s, 1), "taken_s": round(taken_s, 1), "deaths": crowd.deaths.total()}
    result.figures |= {"grants": len(crowd.grants), "messages": len(ids), "seed": seed, "crashes": crashes}
    result.figures |= {"lost": len(ids - crowd.handled), "held by two": len(twice), "acknowledged": crowd.acked}
    result.must(states == {"delivered": messages}, f"the outbox holds {states}")
    result.must(ids <= crowd.handled, f"{len(ids - crowd.handled)} messages were never handled")
    result.must(not twice, f"{len(twice)} messages were held by two at once")
    result.must(not crowd.again_after_end, f"{len(crowd.again_after_end)} acknowledged messages came again")
    result.must(crashes or crowd.acked == messages, f"{crowd.acked} acknowledgements counted for {messages} messages")
    result.must(crowd.deaths.total() >= consumers / 4, "hardly anybody died: nothing was shown")
    return result


async def _fill(product: Product, messages: int) -> None:
    """One webhook for every message."""
    numbers = iter(range(messages))

    async def send() -> None:
        line = Line(product.port)
        for number in numbers:
            assert await line.ask(PATH, {"job_id": f"j-{number}", "status": "completed"}) is not None
        line.break_off()

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(send())
    await aeventually(lambda: product.rows("SELECT count(*) FROM outbox")[0][0] == messages, 60.0)


async def _take(product: Product, crowd: Crowd, consumers: int, crashes: int) -> None:
    async def crash() -> None:
        for number in range(1, crashes + 1):
            await crowd.reached(crowd.wanted * number // (crashes + 1))
            await asyncio.to_thread(product.kill)
            await asyncio.to_thread(product.start, "run")

    async with asyncio.TaskGroup() as group:
        group.create_task(crash())
        group.create_task(crowd.work(consumers))


def main() -> None:
    """The long form by itself: 100 consumers, 10,000 messages, three kills."""
    import tempfile

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        result = run(folder, 100, 10_000, crashes=3)
    print(json.dumps({"scenario": result.scenario, "figures": result.figures, "faults": result.faults}, indent=2))
    raise SystemExit(1 if result.faults else 0)


if __name__ == "__main__":
    main()
