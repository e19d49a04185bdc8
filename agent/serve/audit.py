"""The audit record: one line per request, written before the bytes leave.

A line is ``audit`` and a JSON object: when, door, who (uid, gid, pid), outcome, status, what (method, action,
names with their versions, generation), by which grants. It goes to standard error, which systemd hands to the
journal, whatever the log level is. Never a value. Where it can't be written, the request is refused.

The line is put together by hand, since this is on the way of every read: only ``method`` and ``action`` come
from the caller as they are and are escaped; all else are numbers, texts of ours, checked names and UUIDs.
"""

from __future__ import annotations

import os
import time
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.access import Peer

PREFIX: Final = "<6>audit" if "JOURNAL_STREAM" in os.environ else "audit"
"""sd-daemon(3): the priority "informational", where the journal reads it."""
LONGEST_TARGET: Final = 300
"""How much of what a caller sent goes into a record, in characters."""
_STDERR: Final = 2


class Record(NamedTuple):
    """What one request came to. ``names`` are those that were served or asked for, with their versions."""

    outcome: str
    status: int
    action: str
    names: Mapping[str, str | None]
    generation: int | None = None
    grants: tuple[int, ...] = ()
    reason: str = ""


def caller(door: str, peer: Peer | None) -> str:
    """Return the part of a line that is the same for every request of a connection."""
    if peer is None:
        return f'"door": "{door}"'
    who = f'"door": "{door}", "uid": {peer.uid}, "gid": {peer.gid}, "pid": {peer.pid}'
    return who if peer.unit is None else f'{who}, "unit": {encode_basestring_ascii(peer.unit)}'


def line(who: str, method: str, record: Record, now: float) -> str:
    """Return one record as it is written; ``who`` is from :func:`caller`, ``now`` is Unix time (s)."""
    names = ""
    for name, version in record.names.items():
        pair = f'"{name}": "{version}"' if version else f'"{name}": null'
        names = f"{names}, {pair}" if names else pair
    more = f', "secrets": {{{names}}}' if names else ""
    if record.generation is not None:
        more = f'{more}, "generation": {record.generation}'
    if record.grants:
        more = f'{more}, "grants": [{", ".join(map(str, record.grants))}]'
    if record.reason:
        more = f'{more}, "reason": "{record.reason}"'
    return (
        f'{PREFIX} {{"time": {now:.3f}, {who}, "outcome": "{record.outcome}", "status": {record.status}, '
        f'"method": {encode_basestring_ascii(method[:16])}, '
        f'"action": {encode_basestring_ascii(record.action[:LONGEST_TARGET])}{more}}}\n'
    )


def write(who: str, method: str, record: Record) -> None:
    """Write one record.

    Raises:
        OSError: it could not be written.
    """
    data = line(who, method, record, time.time()).encode("ascii")
    while data:
        data = data[os.write(_STDERR, data) :]
