"""deployer/worker: the token bucket, which an emergency does not wait for, and a clock that jumps."""

from __future__ import annotations

import pytest

from deployer.worker.clock import HOLD_S, Clock
from deployer.worker.pacing import Pace, hurry, turn

NOON = 1_800_000_000.0


class Hands:
    """A wall clock and one that never jumps; sleeping moves both."""

    def __init__(self) -> None:
        self.wall_at, self.steady_at = NOON, 1000.0

    def wall(self) -> float:
        """Return what the machine says."""
        return self.wall_at

    def steady(self) -> float:
        """Return what has passed."""
        return self.steady_at

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.wall_at += seconds
        self.steady_at += seconds


def test_an_outage_is_caught_up_at_the_rate_of_the_bucket() -> None:
    """A thousand calls that are due at once: the burst goes at once, the others one after the other."""
    hands = Hands()
    pace = Pace(10.0, 50, hands.steady, hands.sleep)
    began = hands.steady()
    for call in range(1, 1001):
        pace.wait()
        if call == 50:
            assert hands.steady() == began
    assert hands.steady() - began == pytest.approx((1000 - 50) / 10.0)


def test_an_emergency_does_not_wait_and_is_counted() -> None:
    """What comes after it waits for both."""
    hands = Hands()
    pace = Pace(10.0, 1, hands.steady, hands.sleep)
    began = hands.steady()
    with turn(lambda: None):
        hurry()
        for _ in range(101):
            pace.wait()
    assert hands.steady() == began
    pace.wait()
    assert hands.steady() - began == pytest.approx(10.1)
    with turn(lambda: None):  # the next turn of the same thread is no emergency
        pace.wait()
    assert hands.steady() - began == pytest.approx(10.2)


@pytest.mark.parametrize("jump", [365 * 86400.0, -365 * 86400.0, 61.0])
def test_a_jump_of_the_clock_is_followed_when_it_has_lasted(jump: float) -> None:
    """Until then time goes on from where it was; one that is undone before was none."""
    hands = Hands()
    clock = Clock(hands.wall, hands.steady)
    hands.wall_at += jump
    hands.sleep(10)
    assert clock.now() == pytest.approx(NOON + 10)
    hands.wall_at -= jump
    assert clock.now() == pytest.approx(NOON + 10)
    hands.wall_at += jump
    assert clock.now() == pytest.approx(NOON + 10)
    hands.sleep(HOLD_S - 1)
    assert clock.now() == pytest.approx(NOON + HOLD_S + 9)
    hands.sleep(1)
    assert clock.now() == pytest.approx(NOON + HOLD_S + 10 + jump)


def test_small_corrections_are_followed_at_once() -> None:
    """As NTP makes them, however many there are."""
    hands = Hands()
    clock = Clock(hands.wall, hands.steady)
    for _ in range(100):
        hands.wall_at += 5.0
        assert clock.now() == pytest.approx(hands.wall_at)
