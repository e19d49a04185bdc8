"""When to warn that the credential by which the agent logs in will expire: arithmetic on the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_DAY_S: Final = 86_400.0
WARN_BEFORE_S: Final = (14 * _DAY_S, 7 * _DAY_S, _DAY_S, 0.0)
"""A warning at each of these, the last one when it has expired."""


def urgency(expires: float | None, wall: float) -> int:
    """Return how many of the warnings are due; both are Unix time (s), None is never or unknown."""
    return 0 if expires is None else sum(expires - wall <= before for before in WARN_BEFORE_S)


def warning(expires: float | None, wall: float) -> str | None:
    """Return what to tell an operator, or None while there is time."""
    if expires is None or not urgency(expires, wall):
        return None
    date = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
    days = (expires - wall) / _DAY_S
    when = (
        f"expires in {days:.0f} days" if days > 1 else "expires within a day" if days > 0 else "has expired"
    )
    return f"the application credential {when} ({date}): make a new one, then vps-secrets setup --replace"
