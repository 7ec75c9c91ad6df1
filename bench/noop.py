"""The yardsticks: a Starlette route on uvicorn that merely answers 200, and one that inserts and commits each time.

The same uvicorn, parser and event loop as the product's public listener; what differs is the work a request.
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.store.sqlite.driver import open_writer

PATH = "/in/bench"


def no_op() -> Starlette:
    """Reads the body, answers 200."""

    async def answer(request: Request) -> Response:
        await request.body()
        return JSONResponse({"delivery": "1"})

    return Starlette(routes=[Route(PATH, answer, methods=["POST"])])


def commit_each(path: Path) -> Starlette:
    """Inserts and commits each body by itself, on one thread, fully synced; it checks and masks nothing."""
    connection = open_writer(path)
    connection.execute("CREATE TABLE deliveries (id INTEGER PRIMARY KEY, body BLOB) STRICT")
    thread = ThreadPoolExecutor(1)

    def keep(body: bytes) -> int:
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute("INSERT INTO deliveries (body) VALUES (?)", (body,)).lastrowid
        connection.execute("COMMIT")
        return row or 0

    async def answer(request: Request) -> Response:
        body = await request.body()
        row = await asyncio.get_running_loop().run_in_executor(thread, keep, body)
        return JSONResponse({"delivery": str(row)})

    return Starlette(routes=[Route(PATH, answer, methods=["POST"])])


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(prog="python -m bench.noop", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--commit-each", type=Path, help="the database to insert into; without: only answer")
    given = parser.parse_args()
    app = commit_each(given.commit_each) if given.commit_each else no_op()
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="critical", access_log=False, http="httptools")


if __name__ == "__main__":
    main()
