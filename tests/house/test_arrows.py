"""Who may import whom: `holdfast` stands on `reconciler`, `reconciler` on `receiver`, and nothing leads back.

A newcomer can so read the house from the ground up, and the process that listens publicly carries nothing it does not
need. The tables below are the rule; CONTRIBUTING.md says why.
"""

import json
import pkgutil
from pathlib import Path

import pytest

import receiver
from receiver.store.sqlite import driver
from tests.house.tree import PACKAGES, Source, begins, imports, keep, lies_in
from tests.support import ROOT, run_holdfast, run_python

THE_DOOR = tuple(
    f"receiver.{name}"
    for name in ("door", "intake", "app", "answers", "admission", "commits", "guard", "exchange", "connections")
)
"""What takes deliveries in. `receiver.server` and `receiver.listeners` are not among it: the private API uses them."""

CLOSED = {
    "receiver": (("reconciler", "holdfast"), "move what both need down into receiver/"),
    "reconciler": (("holdfast", *THE_DOOR), "the door is put together in holdfast/sidecar.py and holdfast/cli/ alone"),
    "receiver.providers": (
        ("receiver.store", "receiver.ledger", "receiver.interpret", "receiver.config", "receiver.spill", *THE_DOOR),
        "an adapter is told and answers; it keeps nothing and fetches nothing",
    ),
    "receiver.store": (
        ("receiver.interpret", "receiver.ledger", "receiver.registrar", "receiver.providers", *THE_DOOR),
        "the store keeps and answers; what things mean is decided above it",
    ),
    "holdfast.simulator": (
        ("reconciler", "receiver.providers", "receiver.store", "receiver.ledger", "receiver.config", "holdfast.cli"),
        "a simulator that knows the adapter would agree with its mistakes",
    ),
    "receiver.clock": (PACKAGES, "it is a leaf, open to all"),
    "receiver.jsontext": (PACKAGES, "it is a leaf, open to all"),
    "receiver.states": (PACKAGES, "it is a leaf, open to all"),
    "receiver.errors": (PACKAGES, "it is a leaf, open to all"),
    "receiver.logs": (PACKAGES, "it is a leaf, open to all"),
}
"""Importer -> (what it must not import, how to mend it). Both stand for themselves and all below them."""

DIALECT = "receiver.store.sqlite"
KNOWS_THE_DIALECT = {
    "receiver/store/": "is the store",
    "holdfast/sidecar.py": "asks which SQLite this is before a second writer is let in",
    "holdfast/cli/check_store.py": "reports on SQLite itself: its version, the file, the file system",
    "holdfast/cli/backup.py": "the online backup is SQLite's own",
}
"""Where one database's own modules may be named, and why."""

TOO_HEAVY = ("httpx", "apscheduler", "starlette", "requests", "urllib3", "reconciler", "holdfast")
"""Not in a process that only takes deliveries: start-up time and attack surface are part of the product."""


def closed_ways(source: Source) -> list[str]:
    """Imports against the direction of the arrows."""
    found = []
    for importer, (closed, mend) in CLOSED.items():
        if not begins(source.module, importer):
            continue
        for line, name in imports(source):
            if any(begins(name, target) and not begins(name, importer) for target in closed):
                found.append(f"{source.path}:{line}: {importer} must not import {name}; {mend}")
    return found


