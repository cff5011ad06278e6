"""What the tests of repairs share."""

from __future__ import annotations

import pytest
import torch
from repair_scenes import backdoored, films


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Sums of several threads differ in their last digits, and training makes other models of it.

    What an audit finds in networks of so few weights then differs with the number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def reader():
    """A backdoored reader of phantoms; nothing changes it."""
    return backdoored(films(800, 1))
