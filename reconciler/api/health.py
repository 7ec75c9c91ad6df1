"""Whether the process lives, whether the store takes writes, the metrics, and the description of the API itself."""

import asyncio

from starlette.responses import Response
from starlette.types import ASGIApp

from receiver.errors import StoreUnavailable
from receiver.store.base import StoreHealth
from reconciler import metrics
from reconciler.api import shapes
from reconciler.api.call import Call
from reconciler.api.problem import json_reply, raw_json, unavailable
from reconciler.api.routing import Answer, Route

READY_WITHIN_S = 2.0
"""A store that commits nothing for so long does not take writes."""


async def alive(call: Call) -> ASGIApp:
    """The process lives and its loop turns; nothing else is looked at."""
    return json_reply({"status": "ok"})


async def ready(call: Call) -> ASGIApp:
    """The store takes writes, shown by a transaction; 503 says why not."""
    store = call.desk.store
    why = [*call.desk.trouble()]
    health = store.health()
    if not health.takes_writes:
        why.append(f"the store takes no writes: {health.why_not or 'it is closed'}")
    else:
        why += await _no_commit(call)
    if why:
        raise unavailable("; ".join(why))
    return json_reply({"status": "ready", **_state(store.health())})


async def _no_commit(call: Call) -> list[str]:
    commit = asyncio.ensure_future(call.desk.store.write(lambda tx: None))
    done, _ = await asyncio.wait({commit}, timeout=READY_WITHIN_S)
    if not done:
        commit.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody waits for it any more
        why_not = call.desk.store.health().why_not
        return [f"the store committed nothing within {READY_WITHIN_S:g} s" + (f": {why_not}" if why_not else "")]
    try:
        commit.result()
    except StoreUnavailable as error:
        return [f"the store takes no writes: {error}"]
    return []


def _state(health: StoreHealth) -> dict[str, object]:
    state: dict[str, object] = {
        "missing": health.missing,
        "spill_records": health.spill_records,
        "journal_mode": health.journal_mode,
        "synchronous": health.synchronous,
        "file_system": health.file_system,
        "sqlite_version": health.sqlite_version,
    }
    if health.missing:
        state["warning"] = f"{health.missing} acknowledged deliveries are missing from the database"
    if health.quarantined_file is not None:
        state["quarantined_file"] = health.quarantined_file
    return state


async def show_metrics(call: Call) -> ASGIApp:
    """Prometheus text."""
    body = await metrics.render(call.desk)
    return Response(body, headers={"content-type": metrics.CONTENT_TYPE, "cache-control": "no-store"})


async def show_openapi(call: Call) -> ASGIApp:
    """The description of this API."""
    return raw_json(call.parts.openapi)


ROUTES = [
    Route(
        method="GET",
        path="/healthz",
        handler=alive,
        summary="The process lives",
        answers={200: Answer("It does.", shapes.AliveShape)},
        basic=True,
        tags=("health",),
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=ready,
        summary="The store takes writes; 503 says why not",
        answers={200: Answer("It does.", shapes.ReadyShape)},
        basic=True,
        tags=("health",),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=show_metrics,
        summary="Metrics for Prometheus",
        answers={200: Answer("Prometheus text.", None, "text/plain")},
        basic=True,
        tags=("health",),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=show_openapi,
        summary="This description",
        answers={200: Answer("OpenAPI 3.1.", shapes.Shape)},
        basic=True,
        tags=("health",),
    ),
]
