"""The ledger: what the providers know, held against what the application heard. Nothing of the sidecar's is asked."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.simulator.truth import disagreement

Key = tuple[str, str]
COUNTS = ("sent", "dropped", "duplicated", "forged", "late")


@dataclass(slots=True)
class Account:
    """The figures of one source, or of all."""

    submitted: int = 0
    sent: int = 0
    dropped: int = 0
    duplicated: int = 0
    forged: int = 0
    late: int = 0
    told: int = 0
    by_webhook: int = 0
    by_poll: int = 0
    by_deadline: int = 0
    lost: int = 0
    told_twice: int = 0
    told_wrong: int = 0

    def add(self, other: "Account") -> None:
        """Add another account to this one."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, told twice or told wrong."""
        return not (self.lost or self.told_twice or self.told_wrong)


@dataclass(slots=True)
class Ledger:
    """All accounts, and the first few things that were not right, in words."""

    total: Account = field(default_factory=Account)
    sources: dict[str, Account] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)

    def as_dict(self, crashes: int) -> dict[str, Any]:
        """The JSON form of `holdfast demo --json`. Every source lived through every crash."""

        def figures(account: Account) -> dict[str, Any]:
            known, head = asdict(account), ("submitted", *COUNTS)
            rest = {name: value for name, value in known.items() if name not in head}
            return {name: known[name] for name in head} | {"crashes": crashes} | rest

        return figures(self.total) | {"sources": {name: figures(account) for name, account in self.sources.items()}}


def heard_messages(path: Path) -> list[dict[str, Any]]:
    """What the application heard, each message once (its id tells it again), in the order it heard them first."""
    seen: dict[str, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # the line that was being written when we looked
        seen.setdefault(message["id"], message)
    return list(seen.values())


def told_keys(messages: list[dict[str, Any]]) -> set[Key]:
    """(source, job id) of every job the application heard of."""
    return {
        (message["data"]["source"], message["data"]["job_id"])
        for message in messages
        if message["type"].startswith("job.")
    }


def settle(truth: dict[str, Any], messages: list[dict[str, Any]]) -> Ledger:
    """Compare. `truth` is the simulator's `/_control/truth`; a source has its provider's name."""
    ledger = Ledger()
    by_job: dict[Key, list[dict[str, Any]]] = {}
    for message in messages:
        if message["type"].startswith("job."):
            by_job.setdefault((message["data"]["source"], message["data"]["job_id"]), []).append(message)
    for name, provider in truth["providers"].items():
        account = ledger.sources.setdefault(name, Account())
        for count in COUNTS:
            setattr(account, count, provider["counters"].get(count, 0))
        for job in provider["jobs"]:
            _judge(ledger, account, name, job, by_job.pop((name, job["job_id"]), []))
    for (name, job_id), told in by_job.items():  # the provider knows nothing of these
        ledger.sources.setdefault(name, Account()).told_wrong += len(told)
        ledger.wrongs.append(f"{name} {job_id}: told {told[-1]['type']}, but the provider has no such job")
    for account in ledger.sources.values():
        ledger.total.add(account)
    return ledger


def _judge(ledger: Ledger, account: Account, name: str, job: dict[str, Any], told: list[dict[str, Any]]) -> None:
    account.submitted += 1
    if not told:
        account.lost += 1
        ledger.wrongs.append(f"{name} {job['job_id']}: {job['state']} at the provider, the application heard nothing")
        return
    account.told += len(told)
    ids = {message["id"] for message in told}
    fresh = [message for message in told if message["data"]["supersedes"] not in ids]
    if len(fresh) > 1:
        account.told_twice += len(fresh) - 1
        ledger.wrongs.append(f"{name} {job['job_id']}: told {len(fresh)} times")
    last = told[-1]["data"]
    setattr(account, f"by_{last['decided_by']}", getattr(account, f"by_{last['decided_by']}") + 1)
    if last["decided_by"] == "deadline":
        if not job["stuck"]:
            account.told_wrong += 1
            ledger.wrongs.append(f"{name} {job['job_id']}: called {last['reason']}, but it is {job['state']}")
        return
    why = disagreement(job, last["state"], last["result"])
    if why is not None:
        account.told_wrong += 1
        ledger.wrongs.append(f"{name} {job['job_id']}: {why}")
