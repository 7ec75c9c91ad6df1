"""Every webhook and job fault can be ordered, can be seen to happen, and is counted in the truth."""

import json
from collections import Counter
from typing import Any

import pytest

from holdfast.simulator.faults import Faults
from holdfast.simulator.sender import broken, guessed
from tests.support import aeventually


async def jobs_with(run: Any, hook: Any, n: int, faults: dict[str, Any], **changes: Any) -> Any:
    """A simulator that has settled n jobs under these faults."""
    simulator = await run.start(webhook_url=hook.url, faults=faults, **changes)
    for _ in range(n):
        await simulator.submit("prompt", {"prompt": "x"})
    await simulator.idle()
    return simulator


async def test_without_faults_each_job_is_told_once(run: Any, hook: Any) -> None:
    """No fault ordered, none happens: one acknowledged webhook a job."""
    simulator = await jobs_with(run, hook, 5, {})

    told = Counter(json.loads(body)["job_id"] for body in hook.bodies)
    assert told == dict.fromkeys(simulator.jobs, 1)
    assert (simulator.counters["sent"], simulator.counters["acknowledged"]) == (5, 5)
    assert all(not job.faults for job in simulator.truth())


async def test_a_dropped_webhook_never_arrives(run: Any, hook: Any) -> None:
    """drop: nothing is sent, and the truth says so."""
    simulator = await jobs_with(run, hook, 3, {"drop": 1.0})

    assert hook.bodies == []
    assert simulator.counters["dropped"] == 3
    assert simulator.counters["sent"] == 0
    assert [attempt.kind for attempt in simulator.truth()[0].attempts] == ["dropped"]


async def test_a_duplicated_webhook_arrives_twice_with_the_same_bytes(run: Any, hook: Any) -> None:
    """duplicate: the same body comes twice."""
    simulator = await jobs_with(run, hook, 1, {"duplicate": 1.0, "duplicate_gap_s": 0.01})

    assert len(hook.bodies) == 2
    assert hook.bodies[0] == hook.bodies[1]
    assert simulator.counters["duplicated"] == 1
    assert simulator.counters["sent"] == 2


async def test_a_delayed_webhook_comes_after_the_end_could_be_read(run: Any, hook: Any) -> None:
    """delay: the job shows its end at once, its webhook goes out delay_s later."""
    simulator = await jobs_with(run, hook, 1, {"delay": 1.0, "delay_s": [0.1, 0.1]})

    job = simulator.truth()[0]
    assert job.attempts[0].at - job.finished_at >= 0.09
    assert simulator.counters["late"] == 1


async def test_a_reordered_webhook_waits_for_another(run: Any, hook: Any) -> None:
    """reorder: it goes out after the next one, though its job ended before."""
    simulator = await run.start(webhook_url=hook.url, faults={"reorder": 1.0, "reorder_s": 20.0})
    await simulator.submit("prompt")
    simulator.order({"reorder": 0.0})
    first = simulator.truth()[0]
    await aeventually(lambda: first.finished)
    second = await simulator.submit("prompt")
    await simulator.idle()

    assert [json.loads(body)["job_id"] for body in hook.bodies] == [second.job_id, first.job_id]
    assert simulator.counters["reordered"] == 1


async def test_an_early_webhook_beats_the_submit_answer(run: Any, hook: Any) -> None:
    """early: the webhook was answered before the submission was."""
    simulator = await run.start(webhook_url=hook.url, faults={"early": 1.0})
    client = await run.client(simulator)

    answer = await client.post("/api/v1/moderate/prompt", files={"prompt": (None, "x")})

    assert json.loads(hook.bodies[0])["job_id"] == answer.json()["job_id"]
    assert answer.json()["status"] == "queued"
    assert simulator.counters["early"] == 1


async def test_a_forgery_names_a_made_up_job_at_the_right_address(run: Any, hook: Any) -> None:
    """forged without a lie: one more webhook, about a job nobody submitted."""
    simulator = await jobs_with(run, hook, 1, {"forged": 1.0, "forged_lie": 0.0})

    told = {json.loads(body)["job_id"] for body in hook.bodies}
    assert len(told) == 2
    assert simulator.truth()[0].job_id in told
    assert (simulator.counters["forged"], simulator.counters["forged_acknowledged"]) == (1, 1)
    assert simulator.counters["sent"] == 1


@pytest.mark.parametrize(("knows", "tokens"), [(True, {"token"}), (False, {"token", "guess"})])
async def test_a_liar_guesses_the_token_unless_he_knows_it(run: Any, hook: Any, knows: bool, tokens: set[str]) -> None:
    """forged with a lie: the opposite of the truth about a real job, sent to a guessed URL by default."""
    simulator = await jobs_with(run, hook, 1, {"forged": 1.0, "forged_lie": 1.0, "forged_knows_url": knows})

    verdicts = {json.loads(body)["is_prohibited"] for body in hook.bodies}
    assert verdicts == {True, False}
    assert {json.loads(body)["job_id"] for body in hook.bodies} == {simulator.truth()[0].job_id}
    assert {request.path_params["token"].split("-")[0] for request in hook.received} == tokens


async def test_a_wrong_id_leaves_the_real_job_unannounced(run: Any, hook: Any) -> None:
    """wrong_id: the webhook names no job there is."""
    simulator = await jobs_with(run, hook, 2, {"wrong_id": 1.0})

    assert len(hook.bodies) == 2
    assert not {json.loads(body)["job_id"] for body in hook.bodies} & set(simulator.jobs)
    assert simulator.counters["wrong_id"] == 2


async def test_malformed_bodies_come_in_every_kind(run: Any, hook: Any) -> None:
    """malformed: no body is a JSON object, and several kinds of broken occur."""
    simulator = await jobs_with(run, hook, 20, {"malformed": 1.0})

    kinds = {body[:1] for body in hook.bodies}
    assert len(hook.bodies) == 20
    assert simulator.counters["malformed"] == 20
    assert {b"", b"[", b"O", b"{"} <= kinds
    assert not any(_is_object(body) for body in hook.bodies)


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def test_every_kind_of_broken_body_is_no_object() -> None:
    """Whatever the dice say, a spoiled body is not one JSON object."""
    whole = b'{"job_id":"a","status":"completed","n":{"m":1}}'

    spoiled = [broken(whole, twist) for twist in range(5)]

    assert len(set(spoiled)) == 5
    assert not any(_is_object(body) for body in spoiled)


async def test_a_slow_webhook_dribbles_and_arrives(run: Any, hook: Any) -> None:
    """slow: the body takes slow_s and is whole."""
    simulator = await jobs_with(run, hook, 1, {"slow": 1.0, "slow_s": 0.1})

    assert json.loads(hook.bodies[0])["status"] == "completed"
    assert simulator.truth()[0].attempts[0].latency_s >= 0.09
    assert simulator.counters["slow"] == 1


async def test_a_hanging_webhook_is_never_complete(run: Any, hook: Any) -> None:
    """hang: half a body, then nothing; a provider that does not retry has told nobody."""
    simulator = await jobs_with(run, hook, 1, {"hang": 1.0, "hang_s": 0.05})

    attempt = simulator.truth()[0].attempts[0]
    assert hook.bodies == []
    assert attempt.http_status is None
    assert attempt.error
    assert (simulator.counters["hung"], simulator.counters["given_up"]) == (1, 1)


async def test_a_refused_webhook_is_final(run: Any, hook: Any) -> None:
    """OmniFence delivers once: a 503 is not tried again."""
    hook.status = 503
    simulator = await jobs_with(run, hook, 2, {})

    assert len(hook.bodies) == 2
    assert (simulator.counters["refused"], simulator.counters["retried"]) == (2, 0)
    assert simulator.counters["given_up"] == 2


async def test_an_unreachable_receiver_is_noted(run: Any) -> None:
    """A receiver that is down costs the webhook, not the simulator."""
    simulator = await run.start(webhook_url="http://127.0.0.1:9/in/x")
    await simulator.submit("prompt")
    await simulator.idle()

    assert simulator.truth()[0].attempts[0].http_status is None
    assert simulator.counters["given_up"] == 1


async def test_a_stuck_job_does_not_end(run: Any, hook: Any) -> None:
    """stuck: idle() does not wait for it, and its truth stays pending."""
    simulator = await jobs_with(run, hook, 1, {"stuck": 1.0})

    assert simulator.truth()[0].state == "pending"
    assert simulator.truth()[0].as_dict()["facts"] == {}
    assert hook.bodies == []


async def test_changed_faults_leave_earlier_jobs_alone(run: Any, hook: Any) -> None:
    """A fault ordered after the submission does not touch the job."""
    simulator = await run.start(webhook_url=hook.url)
    await simulator.submit("prompt")
    simulator.order({"drop": 1.0})
    await simulator.submit("prompt")
    await simulator.idle()

    assert [job.faults for job in simulator.truth()] == [(), ("drop",)]
    assert len(hook.bodies) == 1


def test_a_url_without_a_token_is_not_guessed() -> None:
    """Only a path of three segments has a token to guess."""
    assert guessed("http://h/in/src", 1) == "http://h/in/src"
    assert guessed("http://h/in/src/tok?x=1", 1) == "http://h/in/src/guess-00000001?x=1"


@pytest.mark.parametrize(
    "changes",
    [
        {"drop": 1.1},
        {"drop": -0.1},
        {"drop": "much"},
        {"drop": float("nan")},
        {"dorp": 0.1},
        {"delay_s": [2, 1]},
        {"delay_s": 1},
        {"slow_s": -1},
        {"api_scope": "some"},
        {"retry_after": 3},
        {"forged_knows_url": 1},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    """Shares outside 0..1, unknown names and values of the wrong kind raise ValueError."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        Faults().changed(changes)


def test_faults_survive_json() -> None:
    """What as_dict writes, changed() reads."""
    faults = Faults(drop=0.4, delay_s=(1.0, 3.0), retry_after="date")

    assert Faults().changed(json.loads(json.dumps(faults.as_dict()))) == faults
