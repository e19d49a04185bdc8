"""The two clocks of serve: intervals on CLOCK_BOOTTIME, dates on the wall clock.

CLOCK_BOOTTIME (clock_gettime(2)) counts suspended time and is never set back, so an age stays true when a
VPS was paused or its clock was corrected. Only Barbican's own dates (created, expires) are wall time.
"""

import time

from agent.core.rotation import Moment


def boot() -> float:
    """Return seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """Return Unix time in seconds."""
    return time.time()


def loop_seconds(seconds: float) -> float:
    """Return how long the event loop's timers, which run in real time, wait for ``seconds`` of these clocks.

    The same. It is asked because the scenarios in the tests run with faster clocks, and days in minutes.
    """
    return seconds


def moment() -> Moment:
    """Return both clocks at this instant."""
    return Moment(boot(), wall())
