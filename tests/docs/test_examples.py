"""The examples of taking results, each run as it is written against a real sidecar with a few outcomes waiting."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from receiver.store.sqlite.driver import sqlite3
from tests.support import ROOT, RunningProcess, clean_environment, eventually, free_port, run_python

pytestmark = pytest.mark.process
EXAMPLES = ROOT / "docs" / "examples"
TOKEN = "the-token-of-the-examples"
CONFIG = """
[store]
url = "sqlite:///examples.db"
[intake]
listen = "127.0.0.1:{intake}"
[api]
listen = "127.0.0.1:{api}"
token = "{token}"
[sources.moderation]
provider = "omnifence"
base_url = "http://127.0.0.1:9"
path_token = "a-path-token-of-the-examples"
"""


@dataclass
class Sidecar:
    """`holdfast run`, and what happens to its jobs."""

    api: str
    hook: str
    database: Path
    http: httpx.Client
    jobs: int = 0

    def settled(self, count: int) -> list[str]:
        """So many new jobs end, each by a webhook; answers their ids once the messages wait."""
        fresh = [f"job-{self.jobs + n}" for n in range(count)]
        self.jobs += count
        for job_id in fresh:
            assert self.http.put(f"/v1/jobs/moderation/{job_id}", json={"modality": "prompt"}).status_code == 201
            self.hear(job_id)
        eventually(lambda: set(fresh) <= set(self.waiting()))
        return fresh

    def hear(self, job_id: str) -> None:
        """The webhook of a job arrives."""
        told = {"job_id": job_id, "status": "completed", "is_prohibited": False, "reason": 'quoted "so" \\ é'}
        assert httpx.post(self.hook, json=told).status_code == 200

    def waiting(self) -> list[str]:
        """The jobs whose message nobody has acknowledged."""
        page = self.http.get("/v1/messages", params={"state": "pending"}).json()
        return [message["job_id"] for message in page["messages"]]


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """One for all examples: each takes what it finds."""
    folder, intake, api = tmp_path_factory.mktemp("examples"), free_port(), free_port()
    (folder / "holdfast.toml").write_text(CONFIG.format(intake=intake, api=api, token=TOKEN), encoding="utf-8")
    address = f"http://127.0.0.1:{api}"
    with (
        RunningProcess.holdfast("--config", str(folder / "holdfast.toml"), "run") as process,
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}) as http,
    ):
        process.wait_for_output("Register a job")
        hook = f"http://127.0.0.1:{intake}/in/moderation/a-path-token-of-the-examples"
        yield Sidecar(address, hook, folder / "examples.db", http)


def needed(program: str) -> str:
    """Where a program is; skips with a reason that names it where there is none."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed here: its example was not run")
    return found


