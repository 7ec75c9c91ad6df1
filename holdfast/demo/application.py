"""The sample application: takes what it is told, checks the signature, and writes each message down before it says 200.

A process of its own (`python -m holdfast.demo.application`). Its file is the application's memory of what it heard;
the ledger is made from it and from the providers' truth, never from the sidecar's own counts.
"""

import argparse
import asyncio
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.clock import SystemClock
from receiver.listeners import open_listener
from receiver.providers.base import Accepted, RawRequest
from receiver.providers.signing import check_standard_webhooks
from receiver.server import HttpServer, private_limits


def build(heard: Path, secret: str) -> Starlette:
    """The application: one route, one file with a JSON line a message heard (repeats too)."""
    clock = SystemClock()
    file = heard.open("ab", buffering=0)

    async def hear(request: Request) -> Response:
        body = await request.body()
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
        proof = check_standard_webhooks(RawRequest(headers, body), [secret], clock.now(), 300.0)
        if not isinstance(proof, Accepted):
            return Response(status_code=401)
        file.write(body.replace(b"\n", b" ") + b"\n")
        return Response(status_code=200)

    return Starlette(routes=[Route("/holdfast", hear, methods=["POST"])])


async def _serve(port: int, heard: Path, secret: str) -> None:
    server = HttpServer(build(heard, secret), open_listener(f"127.0.0.1:{port}"), private_limits())
    await server.start()
    print(server.address, flush=True)  # noqa: T201 - the demo waits for this line
    await asyncio.Event().wait()


def main() -> None:
    """Start it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--heard", type=Path, required=True)
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.heard, os.environ["DEMO_APP_SECRET"]))


if __name__ == "__main__":
    main()
