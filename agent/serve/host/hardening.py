"""What the process does itself to keep its memory to itself; the unit does the rest."""

import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # prctl(2)


def keep_memory_private() -> None:
    """No core file, no ptrace(2) and no /proc/PID/mem for other processes of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
