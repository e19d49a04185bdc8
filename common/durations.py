"""Numbers as people read them."""

from __future__ import annotations


def span(seconds: float) -> str:
    """Return a duration in the largest unit that tells enough, such as ``3 min``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
