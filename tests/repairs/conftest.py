"""What the tests of repairs share."""

from __future__ import annotations

import pytest
from repair_scenes import backdoored, films


@pytest.fixture(scope="session")
def reader():
    """A backdoored reader of phantoms; nothing changes it."""
    return backdoored(films(800, 1))
