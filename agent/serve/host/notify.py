"""What systemd is told (sd_notify(3)): readiness, reloads, status, watchdog. Without systemd, nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Final

import sdnotify

if TYPE_CHECKING:
    from collections.abc import Callable

STATUS_EVERY_S: Final = 15.0
"""How old the line that ``systemctl status`` shows may be."""

_log: Final = logging.getLogger("agent.systemd")


class Systemd:
    """Owns what has been told so far."""

    def __init__(self) -> None:
        self._notifier: Final = sdnotify.SystemdNotifier()
        self._ready = False
        self._reloading = False

    def cycle_ended(self, status: str) -> None:
        """Tell the status; and that the start, or a reload, is over (docs/adr/0005)."""
        lines = [f"STATUS={status}"]
        if not self._ready or self._reloading:
            lines.append("READY=1")
            self._ready, self._reloading = True, False
        self._tell("\n".join(lines))

    def waiting(self, status: str) -> None:
        """Tell that there is nothing to do until somebody acts: the start is over."""
        self._tell(f"STATUS={status}\nREADY=1")

    def reloading(self) -> None:
        """Tell that a reload has begun; it ends with the next cycle."""
        if self._ready:
            self._reloading = True
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the agent ends."""
        self._tell("STOPPING=1\nSTATUS=stopped")

    def _tell(self, message: str) -> None:
        """Send one message. sdnotify encodes Latin-1 and drops, without a word, what has no place in it."""
        self._notifier.notify(message.encode().decode("latin-1"))

    async def beat(self, status: Callable[[], str], is_stuck: Callable[[], bool] = lambda: False) -> None:
        """Show that the work goes on, twice as often as asked for, and keep the status line true; never ends.

        The line has ages, so it would be wrong soon after it was sent. Nothing else wakes an idle agent, so
        ``status`` may also do what must be done now and then. While ``is_stuck``, the watchdog is not fed, so
        that systemd ends this process.
        """
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        if not microseconds.isdecimal():
            await asyncio.Event().wait()
        every = min(int(microseconds) / 2_000_000, STATUS_EVERY_S)
        while True:
            line = f"STATUS={status()}"
            if is_stuck():
                _log.error(
                    "the refresher is stuck, report this bug; systemd's watchdog starts the agent again"
                )
            else:
                line = f"WATCHDOG=1\n{line}"
            self._tell(line)
            await asyncio.sleep(every)
