"""Counts the steps of a program from inside, and kills it after one of them, as a power cut would."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Steps:
    """Counts, and dies after one of them."""

    def __init__(self, die_after: int) -> None:
        self._die_after = die_after
        self.taken = 0

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, counted."""

        def wrapper(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            self.taken += 1
            if self.taken == self._die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapper
