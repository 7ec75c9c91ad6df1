"""The fast local application: answers every push 204 at once, and remembers in which order messages came.

A raw protocol, so that what is measured is the pushing side. `GET /` answers what it has seen, as JSON: how many
messages, how many repeats, and how many came out of order within their job.
"""

import argparse
import asyncio
import json

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


class Seen:
    """All messages so far."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.repeats = 0
        self.disordered = 0
        self.last: dict[str, int] = {}

    def message(self, body: bytes) -> None:
        """One message came."""
        told = json.loads(body)
        if told["id"] in self.ids:
            self.repeats += 1
            return
        self.ids.add(told["id"])
        result = told["data"].get("result")
        number = result.get("n") if isinstance(result, dict) else None
        if number is not None:
            job = told["data"]["job_id"]
            self.disordered += number < self.last.get(job, 0)
            self.last[job] = number

    def facts(self) -> bytes:
        """What was seen."""
        return json.dumps({"messages": len(self.ids), "repeats": self.repeats, "disordered": self.disordered}).encode()


class Connection(asyncio.Protocol):
    """One connection; requests may come in pieces."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if head.startswith(b"GET"):
                facts = self._seen.facts()
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(facts), facts))
                self._buffer = rest
                continue
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            if len(rest) < length:
                return
            self._seen.message(rest[:length])
            self._buffer = rest[length:]
            self._transport.write(NO_CONTENT)


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(prog="python -m bench.application", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()

    async def serve() -> None:
        seen = Seen()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(seen), "127.0.0.1", given.port, backlog=512)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
