"""kill -9 of the sidecar around a submission: after the provider's answer, and before the application's."""

import contextlib
import http.client
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from holdfast import Client
from receiver.store.sqlite.driver import sqlite3
from tests.support import RunningProcess, eventually, free_port

pytestmark = pytest.mark.process
FILLER_BYTES = 900_000
"""Such an answer is looked into, and does not fit into the small buffers on the way to a caller that reads nothing."""
CONFIG = """
[store]
url = "sqlite:///record.db"
[intake]
listen = "127.0.0.1:{intake}"
[api]
listen = "fd:{api}"
token = "a-token"
[reconcile]
tick_s = 0.1
not_yet_s = 0.2
poll_min_s = 0.2
[sources.moderation]
provider = "omnifence"
base_url = "{provider}"
api_key = "a-key"
path_token = "a-path-token"
polls_per_min = 6000
timeouts.prompt = {{ poll_after_s = 0.2, fail_after_s = 60 }}
"""


class Between(ThreadingHTTPServer):
    """Stands between the sidecar and the simulated provider: passes everything on, and lets a test act just before and
    just after the answer to a submission is handed over."""

    daemon_threads = True

    def __init__(self, provider: str) -> None:
        self.host, _, self.root = provider.removeprefix("http://").partition("/")
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.filler = ""
        self.submitted: list[str] = []
        super().__init__(("127.0.0.1", 0), Passing)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever is killed leaves half a request."""


class Passing(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Between

    def do_GET(self) -> None:
        """A question of the reconciler."""
        self._pass_on("GET", None)

    def do_POST(self) -> None:
        """A submission."""
        self._pass_on("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def _pass_on(self, method: str, body: bytes | None) -> None:
        there = http.client.HTTPConnection(self.server.host, timeout=10)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        there.request(method, f"/{self.server.root}{self.path}", body, headers)
        answer = there.getresponse()
        got = answer.read()
        there.close()
        if method == "POST":
            told = json.loads(got)
            self.server.submitted.append(told["job_id"])
            got = json.dumps(told | {"filler": self.server.filler}).encode()
            self.server.before()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(got)))
        self.end_headers()
        self.wfile.write(got)
        self.wfile.flush()
        if method == "POST":
            self.server.after()

    def log_message(self, format: str, *args: object) -> None:
        """It says nothing."""


class Scene:
    """A provider that sends no webhooks, and the sidecar before it, to be started and killed."""

    def __init__(self, folder: Path, provider: Between) -> None:
        self.provider = provider
        self.database = folder / "record.db"
        self.config = folder / "holdfast.toml"
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # accepted connections have it from here
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.api_port = int(self.listener.getsockname()[1])
        text = CONFIG.format(intake=free_port(), api=self.listener.fileno(), provider=provider.address)
        self.config.write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def sidecar(self) -> Iterator[RunningProcess]:
        """`holdfast run`, up."""
        fd = self.listener.fileno()
        with RunningProcess.holdfast("--config", str(self.config), "run", pass_fds=[fd]) as process:
            process.wait_for_output("Register a job")
            yield process

    def submit(self) -> socket.socket:
        """A submission, sent by a caller that has room for little and does not read yet."""
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(10)
        caller.connect(("127.0.0.1", self.api_port))
        body = b"--x\r\nContent-Disposition: form-data; name=prompt\r\n\r\nhello\r\n--x--\r\n"
        head = (
            f"POST /submit/moderation/api/v1/moderate/prompt HTTP/1.1\r\nHost: localhost\r\n"
            f"X-Holdfast-Token: a-token\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        caller.sendall(head.encode() + body)
        return caller

    def on_record(self) -> dict[str, str]:
        """Jobs and who registered them, read from the file."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            return dict(connection.execute("SELECT job_id, registered_by FROM jobs").fetchall())
        finally:
            connection.close()

    def outcomes(self, job_id: str) -> list[dict[str, Any]]:
        """What the application is told, once the job has ended."""
        with Client(f"http://127.0.0.1:{self.api_port}", "a-token") as client:
            assert client.wait("moderation", job_id, timeout_s=20)["state"] != "pending"
            return [dict(message.data) for message in client.messages(idle_s=0.6)]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """The provider runs; the sidecar does not yet."""
    command = ["simulate", "--provider", "omnifence", "--listen", "127.0.0.1:0", "--json", "--drop", "1"]
    with RunningProcess.holdfast(*command, "--job-seconds", "0:0.1", "--failed-share", "0") as simulator:
        announced = json.loads(simulator.wait_for_output(r"^\{.*\}$")[0])
        with Between(announced["providers"]["omnifence"]["base_url"]) as provider:
            thread = threading.Thread(target=provider.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            scene = Scene(tmp_path, provider)
            yield scene
            scene.listener.close()
            provider.shutdown()
            thread.join()


def all_of(caller: socket.socket) -> bytes:
    """Everything that still comes."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := caller.recv(65536):
            got += data
    return got


def test_a_job_whose_answer_was_never_read_is_adopted_and_told(scene: Scene) -> None:
    """Killed when the provider's answer is on its way and nothing is on record: after the restart the job is found in
    the provider's list, asked about, and told once."""
    with scene.sidecar() as sidecar:
        killed = threading.Event()

        def kill() -> None:
            sidecar.signal(signal.SIGKILL)
            killed.set()

        scene.provider.before = lambda: sidecar.signal(signal.SIGSTOP)  # so that the answer arrives and is not read
        scene.provider.after = kill
        with scene.submit() as caller:
            assert killed.wait(10)
            assert sidecar.wait() == -signal.SIGKILL
            assert all_of(caller) == b""
    (job_id,) = scene.provider.submitted
    assert scene.on_record() == {}

    with scene.sidecar():
        eventually(lambda: scene.on_record() == {job_id: "adopted"})
        (told,) = scene.outcomes(job_id)

    assert (told["job_id"], told["state"], told["decided_by"]) == (job_id, "completed", "poll")


def test_a_job_is_on_record_though_its_caller_never_heard(scene: Scene) -> None:
    """Killed when the job is on record and the answer not wholly handed back: the job is told all the same."""
    scene.provider.filler = "x" * FILLER_BYTES
    with scene.sidecar() as sidecar, scene.submit() as caller:
        eventually(scene.on_record)
        sidecar.kill()
        assert len(all_of(caller)) < FILLER_BYTES
    (job_id,) = scene.provider.submitted
    assert scene.on_record() == {job_id: "application"}

    with scene.sidecar():
        (told,) = scene.outcomes(job_id)

    assert (told["job_id"], told["state"], told["modality"]) == (job_id, "completed", "prompt")
