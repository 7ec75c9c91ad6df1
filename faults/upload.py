"""A large multipart upload through a real sidecar: the bytes arrive as sent, and the process does not grow."""

import hashlib
import json
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from faults import Result
from faults.product import Product
from holdfast import Client

BLOCK = hashlib.sha256(b"seed").digest() * 2048
HEAD = b"--x\r\nContent-Disposition: form-data; name=video; filename=v.mp4\r\nContent-Type: video/mp4\r\n\r\n"
TAIL = b"\r\n--x--\r\n"
GROWTH_MB = 20


class Provider(ThreadingHTTPServer):
    """Takes one submission at a time and keeps its digest."""

    def __init__(self) -> None:
        self.digest = ""
        self.size_bytes = 0
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_POST(self) -> None:
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        self.server.size_bytes = left
        while left:
            data = self.rfile.read(min(left, 65536))
            digest.update(data)
            left -= len(data)
        self.server.digest = digest.hexdigest()
        body = json.dumps({"job_id": f"j-{self.server.size_bytes}", "status": "queued"}).encode()
        self.send_response(202)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """It says nothing."""


def run(folder: Path, megabytes: int = 100) -> Result:
    """Upload so much through /submit and look at the peak of the sidecar's memory before and after."""
    result = Result(f"{megabytes} MB through /submit")
    with Provider() as provider:
        thread = threading.Thread(target=provider.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{provider.server_address[1]}"
        more = f'[sources.moderation]\nprovider = "omnifence"\nbase_url = "{address}"\napi_key = "key"\n'
        with Product(folder, more=more) as product:
            process = product.start("run")
            _upload(product, 1)
            before_mb = _peak_mb(process.pid)
            sent = _upload(product, megabytes)
            after_mb = _peak_mb(process.pid)
            jobs = {row[0] for row in product.rows("SELECT job_id FROM jobs")}
            product.stop()
        provider.shutdown()
        thread.join()
    result.figures |= {"bytes": provider.size_bytes, "peak before MB": before_mb, "peak after MB": after_mb}
    result.must(provider.size_bytes > megabytes << 20, f"only {provider.size_bytes} bytes arrived")
    result.must(provider.digest == sent, "other bytes arrived than were sent")
    result.must(f"j-{provider.size_bytes}" in jobs, "the job is not on record")
    result.must(after_mb - before_mb < GROWTH_MB, f"the sidecar grew by {after_mb - before_mb} MB")
    return result


def _upload(product: Product, megabytes: int) -> str:
    """Send so much; the digest of it."""
    digest, blocks = hashlib.sha256(), megabytes * (1 << 20) // len(BLOCK)

    def parts() -> Iterator[bytes]:
        for part in (HEAD, *[BLOCK] * blocks, TAIL):
            digest.update(part)
            yield part

    size = len(HEAD) + blocks * len(BLOCK) + len(TAIL)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(size)}
    with Client(f"http://127.0.0.1:{product.api_port}") as client:
        answer = client.submit("moderation", "api/v1/moderate/video", content=parts(), headers=headers, timeout=60)
    answer.raise_for_status()
    return digest.hexdigest()


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)


def main() -> None:
    """By itself."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder))
    print(json.dumps({"scenario": result.scenario, "figures": result.figures, "faults": result.faults}, indent=2))
    raise SystemExit(1 if result.faults else 0)


if __name__ == "__main__":
    main()
