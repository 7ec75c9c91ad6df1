"""A day without the application, in virtual time: the real outbox and dispatch, on the loop that jumps (`simtime.py`).

Messages come in all day, several for each job, while whoever should take them refuses connections, stays silent, or
answers 503. Then it is back. Every message arrives, each job's in order, under one id, and never too many together.
"""

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any, cast

from structlog.testing import capture_logs

from faults import Result
from faults.simtime import InlineStore, SimClock, SimLoop
from receiver.records import Message
from receiver.settings import Settings
from receiver.store.base import Store
from reconciler.dispatch import IN_FLIGHT, Dispatch
from tests.support import START

DAY_S = 86400.0
OF_A_JOB = 3
LOOK_S = 5.0
"""The product looks every second; here that is all that would happen all day."""
CAUGHT_UP_S = {"refuses": 900.0, "is silent": 900.0, "answers 503": 900.0}
"""Within this after its return all is told. Who answers is tried by each message's own schedule, who does not is probed
with what becomes due (here something every few minutes at the least); once it takes one, it gets everything."""


class _Application:
    """Away until `back_at`, in its manner; it notes what it took, and how many were with it at once."""

    def __init__(self, loop: SimLoop, manner: str, back_at: float, chance: Random) -> None:
        self._loop, self._manner, self._chance = loop, manner, chance
        self.back_at = back_at
        self.took: dict[str, list[str]] = defaultdict(list)
        self.took_at: list[float] = []
        self.calls = self.most = self._now = 0

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        self.calls += 1
        if self._loop.at < self.back_at:
            return await self._away()
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(self._chance.uniform(0.005, 0.05))
        self._now -= 1
        self.took[json.loads(body)["job"]].append(headers["webhook-id"])
        self.took_at.append(self._loop.at)
        return 200, {}

    async def _away(self) -> tuple[int, dict[str, str]]:
        if self._manner == "is silent":
            await asyncio.sleep(15.0)
            raise TimeoutError("no answer within 15 s")
        await asyncio.sleep(0.001)
        if self._manner == "refuses":
            raise ConnectionRefusedError("refused")
        return 503, {}


async def _tell(dispatch: Dispatch) -> None:
    while True:
        await dispatch.run_once()
        await asyncio.sleep(LOOK_S)


async def _live(store: InlineStore, dispatch: Dispatch, loop: SimLoop, messages: int, away_s: float) -> None:
    telling = asyncio.create_task(_tell(dispatch))
    every_s = away_s / messages
    for number in range(messages):
        await asyncio.sleep(every_s)
        job = f"job-{number // OF_A_JOB}"
        payload = json.dumps({"job": job, "number": number})
        message = Message(f"msg_{number}", "plain", job, "job.completed", payload, START + loop.at)
        await store.write(lambda tx, message=message: tx.outbox.add(message))  # type: ignore[misc]  # at once
    while loop.at < away_s * 2 and store.rows("SELECT count(*) FROM outbox WHERE state = 'pending'")[0][0]:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(LOOK_S)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)


def away(
    folder: Path,
    *,
    manner: str = "refuses",
    messages: int = 3000,
    away_s: float = DAY_S,
    seed: int = 1,
    planted: str = "",
) -> Result:
    """So many messages over so long an absence. `planted`: `any-order`, messages of a job overtake each other."""
    result = Result(f"an application that {manner} for a day")
    folder.mkdir(parents=True, exist_ok=True)
    loop, store = SimLoop(), InlineStore(folder / "day.db")
    settings = Settings.model_validate(
        {"app": {"url": "http://application.test/"}, "sources": {"plain": {"provider": "omnifence"}}}
    )
    assert settings.app is not None
    application = _Application(loop, manner, away_s, Random(f"{seed}/application"))
    dispatch = Dispatch(
        cast("Store", store), {"plain": settings.app}, lambda app: application, SimClock(loop), Random(f"{seed}")
    )
    if planted == "any-order":
        store.hook = lambda: _forget_job(store)
    try:
        with capture_logs():
            loop.run_until_complete(_live(store, dispatch, loop, messages, away_s))
        _judge(result, store, application, messages, CAUGHT_UP_S[manner])
    finally:
        loop.close()
        store.close()
    return result


def _forget_job(store: InlineStore) -> None:
    """The planted bug: nobody knows any more that messages belong together, and the last are due first."""
    store.rows("UPDATE outbox SET job_id = NULL, next_attempt_at = '1970-01-01T00:00:00.000Z' WHERE job_id IS NOT NULL")


def _judge(result: Result, store: InlineStore, application: _Application, messages: int, limit_s: float) -> None:
    rows: list[tuple[Any, ...]] = store.rows("SELECT id, json_extract(payload, '$.job') FROM outbox ORDER BY seq")
    wanted: dict[str, list[str]] = defaultdict(list)
    for message_id, job in rows:
        wanted[job].append(message_id)
    untold = sum(len(set(ids) - set(application.took[job])) for job, ids in wanted.items())
    twice = sum(len(ids) - len(set(ids)) for ids in application.took.values())
    disordered = sum(list(dict.fromkeys(application.took[job])) != ids for job, ids in wanted.items())
    states = dict(store.rows("SELECT state, count(*) FROM outbox GROUP BY state"))
    late_s = max(application.took_at, default=0.0) - application.back_at
    result.figures |= {"messages": messages, "untold": untold, "told twice": twice, "jobs out of order": disordered}
    result.figures |= {"most at once": application.most, "pushes": application.calls}
    result.figures["all told after s"] = round(late_s, 1)
    result.must(not untold, f"{untold} messages were never told")
    result.must(not twice, f"{twice} messages were told twice")
    result.must(not disordered, f"the messages of {disordered} jobs came out of order")
    result.must(states == {"delivered": messages}, f"the outbox holds {states}")
    result.must(application.most <= IN_FLIGHT, f"{application.most} pushes at once: a stampede")
    result.must(late_s <= limit_s, f"the last was told {late_s:.0f} s after its return")
