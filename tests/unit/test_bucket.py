"""agent/core/bucket.py: no more than its burst at once, nothing lost, and never earlier than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.bucket import Bucket, take, wait

BUCKET = Bucket(6, 900.0)
arrivals = st.lists(st.floats(0.0, 5000.0), max_size=60)


def moments(gaps: list[float], bucket: Bucket = BUCKET) -> list[tuple[float, float]]:
    """Return (asked, allowed) for events with these gaps between them."""
    found, now = [], 1000.0
    for gap in gaps:
        now += gap
        bucket, at = take(bucket, now)
        found.append((now, at))
    return found


def test_a_burst_goes_at_once_and_the_next_one_waits() -> None:
    """Six, then one each 15 minutes."""
    waits = [at - asked for asked, at in moments([0.0] * 9)]
    assert waits == [0.0] * 6 + [900.0, 1800.0, 2700.0]


def test_a_bucket_fills_again() -> None:
    """After a while a burst goes at once again, and no more than one."""
    waits = [at - asked for asked, at in moments([0.0] * 6 + [6 * 900.0] + [0.0] * 6)]
    assert waits == [0.0] * 12 + [900.0]


@given(arrivals)
def test_nothing_is_early_and_no_window_has_more_than_it_may(gaps: list[float]) -> None:
    """In any time t: at most the burst and one for each refill."""
    found = moments(gaps)
    allowed = [at for _, at in found]
    assert all(at >= asked for asked, at in found)
    assert allowed == sorted(allowed)
    for first, begin in enumerate(allowed):
        for last in range(first, len(allowed)):
            spent = allowed[last] - begin
            assert last - first + 1 <= BUCKET.burst + spent / BUCKET.refill + 1e-6


@given(arrivals)
def test_who_keeps_the_pace_never_waits(gaps: list[float]) -> None:
    """One event each refill is always let through."""
    assert all(at == asked for asked, at in moments([900.0 + gap for gap in gaps]))


@given(arrivals)
def test_to_ask_takes_nothing_and_agrees_with_taking(gaps: list[float]) -> None:
    """What :func:`wait` says is how long the next :func:`take` is postponed."""
    bucket, now = BUCKET, 1000.0
    for gap in gaps:
        now += gap
        told = wait(bucket, now)
        bucket, at = take(bucket, now)
        assert abs(told - (at - now)) < 1e-6
