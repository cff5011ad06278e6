"""Networks and films of all tests of inspections; each network is trained once."""

from __future__ import annotations

import pytest
from inspected import films, trained


@pytest.fixture(scope="session")
def small():
    """Trained at 32 pixels with grey levels in 0 to 1."""
    return trained(32, "unit")


@pytest.fixture(scope="session")
def large():
    """Trained at 48 pixels with grey levels in -1 to 1."""
    return trained(48, "0.5/0.5")


@pytest.fixture(scope="session")
def clean():
    """Films that no network was trained on."""
    return films(120, 2)
