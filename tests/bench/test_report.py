"""The benchmark measures the product itself, and its document says plainly what was not reached or not measured."""

from pathlib import Path

import pytest

from bench import aftermath
from bench.figures import Plan, Section, at_least, at_most, ratios_by_part, skipped
from bench.report import chart, document, table


def test_what_was_not_reached_and_not_measured_is_said() -> None:
    """Nobody takes a missed or a missing figure for a good one."""
    section = Section("x", "X", [at_least("rate", [0.5, 0.7, 0.6], "x", 0.8), skipped("memory", "no /proc", "≤ 70")])

    lines = table(section).splitlines()

    assert lines[-2] == "| rate | 0.6 x | 0.5 to 0.7 | ≥ 0.8: **not reached** |  |"
    assert lines[-1] == "| memory | not measured |  | ≤ 70 | not measured: no /proc |"


def test_the_document_names_its_command_and_its_machine() -> None:
    """Whoever reads a figure can measure it again, and knows on what it was measured."""
    section = Section("x", "X", [at_most("p99", [3.0], "ms", 10)], {"per_s": [1.0, 2.5]})

    text = document([section], "python -m bench --only x")

    assert text.startswith("Measured by `python -m bench --only x` on: processor ")
    assert "| p99 | 3 ms |  | ≤ 10: reached |  |" in text
    assert "line [1, 2.5]" in text


def test_a_machine_that_slows_down_changes_no_ratio_of_what_was_measured_in_turn() -> None:
    """Both sides of a part drift together; one request that met a busy disk decides nothing."""
    first, second = [1.0, 1.0, 9.0, 4.0, 4.0, 4.0], [2.0, 2.0, 2.0, 8.0, 8.0, 90.0]

    assert ratios_by_part(first, second, 3) == [0.5, 0.5]


def test_a_single_value_is_no_chart() -> None:
    """A chart is drawn of what changed from round to round, and of nothing else."""
    assert chart(Section("x", "X", [], {"once": [1.0]})) == ""


@pytest.mark.process
def test_an_outage_is_cleared_up_by_lists(tmp_path: Path) -> None:
    """Jobs whose webhooks were all lost are known after the list calls that hold them, without single questions."""
    figures = {figure.name: figure for figure in aftermath.aftermath(Plan(tmp_path, scale=0.03)).figures}

    assert figures["known in the end"].value == 300
    assert figures["of them single reads"].value == 0
    assert figures["questions asked"].reached
