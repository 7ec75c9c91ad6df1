"""Months in seconds: the real interpreter, sweep, asker, ledger and dispatch on virtual time, one seed one history.

Time jumps to the next timer. The record is real (SQLite through the product's own statements), but its work runs inline
instead of on a thread, so that nothing depends on a scheduler. The provider loses webhooks, hangs, fails, limits; the
application fails and goes away; the reconciler is cut off in the middle of whatever it does and begins anew.
"""

import asyncio
import json
import multiprocessing
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

from structlog.testing import capture_logs

from faults import Result
from faults.outside import DAY_S, NAME, Application, Provider, World
from faults.simtime import InlineStore, SimClock, SimLoop
from receiver.records import Delivery, DeliveryId, Registration
from receiver.registrar import register
from receiver.settings import Settings
from receiver.store.base import Store
from reconciler.service import Reconciler
from reconciler.sweep import pass_safely
from tests.support import START

T = TypeVar("T")
JOBS_A_DAY = 12
PROCESSES = 2
"""Histories are independent: as many at a time as a small machine has cores."""
CALM_DAYS = 1.5
"""So long nothing fails at the end of a history: every deadline and every late look has passed by then."""
TICK_S = 20.0
LONGEST_LOOK_S = 240.0
"""Twice as long as a new job waits for its first question."""
LONGEST_REST_S = 600.0
"""The sweep looks by itself this often, for what no question is due of: held deliveries, jobs past their deadline."""
LATEST_S = 120.0
"""A question may be asked so much later than it is due; see `Provider._measure`."""


def _settings() -> Settings:
    source = {
        "provider": "standard", "base_url": "http://provider.test", "api_key": "k", "verify": "none",
        "path_token": "x" * 24, "trust": "known", "polls_per_min": 60, "event_pointer": "/type",
        "job_id_pointer": "/data/id", "status_pointer": "/data/status", "result_pointer": "/data/result",
        "completed": ["completed"], "failed": ["failed"], "poll_url": "{base_url}/jobs/{job_id}",
        "poll_status_pointer": "/status", "poll_result_pointer": "/result",
        "timeouts": {"default": {"poll_after_s": 120, "fail_after_s": 3600}},
    }  # fmt: skip
    app = {"url": "http://application.test/", "max_attempts": 60, "retry_max_s": 3600}
    return Settings.model_validate({"app": app, "sources": {NAME: source}})


class Life:
    """One life of the reconciler: its loops, until it is cut off."""

    def __init__(self, world: World, settings: Settings) -> None:
        self._world = world
        world.woken = world.loop.at
        self._events = [asyncio.Event(), asyncio.Event(), asyncio.Event()]
        life = world.chance(f"life {world.crashes}")
        store = cast("Store", world.store)
        self._reconciler = reconciler = Reconciler(settings, store, SimClock(world.loop), life)
        vars_of = cast("Any", reconciler)
        vars_of.sweep._outbound = Provider(world, world.chance(f"provider {world.crashes}"))
        application = Application(world, world.chance(f"application {world.crashes}"))
        vars_of.dispatch._push_for = lambda app: application
        world.store.hook = self._wake
        self._tasks = [asyncio.create_task(each) for each in (self._ask(), self._read(), self._tell())]

    def _wake(self) -> None:
        for event in self._events:
            event.set()

    async def _ask(self) -> None:
        while True:
            await pass_safely(self._reconciler.sweep, NAME)
            await asyncio.sleep(TICK_S)
            await self._something_due()

    async def _something_due(self) -> None:
        """Wait until a question is due, looking again whenever the record has changed."""
        changed, since = self._events[2], self._world.loop.at
        while (wait_s := min(self._until_due_s(), since + LONGEST_REST_S - self._world.loop.at)) > 0.0:
            changed.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                return

    def _until_due_s(self) -> float:
        """The product looks every second and mostly finds nothing; here it looks when something will be due."""
        due = self._world.store.rows("SELECT strftime('%s', min(next_poll_at)) FROM jobs")[0][0]
        return float(due) - START - self._world.loop.at if due else LONGEST_REST_S

    async def _read(self) -> None:
        await self._whenever(self._events[0], self._reconciler.interpreter.run_once)

    async def _tell(self) -> None:
        await self._whenever(self._events[1], self._reconciler.dispatch.run_once)

    async def _whenever(self, event: asyncio.Event, work: Callable[[], Any]) -> None:
        while True:
            event.clear()
            await work()
            try:
                async with asyncio.timeout(LONGEST_LOOK_S):
                    await event.wait()
            except TimeoutError:
                continue

    async def cut_off(self) -> None:
        """As by a kill: whatever it was waiting for never comes."""
        flying = list(cast("Any", self._reconciler.dispatch)._flying)
        for task in (*self._tasks, *flying):
            task.cancel()
        await asyncio.gather(*self._tasks, *flying, return_exceptions=True)


