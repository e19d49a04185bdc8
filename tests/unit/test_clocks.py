"""agent/core/clocks.py: when wall and boot clock part, and that age only grows by it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.clocks import aged, parted
from agent.core.rotation import Moment, Progress
from common.names import SecretName

TIMES = st.floats(0.0, 1e9)


@given(TIMES, TIMES, st.floats(0.0, 1e6))
def test_time_that_passes_on_both_clocks_parts_nothing(boot: float, wall: float, passed: float) -> None:
    """A suspension counts on both."""
    assert abs(parted(Moment(boot, wall), Moment(boot + passed, wall + passed))) < 1e-3


def test_which_way_they_part() -> None:
    """Ahead is positive: days that the boot clock has not seen."""
    assert parted(Moment(10, 1000), Moment(15, 1005 + 86400)) == 86400
    assert parted(Moment(10, 1000), Moment(15, 905)) == -100


def test_what_is_held_is_older_by_what_was_missed() -> None:
    """Ages and graces; not the settling of a rotation, which is of moments."""
    a = SecretName("A")
    before = Progress(
        confirmed=100, superseded={a: 90}, waiting_since=95, denied_since=98, denied={a: 97}, leaving={a: 99}
    )
    assert aged(before, 50) == Progress(
        confirmed=50, superseded={a: 40}, waiting_since=95, denied_since=48, denied={a: 47}, leaving={a: 99}
    )
    assert aged(Progress(), 50) == Progress()
