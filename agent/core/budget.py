"""A month's calls: how far apart polls must be for its budget, and what it will cost. Pure arithmetic.

A month is a calendar month in UTC, by the wall clock as it is now. What was counted is known by the boot
clock only: how many calls, and since when. So when the wall clock is corrected, also back over a month's
border, the whole account moves with it; and what was not counted (before a reboot) counts as spent pro rata.

Calls are those to Barbican, which charges by call. A poll is one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.core.rotation import Moment

MAX_S: Final = 86_400.0
"""Polls are stretched no further: access that was taken away is noticed within a day."""
MAX_RETRY_S: Final = 3600.0
"""The backoff after failures is stretched no further: the end of an outage is noticed within an hour."""
MAX_MONTH_S: Final = 31 * 86_400.0
_LAST_TIME: Final = 253_370_764_800.0  # 9999-01-01


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month in UTC, from ``start`` to ``end`` (Unix time, s)."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """How long it is (s)."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Count:
    """How many calls were made since ``since`` (boot clock, s), none of them in an earlier month."""

    since: float
    calls: float = 0.0

    def is_plausible(self, now: Moment) -> bool:
        """Return whether it can be one: it comes out of a memory file."""
        return 0.0 <= self.since <= now.boot and 0.0 <= self.calls < math.inf


@dataclass(frozen=True, slots=True)
class Terms:
    """The operator's choices: intervals in seconds, ``calls_per_month`` None for no limit."""

    poll_interval: float
    calls_per_month: int | None = None
    longest: float = MAX_S


@dataclass(frozen=True, slots=True)
class Prices:
    """What the cloud charges, in any currency."""

    per_1000_calls: float
    per_secret_month: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """The month so far and to its end. ``since`` is Unix time (s), ``calls`` what was counted since then.

    ``projected_calls`` adds polls for the rest of the month and for the part of it that was not counted.
    """

    month: Month
    since: float
    calls: float
    projected_calls: float
    projected_cost: float


def month_at(wall: float) -> Month:
    """Return the month of a moment (Unix time, s)."""
    day = datetime.fromtimestamp(math.floor(min(max(0.0, wall), _LAST_TIME)), UTC)
    start = datetime(day.year, day.month, 1, tzinfo=UTC)
    end = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return Month(start.timestamp(), end.timestamp())


def advance(count: Count, now: Moment, calls: int = 0) -> Count:
    """Return the count at ``now``, with ``calls`` more.

    Of one that is older than the month, the month's share by time is left: nothing, where its first moment is
    looked at soon after, as the agent does.
    """
    age, into_month = now.boot - count.since, max(0.0, now.wall - month_at(now.wall).start)
    if age > into_month:
        count = Count(now.boot - into_month, count.calls * into_month / age)
    return Count(count.since, count.calls + calls)


def remaining(count: Count, calls_per_month: int, now: Moment) -> float:
    """Return how many calls the month's budget has left; negative where more were made.

    The budget of a month that is counted from its middle is that of the part that is counted.
    """
    month = month_at(now.wall)
    return calls_per_month * (month.end - _since(count, month, now)) / month.length - count.calls


def interval(terms: Terms, count: Count, now: Moment) -> float:
    """Return how far apart polls are to be (s): as configured, or stretched to what the budget has left.

    With less than one call left the next one is paid by the next month as well, to which its share accrues as
    time goes: so a month that is on its way to be kept to exactly ends without a gap.
    """
    if terms.calls_per_month is None:
        return terms.poll_interval
    month = month_at(now.wall)
    left, calls = max(0.0, month.end - now.wall), remaining(count, terms.calls_per_month, now)
    if calls >= 1:
        wanted = left / calls
    else:
        wanted = left + (1 - max(0.0, calls)) * month.length / terms.calls_per_month
    return max(terms.poll_interval, min(wanted, terms.longest))


def outlook(count: Count, every: float, secrets: int, prices: Prices, now: Moment) -> Outlook:
    """Return what the month comes to with a poll every ``every`` seconds, and for ``secrets`` secrets."""
    month = month_at(now.wall)
    since = _since(count, month, now)
    polls = (since - month.start + max(0.0, month.end - now.wall)) / every
    calls = count.calls + polls
    cost = calls / 1000 * prices.per_1000_calls + secrets * prices.per_secret_month
    return Outlook(month, since, count.calls, calls, cost)


def _since(count: Count, month: Month, now: Moment) -> float:
    """Return since when (Unix time, s) the month is counted."""
    return min(max(month.start, now.wall - (now.boot - count.since)), month.end)
