"""Files of others are opened as files: a pipe, socket or device in their place is refused at once.

Opening a pipe waits until somebody writes to it, maybe for ever, and opening a device may do
something. What was opened is asked again what it is, since a path can be given to something else
in between; who reads what this returns reads the file that was looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

__all__ = [
    "given_path",
    "is_folder",
    "open_regular",
    "other_than_file",
    "read_regular",
    "there",
]

KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


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


def other_than_file(mode: int) -> str:
    """Return what something of this mode is that is no file, in a word; "" for a file."""
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "special file")


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
    if kind := other_than_file(mode):
        raise OSError(errno.EINVAL, f"it is a {kind}; expected a file", Path(path).name)
