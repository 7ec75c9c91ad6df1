"""`python -m bench [--full] [--only NAME] [--json PATH]`: measures this machine and prints a table."""

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import aftermath, footprint, growth, intake, latency, pipeline
from bench.figures import Figure, Plan, Section

SECTIONS: dict[str, Callable[[Plan], Section]] = {
    "intake": intake.receive,
    "run": intake.run,
    "paced": latency.paced,
    "stalled": latency.stalled,
    "pipeline": pipeline.pipeline,
    "push": pipeline.push,
    "aftermath": aftermath.aftermath,
    "memory": footprint.memory,
    "disk": footprint.disk,
    "activation": footprint.activation,
    "growth": growth.growth,
}


def row(figure: Figure) -> str:
    """One figure as a line of a Markdown table."""
    value = "not measured" if figure.value is None else f"{figure.value:g} {figure.unit}"
    spread = "" if figure.low is None or figure.high is None else f"{figure.low:g} to {figure.high:g}"
    verdict = {None: "", True: "reached", False: "not reached"}[figure.reached]
    return f"| {figure.name} | {value} | {spread} | {figure.reach} {verdict} | {figure.note} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the long form")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="only these sections")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731 - a one-liner
    plan = Plan(folder, full=given.full, say=say)
    done = []
    try:
        for name in given.only or SECTIONS:
            say(f"measuring {name} …")
            section = SECTIONS[name](plan)
            done.append(section)
            print(f"\n### {section.title}\n\n| figure | median | spread | reach | note |\n|---|---|---|---|---|")
            print("\n".join(row(figure) for figure in section.figures), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        machine = {"python": platform.python_version(), "system": platform.platform()}
        document = {"machine": machine, "sections": [section.as_json() for section in done]}
        given.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
