"""What the command prints: tables for people, JSON for programs, progress where something takes long."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from common.durations import span
from common.untrusted_json import printable
from deployer.cli.client import NO, ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deployer.cli.client import Client

EVERY: Final = "*"
"""The target of an operation about many VPSs."""
FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 2.0
SHOWN: Final = 120
"""Characters of what comes from elsewhere, in one cell."""


def document(content: object) -> None:
    """Print JSON."""
    print(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table whose columns are as wide as they must be; nothing in it can move a cursor."""
    cells = [list(head), *([printable(str(cell), SHOWN) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def until(moment: float | None, now: float) -> str:
    """Return how far away a moment is: ``in 3 d``, ``5 min late``, ``never``."""
    if moment is None:
        return "never"
    left = moment - now
    return f"in {span(left)}" if left >= 0 else f"{span(-left)} late"


def ago(moment: float | None, now: float) -> str:
    """Return how long ago a moment was, or a dash."""
    return "-" if moment is None else f"{span(max(0.0, now - moment))} ago"


def follow(client: Client, operation: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Wait until an operation has ended, showing how far it is; return it.

    Raises:
        ApiError: it failed, or has not ended in time; it goes on all the same.
    """
    began, pause = time.monotonic(), FIRST_PAUSE_S
    name = f"{operation['kind']} {operation['target']}"
    while operation["state"] in {"wanted", "running"}:
        if time.monotonic() - began > timeout_s:
            raise ApiError(
                f"{name} is not done after {span(timeout_s)} and goes on{_why(client, operation)}; "
                f"see: vps-secrets-deploy operation {operation['id']}",
                NO,
            )
        _say(f"{name}: {operation['done']} of {operation['total'] or '?'}, {time.monotonic() - began:.0f} s")
        time.sleep(pause)
        pause = min(MAX_PAUSE_S, pause * 1.3)
        operation = client.get("operations", operation["id"])
    _say("")
    if operation["state"] == "failed":
        raise ApiError(f"{name} failed: {printable(str(operation['error']), SHOWN * 4)}", NO)
    return operation


def _why(client: Client, operation: dict[str, Any]) -> str:
    """Return what it waits for, as far as that can be told: that is what a person asks next."""
    if operation["target"] == EVERY:
        return ""
    try:
        found = client.get("vps", operation["target"])
    except ApiError:  # it is gone, or nothing answers any more
        return ""
    vps, states = found["vps"], {one["state"] for one in found["rotations"]}
    if vps["lastError"]:
        return f". Last failure: {printable(str(vps['lastError']), SHOWN * 4)}"
    if (vps["lookedAt"] or 0.0) < operation["createdAt"]:
        return ". The worker has not looked at it yet: systemctl status vps-secrets-deployer-worker"
    if states == {"listed"}:
        return ". All is listed; the agent takes it at its next poll, or by: vps-secrets refresh"
    return ""


def _say(line: str) -> None:
    """Show progress in one line, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
