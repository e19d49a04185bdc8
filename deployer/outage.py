"""A part that is away for hours is told at once, then once a minute, and when it is back: not at each try."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from common.durations import span

if TYPE_CHECKING:
    import logging

AGAIN_S: Final = 60.0
"""Between two lines about the same."""
QUIET_S: Final = 5.0
"""It is over when nobody has failed for so long: on a full disk, for one, reading goes on to work."""


class Outage:
    """Since when it has been away; several threads share it. Owns the lines about it in ``log``."""

    def __init__(self, log: logging.Logger, name: str) -> None:
        """``name`` is what is away, as a line about its return begins."""
        self._log: Final = log
        self._name: Final = name
        self._lock: Final = threading.Lock()
        self._since: float | None = None
        self._failed_at = self._told_at = 0.0
        self._told = ""

    def failed(self, error: Exception, pause_s: float) -> None:
        """It did not answer, and is asked again in ``pause_s``."""
        now, words = time.monotonic(), str(error)
        with self._lock:
            is_new = self._since is None
            since = self._since = now if self._since is None else self._since
            self._failed_at = now
            if not is_new and words == self._told and now - self._told_at < AGAIN_S:
                return
            self._told_at, self._told = now, words
        so_far = f"; it has been so for {span(now - since)}" if now - since >= AGAIN_S else ""
        self._log.warning("%s Tried again every %.0f s%s", words, pause_s, so_far)

    def answered(self) -> None:
        """It did."""
        with self._lock:
            since, until = self._since, self._failed_at
            if since is None or time.monotonic() - until < QUIET_S:
                return
            self._since = None
        self._log.warning("%s answers again; it was away for %s", self._name, span(until - since))
