"""The yardsticks: a Starlette route on uvicorn that merely answers 200, and one that inserts and commits each time."""

import argparse
import asyncio
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.store.sqlite.driver import open_writer


def no_op() -> Starlette:
    """Reads the body, answers 200."""

    async def answer(request: Request) -> Response:
        await request.body()
        return JSONResponse({"delivery": "1"})

    return Starlette(routes=[Route("/in/bench", answer, methods=["POST"])])


def commit_each(path: Path) -> Starlette:
    """Inserts and commits each body by itself, on one thread, fully synced."""
    from concurrent.futures import ThreadPoolExecutor

    connection = open_writer(path)
    connection.execute("CREATE TABLE deliveries (id INTEGER PRIMARY KEY, body BLOB) STRICT")
    thread = ThreadPoolExecutor(1)

    def keep(body: bytes) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO deliveries (body) VALUES (?)", (body,))
        connection.execute("COMMIT")

    async def answer(request: Request) -> Response:
        body = await request.body()
        await asyncio.get_running_loop().run_in_executor(thread, keep, body)
        return JSONResponse({"delivery": "1"})

    return Starlette(routes=[Route("/in/bench", answer, methods=["POST"])])


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--commit-each", type=Path)
    given = parser.parse_args()
    app = commit_each(given.commit_each) if given.commit_each else no_op()
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="critical", access_log=False, http="httptools")


if __name__ == "__main__":
    main()
