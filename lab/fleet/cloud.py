"""A service of limited capacity, in virtual time: one queue, served in order.

It does what Barbican does when it is overloaded (scripts/fleet --measure): it takes everything, answers
later and later, and works on for clients that have gone. ``queue`` adds what a proxy before it may do: answer
503 at once to whatever does not fit. Every request that arrives is counted, by the second.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import Final

from agent.core.errors import Failure, Fault, Step

AWAY: Final = Failure(Step.CONNECTION, Fault.TRANSIENT, "connect", "refused")


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one service bears: requests/s, and the seconds that an answer takes without any queue.

    ``queue`` is how many requests may wait before others get 503 with ``retry_after`` (s). ``outage`` is from
    when to when (s) it refuses connections.
    """

    rate: float
    latency: float = 0.02
    queue: float = math.inf
    retry_after: float | None = None
    outage: tuple[float, float] = (0.0, 0.0)


class Service:
    """The queue of one service over ``seconds`` of virtual time.

    ``load`` counts the requests that arrive in each second, ``refused`` those of them that were turned away.
    """

    def __init__(self, capacity: Capacity, seconds: float) -> None:
        self.capacity: Final = capacity
        self.load: Final = array("Q", bytes(8 * (math.ceil(seconds) + 1)))
        self.refused: Final = array("Q", bytes(8 * (math.ceil(seconds) + 1)))
        self.longest_queue = 0.0
        """The longest that a request waited (s)."""
        self._full: Final = Failure(
            Step.BARBICAN, Fault.TRANSIENT, "ask", "full", 503, retry_after=capacity.retry_after
        )
        self._free_at = 0.0

    def ask(self, now: float, requests: int) -> tuple[float, Failure | None]:
        """Take some requests that arrive together; return when the last is answered, and how it failed."""
        capacity, second = self.capacity, int(now)
        self.load[second] += requests
        begin, end = capacity.outage
        if begin <= now < end:
            self.refused[second] += requests
            return now + 0.001, AWAY
        wait = max(0.0, self._free_at - now)
        if wait * capacity.rate > capacity.queue:
            self.refused[second] += requests
            return now + capacity.latency, self._full
        self.longest_queue = max(self.longest_queue, wait)
        self._free_at = now + wait + requests / capacity.rate
        return self._free_at + capacity.latency, None
