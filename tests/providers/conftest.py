"""What every provider test is given: each provider file found, one at a time."""

import pytest

from receiver.providers import provider_named, provider_names
from receiver.providers.base import Provider


@pytest.fixture(params=provider_names())
def provider(request: pytest.FixtureRequest) -> Provider:
    """Every provider found by scanning the folder."""
    return provider_named(request.param)
