"""``[beacon]``: a small object at a URL that is touched when secrets rotate, so that Barbican is read soon.

The URL's query may be a signature (a temporary URL of Swift's, a presigned one of S3's). Whoever has such a
URL can read the object, so it is in no repr and no text for people: :func:`shown` leaves the query out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from common.toml_table import url

if TYPE_CHECKING:
    from pathlib import Path

    from common.toml_table import Table

NONE, KEYSTONE = "none", "keystone"
_VISIBLE: Final = re.compile(r"[!-~]{1,2048}")


@dataclass(frozen=True, slots=True)
class BeaconSettings:
    """Where the beacon is and how it is looked at. Times in seconds.

    ``auth`` "keystone" sends the runtime account's token along. ``spread``: the poll that a change causes
    comes up to so much later. ``ca_file`` None: the system's authorities.
    """

    url: str = field(repr=False)
    interval: float = 30.0
    auth: str = NONE
    ca_file: Path | None = None
    spread: float = 0.0


def beacon(table: Table, keystone_ca_file: Path | None, spread: float) -> BeaconSettings | None:
    """Return the settings, or None where no URL is given and there is no beacon.

    ``spread`` (s) is the fleet's: the default, since one beacon may be a whole fleet's.
    """
    https = "must be an https:// URL without user or fragment (http:// only on loopback)"
    found = table.text("url", beacon_url, https)
    auth = table.choice("auth", NONE, (NONE, KEYSTONE))
    settings = BeaconSettings(
        url=found or "",
        interval=table.seconds("interval", 30.0, 1.0, 3600.0),
        auth=auth,
        # the object store of the same cloud has the same authority; any other server has not
        ca_file=table.path("ca_file") or (keystone_ca_file if auth == KEYSTONE else None),
        spread=table.seconds("spread", spread, 0.0, 3600.0),
    )
    if not table.has("url"):
        for key in table.written():
            if table.has(key):
                table.add(key, "has no effect without url")
    table.finish()
    return settings if found else None


def beacon_url(text: str) -> str | None:
    """Return the text if it is the URL of a beacon; a query is allowed, since it may be a signature."""
    base = text.partition("?")[0]
    return text if _VISIBLE.fullmatch(text) and "#" not in text and url(base) else None


def shown(text: str) -> str:
    """Return a beacon's URL for people: without its query."""
    base, query, _ = text.partition("?")
    return f"{base}?…" if query else base
