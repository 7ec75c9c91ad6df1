"""An office for each test, closed behind it."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.office import Office

Open = Callable[..., Office]


@pytest.fixture
def open_office(tmp_path: Path) -> Iterator[Open]:
    """Opens offices; all are closed after the test."""
    opened: list[Office] = []

    def open_one(**options: Any) -> Office:
        office = Office(tmp_path / f"record{len(opened)}.db", **options)
        opened.append(office)
        return office

    yield open_one
    for office in opened:
        office.app.close()
        office.store.close()


@pytest.fixture
def office(open_office: Open) -> Office:
    """An office without a token."""
    return open_office()


@pytest.fixture
async def client(office: Office) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with office.client() as client:
        yield client
