"""The views of the database, for whoever reads it by themselves."""

from pathlib import Path
from typing import Any

from receiver.states import Claim
from receiver.store.sqlite.driver import sqlite3
from tests.receiver.scene import Scene


def rows(path: Path, view: str) -> list[dict[str, Any]]:
    connection = sqlite3.connect(path)
    try:
        cursor = connection.execute(f"SELECT * FROM {view}")
        return [dict(zip([column[0] for column in cursor.description], row, strict=True)) for row in cursor]
    finally:
        connection.close()


async def test_a_quarantined_body_that_is_no_text_can_be_read_by_everybody(fast_folder: Path) -> None:
    """A column of text that is no UTF-8 would make many readers fail on the whole view; the body stays as it came."""
    path = fast_folder / "holdfast.db"
    scene = Scene(path)
    await scene.quarantine(b'{"\xff": 1}', "bad UTF-8")
    await scene.quarantine(b'{"job_id": ', "malformed")
    scene.store.close()

    assert [(row["reason"], row["body_text"]) for row in rows(path, "quarantined_deliveries")] == [
        ("bad UTF-8", None),
        ("malformed", '{"job_id": '),
    ]
    assert {row["body"] for row in rows(path, "deliveries")} == {b'{"\xff": 1}', b'{"job_id": '}


async def test_rescued_means_that_no_webhook_came(fast_folder: Path) -> None:
    """A job whose webhook came and was verified by asking was not rescued, and is no lost webhook either."""
    path = fast_folder / "holdfast.db"
    scene = Scene(path)
    await scene.register_all(["heard", "silent"], "verify")
    await scene.webhook({"job_id": "heard", "status": "completed"}, "verify")
    for job_id in ("heard", "silent"):
        await scene.poll(job_id, Claim.COMPLETED, "verify", status="completed")

    settled = await scene.store.read(lambda view: view.settled_since("verify", 0.0))
    scene.store.close()

    assert [row["job_id"] for row in rows(path, "rescued_jobs")] == ["silent"]
    assert settled == {"webhook": 1, "poll": 1}
