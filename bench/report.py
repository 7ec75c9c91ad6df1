"""What was measured, as a person reads it: tables and charts in Markdown, and the machine it was measured on.

Charts are Mermaid text: they are drawn where the document is shown, and two runs can be compared as text.
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure, Section
from receiver.store.sqlite.driver import version

HEAD = "| figure | median | spread | reach | note |\n|---|---|---|---|---|"


def row(figure: Figure) -> str:
    """One figure as a line of a table."""
    value = "not measured" if figure.value is None else f"{figure.value:g} {figure.unit}".strip()
    spread = "" if figure.low is None or figure.high is None else f"{figure.low:g} to {figure.high:g}"
    verdict = {None: "", True: ": reached", False: ": **not reached**"}[figure.reached]
    return f"| {figure.name} | {value} | {spread} | {figure.reach}{verdict} | {figure.note} |"


def table(section: Section) -> str:
    """One section."""
    return "\n".join([f"### {section.title}", "", HEAD, *(row(figure) for figure in section.figures)])


def chart(section: Section) -> str:
    """The section's series over its rounds; empty when it has none, or only one value of each."""
    series = {name: values for name, values in section.series.items() if len(values) > 1}
    if not series:
        return ""
    rounds = max(len(values) for values in series.values())
    lines = [
        "```mermaid",
        "xychart-beta",
        f'  title "{", ".join(series)}, round by round"',
        f"  x-axis [{', '.join(str(n + 1) for n in range(rounds))}]",
        *(f"  line [{', '.join(f'{value:g}' for value in values)}]" for values in series.values()),
        "```",
    ]
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """What the figures were measured on, as far as the system says."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "processor": f"{os.cpu_count()} x {model}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": version(),
    }


def document(sections: Sequence[Section], command: str) -> str:
    """All of it."""
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    parts = [f"Measured by `{command}` on: {facts}."]
    for section in sections:
        parts += [table(section), chart(section)]
    return "\n\n".join(part for part in parts if part) + "\n"
