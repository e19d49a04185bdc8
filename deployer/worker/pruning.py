"""Once a day, what ended before ``database.keep_history`` is deleted; a few rows at a time: nobody waits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from deployer.core.schedule import DAY_S
from deployer.database import engine, retention

if TYPE_CHECKING:
    from collections.abc import Callable

    from deployer.database.engine import Database

LOG: Final = logging.getLogger("deployer.worker")
AT_ONCE: Final = 2000
"""Rows of each table in one transaction."""
AT_ONCE_AGAIN_S: Final = 1.0


def pruner(database: Database, keep_s: float, at_once: int = AT_ONCE) -> Callable[[], float]:
    """Return what deletes once, and says when it wants to again (s)."""

    def prune() -> float:
        with database.write() as c:
            gone = retention.prune(c, engine.time_of(c) - keep_s, at_once)
        if gone:
            LOG.info("deleted %d rows of what ended more than %.0f days ago", gone, keep_s / DAY_S)
        return AT_ONCE_AGAIN_S if gone >= at_once else DAY_S

    return prune
