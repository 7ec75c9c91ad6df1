"""The product as a process of its own: its folder, its configuration, its listening socket, its record afterwards.

The harness owns the listening socket, as a service manager does, so that a process that dies refuses nobody: whoever
knocks meanwhile waits in the kernel's queue for the next one.
"""

import contextlib
import http.client
import socket
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from receiver.spill import SpillJournal
from receiver.store.sqlite.driver import quoted, sqlite3
from tests.support import RunningProcess, eventually, free_port

TOKEN = "a-path-token-of-the-harness"
PATH = f"/in/plain/{TOKEN}"
HOUSE = 'provider = "omnifence"\nbase_url = "http://127.0.0.1:1"\n'


class Product:
    """One folder with one record, and the processes that work on it one after another."""

    def __init__(self, folder: Path, *, more: str = "", store: str = "", source: str = "", spill: Path | None = None):
        """`more` is added to the configuration, `store` to its `[store]`, `source` to the one source."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.database = folder / "holdfast.db"
        self.spill = spill or folder / "holdfast.db-spill"
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(4096)
        self.port = int(self.socket.getsockname()[1])
        self.api_port = free_port()
        self.config = folder / "holdfast.toml"
        self.config.write_text(
            f'[store]\nurl = "sqlite:///{self.database}"\nspill_dir = "{self.spill}"\n{store}\n'
            f'[intake]\nlisten = "fd:{self.socket.fileno()}"\n[api]\nlisten = "127.0.0.1:{self.api_port}"\n'
            f'{more}\n[sources.plain]\n{HOUSE}path_token = "{TOKEN}"\n{source}\n',
            encoding="utf-8",
        )
        self.process: RunningProcess | None = None

    def start(
        self,
        role: str = "receive",
        *,
        env: Mapping[str, str] | None = None,
        planted: str = "",
        wait: bool = True,
        command: Sequence[str] = (),
    ) -> RunningProcess:
        """Start `holdfast ROLE`, broken on purpose when `planted` names how; waits until it answers. `command` are the
        arguments of Python instead, when it is to be started in another way."""
        begins = ["-m", "faults.planted", planted] if planted else ["-m", "holdfast"]
        command = command or [*begins, "--config", str(self.config), role]
        process = self.process = RunningProcess(command, env=env, pass_fds=[self.socket.fileno()])
        if wait:
            self.answers()
        return process

    def answers(self, timeout_s: float = 20.0) -> None:
        """Wait until /healthz is answered."""
        process = self.process
        assert process is not None

        def healthy() -> bool:
            assert process.returncode is None, process.output
            return self.get("/healthz", self.port) is not None

        eventually(healthy, timeout_s, ignoring=())

    def get(self, path: str, port: int | None = None, timeout_s: float = 2.0) -> tuple[int, bytes] | None:
        """GET from the private listener (or another port); None without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.api_port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def send(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One request to the private listener."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=10.0)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def gauge(self, name: str) -> float:
        """One number from /metrics (the first sample with that name); 0 when there is none."""
        answer = self.get("/metrics")
        for line in (answer[1].decode() if answer else "").splitlines():
            if line.split("{")[0].split(" ")[0] == name:
                return float(line.rpartition(" ")[2])
        return 0.0

    def kill(self) -> None:
        """SIGKILL and forget it."""
        if self.process is not None:
            self.process.kill()
            self.process.close()
            self.process = None

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, as a service manager does; the exit code."""
        assert self.process is not None
        code = self.process.terminate(timeout_s)
        self.process.close()
        self.process = None
        return code

    def close(self) -> None:
        """End the process, if one runs, and give the socket back."""
        if self.process is not None:
            self.process.close()
            self.process = None
        self.socket.close()

    def __enter__(self) -> "Product":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the record, read by somebody else ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def record(self) -> Iterator[Any]:
        """A read-only connection to the database."""
        connection = sqlite3.connect(f"file:{quoted(self.database)}?mode=ro", uri=True, timeout=10.0)
        try:
            yield connection
        finally:
            connection.close()

    def rows(self, statement: str, *given: object) -> list[tuple[Any, ...]]:
        """What a statement answers."""
        with self.record() as connection:
            return list(connection.execute(statement, given))

    def integrity(self) -> str:
        """What SQLite says of the whole file: `ok`."""
        return str(self.rows("PRAGMA integrity_check")[0][0])

    def kept(self) -> set[int]:
        """The ids of all deliveries in the database."""
        return {int(row[0]) for row in self.rows("SELECT id FROM deliveries")}

    def spilled(self) -> int:
        """How many records are in the journal on the disk now."""
        return SpillJournal(self.spill, 1 << 40).records

    def drained(self, timeout_s: float = 30.0) -> None:
        """Wait until the journal is empty."""
        eventually(lambda: self.spilled() == 0, timeout_s)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else's BEGIN EXCLUSIVE on the database."""
        connection = sqlite3.connect(self.database, timeout=10.0, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()


def pause(seconds: float) -> None:
    """Let a fault last: the one thing here that is about time passing."""
    threading.Event().wait(seconds)


def escaped(segment: str) -> str:
    """One segment of a path."""
    return urllib.parse.quote(segment, safe="")
