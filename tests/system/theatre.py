"""A real `holdfast run` between a simulated provider and an application, both in the test's own process."""

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import standardwebhooks
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.simulator import SIMULATORS, Faults, Settings, Simulation, Simulator
from holdfast.simulator.simulation import listening, serving
from receiver.clock import SystemClock
from receiver.store.sqlite import driver
from tests.support import RunningProcess, aeventually, free_port

API_KEY = "a-provider-key-nobody-may-see"
PATH_TOKEN = "a-path-token-nobody-may-see"
API_TOKEN = "an-api-token-nobody-may-see"
APP_SECRET = "whsec_" + base64.b64encode(b"an-application-secret-nobody-may").decode()
SECRETS = (API_KEY, PATH_TOKEN, API_TOKEN, APP_SECRET)

CONFIG = """
[store]
url = "sqlite:///holdfast.db"
[intake]
listen = "127.0.0.1:{intake}"
[api]
listen = "127.0.0.1:{api}"
token = "env:T_API_TOKEN"
[app]
url = "{app}"
secret = "env:T_APP_SECRET"
retry_first_s = 0.1
retry_max_s = 1
[sources.moderation]
provider = "omnifence"
base_url = "{provider}"
api_key = "env:T_API_KEY"
path_token = "env:T_PATH_TOKEN"
{source}
[reconcile]
{reconcile}
"""


@dataclass
class Heard:
    """One push the application got."""

    at: float
    body: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        """What the message is about."""
        data: dict[str, Any] = self.body["data"]
        return data


@dataclass
class Theatre:
    """The stage of one test."""

    folder: Path
    simulator: Simulator
    ports: dict[str, int]
    clock: SystemClock = field(default_factory=SystemClock)
    heard: list[Heard] = field(default_factory=list)
    provider_url: str = ""
    app_url: str = ""
    logs: list[str] = field(default_factory=list)

    @property
    def hook(self) -> str:
        """Where the provider posts to."""
        return f"http://127.0.0.1:{self.ports['intake']}/in/moderation/{PATH_TOKEN}"

    @property
    def by_job(self) -> dict[str, dict[str, Heard]]:
        """job id -> message id -> what was heard first of it."""
        told: dict[str, dict[str, Heard]] = {}
        for each in self.heard:
            if each.body["type"].startswith("job."):
                told.setdefault(each.data["job_id"], {}).setdefault(each.body["id"], each)
        return told

    def write_config(self, source: str = "", reconcile: str = "") -> Path:
        """The configuration file; secrets come from the environment."""
        path = self.folder / "holdfast.toml"
        path.write_text(
            CONFIG.format(
                **self.ports, app=self.app_url, provider=self.provider_url, source=source, reconcile=reconcile
            )
        )
        return path

    @contextlib.asynccontextmanager
    async def sidecar(self) -> AsyncIterator[RunningProcess]:
        """`holdfast run`, until it is ready; killed at the end if it still runs."""
        env = {"T_API_KEY": API_KEY, "T_PATH_TOKEN": PATH_TOKEN, "T_API_TOKEN": API_TOKEN, "T_APP_SECRET": APP_SECRET}
        process = RunningProcess.holdfast("run", "--config", str(self.folder / "holdfast.toml"), env=env)
        try:
            async with self.client() as client:

                async def ready() -> bool:
                    assert process.returncode is None, process.output
                    return (await client.get("/readyz")).status_code == 200

                await aeventually(ready, 20, ignoring=(httpx.TransportError,))
            yield process
        finally:
            await anyio.to_thread.run_sync(process.close)
            self.logs.append(process.output)

    def client(self) -> httpx.AsyncClient:
        """The application's own client of the private listener."""
        headers = {"Authorization": f"Bearer {API_TOKEN}"}
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.ports['api']}", headers=headers, timeout=20, trust_env=False
        )

    async def hear(self, request: Request) -> Response:
        """The application takes a message: it checks the signature as anybody would, and remembers."""
        body = await request.body()
        standardwebhooks.Webhook(APP_SECRET).verify(body, dict(request.headers))
        self.heard.append(Heard(self.clock.now(), json.loads(body)))
        return Response(status_code=204)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """A look at the database file, as anybody may have."""
        connection = driver.open_reader(self.folder / "holdfast.db")
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    async def all_told(self, job_ids: set[str], timeout_s: float) -> None:
        """Wait until something was told of each of these jobs and nothing is left to tell."""
        await aeventually(lambda: job_ids <= self.by_job.keys(), timeout_s)
        await aeventually(lambda: self.rows("SELECT count(*) FROM outbox WHERE state = 'pending'") == [(0,)], 10)

    def leaks(self) -> list[str]:
        """Secrets that stand in a file of the folder or in the log."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        places = {str(path.name): path.read_bytes() for path in files}
        places |= {f"log {n}": log.encode() for n, log in enumerate(self.logs)}
        return [
            f"{secret[:12]}… in {name}"
            for name, text in places.items()
            for secret in SECRETS
            if secret.encode() in text
        ]


@contextlib.asynccontextmanager
async def theatre(folder: Path, faults: Mapping[str, Any] | None = None, **changes: Any) -> AsyncIterator[Theatre]:
    """A provider and an application on loopback. `changes` are the simulator's settings."""
    ports = {"intake": free_port(), "api": free_port()}
    hook = f"http://127.0.0.1:{ports['intake']}/in/moderation/{PATH_TOKEN}"
    given: dict[str, Any] = {"seed": 7, "api_key": API_KEY, "webhook_url": hook, "quota_per_min": 0, **changes}
    simulator = SIMULATORS["omnifence"](Settings(faults=Faults().changed(faults or {}), **given))
    stage = Theatre(folder, simulator, ports)
    app = Starlette(routes=[Route("/hear", stage.hear, methods=["POST"])])
    async with Simulation([simulator]).serve() as simulation:
        with listening("127.0.0.1", 0) as listener:
            stage.app_url = f"http://127.0.0.1:{listener.getsockname()[1]}/hear"
            stage.provider_url = simulation.base_url("omnifence")
            async with serving(app, listener):
                yield stage
