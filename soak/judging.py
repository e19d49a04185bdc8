"""Whether a run was flat, and whether every warning has its reason: pure, over what was sampled.

Growth is the Theil-Sen slope (the median over all pairs, so that a fault's spike does not count) times the
length of the judged part. Counts go up and down with the clients, so what is judged is the least of each
window; memory is judged by each window's median.
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


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that must not grow by more than ``bound`` (in its unit) over the judged part."""

    name: str
    unit: str
    bound: float
    counts: bool


MEASURES: Final = (
    Measure("resident", "MB", 1.0, counts=False),
    Measure("anonymous", "MB", 1.0, counts=False),
    Measure("descriptors", "", 1.0, counts=True),
    Measure("threads", "", 1.0, counts=True),
    Measure("tasks", "", 1.0, counts=True),
    Measure("children", "", 1.0, counts=True),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one measure went: ``first`` and ``last`` are those of the judged windows."""

    measure: Measure
    first: float
    last: float
    growth: float

    @property
    def is_flat(self) -> bool:
        """Whether it stayed within its bound."""
        return self.growth <= self.measure.bound

    def __str__(self) -> str:
        name, unit = self.measure.name, self.measure.unit
        verdict = "flat" if self.is_flat else "NOT FLAT"
        bound = f"at most {self.measure.bound:g}"
        return f"{name:<12} {self.first:8.2f} to {self.last:8.2f} {unit:<3} growth {self.growth:+.2f} ({bound}): {verdict}"


def judge(measure: Measure, times: Sequence[float], values: Sequence[float]) -> Verdict:
    """Return how a measure went after the warm-up; ``times`` rise (s)."""
    begin = times[0] + WARM_UP * (times[-1] - times[0])
    width = (times[-1] - begin) / WINDOWS
    windows: dict[int, list[float]] = {}
    for time, value in zip(times, values, strict=True):
        if time >= begin:
            windows.setdefault(min(WINDOWS - 1, int((time - begin) / width)), []).append(value)
    summary = min if measure.counts else statistics.median
    points = [(number, summary(found)) for number, found in sorted(windows.items())]
    slope = statistics.median((b - a) / (j - i) for (i, a), (j, b) in combinations(points, 2))
    return Verdict(measure, points[0][1], points[-1][1], slope * (points[-1][0] - points[0][0]))


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the agent or its cloud from ``begin`` to ``end`` (s), and what may be said."""

    name: str
    begin: float
    end: float
    says: str
    """A regular expression for the warnings that it explains."""


def unexplained(lines: Iterable[tuple[float, str]], faults: Sequence[Fault], slack: float) -> list[str]:
    """Return the warnings and errors of the journal that no fault accounts for.

    ``lines`` have the time at which they were seen; ``slack`` is how much later (s) a fault may still be told.
    """
    return [
        text
        for time, text in lines
        if re.match(r"(fetch: )?(warning|error|critical)\b", text, re.IGNORECASE)
        and not any(f.begin <= time <= f.end + slack and re.search(f.says, text) for f in faults)
    ]
