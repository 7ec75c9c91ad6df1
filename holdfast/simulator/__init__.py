"""Simulated providers on loopback: the real HTTP shape, seeded faults to order, and a truth of their own.

For `holdfast simulate`, for the demo, and for your own tests of code that talks to these providers:

    from holdfast.simulator import SIMULATORS, Faults, Settings, Simulation

    omnifence = SIMULATORS["omnifence"](Settings(seed=7, webhook_url=hook, faults=Faults(drop=0.4, duplicate=0.15)))
    async with Simulation([omnifence]).serve() as sim:
        ...                                  # submit to sim.base_url("omnifence"), receive webhooks at hook
        await sim.idle()                     # every webhook is delivered or given up
        for job in omnifence.truth():        # how each job really ended
            assert told[job.job_id] == job.state

Owns nothing of the sidecar and shares no code with its adapters, so that a misreading of a provider cannot hide in
both. A provider is one file in this folder with one `Simulator` in it; nothing else needs to know of it.
"""

import importlib
import inspect
import pkgutil

from holdfast.simulator.base import Plan, Settings, SimulatedJob, Simulator, UnusableError, Webhook
from holdfast.simulator.faults import Faults
from holdfast.simulator.simulation import Simulation
from holdfast.simulator.truth import disagreement

__all__ = [
    "SIMULATORS",
    "Faults",
    "Plan",
    "Settings",
    "SimulatedJob",
    "Simulation",
    "Simulator",
    "UnusableError",
    "Webhook",
    "disagreement",
]


def _found() -> dict[str, type[Simulator]]:
    """Every concrete simulator defined in a file of this folder, by provider name."""
    found: dict[str, type[Simulator]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _, one in inspect.getmembers(module, inspect.isclass):
            if one.__module__ != module.__name__ or not issubclass(one, Simulator):
                continue
            if not inspect.isabstract(one):
                assert one.name not in found, f"two simulators are called {one.name}"
                found[one.name] = one
    return found


SIMULATORS: dict[str, type[Simulator]] = _found()
