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
from agent.serve import clock

if TYPE_CHECKING:
    from pathlib import Path

_STATE = struct.Struct("@5d")
_SLOTS = (8, 8 + _STATE.size)  # written in turn: whoever reads, or is killed, finds a whole one


class Clocks:
    """``factor`` is how many times faster than real a wait is; a new file begins at the real time."""

    def __init__(self, path: Path, factor: float | None = None) -> None:
        if factor is not None:
            path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        if factor is not None:
            self._write(_real(), _real(), 0.0, factor, time.time() - _real())

    def boot(self) -> float:
        """Return the agent's boot clock (s)."""
        since, then, ahead, factor, _ = self._read()
        passed = _real() - since
        return then + min(passed * factor, ahead) + max(0.0, passed - ahead / factor)

    def wall(self) -> float:
        """Return the agent's wall clock (Unix time, s)."""
        return self.boot() + self._read()[4]

    def moment(self) -> Moment:
        """Return both."""
        return Moment(self.boot(), self.wall())

    def loop_seconds(self, seconds: float) -> float:
        """Begin a wait: from now on the clocks run fast, for so many of their seconds."""
        *_, factor, difference = self._read()
        self._write(_real(), self.boot(), seconds, factor, difference)
        return seconds / factor

    def set_wall_ahead(self, seconds: float) -> None:
        """Set the agent's wall clock, as somebody with `date --set` would, so far ahead of where it is."""
        since, then, ahead, factor, difference = self._read()
        self._write(since, then, ahead, factor, difference + seconds)

    def install(self) -> None:
        """Make this process's agent run by these clocks."""
        for name in ("boot", "wall", "moment", "loop_seconds"):
            setattr(clock, name, getattr(self, name))

    def _read(self) -> tuple[float, float, float, float, float]:
        return _STATE.unpack_from(self._map, _SLOTS[self._map[0]])

    def _write(self, *state: float) -> None:
        slot = 1 - self._map[0]
        _STATE.pack_into(self._map, _SLOTS[slot], *state)
        self._map[0] = slot


def _real() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
