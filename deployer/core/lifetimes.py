"""How long the deployer's own credentials still last, and when somebody has to be told. Pure.

What a program finds out about a credential is kept as the result of a check (deployer/database/checks.py),
whose name begins with :data:`PREFIX`; how much time is left is computed whenever somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from common.dates import date
from common.durations import span

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "credential: "
DAY_S: Final = 86_400.0
WARN_BEFORE_S: Final = (14 * DAY_S, 7 * DAY_S, DAY_S, 0.0)
"""A warning at each of these, the last one when it has ended."""
LOOKED_AT_S: Final = 3 * DAY_S
"""Each is looked at daily; what was not for so long is not known any more."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """What is known of one credential. Dates are Unix time (s).

    ``ends`` is None where it has no end, ``since`` where nobody knows how old it is. ``problem`` says why
    nothing is known, ``renew`` what a person does about it, ``host`` whose it is where each machine has one.
    """

    name: str
    ends: float | None = None
    since: float | None = None
    problem: str = ""
    renew: str = ""
    host: str = ""

    def detail(self) -> dict[str, str | float | None]:
        """Return it as a check keeps it."""
        found = {"ends": self.ends, "since": self.since, "problem": self.problem, "renew": self.renew}
        return found | ({"host": self.host} if self.host else {})


def of_check(name: str, at: float, detail: Mapping[str, object], now: float) -> Lifetime | None:
    """Return what a check of ``at`` found about a credential; None where it is about something else.

    What is too old says so; but of a machine that may have been taken down, nothing.
    """
    if not name.startswith(PREFIX):
        return None
    old = now - at > LOOKED_AT_S
    host = str(detail.get("host", ""))
    if old and host:
        return None
    problem = str(detail.get("problem", ""))
    if old:
        problem = f"it was last looked at {span(now - at)} ago: is the worker running?"
    return Lifetime(
        name.removeprefix(PREFIX),
        _moment(detail.get("ends")),
        _moment(detail.get("since")),
        problem,
        str(detail.get("renew", "")),
        host,
    )


def urgency(life: Lifetime, now: float) -> int:
    """Return how many of the warnings are due."""
    return 0 if life.ends is None else sum(life.ends - now <= before for before in WARN_BEFORE_S)


def words(life: Lifetime, now: float) -> str:
    """Return how long it lasts, or how old it is."""
    if life.problem and life.ends is None:
        return life.problem
    said = "has no end"
    if life.ends is not None:
        left = life.ends - now
        said = f"ends in {span(left)} ({date(life.ends)})" if left > 0 else f"ended at {date(life.ends)}"
    if life.since is not None:
        said += f", {span(max(0.0, now - life.since))} old"
    return f"{said}; {life.problem}" if life.problem else said


def warning(life: Lifetime, now: float) -> str:
    """Return what to tell an operator; nothing while there is time."""
    if not life.problem and not urgency(life, now):
        return ""
    return f"{life.name}: {words(life, now)}" + (f": {life.renew}" if life.renew else "")


def _moment(found: object) -> float | None:
    return float(found) if isinstance(found, (int, float)) else None
