"""Orders given on the command line while no sidecar runs: the same answers and refusals as the API's."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from holdfast.cli import cli
from receiver.byhand import NotAgain
from reconciler.api import shapes
from tests.receiver.scene import Scene
from tests.support import free_port

CONFIG = """
[api]
listen = "127.0.0.1:{port}"
[sources.known]
provider = "omnifence"
path_token = "env:NOT_SET_HERE"
api_key = "env:NOT_SET_HERE_EITHER"
"""


@pytest.fixture
async def scene(fast_folder: Path) -> Scene:
    (fast_folder / "holdfast.toml").write_text(CONFIG.format(port=free_port()))
    scene = Scene(fast_folder / "holdfast.db")
    await scene.register("j1")
    await scene.webhook({"job_id": "j1", "status": "completed"})
    return scene


def order(scene: Scene, *words: str) -> Any:
    """The JSON document a command answers with. Raises what the command raised."""
    config = str(scene.path.with_name("holdfast.toml"))
    done = CliRunner().invoke(cli, [*words, "--json", "--config", config], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)


async def test_orders_answer_as_the_api_does(scene: Scene) -> None:
    """Reading again, telling again and asking again need no provider's key, and each is noted in the job's history."""
    delivery = (await scene.job("j1"))["deliveries"][0]
    message = (await scene.told("j1"))[0]
    scene.store.close()

    read = order(scene, "deliveries", "replay", delivery["id"])
    told = order(scene, "outbox", "redeliver", message["id"])
    asked = order(scene, "jobs", "poll", "known", "j1")

    assert shapes.DeliveryShape.model_validate(read).verdict == "new"
    assert shapes.MessageShape.model_validate(told).state == "pending"
    assert asked == {"source": "known", "job_id": "j1", "state": "completed", "asked": False, "last_error": None}
    story = order(scene, "jobs", "show", "known", "j1")
    notes = [entry["note"] for entry in story["history"]][-3:]
    assert [note.split()[0] for note in notes] == ["delivery", "message", "asked"]


async def test_what_was_acted_on_is_not_released(scene: Scene) -> None:
    """Only quarantined and held deliveries are released, with a sidecar or without."""
    delivery = (await scene.job("j1"))["deliveries"][0]
    scene.store.close()

    with pytest.raises(NotAgain, match="only quarantined and held"):
        order(scene, "deliveries", "release", delivery["id"])
