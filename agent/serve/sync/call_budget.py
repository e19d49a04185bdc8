"""The calls of this month, and the pace of polls that keeps to their budget.

The refresher's: the only writer of the count, which lies in the memory that survives a restart, and of the
poll interval in force. Only polls and retries are put off, never a refresh, a signal, an expiry or a rotation
that is under way. The decisions are in agent/core/budget.py.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.core import budget, schedule
from agent.serve.host import clock
from agent.serve.sync.freshness import is_stretched
from common.durations import span

if TYPE_CHECKING:
    from agent.core.rotation import Moment
    from agent.core.wire_fields import Calls
    from agent.serve.state import State

TOLD_CHANGE: Final = 1.25
"""By what factor the interval must change to be worth a line in the journal."""
WHOLE_MONTH_S: Final = 60.0
"""A month that is counted from its first minute on is counted whole: clocks drift against each other."""

_log: Final = logging.getLogger("agent.spending")


class CallBudget:
    """Counts, and says how far apart polls are to be."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._told: float | None = None
        self.note({})
        self._decide()

    def note(self, calls: Calls) -> None:
        """Count what a cycle has cost, perhaps nothing: a new month is to be noticed soon after it begins."""
        for service, outcomes in calls.items():
            self._state.health.calls.update({(service, key): n for key, n in outcomes.items()})
        count = count_of(self._state, clock.moment(), sum(calls.get("barbican", {}).values()))
        store = self._state.store
        store.remember(store.moments._replace(counted_since=count.since, calls=count.calls))

    def pace(self) -> schedule.Pace:
        """Return the intervals for the next attempt; tell the journal where polls are stretched anew.

        Retries need not come sooner than polls would, so that an outage does not use up what is left.
        """
        settings, every = self._state.config.rotation, self._decide()
        cap = settings.backoff_cap
        if is_stretched(self._state):
            cap = max(cap, min(every, budget.MAX_RETRY_S))
        self._tell(every)
        return schedule.Pace(every, settings.start_jitter, settings.backoff_base, cap, settings.spread)

    def _decide(self) -> float:
        now = clock.moment()
        every = budget.interval(_terms(self._state), count_of(self._state, now), now)
        self._state.health.poll_interval = every
        return every

    def _tell(self, every: float) -> None:
        told = self._state.config.rotation.poll_interval if self._told is None else self._told
        if max(every, told) < TOLD_CHANGE * min(every, told):
            return
        self._told = every
        text = why_stretched(self._state)
        if text is not None:
            _log.warning("%s", text)
        else:
            _log.info("poll interval is stretched no more: %s", span(every))


def count_of(state: State, now: Moment, calls: int = 0) -> budget.Count:
    """Return how many calls were counted in this month, with ``calls`` more."""
    moments = state.store.moments
    count = budget.Count(now.boot)
    if moments.counted_since is not None and moments.calls is not None:
        kept = budget.Count(moments.counted_since, moments.calls)
        count = kept if kept.is_plausible(now) else count
    return budget.advance(count, now, calls)


def outlook(state: State) -> budget.Outlook:
    """Return the month so far and to its end, for this VPS."""
    now, settings = clock.moment(), state.config.budget
    prices = budget.Prices(settings.price_per_1000_calls, settings.price_per_secret_month)
    every = state.health.poll_interval or state.config.rotation.poll_interval
    secrets = len(state.store.snapshot.current) if state.store.snapshot else 0
    return budget.outlook(count_of(state, now), every, secrets, prices, now)


def why_stretched(state: State) -> str | None:
    """Return by how much and why polls are further apart than configured, or None where they are not."""
    every, configured = state.health.poll_interval, state.config.rotation.poll_interval
    if every is None or not is_stretched(state):
        return None
    reason = f"calls_per_month {state.config.budget.calls_per_month}"
    if is_used_up(state):
        month = outlook(state)
        reason += " is used up"
        if month.since - month.month.start >= WHOLE_MONTH_S:
            reason += f" (of which the part of the month that is counted has {_share(state, month):.0f})"
        reason += "; refreshes, signals and expiries are still followed at once"
    return f"poll interval stretched from {span(configured)} to {span(every)}: {reason}"


def is_used_up(state: State) -> bool:
    """Return whether the budget has no call left."""
    now, limit = clock.moment(), state.config.budget.calls_per_month
    return limit is not None and budget.remaining(count_of(state, now), limit, now) < 1


def _share(state: State, month: budget.Outlook) -> float:
    limit, counted = state.config.budget.calls_per_month or 0, month.month.end - month.since
    return limit * counted / month.month.length


def _terms(state: State) -> budget.Terms:
    settings = state.config.budget
    return budget.Terms(
        state.config.rotation.poll_interval, settings.calls_per_month, settings.longest_interval
    )
