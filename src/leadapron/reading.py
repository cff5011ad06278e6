"""Safe opening of untrusted files: a pipe, socket or device in their place is refused at once.

Opening a pipe can block forever, and opening a device may have side effects. The opened descriptor
is checked again, since a path can be replaced in between; callers read exactly the file that was
checked.
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
        OSError: it can't be opened, or isn't a file; `strerror` states its kind.
    """
    try:
        return open(path, "rb", opener=_opened)
    except ValueError:  # a NUL, or an invalid surrogate
        raise OSError(errno.EINVAL, "invalid file name") from None


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return a file's content.

    Args:
        path: the file.
        most: most bytes.

    Raises:
        OSError: as `open_regular`, or the file is larger.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        size = f"{most >> 20:,} MB" if most >> 20 else f"{most:,} bytes"
        raise OSError(errno.EFBIG, f"it is larger than {size}", os.fspath(path))
    return content


def other_than_file(mode: int) -> str:
    """Return the kind of anything but a regular file, by its mode; "" for a file."""
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "special file")


def given_path(text: str | os.PathLike[str]) -> Path:
    """Return a typed path with "~" expanded; an unknown user's "~name" is unchanged."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path's raises where there is no such user)


def there(path: str | os.PathLike[str]) -> bool:
    """Return whether a path exists; False for an invalid name."""
    return os.path.exists(path)  # noqa: PTH110 (Path's raises where a name is too long)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder; False for an invalid name."""
    return os.path.isdir(path)  # noqa: PTH112 (as above)


def _opened(path: str, flags: int) -> int:
    _refuse_others(os.stat(path).st_mode, path)  # noqa: PTH116
    # Non-blocking, in case it has become a pipe since.
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
