"""A batch is read as its deliveries one by one would have been: the same rows in every table, whatever comes together.

The faster way asks and writes for many at once (`receiver/store/sqlite/gathering.py`); the plain way is the one a batch
falls back to when one of its deliveries fails.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.interpret import BATCH, SHORT_BATCH
from receiver.providers.base import Finding
from receiver.store.sqlite import driver
from tests.receiver.scene import TOKEN, Scene

EXTRA = {
    "insights": {
        "provider": "omnia", "path_token": TOKEN, "base_url": "https://omnia.example.com/api/v1", "api_key": "key",
    },
    "few": {"provider": "omnifence", "path_token": TOKEN, "max_held": 1},
    "believed": {"provider": "omnifence", "secret": "s", "secret_header": "x-secret"},
}  # fmt: skip
IDS = st.sampled_from(["j1", "j2", "j3", "A1", "A2"])
SOURCES = st.sampled_from(["known", "verify", "trusted", "keyless", "insights", "few", "believed"])
WORDS = st.sampled_from(["completed", "failed", "processing", "unheard-of", None])
TABLES = {
    "jobs": "source, job_id",
    "job_history": "id",
    "outbox": "seq",
    "deliveries": "id",
    "event_keys": "source, event_key",
    "tallies": "kind, source, state",
}


def document(source: str, job_id: str, other: str, word: str | None, twist: int) -> dict[str, Any]:
    """A webhook, in the words of the source's provider; sometimes it names the job's other id as well."""
    if source == "trusted":
        name = "failed" if word == "failed" else "completed"
        log = {"id": job_id, "type": "MESSAGE", "status": (word or "").upper(), "leadId": "L", "twist": twist}
        return {"event": f"action_log.{name}", "actionLog": log}
    if source == "insights":
        data = {"generationId": job_id} | ({"applicationId": other} if twist else {})
        return {"event": "insight_generated", "webhookId": f"w{twist}", "timestamp": "t1", "data": data}
    return {"job_id": job_id, "status": word, "twist": twist} if word else {"job_id": job_id}


WEBHOOKS = st.lists(st.tuples(SOURCES, IDS, IDS, WORDS, st.integers(0, 1)), min_size=1, max_size=40)
KNOWN = st.lists(st.tuples(SOURCES, IDS, st.sampled_from([None, "A1", "A2"]), st.booleans()), max_size=12, unique=True)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=memory if memory.is_dir() else None))
    try:
        yield made
    finally:
        shutil.rmtree(made)


async def fell_back(*what: object) -> None:
    """A batch that needs the plain way hides what is wrong with the faster one."""
    raise AssertionError(f"the batch could not be decided as one: {what}")


async def told(path: Path, known: list[Any], webhooks: list[Any], *, together: bool) -> dict[str, list[Any]]:
    """Every row there is after it, by table."""
    scene = Scene(path, EXTRA)
    try:
        for source, job_id, alias, over in known:
            await scene.register(job_id, source, alias=alias)
            if over:
                await scene.answer_all([Finding(job_id, claim=None, missing=True)], source=source)
        for source, job_id, other, word, twist in webhooks:
            await scene.deliver(document(source, job_id, other, word, twist), source)
        if together:
            for plain_way in ("_decide_alone", "_give_up"):
                setattr(scene.interpreter, plain_way, fell_back)
            await scene.read()
        else:
            while batch := await scene.store.read(lambda view: scene.interpreter._understand(view, 1)):
                await scene.interpreter._decide_alone(batch[0], scene.clock.now())
    finally:
        scene.store.close()
    connection = driver.open_reader(path)
    try:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
            for table, order in TABLES.items()
        }
    finally:
        connection.close()


@given(known=KNOWN, webhooks=WEBHOOKS)
@settings(max_examples=60)
def test_a_batch_leaves_the_rows_that_one_by_one_would_have_left(known: list[Any], webhooks: list[Any]) -> None:
    """Jobs, their stories, messages in their order, verdicts, keys, counts."""
    with folder() as here, asyncio.Runner() as runner:
        together = runner.run(told(here / "together.db", known, webhooks, together=True))
        apart = runner.run(told(here / "apart.db", known, webhooks, together=False))

    for table in TABLES:
        assert together[table] == apart[table], table
    assert together["deliveries"], "something was compared"


@pytest.mark.parametrize(
    ("waiting", "limits"),
    [
        ([0, 0], [BATCH, BATCH]),
        ([60, 0, 0, 0, 0], [SHORT_BATCH, SHORT_BATCH, SHORT_BATCH, BATCH, BATCH]),
        ([0, 60, 60, 0], [BATCH, SHORT_BATCH, SHORT_BATCH, SHORT_BATCH]),
    ],
)
def test_a_crowd_at_the_door_is_remembered_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: list[int], limits: list[int]
) -> None:
    """A look between two commits finds nobody waiting; the turns stay short all the same until the crowd has gone."""
    scene = Scene(tmp_path / "holdfast.db")
    left, asked = iter(waiting), list[int]()
    monkeypatch.setattr(scene.store, "waiting", lambda: next(left))

    def understand(view: object, limit: int) -> list[object]:
        asked.append(limit)
        return []

    monkeypatch.setattr(scene.interpreter, "_understand", understand)

    async def look() -> None:
        for _ in waiting:
            await scene.interpreter.run_once()

    asyncio.run(look())
    scene.store.close()

    assert asked == limits
