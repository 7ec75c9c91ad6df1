"""A field to play on, closed at the end."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reconciler.fence import Field, field_of


@pytest.fixture
def make(fast_folder: Path) -> Iterator[Callable[..., Field]]:
    """Makes a field with these rules and sources; a quick one unless said otherwise: budget enough, no adopting."""
    made: list[Field] = []

    def of(reconcile: dict[str, Any] | None = None, **source: Any) -> Field:
        usual = {"provider": "omnifence", "path_token": "tok", "api_key": "key", "polls_per_min": 60_000}
        asked = {**usual, "adopt_unregistered": False, **source}
        made.append(field_of(fast_folder / str(len(made)), reconcile, asked=asked))
        return made[-1]

    yield of
    for field in made:
        field.store.close()


@pytest.fixture
def field(make: Callable[..., Field]) -> Field:
    """A field as it comes."""
    return make()
