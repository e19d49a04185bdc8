"""A token bucket: how often something that strangers can cause may happen. Pure arithmetic over one clock.

Kept as one moment, as in the generic cell rate algorithm (ITU-T I.371): a full bucket needs no bookkeeping.
What comes too soon is either postponed (:func:`take` takes its token at once, for the first moment allowed)
or refused (:func:`wait` says how long, and takes nothing).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """``burst`` at once, then one each ``refill`` seconds; ``full_at`` is when it will be full again (s)."""

    burst: int
    refill: float
    full_at: float = float("-inf")


def wait(bucket: Bucket, now: float) -> float:
    """Return how long (s) it is from ``now`` (s) until there is a token; 0 where there is one. Takes none."""
    return max(0.0, bucket.full_at - (bucket.burst - 1) * bucket.refill - now)


def take(bucket: Bucket, now: float) -> tuple[Bucket, float]:
    """Take a token at ``now`` (s) or as soon after as there is one; return the bucket then, and when."""
    full_at = max(now, bucket.full_at) + bucket.refill
    return replace(bucket, full_at=full_at), max(now, full_at - bucket.burst * bucket.refill)
