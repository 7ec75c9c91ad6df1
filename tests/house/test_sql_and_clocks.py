"""SQL stands in the store, real clocks in one file: a second database and time in a test are one place's matter."""

import ast
import re

import pytest

from tests.house.tree import PACKAGES, Source, dotted, imports, keep, lies_in, literals

STATEMENT = re.compile(
    r"\b(?:SELECT|INSERT INTO|INSERT OR \w+|UPDATE \w+ SET|DELETE FROM|PRAGMA|VACUUM"
    r"|(?:CREATE|DROP) (?:UNIQUE )?(?:TABLE|INDEX|VIEW|TRIGGER)|ALTER TABLE|BEGIN IMMEDIATE|ON CONFLICT|RETURNING)\b"
    r"|(?i:\bselect\s[^.]*?\sfrom\s+\w+\s+(?:where|order|group|limit)\b"
    r"|\binsert into\s+\w+\s*\(|\bdelete from\s+\w+\s+where\b)",
    re.DOTALL,
)

SQL_PLACES = ("receiver/store/",)
SHOWN_TO_PEOPLE = {
    "holdfast/cli/demo.py": "prints three queries worth trying",
    "holdfast/demo/rehearsal.py": "prints three queries worth trying",
    "holdfast/cli/init.py": "tells how to look into the file",
}
"""Files whose SQL is text for a reader to type, never run by us, with the reason."""

CLOCKS = {
    "time": ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime", "gmtime",
             "ctime", "sleep"),
    "datetime": ("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
}  # fmt: skip
"""Module -> what in it reads (or waits on) a real clock."""
READINGS = {f"{module}.{each}" for module, all_ in CLOCKS.items() for each in all_} | set(CLOCKS["datetime"])
CLOCK_PLACES = (
    "receiver/clock.py",
    "holdfast/simulator/",  # another machine's clock
    "holdfast/demo/",  # a rehearsal in real time, watched by a person
    "holdfast/cli/demo.py",
)


def sql(source: Source) -> list[str]:
    """Statements in string literals, outside the store."""
    if lies_in(source.path, (*SQL_PLACES, *SHOWN_TO_PEOPLE)):
        return []
    mend = "give the store a method with a promise (receiver/store/base.py) and put the statement into its table's file"
    return [
        f"{source.path}:{line}: SQL outside receiver/store/ ({found[0]!r}); {mend}"
        for line, text in literals(source)
        if (found := STATEMENT.search(text))
    ]


def clocks(source: Source) -> list[str]:
    """Calls and imports that read a real clock, outside clock.py."""
    if lies_in(source.path, CLOCK_PLACES):
        return []
    mend = "take a receiver.clock.Clock (or `now`) as an argument"
    found = []
    for line, name in imports(source):
        if name in READINGS:
            found.append(f"{source.path}:{line}: {name} is imported; {mend}")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and (name := dotted(node)) in READINGS:
            found.append(f"{source.path}:{node.lineno}: {name} reads a real clock; {mend}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_sql_stands_in_the_store(package: str) -> None:
    """A reader of the store has seen every statement there is."""
    keep(sql, package)


@pytest.mark.parametrize("package", PACKAGES)
def test_clocks_are_read_in_one_file(package: str) -> None:
    """Whatever depends on time can be tested without waiting."""
    keep(clocks, package)


@pytest.mark.parametrize(
    "text",
    [
        "q = 'SELECT 1'",
        "q = f'''\n  UPDATE jobs SET state = {x}'''",
        "q = 'insert into jobs (source) values (?)'",
        "q = 'DELETE FROM ' + table",
        "q = 'PRAGMA wal_checkpoint'",
        "q = 'CREATE UNIQUE INDEX i ON t (c)'",
        "q = 'select id from jobs where state = 1'",
    ],
)
def test_planted_sql_is_found(text: str) -> None:
    """Upper case, lower case, f-strings, and pieces put together."""
    assert len(sql(Source("reconciler/planted.py", text))) == 1


def test_prose_is_not_sql() -> None:
    """Docstrings and messages may speak of selecting, updating and deleting."""
    text = '"""SELECT the jobs."""\nx = "select one from the list, update jobs, delete from memory"\n'
    assert sql(Source("reconciler/planted.py", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import time\nx = time.time()",
        "import time\nf = time.monotonic",
        "import datetime\nx = datetime.datetime.now(datetime.UTC)",
        "from datetime import datetime, UTC\nx = datetime.now(UTC)",
        "from time import perf_counter",
        "import time\nwait = time.sleep",
    ],
)
def test_a_planted_clock_is_found(text: str) -> None:
    """By call, by reference and by import."""
    assert len(clocks(Source("receiver/planted.py", text))) == 1


def test_computing_with_times_is_no_clock() -> None:
    """Types, conversions and the event loop's own timers stay free to use."""
    text = "from datetime import datetime, UTC\nx = datetime.fromtimestamp(0, UTC)\ny = loop.time()\nimport time\n"
    assert clocks(Source("receiver/planted.py", text)) == []
