"""The audit record: one line per request, written before the bytes leave.

A line is ``audit`` and a JSON object: door, outcome, status, who (uid, gid, pid), what (method, action,
names, versions, generation) and by which grant. It goes to standard error, which systemd hands to the
journal, whatever the log level is. Never a value. Where it can't be written, the request is refused.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.access import Peer

PREFIX: Final = "<6>" if "JOURNAL_STREAM" in os.environ else ""
"""sd-daemon(3): the priority "informational", where the journal reads it."""
LONGEST_TARGET: Final = 300
"""How much of what a caller sent goes into a record, in characters."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one request came to. ``names`` are those that were served or asked for, with their versions."""

    outcome: str
    status: int
    action: str
    names: Mapping[str, str | None]
    generation: int | None = None
    grants: tuple[int, ...] = ()
    reason: str = ""


def write(door: str, peer: Peer | None, method: str, record: Record) -> None:
    """Write one record.

    Raises:
        OSError: it could not be written.
    """
    line: dict[str, object] = {
        "time": round(time.time(), 3),
        "door": door,
        "outcome": record.outcome,
        "status": record.status,
        "method": method[:16],
        "action": record.action[:LONGEST_TARGET],
    }
    if peer is not None:
        line.update(uid=peer.uid, gid=peer.gid, pid=peer.pid)
    if record.names:
        line["secrets"] = dict(record.names)
    if record.generation is not None:
        line["generation"] = record.generation
    if record.grants:
        line["grants"] = record.grants
    if record.reason:
        line["reason"] = record.reason
    text = f"{PREFIX}audit {json.dumps(line)}\n"
    data = text.encode("ascii")
    fd = sys.stderr.fileno()
    while data:
        data = data[os.write(fd, data) :]
