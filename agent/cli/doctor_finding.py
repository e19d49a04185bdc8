"""What ``vps-secrets doctor`` says about one thing."""

from __future__ import annotations

from typing import Final, NamedTuple

OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"


class Finding(NamedTuple):
    """``what`` was looked at, what was found in ``words``, and the ``remedy``, where one is needed."""

    level: str
    what: str
    words: str
    remedy: str = ""
