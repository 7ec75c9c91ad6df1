"""Records jobs as the application's own httpx client submits them: a transport around the one it has."""

import logging
from collections.abc import Callable
from typing import Any

import httpx

from holdfast.client import AsyncClient, Client, ClientError

log = logging.getLogger("holdfast.client")

Find = Callable[[httpx.Request, Any], list[dict[str, Any]]]
"""(request, the answer's JSON) -> the jobs it tells of: `{"job_id": …, "modality": …, …facts}`."""


def jobs_of_provider(source: str, provider: str) -> Find:
    """Finds jobs the way the provider's own adapter does in pass-through."""
    from receiver.providers import provider_named
    from receiver.settings import SourceSettings

    adapter, settings = provider_named(provider), SourceSettings.named(source, provider=provider)

    def find(request: httpx.Request, document: Any) -> list[dict[str, Any]]:
        told = adapter.submitted(request.method, request.url.path, document, settings)
        fields = ("job_id", "modality", "alias", "poll_url", "refs")
        return [{name: getattr(each, name) for name in fields if getattr(each, name)} for each in told]

    return find


class TrackingTransport(httpx.BaseTransport):
    """Give this to your own `httpx.Client(transport=…)` for a provider: every job it submits is put on record before
    you see the answer. When recording fails the answer is yours all the same, and the failure is logged."""

    def __init__(self, client: Client, source: str, find: Find, wrapped: httpx.BaseTransport | None = None) -> None:
        self._client, self._source, self._find = client, source, find
        self._wrapped = wrapped or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, record the jobs its answer tells of, hand the answer back."""
        answer = self._wrapped.handle_request(request)
        if answer.is_success and "json" in answer.headers.get("content-type", ""):
            answer.read()
            for facts in _found(self._find, request, answer):
                try:
                    self._client.register(self._source, facts.pop("job_id"), **facts)
                except (httpx.HTTPError, ClientError) as error:
                    log.error("a submitted job was not put on record: %s", error)
        return answer

    def close(self) -> None:
        """Let the wrapped transport go."""
        self._wrapped.close()


class AsyncTrackingTransport(httpx.AsyncBaseTransport):
    """`TrackingTransport` for `httpx.AsyncClient`."""

    def __init__(
        self, client: AsyncClient, source: str, find: Find, wrapped: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._client, self._source, self._find = client, source, find
        self._wrapped = wrapped or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, record the jobs its answer tells of, hand the answer back."""
        answer = await self._wrapped.handle_async_request(request)
        if answer.is_success and "json" in answer.headers.get("content-type", ""):
            await answer.aread()
            for facts in _found(self._find, request, answer):
                try:
                    await self._client.register(self._source, facts.pop("job_id"), **facts)
                except (httpx.HTTPError, ClientError) as error:
                    log.error("a submitted job was not put on record: %s", error)
        return answer

    async def aclose(self) -> None:
        """Let the wrapped transport go."""
        await self._wrapped.aclose()


def _found(find: Find, request: httpx.Request, answer: httpx.Response) -> list[dict[str, Any]]:
    try:
        return [dict(each) for each in find(request, answer.json())]
    except Exception:
        log.exception("the answer to a submission was not understood; its job is not on record")
        return []
