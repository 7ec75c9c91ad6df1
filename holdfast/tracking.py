"""Records jobs as the application's own httpx client submits them: a transport around the one it has."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from holdfast.client import AsyncClient, Client, ClientError, Conflict, Facts

log = logging.getLogger("holdfast.client")

Find = Callable[[httpx.Request, Any], Iterable[Mapping[str, Any]]]
"""(request, the answer's JSON) -> the jobs it tells of: `{"job_id": …, "modality": …, …facts}`."""
_SAFE = ("GET", "HEAD", "OPTIONS")


def jobs_of_provider(source: str, provider: str, **settings: Any) -> Find:
    """Finds jobs the way the provider's own adapter does in pass-through. `settings` are those of the source that bear
    on it: `base_url` where it is not the provider's usual one, the pointers of a `standard` source."""
    from receiver.providers import provider_named
    from receiver.settings import SourceSettings

    adapter, known = provider_named(provider), SourceSettings.named(source, provider=provider, **settings)
    root = urlsplit(known.effective_base_url or "").path.rstrip("/")

    def find(request: httpx.Request, document: Any) -> list[dict[str, Any]]:
        path = request.url.raw_path.decode("ascii").removeprefix(root)
        fields = ("job_id", "modality", "alias", "poll_url", "refs")
        told = adapter.submitted(request.method, path, document, known)
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
        if not _may_tell(request, answer):
            return answer
        try:
            raw = b"".join(cast(httpx.SyncByteStream, answer.stream))
        finally:
            answer.close()
        for job_id, facts in _found(self._find, request, answer, raw):
            self._record(job_id, facts)
        return _again(answer, raw)

    def _record(self, job_id: str, facts: Facts) -> None:
        try:
            self._client.register(self._source, job_id, **facts)
        except Exception as error:  # noqa: BLE001 - the answer must come back whatever becomes of the record
            if (fewer := _fewer(facts, error)) is not None:
                self._record(job_id, fewer)
            else:
                _unrecorded(self._source, job_id, error)

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
        if not _may_tell(request, answer):
            return answer
        try:
            raw = b"".join([part async for part in cast(httpx.AsyncByteStream, answer.stream)])
        finally:
            await answer.aclose()
        for job_id, facts in _found(self._find, request, answer, raw):
            await self._record(job_id, facts)
        return _again(answer, raw)

    async def _record(self, job_id: str, facts: Facts) -> None:
        try:
            await self._client.register(self._source, job_id, **facts)
        except Exception as error:  # noqa: BLE001 - the answer must come back whatever becomes of the record
            if (fewer := _fewer(facts, error)) is not None:
                await self._record(job_id, fewer)
            else:
                _unrecorded(self._source, job_id, error)

    async def aclose(self) -> None:
        """Let the wrapped transport go."""
        await self._wrapped.aclose()


def _may_tell(request: httpx.Request, answer: httpx.Response) -> bool:
    """Whether the answer may be one to a submission; every other streams through."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return request.method not in _SAFE and answer.is_success and (kind == "application/json" or kind.endswith("+json"))


def _found(find: Find, request: httpx.Request, answer: httpx.Response, raw: bytes) -> list[tuple[str, Facts]]:
    try:
        document = httpx.Response(200, headers=answer.headers, content=raw).json()  # unpacks it, where it is packed
        told = [dict(each) for each in find(request, document)]
        return [(str(each.pop("job_id")), cast(Facts, each)) for each in told]
    except Exception:
        log.exception("the answer to a submission was not understood; if it began a job, that is not on record")
        return []


def _again(answer: httpx.Response, raw: bytes) -> httpx.Response:
    """The answer as it came, to be read by its caller in whichever way it likes."""
    return httpx.Response(
        answer.status_code, headers=answer.headers, stream=httpx.ByteStream(raw), extensions=answer.extensions
    )


def _fewer(facts: Facts, error: Exception) -> Facts | None:
    """What to try instead: a link that leads elsewhere is refused, and the job is worth recording without it."""
    if not (isinstance(error, ClientError) and error.status == 400 and facts.get("poll_url")):
        return None
    log.warning("the link to a submitted job was left out: %s", error)
    return cast(Facts, {name: value for name, value in facts.items() if name != "poll_url"})


def _unrecorded(source: str, job_id: str, error: Exception) -> None:
    if isinstance(error, Conflict):
        log.warning("job %s of %s is on record with other facts: %s", job_id, source, error)
    else:
        log.error("job %s of %s was submitted and is not on record: %s", job_id, source, error, exc_info=error)
