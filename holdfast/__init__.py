"""The roof: what people touch. Command line, client, simulator, demo.

    from holdfast import Client

`Client`, `AsyncClient`, `TrackingTransport` and friends are loaded when they are first asked for, so that the command
line does not pay for them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.client import (
        AsyncClient,
        Client,
        ClientError,
        Conflict,
        Message,
        NotFound,
    )
    from holdfast.tracking import AsyncTrackingTransport, TrackingTransport, jobs_of_provider

__all__ = [
    "AsyncClient",
    "AsyncTrackingTransport",
    "Client",
    "ClientError",
    "Conflict",
    "Message",
    "NotFound",
    "TrackingTransport",
    "jobs_of_provider",
]
_TRACKING = {"AsyncTrackingTransport", "TrackingTransport", "jobs_of_provider"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        import importlib

        return getattr(importlib.import_module("holdfast.tracking" if name in _TRACKING else "holdfast.client"), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
