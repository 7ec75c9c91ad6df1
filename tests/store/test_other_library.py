"""The record keeps its promises with the interpreter's own SQLite as well, where `pysqlite3` is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUN = """
import sys
sys.modules["pysqlite3"] = None
import pytest
from receiver.store.sqlite import driver
assert driver.sqlite3.__name__ == "sqlite3"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[1:]]))
"""


@pytest.mark.process
def test_the_conformance_suite_holds_with_the_interpreters_own_library() -> None:
    """The same tests, in a process that finds no other library."""
    names = ("test_ahead.py", "test_deliveries.py", "test_jobs.py", "test_outbox.py")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *(str(HERE / name) for name in names)],
        cwd=HERE.parent.parent,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout
