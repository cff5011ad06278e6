"""What both fuzzers of films do to a PNG that they changed."""

from __future__ import annotations

import zlib


def with_checksums(content: bytes) -> bytes:
    """The chunks of a PNG with checksums that are right, or no mutation gets past them."""
    magic = b"\x89PNG\r\n\x1a\n"
    if not content.startswith(magic):
        return content
    out, place = [magic], len(magic)
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4])
        body = content[place + 4 : place + 8 + length]
        out += [content[place : place + 4], body, zlib.crc32(body).to_bytes(4)]
        place += 12 + length
    return b"".join([*out, content[place:]])
