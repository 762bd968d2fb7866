"""What all tests of webhooks share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio alone, as the service does."""
    return "asyncio"
