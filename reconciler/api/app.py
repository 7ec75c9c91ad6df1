"""The private listener's application: lets requests in, finds the operation, and turns what goes wrong into problems.

An ASGI application without policy of its own; the resources say what they answer. It holds no connection and no thread;
`stop` ends what waits and streams, so that the server can close in order.
"""

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.errors import StoreUnavailable
from reconciler.api import deliveries, health, jobs, outbox, pages, sources, stats, stream, submit
from reconciler.api.bell import Bell
from reconciler.api.call import Call, Parts
from reconciler.api.desk import Desk
from reconciler.api.guard import Guard
from reconciler.api.openapi import document
from reconciler.api.outlet import BrokenOffError, Outlet, ReaderStalledError
from reconciler.api.problem import ProblemError, dumped, unavailable
from reconciler.api.routing import Router
from reconciler.api.waiting import Waiting
from reconciler.passing import Passing

log = structlog.get_logger("holdfast.api")

ROUTES = [
    *jobs.ROUTES,
    *deliveries.ROUTES,
    *outbox.ROUTES,
    *stream.ROUTES,
    *stats.ROUTES,
    *sources.ROUTES,
    *submit.ROUTES,
    *health.ROUTES,
    *pages.ROUTES,
]
DOCUMENTED = [route for route in ROUTES if not route.path.startswith("/page/")]
"""What `openapi.json` tells of: all but the parts of the page."""


class PrivateApi:
    """The ASGI application of the private listener."""

    def __init__(self, desk: Desk, passing: Passing | None = None) -> None:
        bell = Bell(desk.store)
        self.router = Router(ROUTES)
        self.parts = Parts(
            desk=desk,
            guard=Guard(desk.settings.api.token),
            bell=bell,
            waiting=Waiting(desk.store, desk.clock, bell, desk.limits),
            streams=stream.Streams(desk.limits.most_streams),
            passing=passing or Passing(),
            openapi=dumped(document(DOCUMENTED)),
        )

    def stop(self) -> None:
        """End waits (with the job as it is) and streams, now and later. On the event loop; may be called twice."""
        self.parts.bell.close()

    def close(self) -> None:
        """Let go of what is held, once the last request is answered."""
        self.parts.passing.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        outlet = Outlet(send, self.parts.desk.limits.stall_s)
        try:
            await self._answer(scope, receive, outlet)
        except ClientDisconnect:
            log.info("api.caller_left", method=scope["method"])
        except (ReaderStalledError, BrokenOffError) as error:
            log.warning("api.cut_off", method=scope["method"], why=type(error).__name__)
            await outlet.cut()

    async def _answer(self, scope: Scope, receive: Receive, outlet: Outlet) -> None:
        problem: ProblemError
        try:
            reply = await self._reply(scope, receive)
            await reply(scope, receive, outlet)
        except ProblemError as error:
            problem = error
        except StoreUnavailable as error:
            log.warning("api.store_unavailable", error=str(error))
            problem = unavailable(f"the store cannot be used now: {error}")
        except (ClientDisconnect, ReaderStalledError, BrokenOffError):
            raise
        except Exception:
            log.exception("api.failed", method=scope["method"])
            problem = ProblemError(500, "Something went wrong here; the log of the sidecar says what.")
        else:
            return
        if outlet.started:
            raise BrokenOffError from problem
        await problem.reply()(scope, receive, outlet)

    async def _reply(self, scope: Scope, receive: Receive) -> ASGIApp:
        raw_path = scope.get("raw_path") or scope["path"].encode()
        refused: ProblemError | None = None
        try:
            route, path = self.router.find(scope["method"], raw_path)
        except ProblemError as error:
            refused = error  # who may not come in learns nothing of what is here
        who = self.parts.guard.admit(scope["headers"], basic=refused is None and route.basic)
        if refused is not None:
            raise refused
        return await route.handler(Call(self.parts, route, Request(scope, receive), path, who))

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.stop()
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def build_app(desk: Desk, passing: Passing | None = None) -> PrivateApi:
    """The application for the private listener."""
    return PrivateApi(desk, passing)
