"""When to read next: pure arithmetic over the boot clock, the randomness handed in.

Every delay that a fleet would share has jitter, also the first one. Backoff is exponential with full
jitter; the jitter is applied after the cap, since a cap applied last puts a whole fleet into step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


POLL_JITTER: Final = 0.1
"""A poll comes up to this share earlier or later than its interval."""
AFTER_EXPIRY_S: Final = 1.0
"""How long after a secret's expiry Barbican is asked, so that it has noticed too."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The operator's intervals (s). ``start_jitter`` spreads a fleet's first cycles."""

    poll_interval: float = 900.0
    start_jitter: float = 0.0
    backoff_base: float = 1.0
    backoff_cap: float = 600.0


def first(pace: Pace, uniform: Callable[[float, float], float]) -> float:
    """Return the seconds to wait before the first cycle."""
    return uniform(0.0, pace.start_jitter)


def poll(pace: Pace, uniform: Callable[[float, float], float], sooner: tuple[float, ...] = ()) -> float:
    """Return the seconds to the next poll: its interval with jitter, or the soonest of ``sooner``."""
    regular = pace.poll_interval * uniform(1 - POLL_JITTER, 1 + POLL_JITTER)
    return max(0.0, min((regular, *sooner)))


def until_expiry(expires: float, wall: float, uniform: Callable[[float, float], float]) -> float:
    """Return the seconds to a poll just after ``expires`` (Unix time, s)."""
    return max(0.0, expires - wall) + AFTER_EXPIRY_S + uniform(0.0, AFTER_EXPIRY_S)


def backoff(
    pace: Pace, failures: int, uniform: Callable[[float, float], float], retry_after: float | None = None
) -> float:
    """Return the seconds to wait after the ``failures``-th failure in a row (1 is the first).

    ``Retry-After`` is a floor and gets its jitter on top: a fleet that was told the same number must not
    come back in the same second.
    """
    # 2 ** 63 is far past any cap, and larger exponents would overflow a float in the end
    cap = min(pace.backoff_cap, pace.backoff_base * 2.0 ** min(failures, 63))
    if retry_after is None:
        return uniform(0.0, cap)
    return retry_after + uniform(0.0, max(1.0, retry_after * POLL_JITTER))
