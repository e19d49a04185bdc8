"""Whether a load has waves: a comparison with what chance does to calls that know nothing of each other.

Such calls are a Poisson process: in windows of one length their counts have a variance equal to their mean,
and the highest count of many windows is known. A fleet in step has a far greater variance.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SWING: Final = 0.1
"""The standard deviation, beyond what chance gives, that counts as waves: a share of the mean."""
SURE: Final = 5.0
"""How many of its own standard deviations the dispersion must be above 1."""


@dataclass(frozen=True, slots=True)
class Waves:
    """The load afterwards: its mean, its peak over that in windows of 1 s and 10 s, and the same by chance.

    ``dispersion`` is variance over mean of the counts in the ``windows`` of 10 s; chance gives 1.
    """

    mean: float
    peak_1: float
    chance_1: float
    peak_10: float
    chance_10: float
    dispersion: float
    windows: int

    @property
    def swing(self) -> float:
        """How far the load rises and falls beyond chance: a standard deviation as a share of the mean."""
        return math.sqrt(max(0.0, self.dispersion - 1) / (10 * self.mean)) if self.mean else 0.0

    @property
    def are_there(self) -> bool:
        """Whether the load rises and falls by more than chance, and by enough to matter."""
        return self.swing > MAX_SWING and self.dispersion > 1 + SURE * math.sqrt(2 / self.windows)


def waves(load: Sequence[int]) -> Waves:
    """Return what a load by the second is like; at least a few windows of ten are needed."""
    tens = [sum(load[k : k + 10]) for k in range(0, len(load) - 9, 10)]
    mean = statistics.fmean(load)
    mean_10 = statistics.fmean(tens)
    return Waves(
        mean,
        max(load) / mean if mean else 0.0,
        highest_by_chance(mean, len(load)) / mean if mean else 0.0,
        max(tens) / mean_10 if mean else 0.0,
        highest_by_chance(mean_10, len(tens)) / mean_10 if mean else 0.0,
        statistics.pvariance(tens) / mean_10 if mean else 0.0,
        len(tens),
    )


def highest_by_chance(mean: float, windows: int) -> int:
    """Return the highest count that one expects in so many windows of a Poisson process of mean above 0.

    It is the highest count that at least half a window is expected to reach.
    """
    count = int(mean)
    # the tail is summed from far out inwards, where its terms are small, so that nothing is cancelled
    tail = 0.0
    for candidate in range(int(mean + 12 * math.sqrt(mean) + 30), count, -1):
        tail += math.exp(candidate * math.log(mean) - mean - math.lgamma(candidate + 1))
        if windows * tail >= 0.5:  # noqa: PLR2004  # half a window
            return candidate
    return count
