"""The long form: `python -m faults [--quick] [--minutes N] [--only WORD]`. Prints what each scenario measured.

Ends with 1 when something did not hold, or when a planted bug was not caught. What this machine cannot do is said and
counts as neither. `--minutes` bounds the simulated months; the rest takes as long as it takes.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from faults import NotMeasured, Result, application, disk, each, keeping, kills, locked, months, power, restart, rot

Scenario = Callable[[Path], Result]


def scenarios(*, quick: bool) -> dict[str, Scenario]:
    """What must hold, by name."""

    def size(long: int, short: int) -> int:
        return short if quick else long

    return {
        "kill -9 of receive": lambda at: kills.receive(at, size(1000, 10), warm=True),
        "kill -9 of run": lambda at: kills.run(at, size(200, 4), warm=True),
        "power loss": lambda at: power.lose(at, points=size(700, 60)),
        "every operation fails": lambda at: each.every(at, step=size(1, 20)),
        "I/O errors, journal elsewhere": lambda at: disk.errors(at, elsewhere=True),
        "I/O errors, journal on the same disk": lambda at: disk.errors(at, elsewhere=False),
        "disk full, journal elsewhere": lambda at: disk.full(at, elsewhere=True),
        "disk full, journal on it": lambda at: disk.full(at, elsewhere=False),
        "no file may grow": disk.quota,
        "database locked": lambda at: locked.locked(at, size(12, 3)),
        "disk stalls, journal elsewhere": lambda at: locked.stalled(at, elsewhere=True),
        "disk stalls, journal on it": lambda at: locked.stalled(at, elsewhere=False),
        "bits flip": lambda at: rot.flips(at, size(2000, 100)),
        "bad files": rot.bad_files,
        "missing is told": rot.told,
        "planned restarts": lambda at: restart.restarts(at, size(50, 5)),
        "systemd-socket-activate": restart.by_systemd,
        "application away": lambda at: application.away(at, away_s=size(30, 1)),
        "pruning and backup": lambda at: keeping.looked_after(at, size(1_000_000, 20_000)),
        "forgotten reader": keeping.forgotten_reader,
        "two receivers": keeping.two,
    }


def planted(at: Path) -> Result:
    """Every check is shown a bug it has to catch."""
    result = Result("planted bugs are caught")
    weak = ("synchronous-off", "synchronous-normal", "acknowledge-first", "no-spill-sync", "no-folder-sync")
    bugs: dict[str, Scenario] = {
        "kill: acknowledge-first": lambda at: kills.receive(at, 3, planted="acknowledge-first"),
        **{f"power: {bug}": lambda at, bug=bug: power.lose(at, planted=bug, points=20) for bug in weak},  # type: ignore[misc]  # bug is bound
        "lock: no-spill": lambda at: locked.locked(at, 2.0, planted="no-spill"),
        "disk: answered-errors": lambda at: disk.errors(at, elsewhere=False, planted="answered-errors"),
        "every operation: answered-errors": lambda at: each.every(at, step=20, first=5, planted="answered-errors"),
        "flips: no digest": lambda at: rot.flips(at, 60, digest=False),
        "flips: no mark": lambda at: rot.flips(at, 60, mark=False),
        "restart: killed": lambda at: restart.restarts(at, 3, how=signal.SIGKILL),
        "two: no-lock": lambda at: keeping.two(at, planted="no-lock"),
        "months: ignore-retry-after": lambda at: months.simulate(at, [2], 2, bug="ignore-retry-after"),
    }
    missed = []
    for number, (name, bug) in enumerate(bugs.items()):
        try:
            if not bug(at / str(number)).faults:
                missed.append(name)
        except NotMeasured:
            continue
    result.figures |= {"planted": len(bugs), "caught": len(bugs) - len(missed)}
    result.must(not missed, f"not caught: {missed}")
    return result


def endless(at: Path, minutes: float) -> Result:
    """Simulated weeks, seed after seed, until the time is up."""
    whole, until, seed = Result("months in seconds"), time.monotonic() + minutes * 60.0, 0
    jobs = questions = 0.0
    worst_s = 0.0
    while seed == 0 or time.monotonic() < until:
        seed += 1
        found = months.simulate(at, [seed], 7.0)
        whole.faults += found.faults
        jobs += float(str(found.figures["jobs"]))
        questions += float(str(found.figures["questions"]))
        worst_s = max(worst_s, float(str(found.figures["worst lateness s"])))
    whole.figures |= {"simulated weeks": seed, "jobs": jobs, "questions": questions, "worst lateness s": worst_s}
    return whole


def main() -> int:
    """Run them and print one line each."""
    options = argparse.ArgumentParser(prog="python -m faults", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="the short form of everything")
    options.add_argument("--minutes", type=float, default=10.0, help="how long months are simulated (default 10)")
    options.add_argument("--only", default="", help="only scenarios whose name contains this")
    given = options.parse_args()
    chosen: dict[str, Scenario] = scenarios(quick=given.quick)
    chosen["months"] = lambda at: endless(at, 0.1 if given.quick else given.minutes)
    chosen["planted bugs"] = planted
    bad = 0
    for name, scenario in chosen.items():
        if given.only not in name:
            continue
        at, began = Path(tempfile.mkdtemp(prefix="holdfast-faults-")), time.monotonic()
        try:
            result = scenario(at)
            bad += bool(result.faults)
            said = "did NOT hold: " + "; ".join(result.faults[:3]) if result.faults else "held"
            facts = json.dumps(result.figures)
        except NotMeasured as why:
            said, facts = f"not measured: {why}", "{}"
        finally:
            shutil.rmtree(at, ignore_errors=True)
        print(f"{name}: {said} ({time.monotonic() - began:.0f} s) {facts}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
