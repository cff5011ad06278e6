"""The process that parses model files: it forks a confined child for each; see `reading`.

It is started as `python -P -m leadapron.models.parsing.server`, with a socket as stdin that
receives the sockets of conversations. A conversation consists of: a line of JSON with the number of
bytes and the kind, then the bytes; a line of JSON with the contents; then, for each request, a line
of JSON that names parts of storages, and their bytes.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import BinaryIO

from leadapron.confinement import confine, limited_time
from leadapron.errors import StoreError
from leadapron.models.parsing.formats import Holdings, read_holdings
from leadapron.models.parsing.reading import READY

__all__ = ["main"]


def main() -> None:
    """Fork for each conversation, until the socket of conversations is closed."""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    control.sendall(READY)
    while True:
        word, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not word or len(descriptors) != 1:
            return
        if os.fork() == 0:
            control.close()
            _converse_and_end(descriptors[0])
        os.close(descriptors[0])
        _, status = os.wait()
        control.sendall(struct.pack("<i", os.waitstatus_to_exitcode(status)))


def _converse_and_end(descriptor: int) -> None:
    """Run a conversation and exit: a process that a file may have compromised must not go on."""
    code = 1
    try:
        with os.fdopen(os.dup(descriptor), "rb") as asked, os.fdopen(descriptor, "wb") as answers:
            _converse(asked, answers)
        code = 0
    finally:
        os._exit(code)


def _converse(asked: BinaryIO, answers: BinaryIO) -> None:
    first = json.loads(asked.readline())
    confine(first["memory"])
    content = asked.read(first["size"])
    if len(content) != first["size"]:
        return
    held = None
    facts: dict[str, object]
    try:
        with limited_time(first["seconds"]):
            held = read_holdings(content, first["kind"], first["name"])
            facts = _said(held)
    except StoreError as error:
        facts = {"error": str(error)}
    except MemoryError:
        facts = {"error": f"{first['name']} needs more than {first['memory'] >> 20:,} MB of memory"}
    except RecursionError:
        facts = {"error": f"{first['name']} is nested too deeply"}
    answers.write(json.dumps(facts).encode() + b"\n")
    answers.flush()
    if held is None:
        return
    tensors = [tensor for group in held.groups.values() for tensor in group.values()]
    while line := asked.readline():
        with limited_time(first["seconds"]):
            for number in json.loads(line):
                answers.write(held.numbers(tensors[number].storage)[tensors[number].place])
            answers.flush()


def _said(held: Holdings) -> dict[str, object]:
    return {
        "program": held.program,
        "findings": held.findings,
        "tasks": held.tasks,
        "metadata": held.metadata,
        "groups": [
            [key, [[name, one.dtype, one.shape, one.strides] for name, one in tensors.items()]]
            for key, tensors in held.groups.items()
        ],
        "modules": [
            [key, [[path, one.kind, one.settings, one.changed] for path, one in parts.items()]]
            for key, parts in held.modules.items()
        ],
    }


if __name__ == "__main__":
    main()
