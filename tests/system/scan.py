"""Looking for a value in the raw bytes of a disk or of a swap space, deleted files included."""

from __future__ import annotations

import base64
import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def forms(value: bytes) -> Iterator[bytes]:
    """Yield a value as programs write it: raw, hex, base64 at each offset, UTF-16."""
    yield value
    yield value.hex().encode()
    yield value.hex().upper().encode()
    yield value.decode().encode("utf-16-le")
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + value)
        yield encoded[4 if offset else 0 : len(encoded) - 4]


def found(image: Path, *patterns: bytes) -> int:
    """Return how many of the patterns are somewhere in the file."""
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        return sum(mapping.find(pattern) >= 0 for pattern in patterns)
