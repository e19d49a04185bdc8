"""The rules of a place's clock, from the machine's time zone database (Debian's package tzdata)."""

from __future__ import annotations

from zoneinfo import ZoneInfo


def zone(untrusted_name: str) -> ZoneInfo | None:
    """Return the rules of ``Europe/Amsterdam``, or None where this machine knows no such place."""
    try:
        return ZoneInfo(untrusted_name)
    except (KeyError, ValueError, OSError):  # unknown; no name of a zone; a folder of them
        return None
