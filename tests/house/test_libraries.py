"""Where each library may stand: leaving one, or its next major version, touches one place.

What an import costs is part of the product too: the intake answers from a process that loaded little.
"""

import re
import sys
import tomllib

import pytest

from tests.house.tree import PACKAGES, Source, imports, keep, lies_in
from tests.support import ROOT

EVERYWHERE = ("receiver/", "reconciler/", "holdfast/")
PLAY = ("holdfast/simulator/", "holdfast/demo/")
"""Simulated providers and the sample application: what is on the other side of the wire."""

PLACES: dict[str, tuple[str, ...]] = {
    "anyio": EVERYWHERE,
    "apscheduler": ("reconciler/schedule.py",),
    "click": ("holdfast/cli/",),
    "httptools": ("receiver/guard.py", "reconciler/pushing.py"),
    "httpx": (
        "reconciler/outbound.py",
        "reconciler/passing.py",  # carries the application's own requests: bytes through, nothing asked or judged
        "holdfast/client.py",
        "holdfast/tracking.py",  # the client's transport that records jobs as they are submitted
        "holdfast/cli/",
        *PLAY,
    ),
    "jinja2": ("reconciler/page/",),
    "prometheus_client": ("reconciler/metrics.py",),
    "psycopg": ("receiver/store/postgres/",),
    "pydantic": EVERYWHERE,
    "pydantic_core": EVERYWHERE,
    "pysqlite3": ("receiver/store/sqlite/driver.py",),
    "python_multipart": PLAY,
    "rich": ("holdfast/cli/",),
    "sqlite3": ("receiver/store/sqlite/driver.py",),
    "sqlite_utils": ("receiver/store/sqlite/steps.py",),
    "starlette": ("reconciler/api/", *PLAY),
    "structlog": EVERYWHERE,
    "uvicorn": ("receiver/server.py", "receiver/wire.py", "receiver/exchange.py", *PLAY),
}
"""Library -> the files and folders that may import it."""

INSTEAD = {
    "pickle": "renaming a class would break yesterday's rows; store text",
    "shelve": "renaming a class would break yesterday's rows; store text",
    "urllib.request": "it has no separate timeouts; ask through reconciler/outbound.py",
    "http.client": "ask through reconciler/outbound.py",
    "requests": "ask through reconciler/outbound.py",
    "httpx2": "one HTTP client; a switch is one line in reconciler/outbound.py",
    "aiosqlite": "one writer thread owns the writing connection",
    "apsw": "two SQLite libraries in one process lose committed rows",
    "random.SystemRandom": "take the `secrets` module for what nobody may guess",
}
"""Never imported by the product, with what to do instead."""

BROUGHT_ALONG = {
    "python-multipart": "Starlette reads forms with it, for the simulated uploads",
    "tzdata": "time zones where the system has none",
}
"""Declared without an import of ours, and why."""


def misplaced(source: Source) -> list[str]:
    """Libraries outside their place, unknown ones, and those never to be used."""
    found = []
    for line, name in imports(source):
        top = name.partition(".")[0]
        where = f"{source.path}:{line}"
        found += [f"{where}: {name}: {why}" for banned, why in INSTEAD.items() if (name + ".").startswith(banned + ".")]
        if top in PLACES and not lies_in(source.path, PLACES[top]):
            found.append(f"{where}: {top} may be imported only in {', '.join(PLACES[top])}; call that instead")
        elif top not in PLACES and top not in sys.stdlib_module_names and top not in (*PACKAGES, "tests"):
            found.append(f"{where}: {top} is new here: declare it in pyproject.toml and give it a place in {__name__}")
    return found


def sqlite_elsewhere(source: Source) -> list[str]:
    """A second door to SQLite, tests included: they take the module from the driver."""
    mend = "take it from receiver.store.sqlite.driver, which decides which library this process uses"
    return [
        f"{source.path}:{line}: {name} is imported here; {mend}"
        for line, name in imports(source)
        if name.partition(".")[0] in ("sqlite3", "pysqlite3", "apsw") and source.path not in PLACES["sqlite3"]
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_library_stands_in_its_place(package: str) -> None:
    """No library is imported outside the files that exist to hold it."""
    keep(misplaced, package)


def test_sqlite_has_one_door() -> None:
    """Not even a test opens the database with a second library."""
    keep(sqlite_elsewhere, "tests", "bench")


def test_what_is_declared_is_used() -> None:
    """Every dependency in pyproject.toml is imported somewhere, or has its reason here; and the other way round."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {re.split(r"[<>=!~;\[ ]", each, maxsplit=1)[0] for each in project["dependencies"]}
    optional = {
        re.split(r"[<>=!~;\[ ]", each, maxsplit=1)[0]
        for name, extra in project["optional-dependencies"].items()
        if name != "dev"
        for each in extra
    }
    imported = {name.partition(".")[0] for _, name in _all_imports()} - sys.stdlib_module_names - set(PACKAGES)

    assert {each for each in declared - set(BROUGHT_ALONG) if each.replace("-", "_") not in imported} == set()
    assert {each for each in imported if each.replace("_", "-") not in declared | optional} - {"pydantic_core"} == set()


def _all_imports() -> list[tuple[int, str]]:
    from tests.house.tree import sources

    return [found for source in sources(*PACKAGES) for found in imports(source)]


@pytest.mark.parametrize(
    ("path", "text", "hint"),
    [
        ("receiver/planted.py", "import httpx", "only in reconciler/outbound.py"),
        ("reconciler/sweep.py", "from apscheduler.triggers import interval", "only in reconciler/schedule.py"),
        ("reconciler/planted.py", "def f():\n    import sqlite3", "only in receiver/store/sqlite/driver.py"),
        ("holdfast/planted.py", "from starlette.routing import Route", "only in reconciler/api/"),
        ("receiver/planted.py", "import numpy", "is new here"),
        ("receiver/planted.py", "from urllib import request", "reconciler/outbound.py"),
        ("receiver/planted.py", "import pickle", "store text"),
    ],
)
def test_a_planted_library_is_found(path: str, text: str, hint: str) -> None:
    """The rule names the place to go instead."""
    (fault,) = misplaced(Source(path, text))
    assert hint in fault


def test_a_test_with_its_own_sqlite_is_found() -> None:
    """Also where the import is dynamic."""
    assert len(sqlite_elsewhere(Source("tests/x.py", "import importlib\nimportlib.import_module('sqlite3')"))) == 1
