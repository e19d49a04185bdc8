"""agent/core/budget.py: a month's calls, whatever the clocks do, and polls that keep to its budget."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import budget
from agent.core.budget import MAX_S, Count, Prices, Terms
from agent.core.rotation import Moment

DAY, HOUR = 86_400.0, 3600.0
OCTOBER, NOVEMBER, DECEMBER = (datetime(2026, month, 1, tzinfo=UTC).timestamp() for month in (10, 11, 12))
PRICES = Prices(0.01, 0.02)

walls = st.floats(-1e9, 3e11)
boots = st.floats(0, 1e9)
counts = st.tuples(boots, st.floats(0, 1e9), boots).map(
    lambda drawn: (Count(min(drawn[0], drawn[2]), drawn[1]), max(drawn[0], drawn[2]))
)


@pytest.mark.parametrize(
    ("wall", "start", "end"),
    [
        (NOVEMBER, NOVEMBER, DECEMBER),
        (math.nextafter(DECEMBER, 0), NOVEMBER, DECEMBER),
        (DECEMBER, DECEMBER, DECEMBER + 31 * DAY),
        (30 * DAY, 0.0, 31 * DAY),
        (-1e12, 0.0, 31 * DAY),
    ],
)
def test_a_month_is_a_calendar_month_in_utc(wall: float, start: float, end: float) -> None:
    """Its end is the next one's start; a clock that shows nonsense is in some month too."""
    month = budget.month_at(wall)
    assert (month.start, month.end) == (start, end)


@given(walls)
def test_every_moment_is_in_its_month(wall: float) -> None:
    """And months are as long as months are."""
    month = budget.month_at(wall)
    assert 28 * DAY <= month.length <= budget.MAX_MONTH_S
    if 0 <= wall < 2e11:
        assert month.start <= wall < month.end


def test_a_new_month_begins_at_nothing() -> None:
    """The agent looks every half minute, and what was made in it is as good as nothing."""
    count = Count(since=1000.0, calls=2880.0)
    into = 30.0
    count = budget.advance(count, Moment(1000.0 + 30 * DAY + into, DECEMBER + into), 1)
    assert count.since == pytest.approx(1000.0 + 30 * DAY)
    assert 1.0 <= count.calls < 1.04


def test_after_a_reboot_the_month_is_counted_from_then() -> None:
    """And the part before it counts as spent pro rata: half of the month, half of the budget."""
    now = Moment(10.0, NOVEMBER + 15 * DAY)
    assert budget.remaining(Count(now.boot), 1000, now) == pytest.approx(500)
    seen = budget.outlook(Count(now.boot, 16), 900.0, 7, PRICES, now)
    assert seen.since == now.wall
    assert seen.projected_calls == pytest.approx(16 + 2880)
    assert seen.projected_cost == pytest.approx(2896 * 0.01 / 1000 + 7 * 0.02)


@pytest.mark.parametrize("shift", [-400 * DAY, -20 * DAY, -HOUR, HOUR, 20 * DAY, 50 * 365 * DAY])
def test_a_clock_that_is_set_right_moves_the_account_with_it(shift: float) -> None:
    """What was made in the last ten hours was made in the last ten hours, whatever date it was."""
    count = budget.advance(Count(0.0), Moment(10 * HOUR, NOVEMBER + 9 * DAY + shift), 40)
    now = Moment(10 * HOUR, NOVEMBER + 9 * DAY)
    count = budget.advance(count, now)
    assert count.calls == pytest.approx(40)
    assert budget.outlook(count, 900.0, 0, PRICES, now).since == now.wall - 10 * HOUR


def test_a_clock_that_goes_back_over_the_border_for_a_minute() -> None:
    """The month that is left anew has a share of the budget by its time, and no gap comes of it."""
    terms = Terms(900.0, 3100)
    count = budget.advance(Count(0.0, 3000.0), Moment(31 * DAY, NOVEMBER + 10))
    back = Moment(31 * DAY + 5, NOVEMBER - 55)
    assert budget.interval(terms, budget.advance(count, back), back) < 2 * 900


