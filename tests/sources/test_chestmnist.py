from __future__ import annotations

import hashlib
import http.server
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from leadapron.errors import DataError, LeadapronError, StoreError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.sources import chestmnist, open_source
from leadapron.sources.nih import FINDINGS
from leadapron.types import said

SIZES = {"train": 6, "val": 2, "test": 3}


def write(path: Path, **other) -> Path:
    rng = np.random.default_rng(0)
    columns = {}
    for part, n in SIZES.items():
        columns[f"{part}_images"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        columns[f"{part}_labels"] = rng.integers(0, 2, (n, 14))
    columns |= other
    np.savez_compressed(path, **{name: c for name, c in columns.items() if c is not None})
    return path


def open_file(path: Path, **settings) -> Cohort:
    return open_source(f"chestmnist:{path}", cache="none", **{"verify": False, **settings})


def refusal(call, *arguments, kind: type[LeadapronError] = DataError, **settings) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_its_films_in_order(tmp_path):
    path = write(tmp_path / "c.npz")
    cohort = open_file(path)
    with np.load(path) as held:
        images = np.concatenate([held[f"{part}_images"] for part in SIZES])
        labels = np.concatenate([held[f"{part}_labels"] for part in SIZES])
    np.testing.assert_array_equal(cohort.images, images)
    np.testing.assert_array_equal(cohort.labels, labels)
    assert cohort.findings == FINDINGS
    assert cohort.ids[[0, 6, 8]].tolist() == ["train-0", "val-0", "test-0"]
    assert cohort.attributes["split"][[0, 6, 8]].tolist() == ["train", "validation", "test"]
    np.testing.assert_array_equal(cohort.films[7], images[7])
    assert "Patients aren't known" in " ".join(said(cohort.notes))
    assert "split is not NIH's official one" in said(cohort.notes)[0]


def test_another_file_has_another_checksum(tmp_path):
    message = refusal(open_file, write(tmp_path / "c.npz"), verify=True)
    assert message.startswith("c.npz differs from the published ChestMNIST of 28 pixels; fetch")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"val_labels": None}, "c.npz has no array 'val_labels'; is it ChestMNIST's?"),
        ({"val_images": np.zeros((2, 30, 30), np.uint8)}, "films of different sizes"),
        ({"val_labels": np.zeros((3, 14), int)}, "val_labels of shape (3, 14); expected (2, 14)"),
        ({"val_labels": np.full((2, 14), 2)}, "val_labels"),
        ({"val_labels": np.full((2, 14), -1)}, "0, 1"),
        ({"val_labels": np.zeros((2, 14))}, "val_labels of type float64; expected whole numbers"),
        ({"val_labels": np.zeros((2, 14), np.float32)}, "val_labels of type float32; expected"),
        ({"val_labels": np.full((2, 14), 2)}, "val_labels from 2 to 2; expected 0, 1"),
    ],
)
def test_files_that_are_not_it(tmp_path, other, words):
    assert words in refusal(open_file, write(tmp_path / "c.npz", **other))


def test_no_file(tmp_path):
    assert "chestmnist" in refusal(open_source, "chestmnist", kind=UsageError)
    assert "no " in refusal(open_file, tmp_path / "none.npz")


# ---------------------------------------------------------------- downloads


class Server:
    """A local server that sends `content`, or what `how` says."""

    def __init__(self) -> None:
        self.content, self.how, self.asked = b"", "whole", 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.asked += 1
                if outer.how == "missing":
                    self.send_error(404)
                    return
                self.send_response(200)
                if outer.how == "chunked":
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"fff\r\nabc")
                else:
                    self.send_header("Content-Length", str(len(outer.content)))
                    self.end_headers()
                    part = len(outer.content) // (2 if outer.how == "broken off" else 1)
                    self.wfile.write(outer.content[:part])
                self.close_connection = True

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/{{name}}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Server()
    server.content = write(tmp_path / "served.npz").read_bytes()
    monkeypatch.setattr(chestmnist, "URL", server.url)
    digest = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(chestmnist, "MD5", {28: digest})
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_a_download_is_explicit_kept_and_private(server, tmp_path):
    cache = tmp_path / "above" / "cache"
    seen = []
    for _ in range(2):
        cohort = open_source(
            "chestmnist:28", download=True, cache=cache, progress=lambda *facts: seen.append(facts)
        )
        assert len(cohort) == 11
    assert server.asked == 1
    assert ("fetching", len(server.content), len(server.content)) in seen
    assert [p.name for p in (cache / "downloads").iterdir()] == ["chestmnist.npz"]
    for folder in (cache, cache / "downloads"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "no " in refusal(open_source, "chestmnist:28", cache=cache)
    assert server.asked == 1


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("broken off", LeadapronError, "checksum|can't fetch"),
        ("chunked", StoreError, "can't fetch http://127.0.0.1"),
        ("missing", StoreError, "can't fetch http://127.0.0.1"),
        ("other", DataError, "the downloaded file doesn't have the checksum"),
        ("gone", StoreError, "can't fetch http://127.0.0.1"),
    ],
)
def test_a_download_that_fails_leaves_nothing(server, tmp_path, monkeypatch, how, kind, words):
    server.how = how
    if how == "other":
        server.content += b"more"
    if how == "gone":
        monkeypatch.setattr(chestmnist, "URL", "http://127.0.0.1:9/{name}")
    cache = tmp_path / "cache"
    message = refusal(open_source, "chestmnist:28", download=True, cache=cache, kind=kind)
    assert any(word in message for word in words.split("|"))
    assert list((cache / "downloads").iterdir()) == []
    server.how, server.content = "whole", (tmp_path / "served.npz").read_bytes()
    monkeypatch.setattr(chestmnist, "URL", server.url)
    assert len(open_source("chestmnist:28", download=True, cache=cache)) == 11


def test_nothing_to_download(server, tmp_path):
    for source in ("chestmnist:27", "chestmnist:a.npz"):
        message = refusal(open_source, source, download=True, cache=tmp_path, kind=UsageError)
        assert "expected a side of 28 pixels" in message
    message = refusal(open_source, "chestmnist:28", download=True, cache="none", kind=UsageError)
    assert "`cache` FOLDER" in message
    (tmp_path / "file").touch()
    assert "can't write the cache" in refusal(
        open_source, "chestmnist:28", download=True, cache=tmp_path / "file", kind=StoreError
    )
