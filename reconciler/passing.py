"""Carries one request of the application to a provider and its answer back: bytes in, bytes out, nothing kept.

It goes to the source's configured origin and nowhere else, follows no redirect and reads no proxy variable. It decides
nothing about headers or jobs. One of the two files of the reconciler that import httpx; a request gets a client of its
own, because cancelling leaks a pool slot in this library (encode/httpcore#830), and a caller may go away at any time.
"""

import contextlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass

import httpx

from receiver.errors import ProviderUnavailable
from receiver.providers.base import origin
from reconciler.outbound import Resolver

HeaderPairs = list[tuple[bytes, bytes]]
DIGEST_FACTOR = 3
"""An answer may take so many times `http_timeout_s`: a provider digests what was uploaded before it answers."""


class UnreachableError(ProviderUnavailable):
    """The provider cannot be reached, or broke off."""


class TooSlowError(ProviderUnavailable):
    """The provider did not answer in time."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request for a provider."""

    method: str
    base_url: str
    target: bytes
    """Path and query as they go over the wire, put behind the base URL's own path."""
    headers: HeaderPairs
    body: AsyncIterable[bytes] | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Incoming:
    """A provider's answer: the head, and the body as it arrives, not decoded. Reading it raises `UnreachableError` or
    `TooSlowError`."""

    status: int
    headers: HeaderPairs
    chunks: AsyncIterator[bytes]


class Passing:
    """Carries requests. One for the process."""

    def __init__(self) -> None:
        self._tls: ssl.SSLContext | None = None
        self._resolvers: dict[str, Resolver] = {}

    def close(self) -> None:
        """Forget what is known of names; a look-up that hangs is not waited for."""
        self._resolvers.clear()

    @contextlib.asynccontextmanager
    async def carry(self, outgoing: Outgoing) -> AsyncIterator[Incoming]:
        """Send the request; the answer lasts as long as the context. Raises `UnreachableError`, `TooSlowError`, and
        whatever the body's iterator raises."""
        place = origin(outgoing.base_url)
        if place is None:
            raise UnreachableError("the source has no base_url that could be called")
        scheme, host, port = place
        try:
            address = await self._resolver(host).address(host, port, outgoing.timeout_s)
        except OSError as error:
            raise UnreachableError(_said(error)) from error
        with _ours():
            url = httpx.URL(scheme=scheme, host=address, port=port, path="/")
            prefix = httpx.URL(outgoing.base_url).raw_path.rstrip(b"/")
            request = httpx.Request(
                outgoing.method,
                url,
                headers=[(b"host", httpx.URL(outgoing.base_url).netloc), *outgoing.headers],
                content=outgoing.body,
                extensions={
                    # The exact bytes of the path: httpx itself would normalise them.
                    "target": prefix + outgoing.target,
                    "sni_hostname": host,
                    "timeout": _timeout(outgoing.timeout_s).as_dict(),
                },
            )
            client = self._client(outgoing.timeout_s)
        async with client:
            with _ours():
                response = await client.send(request, stream=True)
            try:
                yield Incoming(response.status_code, list(response.headers.raw), _chunks(response))
            finally:
                await response.aclose()

    def _resolver(self, host: str) -> Resolver:
        return self._resolvers.setdefault(host, Resolver())

    def _client(self, timeout_s: float) -> httpx.AsyncClient:
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        return httpx.AsyncClient(
            verify=self._tls,
            timeout=_timeout(timeout_s),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
        )


def _timeout(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, read=timeout_s * DIGEST_FACTOR)


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    with _ours():
        async for chunk in response.aiter_raw():
            yield chunk


@contextlib.contextmanager
def _ours() -> Iterator[None]:
    """Errors of the library become errors of ours."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise TooSlowError(_said(error)) from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise UnreachableError(_said(error)) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:300]
