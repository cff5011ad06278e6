"""Files of others are opened as files: a pipe, socket or device in their place is refused at once.

Opening a pipe waits until somebody writes to it, maybe for ever, and opening a device may do
something. What was opened is asked again what it is, since a path can be given to something else
in between; who reads what this returns reads the file that was looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

__all__ = ["given_path", "is_folder", "open_regular", "read_regular", "there"]

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISFIFO, "it is a pipe"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read bytes from it.

    Raises:
        OSError: one that can't be opened, or is no file; its `strerror` says what it is instead.
    """
    try:
        return open(path, "rb", opener=_opened)
    except ValueError:  # a NUL, or a surrogate where there can be none
        raise OSError(errno.EINVAL, "no file can be called so") from None


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return a file's content.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: as `open_regular`, or one that is larger.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        size = f"{most >> 20:,} MB" if most >> 20 else f"{most:,} bytes"
        raise OSError(errno.EFBIG, f"it is larger than {size}", os.fspath(path))
    return content


def given_path(text: str | os.PathLike[str]) -> Path:
    """Return the path that somebody typed: "~" is their home; "~nobody" stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path's raises where there is no such user)


def there(path: str | os.PathLike[str]) -> bool:
    """Return whether there is something of this name; False for what can't be a name."""
    return os.path.exists(path)  # noqa: PTH110 (Path's raises where a name is too long)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a folder of this name; False for what can't be a name."""
    return os.path.isdir(path)  # noqa: PTH112 (as above)


def _opened(path: str, flags: int) -> int:
    _refuse_others(os.stat(path).st_mode, path)  # noqa: PTH116
    # Asked not to wait, should it have become a pipe since.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _refuse_others(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_others(mode: int, path: str) -> None:
    if stat.S_ISREG(mode):
        return
    what = next((words for is_one, words in KINDS if is_one(mode)), "it is something else")
    raise OSError(errno.EINVAL, f"{what}; expected a file", Path(path).name)
