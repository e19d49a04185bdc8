"""Who is connected to one door, how fast each uid asks, and how much of the answers it has yet to take."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from agent.core import bucket

if TYPE_CHECKING:
    from agent.config.model import Limits

STRANGERS_SHARE: Final = 0.25
"""The part of all connections that callers without any grant may have together."""

MAX_UNSENT: Final = 16 * 1024 * 1024
"""Bytes of answers that one uid may leave untaken before it gets no more: they are the agent's memory.

As much as the largest bundle there can be, and far below MemoryMax= of the unit.
"""
UNTAKEN_RETRY_S: Final = 1.0
MAX_BUCKETS: Final = 1000
"""How many uids' rates are remembered before those are forgotten that have not asked for a while."""


class CallerLimits:
    """Counts and limits of one door, shared by its connections."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._all = 0
        self._strangers = 0
        self._by_uid: Counter[int] = Counter()
        self._unsent: Counter[int] = Counter()
        self._buckets: dict[int, bucket.Bucket] = {}

    def enter(self, uid: int, *, ungranted: bool) -> bool:
        """Count a connection in; False where there are too many already.

        Strangers share a part of all: somebody with the uids of a whole range (subuid(5)) finds no grant,
        and must not keep those out who have one.
        """
        limits = self.limits
        full = self._all >= limits.connections or self._by_uid.get(uid, 0) >= limits.connections_per_uid
        if full or (ungranted and self._strangers >= limits.connections * STRANGERS_SHARE):
            return False
        self._all += 1
        self._strangers += ungranted
        self._by_uid[uid] += 1
        return True

    def leave(self, uid: int, *, ungranted: bool) -> None:
        """Count a connection out."""
        self._all -= 1
        self._strangers -= ungranted
        self._by_uid[uid] -= 1
        if not self._by_uid[uid]:
            del self._by_uid[uid]

    def turned(self, *, ungranted: bool) -> None:
        """Count a connection that has become a stranger's, or is one no more; nobody is turned out for it."""
        self._strangers += 1 if ungranted else -1

    def unsent(self, uid: int, change: int) -> None:
        """Count bytes of an answer that its caller does not take at once, and out again."""
        self._unsent[uid] += change
        if not self._unsent[uid]:
            del self._unsent[uid]

    def wait(self, uid: int, now: float) -> float:
        """Take one request of the uid's second; return how long (s) it must wait, 0 where it needn't."""
        if self._unsent.get(uid, 0) >= MAX_UNSENT:
            return UNTAKEN_RETRY_S
        rate = self.limits.requests_per_second
        if not rate:
            return 0.0
        mine = self._buckets.get(uid) or bucket.Bucket(max(1, round(rate)), 1 / rate)
        left = bucket.wait(mine, now)
        if not left:
            if len(self._buckets) >= MAX_BUCKETS:  # a full one says no more than none
                self._buckets = {u: one for u, one in self._buckets.items() if one.full_at > now}
            self._buckets[uid], _ = bucket.take(mine, now)
        return left
