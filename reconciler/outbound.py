"""The only file that asks over the network: one question, one answer, bounded in size and time, never redirected.

A call that hangs is cut off by one deadline over the whole of it (httpx's own timeouts are per read; a trickle never
trips them). Cancelling leaks a pool slot in this library (encode/httpcore#830), so every question gets a client of its
own; with a shared TLS context that costs a tenth of a millisecond. Names are resolved on threads of the source's own:
a resolver that hangs for one provider must not starve the others.
"""

import asyncio
import contextlib
import importlib.util
import ipaddress
import socket
import ssl
import sys
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from receiver import __version__
from receiver.clock import Clock
from receiver.providers.base import Question, Reply, origin, same_origin
from receiver.settings import ReconcileSettings, SourceSettings

USER_AGENT = f"holdfast/{__version__}"

if importlib.util.find_spec("sniffio") is None:
    # The library looks for it at every lock and every connection, and a search in vain walks all of sys.path: a third
    # of what a question costs.
    sys.modules["sniffio"] = None  # type: ignore[assignment]  # how Python writes down "there is none"


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer came: the network, the TLS, the name, the time or the size. It proves nothing about any job."""

    detail: str
    unasked: bool = False
    """True when the question was never sent, because of what it was: another one may fare better."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with what came of it."""

    request: str
    """`GET /path?query`, as it is kept in `polls.request`."""
    latency_ms: int
    outcome: Reply | Unanswered


class Resolver:
    """Resolves the names of one source on threads of its own, and keeps the last good answer."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], str] = {}
        self._looking: dict[tuple[str, int], asyncio.Future[str]] = {}

    async def address(self, host: str, port: int, timeout_s: float) -> str:
        """An address of the host. Raises OSError when there is none in time and none was ever known."""
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            key = (host, port)
        looking = self._looking.get(key)
        if looking is None:
            looking = _looked_up(host, port)
            self._looking[key] = looking
            looking.add_done_callback(lambda done: self._looked(key, done))
        await asyncio.wait([looking], timeout=timeout_s)
        if looking.done() and looking.exception() is None:
            return looking.result()
        if key in self._known:
            return self._known[key]
        if not looking.done():
            raise OSError(f"the name {host} was not resolved within {timeout_s:g} s")
        raise looking.exception() or OSError(host)

    def _looked(self, key: tuple[str, int], done: "asyncio.Future[str]") -> None:
        self._looking.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self._known[key] = done.result()


def _looked_up(host: str, port: int) -> "asyncio.Future[str]":
    """Look a name up on a thread that nobody waits for: an executor's would hold up the end of the process for as long
    as the look-up hangs."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def tell(address: str | Exception) -> None:
        if found.done():
            return
        if isinstance(address, Exception):
            found.set_exception(address)
        else:
            found.set_result(address)

    def look() -> None:
        address: str | Exception
        try:
            address = _resolve(host, port)
        except (OSError, ValueError) as error:  # a label that is too long is a ValueError
            address = error
        with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(tell, address)

    threading.Thread(target=look, name="holdfast-resolver", daemon=True).start()
    return found


def _resolve(host: str, port: int) -> str:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return str(found[0][4][0])


class Outbound:
    """Asks questions. One for the process; its parts are kept apart by source name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tls: ssl.SSLContext | None = None
        self._resolvers: dict[str, Resolver] = {}

    def close(self) -> None:
        """Forget what is known of names; a look-up that hangs is not waited for."""
        self._resolvers.clear()

    async def ask(self, source: SourceSettings, question: Question, rules: ReconcileSettings) -> Exchange:
        """Put one question to a source's provider. Never raises for anything the provider or the network does."""
        url, request = _target(source, question)
        if url is None:
            return Exchange(
                request, 0, Unanswered("the URL does not lie on the source's configured origin", unasked=True)
            )
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(rules.http_timeout_s):
                outcome = await self._exchange(source, question, url, rules)
        except TimeoutError:
            outcome = Unanswered(f"no answer within {rules.http_timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            outcome = Unanswered(_said(error))
        return Exchange(request, round((self._clock.monotonic() - began) * 1000), outcome)

    async def _exchange(
        self, source: SourceSettings, question: Question, url: str, rules: ReconcileSettings
    ) -> Reply | Unanswered:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        resolver = self._resolvers.setdefault(source.name, Resolver())
        address = await resolver.address(host, port, rules.http_timeout_s / 2)
        shown = f"[{address}]" if ":" in address else address
        target = parts._replace(netloc=f"{shown}:{port}").geturl()
        headers = {
            "Host": parts.netloc,
            "User-Agent": USER_AGENT,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **source.facts.auth_headers(source),
        }
        async with self._client(rules) as client:
            asked = client.build_request(
                question.method, target, headers=headers, json=question.json, extensions={"sni_hostname": host}
            )
            answer = await client.send(asked, stream=True)
            try:
                return await self._read(answer, rules)
            finally:
                await answer.aclose()

    async def _read(self, answer: httpx.Response, rules: ReconcileSettings) -> Reply | Unanswered:
        encoding = answer.headers.get("content-encoding", "identity").strip().lower()
        body = bytearray()
        if encoding in ("", "identity"):
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > rules.max_answer_bytes:
                    return Unanswered(f"the answer is longer than {rules.max_answer_bytes} bytes")
        elif 200 <= answer.status_code < 300:
            return Unanswered(f"the answer came encoded as {encoding[:20]}, which was not asked for")
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(answer.status_code, headers, bytes(body), self._clock.now())

    def _client(self, rules: ReconcileSettings) -> httpx.AsyncClient:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        return httpx.AsyncClient(
            verify=self._tls,
            # A TLS handshake that is cancelled from outside leaves its socket to the garbage collector; one that the
            # library itself gives up is closed. So it gives up first.
            timeout=httpx.Timeout(rules.http_timeout_s, connect=rules.http_timeout_s * 0.8),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
        )


def _target(source: SourceSettings, question: Question) -> tuple[str | None, str]:
    """(where to send it, or None when it is not ours to send there; how it is written down)."""
    base = source.effective_base_url or ""
    if question.url is not None:
        parts = urlsplit(question.url) if origin(question.url) else None
        request = f"{question.method} {parts.path if parts else '(not a URL)'}"
        if parts is None or not same_origin(question.url, base):
            return None, request
        url = parts._replace(fragment="").geturl()
    else:
        request = f"{question.method} {question.path}"
        url = base.rstrip("/") + (question.path or "/")
    if question.query:
        query = str(httpx.QueryParams(dict(question.query)))
        url += ("&" if "?" in url else "?") + query
        request += f"?{query}"
    return url, request[:500]


def _said(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return f"{type(error).__name__}: {text}"[:300]


def tls_context() -> ssl.SSLContext:
    """Whom to trust, for every https connection of ours."""
    return httpx.create_ssl_context(trust_env=False)
