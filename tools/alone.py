"""Runs a command in a network of its own, where there is loopback and nothing else.

    python tools/alone.py COMMAND ...

Orthanc listens on all addresses, whatever its settings say (1.10). In here, all is this machine's
loopback, so nobody else reaches it. Linux only; root, or a kernel that lets users have namespaces.
Else the command runs all the same, after a warning, with `SHARED` in its environment.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

SHARED = "LEADAPRON_SHARED_NETWORK"
"""Variable that tells the command that others may reach what it starts."""

NEW_USER, NEW_NET = 0x1000_0000, 0x4000_0000
"""Flags of unshare(2)."""

SET_FLAGS, UP = 0x8914, 0x1
"""Request of netdevice(7) that sets an interface's flags, and the flag of one that is up."""


def enter() -> None:
    """Move this process to a network with nothing but loopback; OSError if it may not."""
    user, group = os.geteuid(), os.getegid()
    flags = NEW_NET if user == 0 else NEW_NET | NEW_USER
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if flags & NEW_USER:  # the same user as outside, with all rights in here until the next exec
        own = Path("/proc/self")
        (own / "setgroups").write_text("deny")
        (own / "uid_map").write_text(f"{user} {user} 1")
        (own / "gid_map").write_text(f"{group} {group} 1")
    with socket.socket() as control:
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))


if __name__ == "__main__":
    try:
        enter()
    except OSError as error:
        print(
            f"no network of its own ({error.strerror}): others may reach what this starts",
            file=sys.stderr,
        )
        os.environ[SHARED] = "1"
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
