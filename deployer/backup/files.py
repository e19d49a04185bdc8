"""Whose a file is that root makes by hand, where a program without rights goes on with it later."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Give an open file to the owner of a folder, where root made it; others can only make their own.

    Raises:
        OSError: as fchown(2).
    """
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
