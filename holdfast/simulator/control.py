"""The simulation's own desk, under `/_control/`: the truth, the faults, submitting without a client, waiting.

Owns the JSON of these endpoints and the trap for clients that follow redirects. Never part of any provider's API:
the code under test has no business here.

    GET  /_control/            where each provider is served
    GET  /_control/truth       everything the providers know; ?provider=NAME for one
    POST /_control/faults      {"provider"?: NAME, FAULT: SHARE, …}  change faults from now on
    POST /_control/webhook     {"provider": NAME, "url": URL or null}  where webhooks go by default
    POST /_control/submit      {"provider": NAME, "modality": M, "n"?: 1, "webhook_url"?: U, other fields…}
    POST /_control/idle        {"timeout_s"?: 60}  waits until every webhook is settled; 504 when the time is up
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.simulator.base import Simulator, UnusableError

if TYPE_CHECKING:
    from holdfast.simulator.simulation import Simulation

MAX_SUBMIT = 10_000


class _WrongError(Exception):
    """The request makes no sense; the message says why."""


def routes(simulation: "Simulation") -> list[Route]:
    """The desk of this simulation."""

    async def where(request: Request) -> Response:
        return JSONResponse(simulation.addresses())

    async def truth(request: Request) -> Response:
        name = request.query_params.get("provider")
        if name is None:
            return JSONResponse(simulation.snapshot())
        return JSONResponse(_provider(simulation, name).snapshot())

    async def faults(request: Request) -> Response:
        changes = await _object(request)
        name = changes.pop("provider", None)
        chosen = list(simulation.simulators) if name is None else [name]
        for each in chosen:  # all are judged before one is changed
            _provider(simulation, each).faults.changed(changes)
        return JSONResponse({each: simulation[each].order(changes).as_dict() for each in chosen})

    async def webhook(request: Request) -> Response:
        asked = await _object(request)
        provider, url = _provider(simulation, asked.get("provider")), asked.get("url")
        if url is not None and not isinstance(url, str):
            raise _WrongError("url must be text or null")
        provider.webhook_url = url
        return JSONResponse({"provider": asked["provider"], "url": url})

    async def submit(request: Request) -> Response:
        fields = await _object(request)
        provider = _provider(simulation, fields.pop("provider", None))
        modality, n = fields.pop("modality", provider.modalities[0]), fields.pop("n", 1)
        if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= MAX_SUBMIT:
            raise _WrongError(f"n must be a number up to {MAX_SUBMIT}")
        jobs = [await provider.submit(modality, fields) for _ in range(n)]
        return JSONResponse({"jobs": [job.as_dict() for job in jobs]}, 201)

    async def idle(request: Request) -> Response:
        asked = await _object(request)
        with anyio.move_on_after(float(asked.get("timeout_s", 60.0))):
            await simulation.idle()
            return JSONResponse({"idle": True})
        return JSONResponse({"idle": False}, 504)

    async def trap(request: Request) -> Response:
        provider = _provider(simulation, request.path_params["name"])
        provider.counters["redirects_followed"] += 1
        with_key = "authorization" in request.headers or "x-api-key" in request.headers
        provider.counters["redirects_with_credentials"] += with_key
        return JSONResponse({"status": "completed", "trap": True})

    return [
        Route("/_control/", where),
        Route("/_control/truth", _checked(truth)),
        Route("/_control/faults", _checked(faults), methods=["POST"]),
        Route("/_control/webhook", _checked(webhook), methods=["POST"]),
        Route("/_control/submit", _checked(submit), methods=["POST"]),
        Route("/_control/idle", _checked(idle), methods=["POST"]),
        Route("/_control/trap/{name}", _checked(trap), methods=["GET", "POST", "PUT"]),
    ]


def _checked(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except (_WrongError, UnusableError, ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return endpoint


def _provider(simulation: "Simulation", name: Any) -> Simulator:
    if name not in simulation.simulators:
        raise _WrongError(f"no provider {name!r} here; there are {', '.join(simulation.simulators)}")
    return simulation[name]


async def _object(request: Request) -> dict[str, Any]:
    body = await request.body()
    if not body:
        return {}
    document = await request.json()
    if not isinstance(document, dict):
        raise _WrongError("the body must be a JSON object")
    return document
