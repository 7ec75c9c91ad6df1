"""How commands write: through the private API when it answers, else to the file itself."""

import getpass
import os
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from receiver.clock import SystemClock
from receiver.errors import HoldfastError, UsageError
from receiver.settings import Settings
from receiver.store.base import Tx

T = TypeVar("T")
TIMEOUT_S = 10.0


class Api:
    """The private API of a running sidecar, as the command line sees it."""

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
        listen = settings.api.listen
        transport = httpx.HTTPTransport(uds=listen.removeprefix("unix:")) if listen.startswith("unix:") else None
        base = "http://localhost" if transport else f"http://{_reachable(listen)}"
        token = settings.api.token
        headers = {"Authorization": f"Bearer {token.current}"} if token is not None and token.is_held else {}
        self._client = httpx.Client(
            base_url=base, headers=headers, timeout=timeout_s, transport=transport, trust_env=False
        )

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any] | None:
        """(status, document), or None when nobody answers there (or something else than Holdfast does)."""
        try:
            answer = self._client.request(method, path, json=body)
            document = answer.json() if answer.content else None
        except (httpx.TransportError, ValueError):
            return None
        return answer.status_code, document


def _reachable(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("", "0.0.0.0", "[::]") else listen  # noqa: S104 - where it listens


def job_path(source: str, job_id: str, behind: str = "") -> str:
    """The API path of a job; the id is one escaped segment."""
    escaped = quote(job_id, safe="")
    return (
        f"/v1/jobs/{quote(source, safe='')}/{escaped.replace('.', '%2E') if set(job_id) <= {'.'} else escaped}{behind}"
    )


def through_api(settings: Settings, method: str, path: str, body: Any = None) -> Any:
    """The answer's document, or None when no API answers. Raises HoldfastError in the API's own words."""
    answer = Api(settings).call(method, path, body)
    if answer is None:
        return None
    status, document = answer
    if status < 400:
        return document
    detail = document.get("detail") or document.get("title") if isinstance(document, dict) else str(document)
    if status == 404:
        raise HoldfastError(f"asking the running sidecar: {detail}; check the source, the id and the path")
    if status == 400:
        raise UsageError(f"asking the running sidecar: {detail}")
    raise HoldfastError(f"asking the running sidecar: {status} {detail}")


def operator() -> str:
    """Who gives an order on the command line, as far as the machine knows (a container may have no name for it)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def to_file(settings: Settings, work: Callable[[Tx, float], T]) -> T:
    """Write to the file itself, in one transaction. Raises StoreUnavailable, also when a second writer is not safe."""
    from holdfast.sidecar import refuse_second_writer
    from receiver.store import open_store

    refuse_second_writer(settings, ())
    clock = SystemClock()
    store = open_store(settings, clock, keeper=False)
    try:
        return store.write_sync(lambda tx: work(tx, clock.now()))
    finally:
        store.close()
