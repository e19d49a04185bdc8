"""common/durations.py: durations as people read and write them."""

import pytest

from common.durations import seconds, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172800, "2 d")],
)
def test_the_largest_unit_that_tells_enough(seconds: float, text: str) -> None:
    """Two of a unit at least."""
    assert span(seconds) == text


@pytest.mark.parametrize(("text", "found"), [("0", 0.0), ("2.5", 2.5), ("999999999", 999_999_999.0)])
def test_what_an_option_gives(text: str, found: float) -> None:
    """Any number of seconds below 31 years."""
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1e9", "5m", ""])
def test_what_is_no_time_to_wait(text: str) -> None:
    """It is refused, also what is a number for Python."""
    with pytest.raises(ValueError, match=r".*"):
        seconds(text)