async def _jobs(world: World) -> None:
    """Submit jobs, let them end, and send (or lose) their webhooks."""
    chance, settings = world.chance("jobs"), _settings()
    source, now = settings.sources[NAME], SimClock(world.loop).now
    for number in range(int(world.days * JOBS_A_DAY)):
        await asyncio.sleep(chance.expovariate(JOBS_A_DAY / DAY_S))
        job_id = f"job-{number}"
        how = chance.choices(["completed", "failed", None], [80, 17, 3])[0]
        world.truth[job_id] = (world.loop.at + min(3000.0, chance.expovariate(1 / 400)), how)
        told = Registration(NAME, job_id, modality="default")
        await world.store.write(lambda tx, told=told: register(tx, told, now(), source))  # type: ignore[misc]  # at once
        for _ in range(chance.choices([0, 1, 2], [30, 60, 10])[0] if how else 0):
            late_s = chance.uniform(0, 30) if chance.random() < 0.9 else chance.uniform(0, 7200)
            asyncio.create_task(_webhook(world, job_id, late_s))  # noqa: RUF006 - the loop ends with the world


async def _webhook(world: World, job_id: str, late_s: float) -> None:
    ends, how = world.truth[job_id]
    await asyncio.sleep(ends - world.loop.at + late_s)
    document = {"type": "job.done", "data": {"id": job_id, "status": how, "result": {"of": job_id}}}
    body = json.dumps(document).encode()
    world.number += 1
    now = START + world.loop.at
    delivery = Delivery(
        DeliveryId((int(now * 1000) << 20) + world.number), NAME, now, "x", (), body, sha256(body).hexdigest()
    )
    world.note("webhook", job_id)
    await world.store.write(lambda tx: tx.deliveries.add([delivery]))


async def _live(world: World) -> None:
    """The world from its first day to some calm days after its last."""
    settings, chance = _settings(), world.chance("crashes")
    jobs = asyncio.create_task(_jobs(world))
    while True:
        life = Life(world, settings)
        lasts_s = chance.expovariate(1 / (9 * 3600.0))
        over = jobs.done() and world.calm()
        await asyncio.sleep(CALM_DAYS * DAY_S if over else lasts_s)
        await life.cut_off()
        if over:
            return
        world.crashes += 1
        world.note("crash")
        world.store.hook = lambda: None
        await asyncio.sleep(chance.uniform(0.1, 120.0))


def universe(path: Path, seed: int, days: float, *, bug: str = "") -> World:
    """One seed's history. `bug`: `ignore-retry-after`, planted here."""
    path.unlink(missing_ok=True)
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    loop, store = SimLoop(), InlineStore(path)
    world = World(seed, days, loop, store, bug)
    if bug == "ignore-retry-after":
        world.store = cast("InlineStore", _Impatient(store))
    try:
        with capture_logs() as logs:
            loop.run_until_complete(_live(world))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    world.failures = [str(each) for each in logs if each["event"] in ("sweep.failed", "loop.failed")]
    return world


