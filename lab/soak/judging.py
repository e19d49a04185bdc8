"""Whether a run was flat, and whether every warning has its reason: pure, over what was sampled.

Memory grows by its Theil-Sen slope (the median over all pairs of windows, so that a fault's spike does not
count) times the length of the judged part. Counts go up and down with the clients: they are compared at rest.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WINDOWS: Final = 24
WARM_UP: Final = 0.2
"""The share of the run that is not judged."""


MEMORY: Final = {"resident": 1.0, "anonymous": 1.0}
"""What is sampled in MB, and by how much it may grow over the judged part."""
COUNTS: Final = ("descriptors", "threads", "tasks", "children")
"""What must be the same at rest, before the first client came and after the last has left."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one measure went from ``first`` to ``last``; ``growth`` may be ``bound``."""

    name: str
    first: float
    last: float
    growth: float
    bound: float

    @property
    def is_flat(self) -> bool:
        """Whether it stayed within its bound."""
        return self.growth <= self.bound

    def __str__(self) -> str:
        verdict = "flat" if self.is_flat else "NOT FLAT"
        bound = f"at most {self.bound:g}"
        span = f"{self.first:7.2f} to {self.last:7.2f}"
        return f"{self.name:<12} {span}, growth {self.growth:+.2f} ({bound}): {verdict}"


def trend(name: str, bound: float, times: Sequence[float], values: Sequence[float]) -> Verdict:
    """Return how something went after the warm-up; ``times`` rise (s)."""
    begin = times[0] + WARM_UP * (times[-1] - times[0])
    width = (times[-1] - begin) / WINDOWS
    windows: dict[int, list[float]] = {}
    for time, value in zip(times, values, strict=True):
        if time >= begin:
            windows.setdefault(min(WINDOWS - 1, int((time - begin) / width)), []).append(value)
    points = [(number, statistics.median(found)) for number, found in sorted(windows.items())]
    slope = statistics.median((b - a) / (j - i) for (i, a), (j, b) in combinations(points, 2))
    return Verdict(name, points[0][1], points[-1][1], slope * (points[-1][0] - points[0][0]), bound)


def at_rest(name: str, before: Sequence[float], after: Sequence[float]) -> Verdict:
    """Return what is left at the end. A cycle under way has a process and its pipes: the least counts."""
    return Verdict(name, min(before), min(after), min(after) - min(before), 0.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the agent or its cloud from ``begin`` to ``end`` (s)."""

    name: str
    begin: float
    end: float
    says: str
    """A regular expression for the warnings that it explains."""


def unexplained(lines: Iterable[tuple[float, str]], faults: Sequence[Fault], slack: float) -> list[str]:
    """Return the warnings and errors of the journal that no fault accounts for.

    ``lines`` have the time at which they were seen; a fault may be told ``slack`` seconds after its end.
    """
    return [
        text
        for time, text in lines
        if re.match(r"(fetch: )?(warning|error|critical)\b", text, re.IGNORECASE)
        and not any(f.begin <= time <= f.end + slack and re.search(f.says, text) for f in faults)
    ]
