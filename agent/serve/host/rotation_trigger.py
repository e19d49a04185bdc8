"""The sign for applications that can't watch: a file that is touched when their secrets change.

The packaged ``vps-secrets-rotated@.path`` waits for it. The files hold nothing. They are in the directory
that systemd makes for the unit (RuntimeDirectory=), which is memory.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.core.access import Grant
    from common.names import SecretName

ALL: Final = "all"
"""Touched when a secret changes that a grant without a unit covers: any unit may be its reader."""

_log: Final = logging.getLogger("agent.rotated")


def signs(changed: Iterable[SecretName], grants: Iterable[Grant]) -> set[str]:
    """Return which files to touch: the units' names without ``.service``, and :data:`ALL`."""
    names = tuple(changed)
    found = set()
    for grant in grants:
        if not any(map(grant.covers, names)):
            continue
        if grant.unit is None:
            found.add(ALL)
        elif grant.unit.endswith(".service"):
            found.add(grant.unit.removesuffix(".service"))
    return found


def directory() -> Path | None:
    """Return the directory that systemd has made for the unit, or None without systemd."""
    path = os.environ.get("RUNTIME_DIRECTORY")
    return Path(path) if path else None


class RotationTrigger:
    """Touches the files. Owns which of them could not be touched yet, and are tried again at each call."""

    def __init__(self) -> None:
        self._owed: set[str] = set()

    def touch(self, changed: Iterable[SecretName], grants: Iterable[Grant]) -> bool:
        """Touch the files of those whose secrets have changed; False where one of them does not know yet.

        Without a directory there is nobody to tell.
        """
        where = directory()
        if where is None:
            return True
        due, self._owed = signs(changed, grants) | self._owed, set()
        for sign in sorted(due):
            try:
                _say(where / sign)
            except OSError as error:
                self._owed.add(sign)
                _log.warning(
                    "can't touch %s/%s: %s; its unit does not learn of the change until that works: it is "
                    "tried again after each reading; look at the free space and inodes of /run",
                    *(where, sign, error.strerror),
                )
        return not self._owed


def _say(sign: Path) -> None:
    """Give an empty file the time of now, as writing does it: by no change of attributes.

    ``vps-secrets-rotated@.path`` waits for two files, one of which need not exist. For that one systemd (257)
    watches the directory, for attributes too (inotify(7)). Whatever it sees there, it watches both files
    anew, and forgets what it has not read yet of the other: a sign by utime(2) would be lost at times.
    """
    descriptor = os.open(sign, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
