"""A simulated Omnist, the real door and record behind it, and one clock for all: for the tests of its webhooks."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from holdfast.simulator import SIMULATORS, Simulation, Simulator
from holdfast.simulator import Settings as SimulatorSettings
from receiver.door import Door
from receiver.intake import Intake
from receiver.interpret import Interpreter
from receiver.ledger import Ledger
from receiver.listeners import open_listener
from receiver.server import HttpServer, public_limits
from receiver.settings import Settings
from receiver.store.sqlite.store import SqliteOptions, SqliteStore
from reconciler.gaps import GapWatch, Timing
from reconciler.outbound import Outbound
from reconciler.sweep import Sweep
from tests.support import ManualClock

SECRET = "whsec_the_first_one"


@dataclass
class News:
    """One Omnist source called `news`. Use `opened`."""

    store: SqliteStore
    settings: Settings
    clock: ManualClock
    simulator: Simulator
    sweep: Sweep
    watch: GapWatch
    interpreter: Interpreter
    intake: Intake

    async def sends(self, number: int, **faults: float) -> None:
        """Omnist finishes so many runs and tells of them, under these faults alone."""
        self.simulator.order({"drop": 0.0, "stale": 0.0} | faults)
        for _ in range(number):
            await self.simulator.submit("run")
        await self.simulator.idle()

    async def read(self) -> None:
        """What arrived is interpreted."""
        while await self.interpreter.run_once():
            pass

    async def look(self, later_s: float = 0.0) -> int:
        """The watch looks, so much later."""
        self.clock.advance(later_s)
        await self.read()
        return await self.watch.look("news")

    async def missed(self) -> int:
        """How many deliveries are missing by the record."""
        return (await self.store.read(lambda view: view.missed())).get("news", 0)

    async def questions(self) -> list[str]:
        """The paths asked so far, oldest first."""
        rows = await self.store.read(lambda view: view.polls(500))
        return [row["request"].split()[1].partition("?")[0] for row in reversed(rows)]


@contextlib.asynccontextmanager
async def opened(folder: Path, timing: Timing | None = None, **keys: Any) -> AsyncIterator[News]:
    """Everything running on loopback until the block is left; `keys` are more keys of the source."""
    clock = ManualClock()
    listener = open_listener("127.0.0.1:0")
    told = SimulatorSettings(
        webhook_url=f"{listener.address}/in/news",
        webhook_secret=SECRET,
        job_duration_s=(0.0, 0.0),
        failed_share=0.0,
        quota_per_min=0,
        time_scale=0.0,
    )
    simulator = SIMULATORS["omnist"](told, clock)
    async with Simulation([simulator]).serve() as simulation:
        source = {
            "provider": "omnist",
            "base_url": simulation.base_url("omnist"),
            "api_key": "omni_live_key",
            "secret": SECRET,
            "polls_per_min": 6000,
        }
        settings = Settings.model_validate({"sources": {"news": source | keys}})
        store = SqliteStore(SqliteOptions(folder / "news.db"), clock)
        ledger = Ledger(lambda name: "omnist", lambda job, now: None)
        outbound = Outbound(clock)
        sweep = Sweep(
            store, settings.sources, settings.reconcile, ledger, outbound=outbound, clock=clock, chance=Random(7)
        )
        intake = Intake(settings.intake, settings.sources, store, clock)
        door = HttpServer(Door(intake), listener, public_limits(settings.intake))
        await door.start()
        try:
            yield News(
                store=store,
                settings=settings,
                clock=clock,
                simulator=simulator,
                sweep=sweep,
                watch=GapWatch(store, settings.sources, sweep.asker, clock, timing),
                interpreter=Interpreter(store, settings.sources, ledger, clock),
                intake=intake,
            )
        finally:
            await door.stop(1.0)
            intake.close()
            outbound.close()
            store.close()
