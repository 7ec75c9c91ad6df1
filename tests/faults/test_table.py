"""The table of what held: a run writes its own rows and no others."""

from pathlib import Path

from faults import Result, table
from faults.catalogue import entries


def test_a_run_writes_its_own_rows_and_no_others(tmp_path: Path) -> None:
    """What was measured replaces its row, with the command that measures it again; the rest of the page stays."""
    page, every = tmp_path / "page.md", entries()
    page.write_text(f"above\n\n{table.HEAD}| soak | m | w | an hour | `--only soak` |\n\nbelow\n")
    result = Result("two", figures={"lost": 0, "acknowledged": 12345, "never_hit": ""})

    table.write(every, {"two receivers": (table.told(result), table.command("two receivers", ["--quick"]))}, page)
    table.write(every, {}, page)

    text = page.read_text()
    assert text.startswith("above\n\n| scenario")
    assert text.endswith("|\n\nbelow\n")
    assert '| lost 0, acknowledged 12,345 | `--quick --only "two receivers"` |' in text
    assert "| an hour | `--only soak` |" in text
    assert text.count(table.NOT_YET) == len(every) - 2


def test_what_did_not_hold_is_written_as_such() -> None:
    """A fault stands before the figures."""
    assert table.told(Result("x", figures={"lost": 3}, faults=["3 are gone"])) == "**did not hold: 3 are gone**; lost 3"


def test_every_scenario_has_a_name_of_its_own() -> None:
    """`--only NAME` finds it, and the table keeps one row for each."""
    names = [entry.name for entry in entries()]
    assert len(names) == len(set(names))
    assert all(entry.must and entry.method for entry in entries())
