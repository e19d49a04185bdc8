"""When the wall clock and the boot clock part: a restored snapshot of the machine, or a clock that was set.

CLOCK_BOOTTIME of a machine that is restored from a snapshot goes on where the snapshot was taken; only the
wall clock knows of the days between. Somebody who sets the wall clock looks the same from inside, so the
answer must be harmless to both: look at Barbican at once, and count what that does not confirm as older.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.core.rotation import Moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.rotation import Progress
    from common.names import SecretName

PARTED_S: Final = 5.0
"""By how much they part at once before it matters; a clock that is disciplined moves by milliseconds."""


def ahead(now: Moment) -> float:
    """Return how far (s) the wall clock is ahead of the boot clock."""
    return now.wall - now.boot


def told(former: float | None) -> Moment | None:
    """Return a moment of a former process for :func:`parted`, by what :func:`ahead` said of it."""
    return None if former is None else Moment(boot=0.0, wall=former)


def parted(before: Moment, now: Moment) -> float:
    """Return by how much (s) the wall clock went ahead of the boot clock; negative where it fell behind."""
    return ahead(now) - ahead(before)


def aged(progress: Progress, seconds: float) -> Progress:
    """Return the progress as if all that it counts the age of had happened so much earlier."""
    return replace(
        progress,
        confirmed=_earlier(progress.confirmed, seconds),
        superseded=_all_earlier(progress.superseded, seconds),
        denied_since=_earlier(progress.denied_since, seconds),
        denied=_all_earlier(progress.denied, seconds),
    )


def _earlier(moment: float | None, seconds: float) -> float | None:
    return None if moment is None else moment - seconds


def _all_earlier(moments: Mapping[SecretName, float], seconds: float) -> dict[SecretName, float]:
    return {name: moment - seconds for name, moment in moments.items()}
