"""The table of docs/reliability.md: a row a scenario, and in it what was last measured with the command it names.

A run replaces the rows of what it measured and leaves the others as they are. Nothing else of the page is touched.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from faults import Result
from faults.catalogue import Entry

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
HEAD = "| scenario | method | what must hold | measured | rerun: `make faults ARGS='…'` |\n|---|---|---|---|---|\n"
NOT_YET = "not measured yet"
_LEFT_OUT = ("there afterwards", "seed")


def told(result: Result) -> str:
    """What a scenario measured, on one line."""
    facts = [
        f"{name} {_plain(value)}"
        for name, value in result.figures.items()
        if not name.startswith(_LEFT_OUT) and value not in ("", None)
    ]
    said = "" if not result.faults else f"**did not hold: {result.faults[0]}**; "
    return (said + ", ".join(facts)).replace("|", "/").replace("\n", " ").replace("_", " ")


def _plain(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)


def command(name: str, options: Sequence[str]) -> str:
    """How to measure it again."""
    return " ".join([*options, "--only", f'"{name}"' if re.search(r"[^\w-]", name) else name])


def write(entries: Sequence[Entry], measured: Mapping[str, tuple[str, str]], page: Path = PAGE) -> None:
    """Put what was measured (name -> (figures, command)) into the table. Raises ValueError without a table there."""
    text = page.read_text("utf-8")
    before, found, rest = text.partition(HEAD)
    if not found:
        raise ValueError(f"{page} has no table that begins with {HEAD.splitlines()[0]!r}")
    rows, _, after = rest.partition("\n\n")
    old = {
        cells[1].strip(): (cells[4].strip(), cells[5].strip().strip("`")) for cells in map(_cells, rows.splitlines())
    }
    lines = []
    for entry in entries:
        figures, again = measured.get(entry.name) or old.get(entry.name) or (NOT_YET, command(entry.name, []))
        lines.append(f"| {entry.name} | {entry.method} | {entry.must} | {figures} | `{again}` |")
    page.write_text(before + HEAD + "\n".join(lines) + "\n\n" + after, encoding="utf-8")


def _cells(row: str) -> list[str]:
    return row.split("|")