class _Impatient:
    """The planted bug: what a provider asked us to wait is forgotten at once."""

    def __init__(self, store: InlineStore) -> None:
        self._store = store

    async def write(self, work: Callable[[Any], T]) -> T:
        value = await self._store.write(work)
        self._store.forget_waits(NAME)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if name == "hook":
            self._store.hook = cast("Callable[[], None]", value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def simulate(folder: Path, seeds: Sequence[int], days: float, *, bug: str = "") -> Result:
    """So many histories; what must hold in each is counted over all."""
    result = Result("months in seconds")
    folder.mkdir(parents=True, exist_ok=True)
    total: dict[str, float] = defaultdict(float)
    for seed in seeds:
        world = universe(folder / "sim.db", seed, days, bug=bug)
        found = _verdict(world)
        world.store.close()
        for name, count in found.items():
            total[name] = max(total[name], count) if name.startswith("worst") else total[name] + count
        bad = {
            name: found[name]
            for name in ("without an end", "told wrong", "told twice", "untold", "early questions", "failed passes")
        }
        result.must(not any(bad.values()), f"seed {seed}: {bad}")
        result.must(
            found["worst lateness s"] <= LATEST_S, f"seed {seed}: a question {found['worst lateness s']:.0f} s late"
        )
    result.figures |= {"seeds": len(seeds), "days each": days} | {
        name: round(value, 1) for name, value in total.items()
    }
    return result


def _verdict(world: World) -> dict[str, float]:
    states = {job: (state, reason) for job, state, reason in world.store.rows("SELECT job_id, state, reason FROM jobs")}
    wrong = twice = untold = 0
    for job, (_, how) in world.truth.items():
        told = dict(world.told.get(job, []))
        untold += not told
        if told:
            last = list(told.values())[-1]
            stale = how is None and last["state"] == "failed" and last["reason"] == "stale"
            wrong += not (last["state"] == how or stale)
            twice += sum(1 for data in list(told.values())[1:] if not data["supersedes"])
    return {
        "jobs": len(world.truth),
        "without an end": sum(states[job][0] == "pending" for job in world.truth),
        "told wrong": wrong,
        "told twice": twice,
        "untold": untold,
        "failed passes": len(world.failures),
        "early questions": world.early,
        "worst lateness s": world.worst_s,
        "questions": world.questions,
        "pushes": world.pushes,
        "crashes": world.crashes,
    }


def endless(folder: Path, minutes: float, *, days: float = 7.0) -> Result:
    """Simulated weeks, seed after seed on each of two processes, until the time is up. The record lies in memory where
    there is such a place: nothing is asked about the disk here."""
    whole, memory = Result("months in seconds"), Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="holdfast-months-", dir=memory if memory.is_dir() else folder))
    until, total = time.monotonic() + minutes * 60.0, defaultdict[str, float](float)
    try:
        with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
            runs = [pool.submit(_weeks, place / str(number), number, days, until) for number in range(PROCESSES)]
            for run in runs:
                faults, figures = run.result()
                whole.faults += faults
                for name, value in figures.items():
                    worst = name.startswith("worst")
                    total[name] = max(total[name], value) if worst else total[name] + value
    finally:
        shutil.rmtree(place, ignore_errors=True)
    whole.figures |= {name: round(value) for name, value in total.items()}
    return whole


def _weeks(folder: Path, first: int, days: float, until: float) -> tuple[list[str], dict[str, float]]:
    """One process's share: every second seed from `first`, at least one."""
    faults, total, seed = list[str](), defaultdict[str, float](float), first + 1
    while seed == first + 1 or time.monotonic() < until:
        found = simulate(folder, [seed], days)
        faults += found.faults
        seed += PROCESSES
        total["simulated weeks"] += 1
        for name, value in found.figures.items():
            if name in ("seeds", "days each"):
                continue
            number = float(str(value))
            total[name] = max(total[name], number) if name.startswith("worst") else total[name] + number
    return faults, dict(total)
