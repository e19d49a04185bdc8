"""Clocks of serve that run fast while the agent waits, and as they should while it works.

A cycle, a request and a limit in seconds are real; the hours in between pass in moments. The state is in a
file that both the agent and the test map, so the clocks go on over a kill, and the test can read them.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import TYPE_CHECKING

from agent.core.rotation import Moment
from agent.serve.host import clock

if TYPE_CHECKING:
    from pathlib import Path

_STATE = struct.Struct("@3d")
_SLOTS = (64, 128)  # the agent writes them in turn: whoever reads, or is killed, finds a whole one
_SETTINGS = struct.Struct("@2d")  # the test's: how fast, and wall clock less boot clock


class Clocks:
    """``factor`` is how many times faster than real a wait is; a new file begins at the real time."""

    def __init__(self, path: Path, factor: float | None = None) -> None:
        if factor is not None:
            path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        if factor is not None:
            _SETTINGS.pack_into(self._map, 8, factor, time.time() - _real())
            self._write(_real(), _real(), 0.0)

    def boot(self) -> float:
        """Return the agent's boot clock (s)."""
        (since, then, ahead), (factor, _) = self._read(), self._settings
        passed = _real() - since
        return then + min(passed * factor, ahead) + max(0.0, passed - ahead / factor)

    def wall(self) -> float:
        """Return the agent's wall clock (Unix time, s)."""
        return self.boot() + self._settings[1]

    def moment(self) -> Moment:
        """Return both."""
        return Moment(self.boot(), self.wall())

    def loop_seconds(self, seconds: float) -> float:
        """Begin a wait: from now on the clocks run fast, for so many of their seconds."""
        self._write(_real(), self.boot(), seconds)
        return seconds / self._settings[0]

    def set_wall_ahead(self, seconds: float) -> None:
        """Set the agent's wall clock, as somebody with `date --set` would, so far ahead of where it is."""
        factor, difference = self._settings
        _SETTINGS.pack_into(self._map, 8, factor, difference + seconds)

    def install(self) -> None:
        """Make this process's agent run by these clocks."""
        for name in ("boot", "wall", "moment", "loop_seconds"):
            setattr(clock, name, getattr(self, name))

    @property
    def _settings(self) -> tuple[float, float]:
        return _SETTINGS.unpack_from(self._map, 8)

    def _read(self) -> tuple[float, float, float]:
        return _STATE.unpack_from(self._map, _SLOTS[self._map[0]])

    def _write(self, *state: float) -> None:
        slot = 1 - self._map[0]
        _STATE.pack_into(self._map, _SLOTS[slot], *state)
        self._map[0] = slot


def _real() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
