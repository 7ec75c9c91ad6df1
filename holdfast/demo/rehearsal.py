"""The play: jobs submitted and registered, webhooks lost and forged, the sidecar killed; then the ledger."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from holdfast.cli.writing import job_path
from holdfast.demo.ledger import Ledger, heard_messages, settle, told_keys
from holdfast.demo.stage import Stage, modalities

PATIENCE_S = 90.0
SUBMIT_S = 8.0
"""The jobs are submitted over so many seconds."""
AT_ONCE = 12


@dataclass(slots=True)
class Progress:
    """What the live line shows."""

    submitted: int = 0
    registered: int = 0
    told: int = 0
    jobs: int = 0
    crashes: int = 0
    doing: str = "starting"


class Rehearsal:
    """One run. `show` is called whenever something changed."""

    def __init__(self, stage: Stage, jobs: int, seed: int, crashes: int, show: Callable[[Progress], None]) -> None:
        self._stage = stage
        self._chance = Random(f"demo:{seed}")  # noqa: S311 - a rehearsal that can be repeated
        self._crashes = crashes
        self._show = show
        self._keys: set[tuple[str, str]] = set()
        self._jobs = jobs
        self.progress = Progress(jobs=jobs)

    async def play(self, config: Any) -> Ledger:
        """Play it to the end and settle the account."""
        stage, progress = self._stage, self.progress
        progress.doing = "submitting"
        crashing = asyncio.create_task(self._crash(config))
        limits = httpx.Limits(max_connections=AT_ONCE * 2)
        async with httpx.AsyncClient(timeout=20.0, limits=limits, trust_env=False) as client:
            gate = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(self._one(client, gate, number) for number in range(self._jobs)))
            await crashing
            progress.doing = "waiting for every outcome"
            await client.post(f"{stage.control}/idle", json={"timeout_s": 45}, timeout=60.0)
        await self._all_told()
        return settle(stage.truth(), heard_messages(stage.heard))

    async def _one(self, client: httpx.AsyncClient, gate: asyncio.Semaphore, number: int) -> None:
        providers = self._stage.providers
        provider = providers[number % len(providers)]
        kinds = modalities(provider)
        modality = kinds[number // len(providers) % len(kinds)]
        await asyncio.sleep(SUBMIT_S * number / self._jobs)
        async with gate:
            answer = await client.post(
                f"{self._stage.control}/submit", json={"provider": provider, "modality": modality}
            )
            job = answer.json()["jobs"][0]
            self.progress.submitted += 1
            self._keys.add((provider, job["job_id"]))
            await self._register(client, provider, modality, job)
            self.progress.registered += 1
            self._show(self.progress)

    async def _register(self, client: httpx.AsyncClient, provider: str, modality: str, job: dict[str, Any]) -> None:
        """As an application does: again until somebody answers (the sidecar may just have been killed)."""
        facts = {"modality": modality, "metadata": {"demo": True}}
        facts |= {name: job[name] for name in ("poll_url", "alias", "refs") if job[name]}
        while True:
            try:
                answer = await client.put(self._stage.api + job_path(provider, job["job_id"]), json=facts)
                if answer.status_code in (200, 201):
                    return
                if answer.status_code < 500:
                    raise RuntimeError(f"registering {provider} {job['job_id']}: {answer.status_code} {answer.text}")
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)

    async def _crash(self, config: Any) -> None:
        """Kill the sidecar at moments spread over the submissions, each under load."""
        for number in range(self._crashes):
            share = (number + self._chance.uniform(0.4, 0.9)) / self._crashes
            while self.progress.registered < share * self._jobs * 0.95:  # noqa: ASYNC110 - a moment, not an event
                await asyncio.sleep(0.01)
            await asyncio.to_thread(self._stage.kill_sidecar)
            self.progress.crashes += 1
            self._show(self.progress)
            await asyncio.sleep(self._chance.uniform(0.1, 0.6))
            await asyncio.to_thread(self._stage.start_sidecar, config, wait=True)

    async def _all_told(self) -> None:
        loop = asyncio.get_running_loop()
        end, calm = loop.time() + PATIENCE_S, 0
        while loop.time() < end:
            told = told_keys(heard_messages(self._stage.heard))
            self.progress.told = len(told)
            self._show(self.progress)
            if self._keys <= told and await self._outbox_empty():
                calm += 1
                if calm >= 4:  # a second outcome of some job would be on its way by now
                    return
            else:
                calm = 0
            await asyncio.sleep(0.25)

    async def _outbox_empty(self) -> bool:
        try:
            async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
                answer = await client.get(f"{self._stage.api}/v1/messages", params={"state": "pending", "limit": 1})
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and not answer.json()["messages"]
