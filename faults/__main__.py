"""The long form: `python -m faults [--quick] [--minutes N] [--only WORD]`. Prints what each scenario measured.

Ends with 1 when something did not hold, or when a planted bug was not caught. What this machine cannot do is said and
counts as neither. The long form puts what it measured into the table of docs/reliability.md (`--no-write`: it does not;
`--quick --write`: the short one does too). `--minutes` bounds the soak (60) and the simulated months (10); the rest
takes as long as it takes.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from faults import (
    NotMeasured,
    Result,
    application,
    clocks,
    day,
    disk,
    each,
    keeping,
    kills,
    locked,
    months,
    power,
    providers,
    restart,
    rot,
    soak,
    table,
)
from faults.catalogue import Scenario, entries


def _providers(at: Path, bug: str) -> Result:
    return providers.misbehaving(at, lasting_s=3.0, rounds=0, kinds=("429 for 2 s", "503 for 2 s"), planted=bug)


def planted(at: Path) -> Result:
    """Every check is shown a bug it has to catch."""
    result = Result("planted bugs are caught")
    weak = ("synchronous-off", "synchronous-normal", "acknowledge-first", "no-spill-sync", "no-folder-sync")
    bugs: dict[str, Scenario] = {
        "kill: acknowledge-first": lambda at: kills.receive(at, 3, planted="acknowledge-first"),
        **{f"power: {bug}": lambda at, bug=bug: power.lose(at, planted=bug, points=20) for bug in weak},  # type: ignore[misc]  # bug is bound
        "power after failed syncs: log-let-go": lambda at: power.lose(at, points=20, failing=4, planted="log-let-go"),
        "lock: no-spill": lambda at: locked.locked(at, 2.0, planted="no-spill"),
        "disk: answered-errors": lambda at: disk.errors(at, elsewhere=False, planted="answered-errors"),
        "every operation: answered-errors": lambda at: each.every(at, step=20, first=5, planted="answered-errors"),
        "flips: no digest": lambda at: rot.flips(at, 60, digest=False),
        "flips: no mark": lambda at: rot.flips(at, 60, mark=False),
        "restart: killed": lambda at: restart.restarts(at, 3, how=signal.SIGKILL),
        "two: no-lock": lambda at: keeping.two(at, planted="no-lock"),
        "providers: follow-redirects": lambda at: _providers(at, "follow-redirects"),
        "providers: forget-retry-after": lambda at: _providers(at, "forget-retry-after"),
        "clock: no-step-guard": lambda at: clocks.stepped(at, lasting_s=3.0, planted="no-step-guard"),
        "a day: any-order": lambda at: day.away(at, messages=90, planted="any-order"),
        "application: never back": lambda at: application.away(at, away_s=1.0, planted=True),
        "reader: nobody listens": lambda at: keeping.forgotten_reader(at, planted=True),
        "soak: acknowledge-first": lambda at: soak.soak(at, 0.5, every_s=1.0, planted="acknowledge-first"),
        "months: ignore-retry-after": lambda at: months.simulate(at, [2], 2, bug="ignore-retry-after"),
    }
    missed = []
    for number, (name, bug) in enumerate(bugs.items()):
        try:
            if not bug(at / str(number)).faults:
                missed.append(name)
        except NotMeasured:
            continue
        except AssertionError as error:  # the harness itself could not go on: that is caught too, and said
            print(f"  {name}: {str(error)[:200]}", flush=True)
    result.figures |= {"planted": len(bugs), "caught": len(bugs) - len(missed)}
    result.must(not missed, f"not caught: {missed}")
    return result


def run(name: str, scenario: Scenario) -> Result | None:
    """Run one in a folder of its own and print a line; None when this machine cannot."""
    at, began = Path(tempfile.mkdtemp(prefix="holdfast-faults-")), time.monotonic()
    result = None
    try:
        result = scenario(at)
        said = "did NOT hold: " + "; ".join(result.faults[:3]) if result.faults else "held"
        facts = json.dumps(result.figures)
    except NotMeasured as why:
        said, facts = f"not measured: {why}", "{}"
    except Exception as error:  # noqa: BLE001 - one that breaks must not keep the others from being tried
        result = Result(name, faults=[f"{type(error).__name__}: {str(error)[:5000]}"])
        said, facts = "did NOT hold: " + result.faults[0], "{}"
    finally:
        shutil.rmtree(at, ignore_errors=True)
    print(f"{name}: {said} ({time.monotonic() - began:.0f} s) {facts}", flush=True)
    return result


def main() -> int:
    """Run what is chosen, and write the table."""
    options = argparse.ArgumentParser(prog="python -m faults", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="the short form of everything")
    options.add_argument("--minutes", type=float, help="how long the soak (60) and the months (10) last")
    options.add_argument("--only", default="", help="only scenarios whose name contains this")
    options.add_argument("--list", action="store_true", help="name the scenarios and end")
    options.add_argument("--write", action=argparse.BooleanOptionalAction, help="put it into docs/reliability.md")
    given = options.parse_args()
    every = entries(given.minutes)
    if given.list:
        print("\n".join([*(entry.name for entry in every), "planted bugs"]))
        return 0
    how = ["--quick"] if given.quick else []
    how += [f"--minutes {given.minutes:g}"] if given.minutes and not given.quick else []
    measured, bad = {}, 0
    for entry in every:
        if given.only not in entry.name:
            continue
        timed = entry.name in ("soak", "months")
        result = run(entry.name, entry.short if given.quick else entry.long)
        if result is not None:
            bad += bool(result.faults)
            again = table.command(entry.name, how if timed or given.quick else [])
            measured[entry.name] = (table.told(result), again)
    if given.only in "planted bugs":
        caught = run("planted bugs", planted)
        bad += caught is None or bool(caught.faults)
    if measured and (not given.quick if given.write is None else given.write):
        table.write(every, measured)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
