"""agent/core/schedule.py: jitter everywhere, caps before jitter, and never a wait of nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import schedule
from agent.core.schedule import MAX_RETRY_AFTER_S, MIN_S, Pace

PACE = Pace()
FLEET = Pace(spread=250.0)
SHARES = st.floats(0.0, 1.0)


def low(least: float, _most: float) -> float:
    """Draw the least."""
    return least


def high(_least: float, most: float) -> float:
    """Draw the most."""
    return most


@pytest.mark.parametrize(("draw", "expected"), [(low, 0.0), (high, 30.0)])
def test_the_first_cycle_is_spread_over_the_start_jitter(draw: schedule.Uniform, expected: float) -> None:
    """A fleet that starts together does not log in together."""
    assert schedule.first(Pace(start_jitter=30.0), draw) == expected


@pytest.mark.parametrize(
    ("draw", "sooner", "expected"),
    [
        (low, (), 810.0),
        (high, (), 990.0),
        (high, (2.0, 500.0), 2.0),
        (high, (5000.0, float("inf")), 990.0),
        (high, (0.0,), MIN_S),
        (high, (-5.0,), MIN_S),
    ],
)
def test_a_poll_comes_at_its_interval_or_at_the_soonest_of_the_rest(
    draw: schedule.Uniform, sooner: tuple[float, ...], expected: float
) -> None:
    """But never at once."""
    assert schedule.poll(PACE, draw, sooner) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("draw", "wall", "expected"), [(low, 40.0, 61.0), (high, 40.0, 62.0), (low, 100.0, 1.0), (high, 9e9, 2.0)]
)
def test_a_poll_is_placed_just_after_an_expiry(draw: schedule.Uniform, wall: float, expected: float) -> None:
    """So that Barbican has noticed too; an expiry that has passed is looked at soon."""
    assert schedule.until_expiry(PACE, 100.0, wall, draw) == expected


def test_a_fleet_whose_secrets_expire_together_does_not_look_together() -> None:
    """They may all have been made with the same date."""
    assert schedule.until_expiry(FLEET, 100.0, 40.0, low) == 61.0
    assert schedule.until_expiry(FLEET, 100.0, 40.0, high) == 61.0 + FLEET.spread


@pytest.mark.parametrize(
    ("fleet_size", "calls", "expected"),
    [(1, 15, 0.0), (100, 15, 4.2), (10_000, 9, 250.0), (10_000, 15, 416.7), (1_000_000, 9, 3600.0)],
)
def test_the_spread_follows_from_the_fleet(fleet_size: int, calls: int, expected: float) -> None:
    """What a lone VPS waits is nothing; with 9 calls 10,000 have started within five minutes."""
    assert schedule.fleet_spread(fleet_size, calls) == pytest.approx(expected)


@pytest.mark.parametrize(("draw", "expected"), [(low, MIN_S), (high, 900.0)])
def test_what_brought_a_fleet_into_step_does_not_keep_it_there(
    draw: schedule.Uniform, expected: float
) -> None:
    """After a start, a failure or a signal the next poll comes anywhere within the interval."""
    assert schedule.poll(PACE, draw, settled=False) == expected


def test_a_retry_that_may_be_the_whole_fleets_is_spread_as_widely_as_the_fleet_needs() -> None:
    """The first failure is most often one VPS's own; a Retry-After is told to everybody."""
    assert schedule.backoff(FLEET, 1, high) == MIN_S + 2.0
    assert schedule.backoff(FLEET, 2, high) == MIN_S + 2 * FLEET.spread
    assert schedule.backoff(FLEET, 1, high, 30.0) == 30.0 + 2 * FLEET.spread
    assert schedule.backoff(FLEET, 30, high) == MIN_S + FLEET.backoff_cap


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [(1, 1.0, 3.0), (2, 1.0, 5.0), (9, 1.0, 513.0), (10, 1.0, 601.0), (100_000, 1.0, 601.0)],
)
def test_backoff_doubles_up_to_its_cap_with_full_jitter(failures: int, least: float, most: float) -> None:
    """The jitter comes after the cap: a fleet at its cap is spread over all of it."""
    assert schedule.backoff(PACE, failures, low) == least
    assert schedule.backoff(PACE, failures, high) == most


@pytest.mark.parametrize(
    ("retry_after", "floor"),
    [
        (None, MIN_S),
        (0.0, MIN_S),
        (0.5, MIN_S),
        (120.0, 120.0),
        (2_592_000.0, MAX_RETRY_AFTER_S),
    ],
)
def test_retry_after_is_a_floor_within_reason(retry_after: float | None, floor: float) -> None:
    """Nobody comes back before it, nor all at once; neither 0 nor a month is taken at its word."""
    assert schedule.backoff(PACE, 3, low, retry_after) == floor
    assert schedule.backoff(PACE, 3, high, retry_after) == floor + 8.0


@given(
    share=SHARES,
    failures=st.integers(0, 2000),
    retry_after=st.none() | st.floats(0.0, 1e7),
    sooner=st.lists(st.floats(-1e9, 1e9), max_size=3).map(tuple),
    base=st.floats(0.1, 60.0),
    interval=st.floats(1.0, 86_400.0),
)
def test_no_wait_is_shorter_than_a_second_nor_without_end(
    *,
    share: float,
    failures: int,
    retry_after: float | None,
    sooner: tuple[float, ...],
    base: float,
    interval: float,
) -> None:
    """Whatever Barbican says and whatever the operator chose, within the configuration's bounds."""

    def draw(least: float, most: float) -> float:
        return least + share * (most - least)

    pace = Pace(interval, 0.0, base, max(base, 600.0))
    assert MIN_S <= schedule.poll(pace, draw, sooner) <= max(MIN_S, 1.1001 * interval)
    assert MIN_S <= schedule.backoff(pace, failures, draw, retry_after) <= MAX_RETRY_AFTER_S + 600.0


@pytest.mark.parametrize(("draw", "look", "spread"), [(low, 27.0, 0.0), (high, 33.0, 60.0)])
def test_looks_at_a_beacon_and_the_polls_after_it_are_spread(
    draw: schedule.Uniform, look: float, spread: float
) -> None:
    """A fleet neither looks in one second nor reads in one."""
    assert schedule.look(30.0, draw) == pytest.approx(look)
    assert schedule.spread(60.0, draw) == spread
    assert schedule.spread(0.0, draw) == 0.0
