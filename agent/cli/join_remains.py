"""What cloud-init keeps of the user data that a claim came in: the password there is overwritten.

It is worthless by then. But whoever looks for passwords on a disk or in a backup need not find one, and need
not find out what it was for. cloud-init needs its files at each boot, so they stay as they are but for that
one word, which gets another one of the same length: one of them is a pickle.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PLACES: Final = (Path("/var/lib/cloud"), Path("/run/cloud-init"))
MAX_BYTES: Final = 1024 * 1024
_BLOT: Final = b"x"


def blot(password: str, places: Iterable[Path] = PLACES) -> tuple[list[Path], list[Path]]:
    """Overwrite a password in every file that has it; return the files, and those where it could not be."""
    word = password.encode()
    done: list[Path] = []
    left: list[Path] = []
    for path in _having(word, places):
        try:
            _overwrite(path, word)
        except OSError:  # a read-only disk that the cloud has attached
            left.append(path)
        else:
            done.append(path)
    return done, left


def _having(word: bytes, places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for path in sorted(place.rglob("*")):
            with contextlib.suppress(OSError):  # cloud-init may just have removed it
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES and word in path.read_bytes():
                    yield path


def _overwrite(path: Path, word: bytes) -> None:
    mode = stat.S_IMODE(path.lstat().st_mode)
    path.chmod(mode | stat.S_IWUSR)
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
            content = file.read()
            file.seek(0)
            file.write(content.replace(word, _BLOT * len(word)))
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.chmod(mode)
