"""Hostile clients against the running receiver: ten thousand that say nothing, hundreds that dribble, megabytes nobody
wants, streams that can be read in two ways. Honest senders go on all the while, and what they see is the verdict.

What is sent is the list of `tests/faults/test_hostile_clients.py`; there each is tried by itself, here against the
product as it is started by an operator.
"""

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from faults import NotMeasured, Result
from faults.product import PATH, Product, pause
from faults.senders import Senders
from tests.faults.test_hostile_clients import AMBIGUOUS, CHUNKED, HEAD, LARGE
from tests.support import RunningProcess, eventually

DEADLINE_S = 2.0
"""`header_timeout_s` and `body_timeout_s` of this receiver."""
LONGEST_S = 1.0
GROWTH_MIB = 16.0
IDLE_KIB = 12.0
"""What an idle connection may cost."""
SPARE_DESCRIPTORS = 200


def _ours(raw: bytes) -> bytes:
    """The list speaks of a source without a path token."""
    return raw.replace(b"/in/plain", PATH.encode())


def _resident_mib(process: RunningProcess) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def clients(folder: Path, *, idle: int = 10_000, slow: int = 300) -> Result:
    """So many idle connections and slow senders, each large attack once, each ambiguous stream once."""
    result = Result("hostile clients")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < idle + SPARE_DESCRIPTORS:
        raise NotMeasured(f"a process may open {limit} files here (ulimit -n), {idle + SPARE_DESCRIPTORS} are needed")
    with Product(folder) as product:
        text = product.config.read_text().replace(
            "[intake]\n", f"[intake]\nheader_timeout_s = {DEADLINE_S}\nbody_timeout_s = {DEADLINE_S}\n"
        )
        product.config.write_text(text)
        process = product.start()
        with Senders(product.port, 4, rate=200, close_each=1) as senders:
            eventually(lambda: len(senders.ledger.acknowledged) > 50)
            before = _resident_mib(process)
            closed_s = _slow(product.port, slow)
            _large(result, product.port)
            taken = _ambiguous(product)
            grown = _resident_mib(process) - before
            kib = _idle(product.port, idle, process)
        eventually(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) < 100, 20.0)
        product.stop()
        ledger, kept = senders.ledger, product.kept()
        lost = len(ledger.ids - kept)
    result.figures |= {"idle": idle, "KiB each": round(kib, 1), "slow": slow, "slow closed after s": round(closed_s, 1)}
    result.figures |= {"ambiguous": len(AMBIGUOUS), "of them taken": taken, "grown MiB": round(grown, 1)}
    result.figures |= {"acknowledged": len(ledger.ids), "lost": lost}
    result.figures["slowest acknowledgement s"] = round(ledger.slowest_s(), 2)
    result.must(closed_s <= DEADLINE_S + 2.0, f"a slow client was kept for {closed_s:.1f} s")
    result.must(not taken, f"{taken} ambiguous streams were taken")
    result.must(grown <= GROWTH_MIB, f"memory grew by {grown:.0f} MiB")
    result.must(kib <= IDLE_KIB, f"an idle connection costs {kib:.1f} KiB")
    result.must(ledger.slowest_s() <= LONGEST_S, f"an honest sender waited {ledger.slowest_s():.2f} s")
    result.must(not ledger.failed and not ledger.refused, f"honest senders failed: {ledger.failed[:2]}")
    result.must(not lost, f"{lost} acknowledged deliveries are gone")
    return result


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10.0)


def _slow(port: int, count: int) -> float:
    """Heads and bodies that dribble, a hundred at a time; how long the last of them was kept."""
    kinds = [
        (b"", b"\r\n"),
        (HEAD, b"X-A: b\r\n"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b"x"),
        (HEAD + CHUNKED, b"1"),
    ]
    worst_s = 0.0
    with contextlib.ExitStack() as stack:
        open_ones = []
        for number in range(count):
            head, piece = kinds[number % len(kinds)]
            connection = stack.enter_context(_connect(port))
            connection.sendall(_ours(head) + piece)
            connection.setblocking(False)
            open_ones.append((connection, piece, time.monotonic()))
        until = time.monotonic() + DEADLINE_S * 4
        while open_ones and time.monotonic() < until:
            pause(0.05)
            still = []
            for connection, piece, began in open_ones:
                if _dribbled(connection, piece):
                    still.append((connection, piece, began))
                else:
                    worst_s = max(worst_s, time.monotonic() - began)
            open_ones = still
    return float("inf") if open_ones else worst_s


def _dribbled(connection: socket.socket, piece: bytes) -> bool:
    """Send one more piece; False once the other side has closed."""
    try:
        if not connection.recv(4096):
            return False
    except BlockingIOError:
        pass
    except OSError:
        return False
    try:
        connection.send(piece)
    except OSError:
        return False
    return True


def _large(result: Result, port: int) -> None:
    for name, (pieces, _) in LARGE.items():
        with _connect(port) as connection:
            sender = threading.Thread(target=_pour, args=(connection, [_ours(piece) for piece in pieces]), daemon=True)
            sender.start()
            began = time.monotonic()
            with contextlib.suppress(OSError):
                while connection.recv(65536):
                    result.must(time.monotonic() - began < 10.0, f"{name}: kept open")
            sender.join(10.0)


def _pour(connection: socket.socket, pieces: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)


def _ambiguous(product: Product) -> int:
    """How many deliveries came of streams that can be read in two ways."""
    for raw in AMBIGUOUS.values():
        with _connect(product.port) as connection, contextlib.suppress(OSError):
            connection.sendall(_ours(raw))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                continue
    hidden = product.rows("SELECT count(*) FROM deliveries WHERE instr(CAST(body AS TEXT), 'hidden')")[0][0]
    return int(hidden) + int(product.rows("SELECT count(*) FROM deliveries WHERE length(body) <= 5")[0][0])


@contextlib.contextmanager
def _open(port: int, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number in range(count):
            stack.enter_context(_connect(port))
            if number % 50 == 0:
                pause(0.02)  # faster, and the kernel drops what waits to be accepted: that is another attack
        yield


def _idle(port: int, count: int, process: RunningProcess) -> float:
    """Hold so many open that have said nothing; KiB for each."""
    before = _resident_mib(process)
    with _open(port, count):
        held = len(os.listdir(f"/proc/{process.pid}/fd"))
        grown = _resident_mib(process) - before
    return grown * 1024 / max(1, min(held, count))
