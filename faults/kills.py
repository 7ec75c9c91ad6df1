"""kill -9 under load, with a ledger kept outside: acknowledged is kept, and each outcome is told under one id.

It says nothing about power loss: the kernel keeps what a killed process wrote (`power.py` is about that).
"""

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from faults import Result
from faults.product import Product, pause
from faults.senders import Ledger, Senders
from faults.warm import Nursery
from tests.support import eventually


def receive(folder: Path, rounds: int, *, seed: int = 1, planted: str = "", warm: bool = False) -> Result:
    """Kill `holdfast receive` again and again at a random moment of its work."""
    result = Result("kill -9 of holdfast receive")
    with Product(folder) as product, Nursery(folder / "output", [product.socket.fileno()], planted) as nursery:
        ledger, ready_s = _loop(product, nursery if warm else None, rounds, random.Random(seed), planted)
        product.start()
        product.drained()
        product.stop()
        lost = ledger.ids - product.kept()
        result.figures |= {"rounds": rounds, "acknowledged": len(ledger.ids), "lost": len(lost), "seed": seed}
        result.figures["slowest_start_s"] = round(ready_s, 2)
        result.must(product.integrity() == "ok", "the database is damaged")
        result.must(not lost, f"{len(lost)} of {len(ledger.ids)} acknowledged deliveries are gone")
        result.must(len(ledger.ids) > rounds, "next to nothing was acknowledged: nothing was shown")
    return result


def _loop(
    product: Product, nursery: Nursery | None, rounds: int, chance: random.Random, planted: str
) -> tuple[Ledger, float]:
    """Start, load, kill. What was sent in a round and got no answer is nobody's promise."""
    whole, slowest_s = Ledger(), 0.0
    for _ in range(rounds):
        began = time.monotonic()
        _begin(product, nursery, planted)
        slowest_s = max(slowest_s, time.monotonic() - began)
        with Senders(product.port, 8, patience_s=1.0) as senders:
            eventually(lambda: senders.ledger.acknowledged, 20.0)
            pause(chance.uniform(0.0, 0.25))
            senders.no_more()
            product.kill()
        whole.acknowledged += senders.ledger.acknowledged
    return whole, slowest_s


def _begin(product: Product, nursery: Nursery | None, planted: str) -> None:
    if nursery is None:
        product.start(planted=planted)
    else:
        product.process = nursery.start(["--config", str(product.config), "receive"])  # type: ignore[assignment]  # alike
        product.answers()


class Application:
    """An application that remembers every message it was handed; a context manager."""

    def __init__(self, answer: Callable[[str], tuple[int, float]] = lambda job: (200, 0.0)) -> None:
        """`answer(job)` gives the status and how long to take for it."""
        self.heard: dict[str, list[str]] = defaultdict(list)
        """The message ids handed over for a job, repeats included."""
        self.order: list[tuple[float, str, str, int]] = []
        """(when, job, message id, status) in the order they came."""
        self.answer = answer
        lock = threading.Lock()
        application = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                job = body["data"].get("job_id") or body["type"]
                status, wait_s = application.answer(job)
                if wait_s:
                    pause(wait_s)
                with lock:
                    application.order.append((time.monotonic(), job, body["id"], status))
                    if status == 200:
                        application.heard[job].append(self.headers["webhook-id"])
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """It says nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 1024
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Whoever is killed while it pushes leaves half a request."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "Application":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def run(folder: Path, rounds: int, *, seed: int = 1, planted: str = "", warm: bool = False) -> Result:
    """Kill `holdfast run` again and again: every acknowledged outcome reaches the application, always under one id."""
    result = Result("kill -9 of holdfast run")
    with Application() as application:
        more = f'[app]\nurl = "http://127.0.0.1:{application.port}/"\nsecret = "whsec_aG9sZGZhc3QtaGFybmVzcw=="\n'
        more += "timeout_s = 2\nretry_first_s = 0.2\n[reconcile]\ntick_s = 0.2\n"
        with Product(folder, more=more, source='trust = "payload"\n') as product:
            with Nursery(folder / "output", [product.socket.fileno()], planted) as nursery:
                chance = random.Random(seed)
                whole: set[str] = set()
                for _ in range(rounds):
                    whole |= _run_round(product, nursery if warm else None, chance, planted)
            product.start("run")
            late = _wait_told(product, application, whole)
            product.stop()
            untold = whole - set(application.heard)
            several = [job for job, ids in application.heard.items() if len(set(ids)) > 1]
            pushes = sum(map(len, application.heard.values()))
            result.figures |= {"rounds": rounds, "acknowledged": len(whole), "untold": len(untold), "seed": seed}
            result.figures |= {"pushed again under the same id": pushes - len(application.heard)}
            result.figures["all told after s"] = round(late, 1)
            result.must(not untold, f"{len(untold)} of {len(whole)} acknowledged outcomes were never told")
            result.must(not several, f"{len(several)} outcomes were told under more than one id")
            result.must(product.integrity() == "ok", "the database is damaged")
            result.must(len(whole) > rounds, "next to nothing was acknowledged: nothing was shown")
    return result


def _run_round(product: Product, nursery: Nursery | None, chance: random.Random, planted: str) -> set[str]:
    if nursery is None:
        product.start("run", planted=planted)
    else:
        product.process = nursery.start(["--config", str(product.config), "run"])  # type: ignore[assignment]  # alike
        product.answers()
    with Senders(product.port, 4, patience_s=1.0, rate=400) as senders:
        eventually(lambda: senders.ledger.acknowledged, 20.0)
        pause(chance.uniform(0.0, 0.4))
        senders.no_more()
        product.kill()
    return senders.ledger.jobs


def _wait_told(product: Product, application: Application, jobs: set[str]) -> float:
    began = time.monotonic()
    try:
        eventually(lambda: jobs <= set(application.heard), 60.0)
    except AssertionError:
        pause(0.0)  # what was never told is counted by the caller
    return time.monotonic() - began
