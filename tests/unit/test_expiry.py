"""agent/core/expiry.py: a warning at 14, 7 and 1 days, and when it has happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import expiry

DAY = 86_400.0
AT = 1_800_000_000.0


@pytest.mark.parametrize(
    ("days", "urgency", "words"),
    [
        (14.01, 0, None),
        (14, 1, "expires in 14 days"),
        (7.01, 1, "expires in 7 days"),
        (7, 2, "expires in 7 days"),
        (1.01, 2, "expires in 1 days"),
        (1, 3, "expires within a day"),
        (0.01, 3, "expires within a day"),
        (0, 4, "has expired"),
        (-30, 4, "has expired"),
    ],
)
def test_thresholds(days: float, urgency: int, words: str | None) -> None:
    """Each is passed once, and the text tells how long there is."""
    wall = AT - days * DAY
    assert expiry.urgency(AT, wall) == urgency
    text = expiry.warning(AT, wall)
    assert text is None if words is None else words in str(text)
    assert text is None or "(2027-01-15 08:00 UTC)" in text


def test_never_or_unknown() -> None:
    """No warning."""
    assert expiry.urgency(None, AT) == 0
    assert expiry.warning(None, AT) is None


@given(st.floats(0, 4e9), st.floats(0, 4e9), st.floats(0, 4e9))
def test_it_grows_with_time(expires: float, wall: float, later: float) -> None:
    """So a warning that was given is not given again."""
    assert expiry.urgency(expires, wall) <= expiry.urgency(expires, wall + later)