def dialects(source: Source) -> list[str]:
    """Names of one database's own modules, outside the store."""
    if lies_in(source.path, tuple(KNOWS_THE_DIALECT)):
        return []
    mend = "use receiver.store (open_store, look) and the promises of receiver/store/base.py"
    return [
        f"{source.path}:{line}: only the store knows its dialect, this imports {name}; {mend}"
        for line, name in imports(source)
        if begins(name, DIALECT)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_lead_one_way(package: str) -> None:
    """No import leads back up, and no part reaches round its neighbour."""
    keep(closed_ways, package)


def test_only_the_store_knows_its_dialect() -> None:
    """A second database needs a second folder under receiver/store/ and no other change."""
    keep(dialects, *PACKAGES)


def test_every_arrow_names_a_module_that_exists() -> None:
    """A rule about a module that was renamed would guard nothing."""
    missing = [
        name
        for name in (*CLOSED, *(target for closed, _ in CLOSED.values() for target in closed), DIALECT)
        if name != "receiver.app"  # closed to whoever adds it
        and not (ROOT / name.replace(".", "/")).is_dir()
        and not (ROOT / (name.replace(".", "/") + ".py")).is_file()
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("receiver/planted.py", "import reconciler.sweep"),
        ("receiver/store/planted.py", "def f():\n    from receiver import ledger"),
        ("reconciler/planted.py", "from receiver.intake import Intake"),
        ("reconciler/api/planted.py", "from ...holdfast import cli"),
        ("receiver/providers/planted.py", "from .. import store"),
        ("holdfast/simulator/planted.py", "import importlib\nimportlib.import_module('receiver.providers.omnia')"),
        ("receiver/clock.py", "from receiver import records"),
    ],
)
def test_a_planted_way_back_is_found(path: str, text: str) -> None:
    """The rule sees absolute, relative, late and dynamic imports."""
    assert len(closed_ways(Source(path, text))) == 1


def test_the_ways_that_are_open_stay_open() -> None:
    """The private API listens with the receiver's server, and the roof may use everything below it."""
    assert closed_ways(Source("reconciler/service.py", "from receiver.server import HttpServer")) == []
    assert closed_ways(Source("holdfast/sidecar.py", "from receiver.door import Door\nimport reconciler")) == []
    assert len(dialects(Source("holdfast/cli/x.py", "from receiver.store.sqlite import driver"))) == 1


@pytest.mark.process
def test_the_receiver_loads_nothing_heavy_at_run_time() -> None:
    """Importing every module of `receiver`, and what `holdfast receive` starts with, brings in no HTTP client,
    no scheduler and no web framework, directly or through others."""
    everything = [each.name for each in pkgutil.walk_packages(receiver.__path__, "receiver.")]
    assert "receiver.door" in everything

    everything_loads = _loaded(*everything)
    command_loads = _loaded("holdfast.cli.receive", "holdfast.sidecar")

    assert sorted(set(everything_loads) & set(TOO_HEAVY)) == []
    assert sorted(set(command_loads) & (set(TOO_HEAVY) - {"holdfast"})) == []


@pytest.mark.process
def test_one_process_opens_the_database_with_one_library(tmp_path: Path) -> None:
    """Two SQLite libraries on one file in one process break POSIX locks and lose committed rows; sqlite-utils loads
    the standard one beside ours, so what counts is that nobody connects with it (sqlite.org/howtocorrupt.html)."""
    if driver.sqlite3.__name__ == "sqlite3":
        pytest.skip("pysqlite3 is not installed here: the standard library's is the only one there is")
    config = tmp_path / "holdfast.toml"
    assert run_holdfast("init", "--config", str(config), cwd=tmp_path).returncode == 0

    for command in (["migrate"], ["status"], ["jobs", "list"], ["backup", str(tmp_path / "copy.db")], ["prune"]):
        ended = run_python("-c", ONE_LIBRARY, *command, "--config", str(config), cwd=tmp_path)
        assert ended.returncode == 0, (command, ended.stderr)
    forbidden = run_python("-c", ONE_LIBRARY + "\nimport sqlite3; sqlite3.connect(':memory:')", "--help")
    assert "never with" in forbidden.stderr


ONE_LIBRARY = """
import sqlite3, sys
def refuse(*_arguments, **_options): sys.exit("the database is opened with pysqlite3, never with sqlite3")
sqlite3.connect = sqlite3.dbapi2.connect = refuse
from holdfast.cli import main
try: main(sys.argv[1:])
except SystemExit as ended:
    if ended.code: raise
"""


def _loaded(*modules: str) -> list[str]:
    """The top-level packages in sys.modules of a fresh process that imported these."""
    script = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    ended = run_python("-c", script + "print(json.dumps(sorted(sys.modules)))", *modules)
    assert ended.returncode == 0, ended.stderr
    return [str(name).partition(".")[0] for name in json.loads(ended.stdout)]
