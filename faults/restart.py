"""Planned restarts under load: the socket stays with the service manager, and no sender sees a difference."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from faults import NotMeasured, Result
from faults.product import PATH, Product, pause
from faults.senders import Senders, read_answer
from tests.support import clean_environment, eventually, free_port


def restarts(folder: Path, rounds: int, *, role: str = "receive", how: signal.Signals = signal.SIGTERM) -> Result:
    """Stop with SIGTERM and start again while senders with a connection for each delivery go on. SIGKILL instead is
    the planted bug: what is under way is cut off."""
    result = Result("planned restarts under load")
    with Product(folder) as product:
        command = ["-m", "faults.activated", str(product.socket.fileno()), "--config", str(product.config), role]
        product.start(command=command)
        with Senders(product.port, 8, close_each=1) as senders:
            for _ in range(rounds):
                pause(0.2)
                assert product.process is not None
                product.process.signal(how)
                product.process.wait()
                product.process.close()
                product.start(command=command)
            pause(0.2)
        product.drained()
        product.stop()
        ledger = senders.ledger
        lost, refused = ledger.ids - product.kept(), sum(ledger.refused.values())
        result.figures |= {"restarts": rounds, "acknowledged": len(ledger.ids), "failed": len(ledger.failed)}
        result.figures |= {"refused": refused, "lost": len(lost), "slowest s": round(ledger.slowest_s(), 2)}
        result.must(not ledger.failed, f"{len(ledger.failed)} requests failed, such as {ledger.failed[:2]}")
        result.must(not refused, f"{refused} were refused: {dict(ledger.refused)}")
        result.must(not lost, f"{len(lost)} acknowledged deliveries are gone")
        result.must(len(ledger.ids) > 10 * rounds, "next to nothing was acknowledged: nothing was shown")
    return result


def by_systemd(folder: Path) -> Result:
    """`systemd-socket-activate` hands the socket over: the first connection starts the receiver and is answered."""
    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        raise NotMeasured("systemd-socket-activate is not installed")
    result = Result("started by systemd-socket-activate")
    port = free_port()
    with Product(folder) as product:
        text = product.config.read_text().replace(f"fd:{product.socket.fileno()}", "127.0.0.1:1")
        product.config.write_text(text)
        command = [tool, "-l", f"127.0.0.1:{port}", "--fdname=intake", sys.executable, "-m", "holdfast", "--config"]
        environment = [f"--setenv=PYTHONPATH={clean_environment()['PYTHONPATH']}"]
        process = subprocess.Popen(
            [*command[:4], *environment, *command[4:], str(product.config), "receive"],
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            connection = eventually(
                lambda: socket.create_connection(("127.0.0.1", port), timeout=20.0), 10.0, ignoring=(OSError,)
            )
            with connection:
                connection.sendall(
                    f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode()
                )
                status, _ = read_answer(connection)
            result.figures["status"] = status
            result.must(status == 200, f"the first connection was answered {status}")
            result.must(len(product.kept()) == 1, "the delivery is not there")
            process.send_signal(signal.SIGTERM)
            result.must(process.wait(20.0) == 0, "it did not end in order")
        finally:
            process.kill()
            process.wait()
    return result