def run(*command: str, timeout_s: float = 20.0) -> str:
    """What a command that succeeds prints."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, env=clean_environment(), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def told(lines: list[str]) -> list[tuple[str, str, str]]:
    """(type, source, job id) of lines that end with the result as JSON."""
    found = []
    for line in lines:
        kind, source, job_id, result = line.split(" ", 3)
        assert json.loads(result)["job_id"] == job_id
        found.append((kind, source, job_id))
    return found


def test_python(sidecar: Sidecar) -> None:
    """take.py prints every outcome and leaves nothing behind."""
    jobs = sidecar.settled(3)

    done = run_python(str(EXAMPLES / "take.py"), sidecar.api, TOKEN)

    assert done.returncode == 0, done.stderr
    assert told(done.stdout.splitlines()) == [("job.completed", "moderation", job_id) for job_id in jobs]
    assert sidecar.waiting() == []


def test_node(sidecar: Sidecar) -> None:
    """take.mjs does so without a single package."""
    node = needed("node")
    jobs = sidecar.settled(12)

    printed = run(node, str(EXAMPLES / "take.mjs"), sidecar.api, TOKEN)

    assert told(printed.splitlines()) == [("job.completed", "moderation", job_id) for job_id in jobs]
    assert sidecar.waiting() == []


def test_shell(sidecar: Sidecar, tmp_path: Path) -> None:
    """take.sh hands each message whole to the command; one that fails keeps its message unacknowledged."""
    needed("curl")
    jobs, script = sidecar.settled(3), str(EXAMPLES / "take.sh")
    failing = ["sh", "-c", f"cat > {tmp_path}/got; exit 1"]
    broken = subprocess.run(["sh", script, sidecar.api, TOKEN, *failing], capture_output=True, timeout=20, check=False)
    assert broken.returncode == 1
    kept = json.loads((tmp_path / "got").read_text("utf-8"))
    assert kept["data"]["job_id"] == jobs[0]
    assert sidecar.http.post("/v1/outbox/extend", json={"ids": [kept["id"]], "lease_s": 0.05}).status_code == 200

    def all_came() -> bool:
        run("sh", script, sidecar.api, TOKEN, "sh", "-c", f"cat >> {tmp_path}/all; echo >> {tmp_path}/all")
        return sidecar.waiting() == []

    eventually(all_came)
    messages = [json.loads(line) for line in (tmp_path / "all").read_text("utf-8").splitlines()]
    assert {message["data"]["job_id"] for message in messages} == set(jobs)
    assert len(messages) == 3
    assert messages[0]["data"]["result"]["reason"] == 'quoted "so" \\ é'


def test_the_shell_says_why_it_was_refused(sidecar: Sidecar) -> None:
    """A wrong token ends take.sh with the sidecar's own words."""
    needed("curl")
    command = ["sh", str(EXAMPLES / "take.sh"), sidecar.api, "wrong", "cat"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "401" in done.stderr


def test_curl(sidecar: Sidecar) -> None:
    """wait.sh registers a job and prints it once it has ended."""
    needed("curl")
    command = ["sh", str(EXAMPLES / "wait.sh"), sidecar.api, TOKEN, "moderation", "waited-for", "image"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        eventually(lambda: sidecar.http.get("/v1/jobs/moderation/waited-for").status_code == 200)
        sidecar.hear("waited-for")
        printed, complaints = waiting.communicate(timeout=20)

    assert (waiting.returncode, complaints) == (0, "")
    job = json.loads(printed)
    assert (job["state"], job["modality"], job["decided_by"]) == ("completed", "image", "webhook")
    run_python(str(EXAMPLES / "take.py"), sidecar.api, TOKEN)


def test_the_stream(sidecar: Sidecar, tmp_path: Path) -> None:
    """follow.sh prints the backlog, and started again only what came since; it acknowledges nothing."""
    needed("curl")
    first = sidecar.settled(2)

    command = ["sh", str(EXAMPLES / "follow.sh"), sidecar.api, TOKEN, str(tmp_path / "place"), "1"]
    heard: list[str] = []

    def follow() -> list[str]:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
        heard.extend(json.loads(line)["data"]["job_id"] for line in printed.splitlines())
        return heard

    eventually(lambda: follow() == first)
    second = sidecar.settled(1)
    eventually(lambda: follow() == first + second)
    assert set(sidecar.waiting()) == {*first, *second}
    run_python(str(EXAMPLES / "take.py"), sidecar.api, TOKEN)


def test_sql(sidecar: Sidecar) -> None:
    """take.sql claims and acknowledges; what it holds nobody gets by the API, and it counts as delivered."""
    jobs = sidecar.settled(3)
    without_comments = re.sub(r"(?m)^--.*$", "", (EXAMPLES / "take.sql").read_text("utf-8"))
    claim, ack = [part for part in without_comments.split(";") if part.strip()]
    connection = sqlite3.connect(sidecar.database, isolation_level=None, timeout=10)
    try:
        rows = connection.execute(claim).fetchall()
        assert connection.execute(claim).fetchall() == []
        assert sidecar.http.post("/v1/outbox/claim", json={}).json() == {"messages": []}
        for message_id, *_ in rows:
            assert connection.execute(ack, {"id": message_id}).rowcount == 1
            assert connection.execute(ack, {"id": message_id}).rowcount == 0
    finally:
        connection.close()

    assert sorted(row[2] for row in rows) == jobs
    assert {row[1] for row in rows} == {"job.completed"}
    assert {json.loads(row[3])["job_id"] for row in rows} == set(jobs)
    assert sidecar.waiting() == []


def test_every_example_is_told_of() -> None:
    """An example nobody can find does not exist; one that is told of is there."""
    pages = "".join((ROOT / "docs" / page).read_text("utf-8") for page in ("api.md", "getting-started.md"))
    assert {f"examples/{path.name}" for path in EXAMPLES.iterdir() if path.suffix != ".db" and path.is_file()} == set(
        re.findall(r"\]\((examples/[^)]+)\)", pages)
    )
