"""What all tests share."""

import sys

import pytest


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks gain nothing from more, and threads that share a core wait for each other."""
    torch = sys.modules.get("torch")  # the tests that never load it needn't wait for it
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
