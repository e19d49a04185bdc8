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


def touch(changed: Iterable[SecretName], grants: Iterable[Grant]) -> None:
    """Touch the files of those whose secrets have changed, where there is a directory for them."""
    where = directory()
    if where is None:
        return
    for sign in sorted(signs(changed, grants)):
        try:
            (where / sign).touch(0o644)
        except OSError as error:
            _log.warning(
                "can't touch %s/%s: %s; its unit does not learn of the change", where, sign, error.strerror
            )