@given(counts, walls, st.lists(st.tuples(st.floats(0, 1e7), walls, st.integers(0, 100)), max_size=10))
def test_whatever_the_clocks_do_the_count_stays_one(
    first: tuple[Count, float], wall: float, looks: list[tuple[float, float, int]]
) -> None:
    """Never negative nor more than was made; never from an earlier month, nor from the future."""
    count, boot = first
    made = count.calls
    for passed, shown, calls in [(0.0, wall, 0), *looks]:
        boot, made = boot + passed, made + calls
        now = Moment(boot, shown)
        count = budget.advance(count, now, calls)
        assert count.is_plausible(now)
        assert calls <= count.calls <= made * (1 + 1e-9)
        month = budget.month_at(shown)
        seen = budget.outlook(count, 900.0, 7, PRICES, now)
        assert month.start <= seen.since <= month.end
        assert seen.projected_calls >= seen.calls
        every = budget.interval(Terms(900.0, 500), count, now)
        assert 900.0 <= every <= MAX_S


@pytest.mark.parametrize("since", [-1.0, 11.0, math.nan, math.inf])
@pytest.mark.parametrize("calls", [-1.0, math.nan, math.inf])
def test_a_count_that_is_none(since: float, calls: float) -> None:
    """The moments of a memory file are under no digest."""
    assert not Count(since, 1.0).is_plausible(Moment(10.0, 0.0))
    assert not Count(1.0, calls).is_plausible(Moment(10.0, 0.0))


@given(counts, walls, st.floats(1, MAX_S))
def test_without_a_budget_nothing_is_stretched(
    first: tuple[Count, float], wall: float, poll_interval: float
) -> None:
    """Whatever was used."""
    count, boot = first
    assert budget.interval(Terms(poll_interval), count, Moment(boot, wall)) == poll_interval


def months(
    terms: Terms, start: float, days: float, forced: dict[float, int] | None = None
) -> dict[float, list[float]]:
    """Poll for some days as the refresher does; return for each month when it polled.

    ``forced`` are calls that nobody may put off, by the day on which they are made.
    """
    polls: dict[float, list[float]] = {}
    count, boot, left = Count(0.0), 0.0, sorted((forced or {}).items())
    while boot < days * DAY:
        now = Moment(boot, start + boot)
        while left and left[0][0] * DAY <= boot:
            count = budget.advance(count, now, left.pop(0)[1])
        count = budget.advance(count, now, 1)
        polls.setdefault(budget.month_at(now.wall).start, []).append(now.wall)
        boot += budget.interval(terms, count, now)
    return polls


@given(st.integers(31, 3000), st.floats(600.0, MAX_S), st.floats(0, 60))
def test_no_month_has_more_polls_than_its_budget(calls: int, poll_interval: float, day: float) -> None:
    """From any day on; a month that is counted from its middle has its share; and the budget is used."""
    terms = Terms(poll_interval, calls)
    start = OCTOBER + day * DAY
    for begin, polls in months(terms, start, 120).items():
        month = budget.month_at(begin)
        share = (month.end - max(begin, start)) / month.length
        assert len(polls) <= calls * share + 1
        if begin >= start and month.end <= start + 120 * DAY:
            wanted = min(calls, month.length / poll_interval)
            assert len(polls) >= wanted * 0.95 - 3


def test_polls_are_even_over_the_month_and_its_border() -> None:
    """No burst at its end, no gap at its beginning."""
    moments = [moment for polls in months(Terms(900.0, 1000), OCTOBER, 92).values() for moment in polls]
    gaps = [after - before for before, after in pairwise(moments)]
    assert min(gaps) > 0.95 * 30 * DAY / 1000
    assert max(gaps) < 1.05 * 31 * DAY / 1000


def test_what_nobody_may_put_off_is_paid_by_the_polls_after_it() -> None:
    """A week of rotations uses 600 of 1,000; what is left is spread over what is left of the month."""
    forced = {float(day): 60 for day in range(2, 12)}
    polls = months(Terms(900.0, 1000), NOVEMBER, 30, forced)[NOVEMBER]
    assert 395 <= len(polls) <= 400
    late = [after - before for before, after in pairwise(polls) if after > NOVEMBER + 15 * DAY]
    assert max(late) < 1.01 * min(late)
    assert max(late) * 130 < 19 * DAY


def test_a_budget_that_is_used_up_still_polls_once_a_day() -> None:
    """And the next month begins at its own pace, not a day late."""
    polls = months(Terms(900.0, 1000), NOVEMBER, 40, {3.0: 5000})
    gaps = [after - before for before, after in pairwise(polls[NOVEMBER])]
    assert max(gaps) == MAX_S
    assert polls[DECEMBER][0] - DECEMBER <= 1.1 * 30 * DAY / 1000


def test_max_stale_bounds_the_stretching() -> None:
    """Whoever lets values go after two hours is not stretched past one."""
    now = Moment(0.0, NOVEMBER)
    assert budget.interval(Terms(900.0, 100, longest=HOUR), Count(0.0, 5000.0), now) == HOUR
