"""Files are opened as files."""

import os
import socket

import pytest

from leadapron import reading
from leadapron.reading import open_regular, read_regular


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to a pipe").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        yield tmp_path


def test_a_file_is_read(place):
    for name in ("file", "link"):
        with open_regular(place / name) as file:
            assert file.read() == b"content"
            assert file.name == str(place / name)
    assert read_regular(place / "file", 7) == b"content"
    with pytest.raises(OSError, match="larger than 6 bytes"):
        read_regular(place / "file", 6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pipe", "it is a pipe; expected a file"),
        ("to a pipe", "it is a pipe"),
        ("socket", "it is a socket"),
        (".", "it is a folder"),
        ("/dev/zero", "it is a device"),
    ],
)
def test_what_is_no_file_is_refused_without_waiting(place, name, words):
    with pytest.raises(OSError, match=words) as caught:
        open_regular(place / name)
    assert caught.value.strerror.startswith(words)


def test_a_pipe_that_takes_a_files_place_in_between_is_refused(place, monkeypatch):
    real = (place / "file").stat()
    monkeypatch.setattr(reading.os, "stat", lambda path: real)
    before = next_descriptor(place)
    with pytest.raises(OSError, match="it is a pipe"):
        open_regular(place / "pipe")
    assert next_descriptor(place) == before  # none is left open


def next_descriptor(place):
    descriptor = os.open(place / "file", os.O_RDONLY)
    os.close(descriptor)
    return descriptor
