"""Every order of webhook, lying webhook, poll, deadline, repeat and crash, up to length four, on the real store."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from receiver.providers.base import Finding
from receiver.states import Claim
from tests.receiver.scene import Scene

EVENTS = "WFPRDUC"
"""W webhook says completed, F webhook says failed, P poll says completed, R poll says running, D the deadline passes,
U the last webhook is sent again, C the process dies."""
FAIL_AFTER_S = 301.0
"""A little more than a prompt is given."""


async def play(scene: Scene, orders: list[str]) -> None:
    """Let all orders happen at once, one job each, step by step. What comes in at a step in which any job's process
    dies is recorded, not yet read: reading it is the next life's work. Time passes for each job by itself."""
    last = {order: {"job_id": order, "status": "completed"} for order in orders}
    later_s = dict.fromkeys(orders, 0.0)
    await scene.register_all(orders)
    for at in range(len(orders[0])):
        for order in orders:
            if order[at] in "WF":
                last[order] = {"job_id": order, "status": "completed" if order[at] == "W" else "failed"}
            if order[at] == "D":
                later_s[order] += FAIL_AFTER_S
        await scene.deliver_all([last[order] for order in orders if order[at] in "WFU"])
        if any(order[at] == "C" for order in orders):
            scene.restart()
        await scene.read()
        asked = {
            order: Finding(order, Claim.COMPLETED, status="completed", result={"answer": 1})
            if order[at] == "P"
            else Finding(order, Claim.RUNNING, status="processing")
            for order in orders
            if order[at] in "PRD"
        }
        await scene.answer_all(list(asked.values()), later_s)


def expected(order: str) -> tuple[str, str | None]:
    """What must stand in the end: the strongest witness, among equals the first; the deadline only if nobody spoke."""
    if "P" in order:
        return "completed", None
    said = [event for event in order if event in "WFU"]
    if said:
        return ("failed", "provider") if said[0] == "F" else ("completed", None)
    return ("failed", "stale") if "D" in order else ("pending", None)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
async def test_every_order_ends_in_the_strongest_witness_told_once(length: int, fast_folder: Path) -> None:
    """Whatever the order: the strongest evidence stands, each outcome is told once, each correction supersedes."""
    scene = Scene(fast_folder / "record.db")
    orders = ["".join(order) for order in itertools.product(EVENTS, repeat=length)]
    await play(scene, orders)
    ends: Counter[tuple[str, str | None]] = Counter()
    for order in orders:
        job = await scene.job(order)
        messages = [message["payload"]["data"] for message in job["messages"]]
        ids = [message["id"] for message in job["messages"]]
        outcomes = [(data["state"], data["reason"]) for data in messages]
        changes = [entry for entry in job["history"] if (entry["from_state"] or "pending") != entry["to_state"]]
        corrections = [entry for entry in job["history"] if (entry["note"] or "").startswith("corrects")]
        ends[job["state"], job["reason"]] += 1

        assert (job["state"], job["reason"]) == expected(order), order
        assert [data["supersedes"] for data in messages] == [None, *ids][: len(ids)], order
        assert all(one != following for one, following in itertools.pairwise(outcomes)), order
        assert len(outcomes) == len(set(outcomes)), order
        assert len(messages) == len({entry["id"] for entry in [*changes, *corrections]}), order
        if job["state"] == "pending":
            assert not messages, order
        else:
            assert outcomes[-1] == (job["state"], job["reason"]), order
    assert sum(ends.values()) == len(EVENTS) ** length
    assert {state for state, _ in ends} == {"pending", "completed", "failed"}
    scene.store.close()
