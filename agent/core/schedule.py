"""When to read next: pure arithmetic over the boot clock, the randomness handed in.

Every delay that a fleet would share has jitter, also the first one. Backoff is exponential with full
jitter; the jitter is applied after the cap, since a cap applied last puts a whole fleet into step. No delay
between two cycles is shorter than :data:`MIN_S`: whatever goes wrong, Barbican is not hammered.
How wide the jitter must be follows from the size of the fleet; docs/fleet.md shows the simulations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

Uniform: TypeAlias = Callable[[float, float], float]
"""Draws between two bounds, as ``random.uniform`` does."""

POLL_JITTER: Final = 0.1
"""A poll comes up to this share earlier or later than its interval."""
AFTER_EXPIRY_S: Final = 1.0
"""How long after a secret's expiry Barbican is asked, so that it has noticed too."""
MIN_S: Final = 1.0
"""The shortest wait between two cycles that nobody asked for."""
MAX_RETRY_AFTER_S: Final = 3600.0
"""How much of a ``Retry-After`` is obeyed: a proxy that says a month must not end the polling."""
COLD_CALLS: Final = 15
"""Requests to Barbican of a cycle that has everything to read: the list, then 7 secrets at two each."""
LISTED_CALLS: Final = 9
"""The same where the metadata of all come in one list (fetch.list_metadata)."""
ACKNOWLEDGE_CALLS: Final = 3
"""What it costs to acknowledge what is served anew: the list, the new consumer, the former one."""
FLEET_CALLS_PER_S: Final = 360.0
"""What a whole fleet may ask of Barbican at once: 72 % of the 500/s that it is to bear (ADR 0013)."""
MAX_SPREAD_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The operator's intervals (s).

    ``start_jitter`` spreads a fleet's first cycles; ``spread`` is how far apart a fleet's cycles must be that
    one event would start together.
    """

    poll_interval: float = 900.0
    start_jitter: float = 0.0
    backoff_base: float = 1.0
    backoff_cap: float = 600.0
    spread: float = 0.0


def fleet_spread(fleet_size: int, calls: int = COLD_CALLS) -> float:
    """Return over how many seconds (to a tenth) a fleet that has everything to read must be spread."""
    return round(min(MAX_SPREAD_S, fleet_size * calls / FLEET_CALLS_PER_S), 1)


def first(pace: Pace, uniform: Uniform) -> float:
    """Return the seconds to wait before the first cycle."""
    return uniform(0.0, pace.start_jitter)


def poll(pace: Pace, uniform: Uniform, sooner: tuple[float, ...] = (), *, settled: bool = True) -> float:
    """Return the seconds to the next poll: its interval with jitter, or the soonest of ``sooner``.

    A cycle that came at its own time is ``settled``. After any other (a start, a failure, a signal) the next
    comes anywhere within one interval: what has brought a fleet into step must not keep it there.
    """
    share = uniform(1 - POLL_JITTER, 1 + POLL_JITTER) if settled else uniform(0.0, 1.0)
    return max(MIN_S, min((pace.poll_interval * share, *sooner)))


def until_expiry(pace: Pace, expires: float, wall: float, uniform: Uniform) -> float:
    """Return the seconds to a poll just after ``expires`` (Unix time, s), which a whole fleet may share."""
    return max(0.0, expires - wall) + AFTER_EXPIRY_S + uniform(0.0, max(AFTER_EXPIRY_S, pace.spread))


def backoff(pace: Pace, failures: int, uniform: Uniform, retry_after: float | None = None) -> float:
    """Return the seconds to wait after the ``failures``-th failure in a row (1 is the first).

    ``Retry-After`` is a floor (RFC 9110, 10.2.3) and gets the jitter on top: a fleet that was told the same
    number must not come back in the same second, nor one that was told 0 come back at once for ever.

    The first retry comes soon, since most failures are one VPS's own. After that, or with a ``Retry-After``,
    it may be everybody's: the jitter is then at least twice the fleet's spread, because those whose wait
    began before Barbican came back are twice as dense just after as they are on average.
    """
    # 2 ** 63 is far past any cap, and larger exponents would overflow a float in the end
    cap = min(pace.backoff_cap, pace.backoff_base * 2.0 ** min(failures, 63))
    if failures > 1 or retry_after is not None:
        cap = max(cap, 2 * pace.spread)
    floor = max(MIN_S, min(retry_after or 0.0, MAX_RETRY_AFTER_S))
    return floor + uniform(0.0, cap)


def follow_up(uniform: Uniform) -> float:
    """Return the seconds to the cycle that acknowledges what was published just now."""
    return uniform(MIN_S, 2 * MIN_S)


def look(interval: float, uniform: Uniform) -> float:
    """Return the seconds to the next look at the beacon."""
    return interval * uniform(1 - POLL_JITTER, 1 + POLL_JITTER)


def spread(over: float, uniform: Uniform) -> float:
    """Return the seconds to wait before the poll that a beacon causes: a whole fleet may see the same one."""
    return uniform(0.0, over)
