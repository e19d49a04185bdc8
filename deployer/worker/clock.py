"""What time it is for schedules: the machine's clock, which is not believed at once when it jumps.

A clock that is set wrong for a minute would make a whole fleet due, and former versions old enough to be
deleted. So a jump is followed only when it has lasted; meanwhile time goes on from where it was. NTP's small
corrections are followed as they come.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LOG: Final = logging.getLogger("deployer.worker")
STEP_S: Final = 60.0
"""What is more than this is a jump."""
HOLD_S: Final = 900.0
"""How long a jump has to last before it is believed."""


def steady() -> float:
    """Return the seconds since the machine started, those in which it slept among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Owns what time it is. Threads may share it."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = steady) -> None:
        self._wall = wall
        self._steady = steady
        self._lock = threading.Lock()
        self._offset = wall() - steady()
        self._jumped_at: float | None = None

    def now(self) -> float:
        """Return the time (s since 1970)."""
        with self._lock:
            at = self._steady()
            moved = self._wall() - at - self._offset
            if abs(moved) <= STEP_S:
                self._jumped_at = None
                self._offset += moved
            elif self._jumped_at is None:
                self._jumped_at = at
                LOG.error(
                    "the machine's clock jumped by %.0f s. Schedules go on by the former time for %.0f min: "
                    "look whether it is right now (timedatectl)",
                    moved,
                    HOLD_S / 60,
                )
            elif at - self._jumped_at >= HOLD_S:
                LOG.warning("the clock's jump of %.0f s has lasted: it is followed", moved)
                self._jumped_at = None
                self._offset += moved
            return at + self._offset
