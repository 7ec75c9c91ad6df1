"""Simulated providers as a real process, a configuration that points at them, and commands run in this process."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.cli import main
from tests.support import RunningProcess, free_port

PATH_TOKEN = "a-path-token-to-hide"
API_KEY = "omni_live_for_tests"


@dataclass
class Providers:
    """Simulated providers that run."""

    addresses: dict[str, Any]

    def base_url(self, provider: str) -> str:
        """Where its API is."""
        return str(self.addresses["providers"][provider]["base_url"])

    def control(self, what: str, **asked: Any) -> Any:
        """Something from the desk."""
        answer = httpx.post(self.addresses["control_url"] + what, json=asked, trust_env=False, timeout=30.0)
        answer.raise_for_status()
        return answer.json()

    def truth(self, provider: str) -> dict[str, Any]:
        """What a provider knows."""
        url = self.addresses["control_url"] + "truth"
        answer = httpx.get(url, params={"provider": provider}, trust_env=False)
        known: dict[str, Any] = answer.json()
        return known

    def ask(self, method: str, path: str) -> dict[str, Any]:
        """A request to Omnist's own API."""
        headers = {"authorization": f"Bearer {API_KEY}"}
        answer = httpx.request(method, self.base_url("omnist") + path, headers=headers, trust_env=False)
        document: dict[str, Any] = answer.json()
        return document


@contextlib.contextmanager
def simulating(*providers: str, secret: str | None = None, **urls: str) -> Iterator[Providers]:
    """Run `holdfast simulate`; `urls` are webhook URLs by provider."""
    command = ["simulate", "--listen", "127.0.0.1:0", "--json", "--job-seconds", "0:0.05", "--quota-per-min", "0"]
    command += ["--time-scale", "0.001"]
    for name in providers:
        command += ["--provider", name, "--api-key", f"{name}={API_KEY}"]
    for name, url in urls.items():
        command += ["--webhook-url", f"{name}={url}"]
    if secret is not None:
        command += ["--secret", f"omnist={secret}"]
    with RunningProcess.holdfast(*command) as process:
        yield Providers(json.loads(process.wait_for_output(r"^\{.*\}$")[0]))


@dataclass
class Setting:
    """A configuration in a folder of its own."""

    folder: Path
    intake: str
    api: str

    @property
    def config(self) -> Path:
        """Its file."""
        return self.folder / "holdfast.toml"

    @property
    def secret(self) -> Path:
        """The file that `news` has its secret in."""
        return self.folder / "news.secret"


def setting(folder: Path, base_urls: dict[str, str], *, public: bool = True) -> Setting:
    """Sources at these providers: `news` (Omnist, its secret in a file), `told` (Omnist, its secret elsewhere), `mod`
    (OmniFence), `leads` (OmniAI)."""
    made = Setting(folder, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    omnist = base_urls.get("omnist", "http://127.0.0.1:9")
    public_url = f'public_url = "http://{made.intake}/"\n' if public else ""
    made.secret.write_text("whsec_the_old_one\n")
    made.config.write_text(
        f'[intake]\nlisten = "{made.intake}"\n{public_url}[api]\nlisten = "{made.api}"\n'
        f'[sources.news]\nprovider = "omnist"\nbase_url = "{omnist}"\napi_key = "{API_KEY}"\n'
        f'path_token = "{PATH_TOKEN}"\nsecret = "file:news.secret"\npolls_per_min = 6000\n'
        f'[sources.told]\nprovider = "omnist"\nbase_url = "{omnist}"\napi_key = "{API_KEY}"\nsecret = "env:NEWS"\n'
        f'[sources.mod]\nprovider = "omnifence"\nbase_url = "{base_urls.get("omnifence", omnist)}"\n'
        f'api_key = "{API_KEY}"\npath_token = "{PATH_TOKEN}"\n'
        f'[sources.leads]\nprovider = "omniai"\napi_key = "{API_KEY}"\npath_token = "{PATH_TOKEN}"\n'
    )
    return made


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def command(capsys: pytest.CaptureFixture[str], made: Setting, *arguments: str) -> Ended:
    """Run `holdfast ARGUMENTS…` in this process with this configuration."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--config", str(made.config)])
    said = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return Ended(caught.value.code, said.out, said.err)
