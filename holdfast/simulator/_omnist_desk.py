"""The endpoints under `/v1/webhooks` of the simulated Omnist (providers.md 4.4 and 4.11)."""

import random
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from holdfast.simulator import _omnist_webhooks as webhooks
from holdfast.simulator.gate import Handler, Kind
from holdfast.simulator.sender import Webhook
from receiver import clock as clocks

if TYPE_CHECKING:
    from holdfast.simulator.omnist import Omnist


class Desk:
    """Reads and changes the workspace's target, sends tests, shows the delivery log."""

    def __init__(self, omnist: "Omnist") -> None:
        """The state lies with the simulator: its target, its sender's log."""
        self._omnist = omnist
        self._tests: list[Webhook] = []

    def endpoints(self) -> list[tuple[str, str, Kind, Handler]]:
        """(method, path, kind, handler) of each."""
        return [
            ("GET", "/v1/webhooks", "manage", self._shown),
            ("PUT", "/v1/webhooks", "manage", self._set),
            ("POST", "/v1/webhooks/rotate-signing-secret", "manage", self._rotate),
            ("POST", "/v1/webhooks/test", "manage", self._test),
            ("GET", "/v1/webhooks/test", "manage", self._tested),
            ("GET", "/v1/webhooks/events", "read", self._events),
            ("GET", "/v1/webhooks/stats", "read", self._stats),
        ]

    def _webhook(self) -> dict[str, Any]:
        configured = self._omnist.webhook_url is not None
        return {
            "configured": configured,
            "url": self._omnist.webhook_url,
            "enabled": configured and self._omnist.target.enabled,
            "signing_secret": self._omnist.target.secret.shown() if configured else None,
        }

    async def _shown(self, request: Request) -> Response:
        return JSONResponse({"webhook": self._webhook()})

    async def _set(self, request: Request) -> Response:
        asked = await json_object(request)
        omnist = self._omnist
        first = omnist.webhook_url is None and not omnist.target.told
        default = omnist.target.enabled or omnist.webhook_url is None
        enabled = default if asked is None else asked.get("enabled", default)
        if asked is None or not isinstance(enabled, bool):
            return omnist.error(400)
        try:
            url = webhooks.checked(asked.get("url", omnist.webhook_url))
        except webhooks.WrongTargetError as error:
            return omnist.error(400, str(error))
        omnist.webhook_url, omnist.target.enabled = url, enabled
        body: dict[str, Any] = {"webhook": self._webhook()}
        if first:
            omnist.target.told = True
            body["new_signing_secret"] = omnist.target.secret.value
        return JSONResponse(body)

    async def _rotate(self, request: Request) -> Response:
        if self._omnist.webhook_url is None:
            return self._omnist.error(404, "No webhook target is configured.")
        previous = self._omnist.target.secret  # made now, if it was never used
        secret = self._omnist.target.rotate(self._omnist.clock.now())
        self._omnist.target.told = True
        assert secret.version == previous.version + 1, "a rotation counts up"
        return JSONResponse({"new_signing_secret": secret.value, "signing_secret": secret.shown()})

    async def _test(self, request: Request) -> Response:
        if self._omnist.webhook_url is None:
            return self._omnist.error(400, "No webhook target is configured.")
        rng = random.Random(f"{self._omnist.seed}:{self._omnist.label}:test:{len(self._tests)}")
        event_id, delivery_id = self._omnist.new_id(rng), self._omnist.new_id(rng)
        body = {"id": f"event_{event_id}", "type": webhooks.TEST_EVENT, "data": {}}
        webhook = Webhook(webhooks.TEST_EVENT, body, None, event_id, delivery_id)
        self._tests.append(webhook)
        await self._omnist.sender.send_once(webhook, self._omnist.webhook_url, self._omnist)
        return JSONResponse({"delivery": self._delivery(webhook)})

    def _delivery(self, webhook: Webhook) -> dict[str, Any]:
        return webhooks.record(webhook, len(webhook.attempts), webhook.attempts[-1], self._omnist.policy.accepts)

    async def _tested(self, request: Request) -> Response:
        wanted = request.query_params.get("id")
        done = [self._delivery(one) for one in self._tests if one.attempts]
        if wanted is None:
            return JSONResponse({"deliveries": done[::-1]})
        if not (wanted.isascii() and wanted.isdigit()):
            return self._omnist.error(400, "id is a number")
        number = int(wanted)
        return JSONResponse({"delivery": done[number - 1]}) if 1 <= number <= len(done) else self._omnist.error(404)

    def _logged(self, request: Request, start: str, end: str) -> list[dict[str, Any]]:
        query = request.query_params
        since = clocks.instant(query[start]) if start in query else None
        until = clocks.instant(query[end]) if end in query else None
        return webhooks.between(webhooks.attempts(self._omnist.sender.log, self._omnist.policy.accepts), since, until)

    async def _events(self, request: Request) -> Response:
        try:
            rows, page = self._logged(request, "start", "end"), int(request.query_params.get("page", 1))
        except ValueError:
            return self._omnist.error(400, "start and end are times, page is a number")
        if page < 1:
            return self._omnist.error(400, "pages count from 1")
        first = (page - 1) * webhooks.PAGE_SIZE
        return JSONResponse({"events": rows[first : first + webhooks.PAGE_SIZE], "page": page})

    async def _stats(self, request: Request) -> Response:
        try:
            rows = self._logged(request, "start", "end")
            minutes = int(request.query_params.get("bucket_minutes", 60))
        except ValueError:
            return self._omnist.error(400, "start and end are times, bucket_minutes is a number")
        if minutes < 1:
            return self._omnist.error(400, "bucket_minutes is at least 1")
        return JSONResponse(
            {
                "bucket_minutes": minutes,
                "start_at": request.query_params.get("start"),
                "end_at": request.query_params.get("end"),
                "stats": webhooks.stats(rows, minutes),
            }
        )


async def json_object(request: Request) -> dict[str, Any] | None:
    """The body as a JSON object, or None."""
    try:
        asked = await request.json()
    except ValueError:
        return None
    return asked if isinstance(asked, dict) else None
