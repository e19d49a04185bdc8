"""agent/cli/show.py: what a person reads about what is acknowledged."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli import show

AT = "2026-11-26T12:00:03Z"


@pytest.mark.parametrize(
    ("acknowledged", "told"),
    [
        (None, "off"),
        ({"generation": 7, "at": AT, "current": True, "problem": None}, f"generation 7, {AT}"),
        ({"generation": 7, "at": AT, "current": False, "problem": None}, "not what is served now; last"),
        ({"generation": None, "at": None, "current": False, "problem": "HTTP 401"}, "nothing yet"),
    ],
)
def test_status_says_which_generation_is_acknowledged(acknowledged: dict[str, Any] | None, told: str) -> None:
    """And when it is not the one that is served."""
    (line,) = (line for line in show.status({"acknowledged": acknowledged}) if "acknowledged" in line)
    assert line.partition("acknowledged")[2].strip().startswith(told)
