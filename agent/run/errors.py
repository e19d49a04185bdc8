"""How ``run`` itself fails: the statuses that env(1) and timeout(1) use, beside those of the command."""

from __future__ import annotations

import sys
from typing import Final

FAILED: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
SIGNALLED: Final = 128
"""Plus the number of the signal, as a shell says it."""


class RunError(Exception):
    """What failed and what to do, in words that hold no value; ``status`` is the exit status."""

    def __init__(self, reason: str, status: int = FAILED) -> None:
        super().__init__(reason)
        self.status = status


class NotYetError(RunError):
    """What may be better in a moment: an agent that starts, a secret without a value."""


def tell(text: str) -> None:
    """Write a line for whoever reads the command's standard error; it holds no value."""
    print(f"vps-secrets run: {text}", file=sys.stderr, flush=True)
