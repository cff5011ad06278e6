"""What all tests share."""

import sys

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded films go to a folder of the session's, not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEADAPRON_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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
