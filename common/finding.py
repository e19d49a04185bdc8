"""What a doctor says about one thing, and how that is printed: for agent and deployer alike. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from common.untrusted_json import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"
_SIGNS: Final = {OK: "ok     ", WARNING: "warning", FAILURE: "FAILURE"}
_MOST: Final = 4000
RESTRICTED: Final = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateDevices": "yes",
    "MemoryDenyWriteExecute": "yes",
    "RestrictRealtime": "yes",
    "LockPersonality": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "MemorySwapMax": "0",
    "LimitCORE": "0",
}
"""What systemd says of each unit that a doctor looks at, by property (systemd.exec(5))."""


class Finding(NamedTuple):
    """``what`` was looked at, what was found in ``words``, and the ``remedy``, where one is needed."""

    level: str
    what: str
    words: str
    remedy: str = ""


def failures(found: Sequence[Finding]) -> int:
    """Return how many there are."""
    return sum(one.level == FAILURE for one in found)


def document(found: Sequence[Finding]) -> dict[str, Any]:
    """Return them for programs."""
    return {"findings": [one._asdict() for one in found], "failures": failures(found)}


def lines(found: Sequence[Finding]) -> Iterator[str]:
    """Yield them for people; nothing in them can move a cursor."""
    for one in found:
        yield f"{_SIGNS[one.level]}  {printable(one.what, _MOST)}: {printable(one.words, _MOST)}"
        if one.remedy:
            yield f"         do: {printable(one.remedy, _MOST)}"
    count = Counter(one.level for one in found)
    yield f"{count[OK]} ok, {count[WARNING]} warnings, {count[FAILURE]} failures"
