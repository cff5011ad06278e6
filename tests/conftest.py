"""What all tests share."""

import os
import shutil
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

REAL_DATA = os.environ.get("LEADAPRON_REAL_DATA", "")


def pytest_collection_modifyitems(items):
    """`real_data("nih128")` skips where the folder of real films doesn't hold that."""
    for item in items:
        for mark in item.iter_markers("real_data"):
            missing = [name for name in mark.args if not (Path(REAL_DATA) / name).is_dir()]
            if not REAL_DATA:
                item.add_marker(pytest.mark.skip(reason="LEADAPRON_REAL_DATA names no folder"))
            elif missing:
                item.add_marker(pytest.mark.skip(reason=f"{missing[0]} is absent"))


@pytest.fixture(scope="session")
def real_data():
    """The folder of real films, for tests with the mark of that name."""
    return Path(REAL_DATA).resolve()


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


@pytest.fixture(scope="module")  # its event loop would be in the way of other modules' own
def browser():
    """A browser, for tests with that mark."""
    api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    assert path, "no chromium: install the package chromium, or INSTALL=1 make test-pages"
    with api.sync_playwright() as playwright:
        # As root, as in a container, it has no sandbox of its own; the pages are ours.
        opened = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()
