"""Moments as people and other programs read them: RFC 3339, in UTC, to the second."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

LAST_TIME: Final = 253_402_300_799.0
"""The end of the year 9999 as Unix time (s)."""
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def date(moment: float) -> str:
    """Return a Unix time (s), from 0 to LAST_TIME, such as ``2026-01-31T00:00:00Z``, without its fraction."""
    return datetime.fromtimestamp(math.floor(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(untrusted: str) -> float | None:
    """Return the Unix time (s) of what :func:`date` writes, or None where it is something else."""
    if not _DATE.fullmatch(untrusted):
        return None
    try:
        moment = datetime.fromisoformat(untrusted).timestamp()
    except ValueError:  # such as the 31st of February
        return None
    return moment if 0 <= moment <= LAST_TIME else None
