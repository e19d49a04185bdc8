"""Durations as people read and write them."""

from __future__ import annotations


def span(seconds: float) -> str:
    """Return a duration in the largest unit that tells enough, such as ``3 min``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def seconds(text: str) -> float:
    """Return the seconds that an option gives.

    Raises:
        ValueError: it is no number, or negative, NaN, or 31 years or more.
    """
    found = float(text)
    if not 0 <= found < 1e9:  # noqa: PLR2004  # 1e9 s are 31 years
        raise ValueError(text)
    return found
