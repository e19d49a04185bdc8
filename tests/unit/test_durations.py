"""common/durations.py: durations as people read them."""

import pytest

from common.durations import span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172800, "2 d")],
)
def test_the_largest_unit_that_tells_enough(seconds: float, text: str) -> None:
    """Two of a unit at least."""
    assert span(seconds) == text
