"""What holds for every test: one event loop kind, a clean environment, no settings left over from another test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from tests.support import foreign_variables

# Two shared cores make the time of one example meaningless, and a database of old failures would make a fresh clone
# test something else than this tree does.
hypothesis.settings.register_profile("house", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asyncio alone: the product does not run on anything else, and an installed trio must not double the suite."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine, of a proxy or of a supervisor reaches a test."""
    for name in foreign_variables(os.environ):
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Every test finds structlog as it comes, and leaves no bound fields behind."""
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files cost no disk: in memory where the machine has such a place, `tmp_path` elsewhere. For tests
    that commit thousands of times and ask nothing about durability."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
