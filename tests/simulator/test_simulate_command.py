"""`holdfast simulate` from the outside."""

import json
from collections.abc import Sequence

import httpx
import pytest
from click.testing import CliRunner

from holdfast.cli.simulate import simulate
from holdfast.simulator import SIMULATORS
from holdfast.simulator.faults import SHARES
from tests.support import RunningProcess, free_port

COMMAND = ("-c", "from holdfast.cli.simulate import simulate; simulate()")


@pytest.mark.process
def test_it_serves_what_it_announces_until_it_is_stopped() -> None:
    """The announced base_url answers, options reach the providers, and SIGTERM ends it with 0."""
    options = (
        "--listen", "127.0.0.1:0", "--provider", "omnifence", "--json", "--seed", "s", "--drop", "1",
        "--delay-seconds", "1:2", "--webhook-url", "omnifence=http://127.0.0.1:9/in/x", "--job-seconds", "0:0.1",
        "--option", "omnifence.webhook_on_failed=true", "--quota-per-min", "3", "--stuck-s", "5",
    )  # fmt: skip
    with RunningProcess([*COMMAND, *options]) as process:
        announced = json.loads(process.wait_for_output(r"^\{.*\}$")[0])
        base_url = announced["providers"]["omnifence"]["base_url"]
        made = httpx.post(announced["control_url"] + "submit", json={"provider": "omnifence", "n": 2})
        httpx.post(announced["control_url"] + "idle")
        truth = httpx.get(announced["control_url"] + "truth").json()["providers"]["omnifence"]
        statuses = [httpx.get(base_url + "/api/v1/jobs", headers={"Authorization": "Bearer k"}) for _ in range(4)]
        code = process.terminate()

    assert made.status_code == 201
    assert truth["counters"]["dropped"] == 2
    assert truth["webhook_url"] == "http://127.0.0.1:9/in/x"
    assert (truth["faults"]["delay_s"], truth["faults"]["stuck_s"]) == ([1, 2], 5)
    assert [answer.status_code for answer in statuses] == [200, 200, 200, 429]
    assert code == 0
    assert process.stderr == ""


@pytest.mark.process
def test_it_prints_every_providers_base_url() -> None:
    """Without --provider all are served, each with its address in the table."""
    with RunningProcess([*COMMAND, "--listen", f"127.0.0.1:{free_port()}"]) as process:
        process.wait_for_output("control: ")
        shown = process.stdout
        process.terminate()

    for name in SIMULATORS:
        assert f"/{name}" in shown


@pytest.mark.parametrize(
    "options",
    [
        ("--listen", "nowhere"),
        ("--listen", "127.0.0.1:70000"),
        ("--provider", "nobody"),
        ("--drop", "1.5"),
        ("--job-seconds", "3:1"),
        ("--webhook-url", "omnifence"),
        ("--webhook-url", "nobody=http://x"),
        ("--option", "omnifence.nope=1"),
    ],
)
def test_wrong_usage_is_exit_2(options: Sequence[str]) -> None:
    """What cannot be done is said before anything is served."""
    result = CliRunner().invoke(simulate, list(options))

    assert result.exit_code == 2
    assert "Error" in result.output


@pytest.mark.process
def test_an_address_that_is_taken_is_exit_69() -> None:
    """One readable line on stderr when the port is not to be had."""
    with RunningProcess([*COMMAND, "--listen", "127.0.0.1:0", "--provider", "omnifence", "--json"]) as first:
        announced = json.loads(first.wait_for_output(r"^\{.*\}$")[0])
        port = httpx.URL(announced["control_url"]).port
        with RunningProcess([*COMMAND, "--listen", f"127.0.0.1:{port}"]) as second:
            code = second.wait()

    assert code == 69
    assert second.stderr.count("\n") == 1


def test_every_fault_has_an_option() -> None:
    """The command line offers each share there is."""
    offered = {parameter.name for parameter in simulate.params}

    assert set(SHARES) <= offered
