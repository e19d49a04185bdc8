"""Whether each place of deployer.toml has its backup: computed whenever somebody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from common.durations import span
from deployer.database import backups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from deployer.config.model import Backup

LATE: Final = 2.0
"""How many times its interval old a good backup may be: one that failed can be made again meanwhile."""


@dataclass(frozen=True, slots=True)
class Health:
    """One place. Times are Unix time (s), None for never; ``problem`` is "" where nobody is needed."""

    name: str
    where: str
    good_at: float | None
    proved_at: float | None
    problem: str

    def age_s(self, now: float) -> float:
        """Return how old the last good backup is; without one, older than any."""
        return float("inf") if self.good_at is None else max(0.0, now - self.good_at)


def health(c: Connection, now: float, wanted: Sequence[Backup]) -> tuple[Health, ...]:
    """Return how each place is, in the order of the file."""
    return tuple(_one(c, now, place) for place in wanted)


def _one(c: Connection, now: float, wanted: Backup) -> Health:
    tried = backups.newest(c, wanted.where)
    good = backups.newest(c, wanted.where, good=True)
    if tried is not None and tried.state == "failed":
        problem = f"the last try failed: {tried.error}"
    elif good is None:
        problem = "no backup has been made yet"
    elif now - good.begun_at > LATE * wanted.every:
        problem = f"the last good one is {span(now - good.begun_at)} old, and one is due every "
        problem += span(wanted.every)
    else:
        problem = ""
    return Health(
        name=wanted.name,
        where=wanted.where,
        good_at=good.begun_at if good else None,
        proved_at=good.proved_at if good else None,
        problem=problem,
    )
