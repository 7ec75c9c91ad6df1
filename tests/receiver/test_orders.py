"""Every order of webhook, lying webhook, poll, deadline, repeat and crash, up to length four, on the real store."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from receiver.states import Claim
from tests.receiver.scene import Scene

EVENTS = "WFPRDUC"
"""W webhook says completed, F webhook says failed, P poll says completed, R poll says running, D the deadline passes,
U the last webhook is sent again, C the process dies."""


async def play(scene: Scene, job_id: str, order: str) -> None:
    """Let the events of one order happen to one job."""
    await scene.register(job_id)
    last: dict[str, Any] = {"job_id": job_id, "status": "completed"}
    for event in order:
        if event in "WF":
            last = {"job_id": job_id, "status": "completed" if event == "W" else "failed"}
            await scene.webhook(last)
        elif event == "U":
            await scene.webhook(last)
        elif event == "P":
            await scene.poll(job_id, Claim.COMPLETED, status="completed", result={"answer": 1})
        elif event == "R":
            await scene.poll(job_id, Claim.RUNNING, status="processing")
        elif event == "D":
            scene.clock.advance(301.0)
            await scene.poll(job_id, Claim.RUNNING, status="processing")
        else:
            await scene.deliver({"job_id": "somebody-else", "status": "completed"})
            scene.restart()


def expected(order: str) -> tuple[str, str | None]:
    """What must stand in the end: the strongest witness, among equals the first; the deadline only if nobody spoke."""
    if "P" in order:
        return "completed", None
    said = [event for event in order if event in "WFU"]
    if said:
        return ("failed", "provider") if said[0] == "F" else ("completed", None)
    return ("failed", "stale") if "D" in order else ("pending", None)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
async def test_every_order_ends_in_the_strongest_witness_told_once(length: int, tmp_path: Path) -> None:
    """Whatever the order: the strongest evidence stands, each outcome is told once, each correction supersedes."""
    scene = Scene(tmp_path / "record.db")
    orders = ["".join(order) for order in itertools.product(EVENTS, repeat=length)]
    for order in orders:
        await play(scene, order, order)
    for order in orders:
        job = await scene.job(order)
        messages = [message["payload"]["data"] for message in job["messages"]]
        ids = [message["id"] for message in job["messages"]]
        outcomes = [(data["state"], data["reason"]) for data in messages]
        ends = [entry for entry in job["history"] if entry["from_state"] != entry["to_state"] and entry["from_state"]]
        corrections = [
            entry for entry in job["history"] if (entry["note"] or "").startswith("corrects")
        ]

        assert (job["state"], job["reason"]) == expected(order), order
        assert [data["supersedes"] for data in messages] == [None, *ids][: len(ids)], order
        assert all(one != next_ for one, next_ in itertools.pairwise(outcomes)), order
        assert len(outcomes) == len(set(outcomes)), order
        if job["state"] == "pending":
            assert not messages, order
        else:
            assert outcomes[-1] == (job["state"], job["reason"]), order
            assert len(messages) == len({entry["id"] for entry in [*ends, *corrections]}), order
    scene.store.close()
