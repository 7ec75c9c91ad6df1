"""`python -m bench [--full] [--only NAME] [--json PATH] [--markdown PATH]`: measures this machine and prints tables."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import aftermath, footprint, growth, intake, latency, pipeline
from bench.figures import Plan, Section
from bench.report import document, machine, table

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the long form")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="only these sections")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="also write a document with tables and charts here")
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
            print(f"\n{table(section)}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        figures = {"machine": machine(), "sections": [section.as_json() for section in done]}
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if given.markdown:
        command = " ".join(["python -m bench", *sys.argv[1:]])
        given.markdown.write_text(document(done, command), encoding="utf-8")


if __name__ == "__main__":
    main()
