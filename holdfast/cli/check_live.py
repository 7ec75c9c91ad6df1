"""`holdfast check --live`: one authenticated question to each provider, outside the poll budget, changing nothing.

The question is the one the provider's adapter would ask about a job; it names a job that does not exist, so that a
404 is the expected answer and means: the key was taken. An adapter that cannot ask by a job's id alone may say where
else to ask (`probe_path`); for one that does not the base URL is asked, which shows the provider reachable, not the
key good.
"""

import asyncio
from collections.abc import Iterable

from holdfast.cli.check import Check, Remark
from receiver.clock import Clock, SystemClock
from receiver.providers.base import Question, Trouble
from receiver.records import Job
from receiver.settings import Settings, SourceSettings
from reconciler.outbound import Outbound, Unanswered

PROBE_JOB = "holdfast-check"
EXIT_UNAVAILABLE = 69


def check_providers(settings: Settings) -> Iterable[Remark]:
    """Each source's provider answers, and takes our key. Problems end the command with 69."""
    return asyncio.run(_ask_all(settings, SystemClock()))


async def _ask_all(settings: Settings, clock: Clock) -> list[Remark]:
    outbound = Outbound(clock)
    try:
        return await asyncio.gather(*(_ask(each, settings, outbound, clock) for each in settings.sources.values()))
    finally:
        outbound.close()


async def _ask(source: SourceSettings, settings: Settings, outbound: Outbound, clock: Clock) -> Remark:
    name = f"sources.{source.name}"
    if source.api_key is None:
        return Remark("live", "warning", f"{name}: there is no api_key to ask with")
    question = _first_question(source, clock.now())
    exchange = await outbound.ask(source, question or Question(path="/"), source.reconcile(settings.reconcile))
    asked = f"{name}: {exchange.request}"
    if isinstance(exchange.outcome, Unanswered):
        todo = "look at base_url and the network"
        return Remark("live", "problem", f"{asked}: no answer ({exchange.outcome.detail}); {todo}", EXIT_UNAVAILABLE)
    took = f"answered {exchange.outcome.status} after {exchange.latency_ms} ms"
    trouble = source.facts.classify(exchange.outcome)
    if trouble is not None and trouble.outcome not in ("refused", "rate_limited"):
        return Remark("live", "problem", f"{asked} {took} ({trouble.detail}); {_todo(trouble)}", EXIT_UNAVAILABLE)
    if trouble is not None:
        return Remark("live", "warning", f"{asked} {took} ({trouble.detail}); that proves nothing about the key")
    if question is None:
        return Remark("live", "warning", f"{asked} {took}; this provider has no question that proves the key")
    return Remark("live", "ok", f"{asked} {took}")


def _first_question(source: SourceSettings, now: float) -> Question | None:
    """What the adapter asks first about a job of which only the id is known; None when it cannot ask at all."""
    probe: str | None = getattr(source.facts, "probe_path", None)
    if probe is not None:
        return Question(path=probe)
    job = Job(source=source.name, job_id=PROBE_JOB, registered_at=now)
    if source.facts.cannot_ask(job, source) is not None:
        return None
    asking = source.facts.ask([job], source, now)
    try:
        step = next(asking)
        while not isinstance(step, Question):
            step = asking.send(None)
    except StopIteration:
        return None
    finally:
        asking.close()
    return step


def _todo(trouble: Trouble) -> str:
    return "look at api_key" if trouble.outcome == "auth_blocked" else "look at base_url, or try again later"


LIVE_CHECKS: list[Check] = [check_providers]
