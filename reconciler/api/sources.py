"""Sources: how each does, and the operator's three levers. Every pull of one is recorded with who and when."""

from dataclasses import replace

import structlog
from starlette.types import ASGIApp

from receiver import clock
from receiver.providers.managing import Scanner
from receiver.records import SourceState
from receiver.store.base import Tx
from reconciler import overview
from reconciler.api import shapes
from reconciler.api.call import Call
from reconciler.api.models import Nothing
from reconciler.api.problem import json_reply
from reconciler.api.routing import Answer, Route
from reconciler.gaps import want_scan

log = structlog.get_logger("holdfast.api")

KEPT_ACTIONS = 20


async def list_sources(call: Call) -> ASGIApp:
    """All configured sources."""
    now = call.desk.clock.now()
    seen = await call.desk.store.read(lambda view: overview.look(view, now))
    return json_reply({"sources": overview.source_rows(call.desk.settings, seen, now)})


async def pause(call: Call) -> ASGIApp:
    """Stop asking this source's provider; intake and telling go on."""
    return await _act(call, "pause")


async def resume(call: Call) -> ASGIApp:
    """Ask again."""
    return await _act(call, "resume")


async def reconcile(call: Call) -> ASGIApp:
    """Have every open job asked about, budget and Retry-After permitting."""
    return await _act(call, "reconcile", 202)


async def _act(call: Call, action: str, status: int = 200) -> ASGIApp:
    await call.body(Nothing)
    source, now, who = call.source(call.path["name"]), call.desk.clock.now(), call.who

    def work(tx: Tx) -> None:
        if action == "reconcile":
            tx.sources.want_sweep([source.name], now)
            if isinstance(source.facts, Scanner):
                want_scan(tx, source.name, now)
        tx.sources.put(_acted(tx.sources.get(source.name), action, who, now))

    await call.desk.store.write(work)
    log.info("source.lever_pulled", source=source.name, action=action, who=who)
    if action != "pause":
        call.desk.poke(source.name)
    seen = await call.desk.store.read(lambda view: overview.look(view, now))
    return json_reply(overview.source_row(source, seen, now), status)


def _acted(state: SourceState, action: str, who: str, now: float) -> SourceState:
    done = [*state.extra.get("actions", ()), {"at": clock.text(now), "who": who, "action": action}]
    paused = {"pause": True, "resume": False}.get(action, state.paused)
    return replace(state, paused=paused, extra={**state.extra, "actions": done[-KEPT_ACTIONS:]})


_GONE = Answer("No such source.", shapes.ProblemShape)
_LARGE = Answer("The body is too large.", shapes.ProblemShape)
_DONE = Answer("Done; the source as it is now.", shapes.SourceShape)

ROUTES = [
    Route(
        method="GET",
        path="/v1/sources",
        handler=list_sources,
        summary="How every source does",
        answers={200: Answer("All of them.", shapes.SourceListShape)},
        tags=("sources",),
    ),
    Route(
        method="POST",
        path="/v1/sources/{name}/pause",
        handler=pause,
        summary="Stop asking the provider; intake and telling go on",
        body=Nothing,
        body_may_be_absent=True,
        answers={200: _DONE, 404: _GONE, 413: _LARGE},
        tags=("sources",),
    ),
    Route(
        method="POST",
        path="/v1/sources/{name}/resume",
        handler=resume,
        summary="Ask again",
        body=Nothing,
        body_may_be_absent=True,
        answers={200: _DONE, 404: _GONE, 413: _LARGE},
        tags=("sources",),
    ),
    Route(
        method="POST",
        path="/v1/sources/{name}/reconcile",
        handler=reconcile,
        summary="Ask about every open job",
        body=Nothing,
        body_may_be_absent=True,
        answers={202: Answer("They will be asked about.", shapes.SourceShape), 404: _GONE, 413: _LARGE},
        tags=("sources",),
    ),
]
