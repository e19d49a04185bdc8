"""The audit record: one per request, written before the bytes leave.

With systemd a record goes to the journal with a field for each fact (docs/operating.md has the table), so
that ``journalctl -u vps-secrets-agent VPS_SECRETS_OUTCOME=denied`` finds what is looked for. Without, it is a
line on standard error: ``audit`` and a JSON object. Never a value. Where it can't be written, the request is
refused (docs/adr/0017).

Records are put together by hand, since this is on the way of every read: only ``method`` and ``action`` come
from the caller as they are and are escaped; all else are numbers, texts of ours, checked names and UUIDs.
"""

from __future__ import annotations

import functools
import logging
import time
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.serve.host.journal import IS_JOURNAL, OUTBOX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.access import Peer

MESSAGE_ID: Final = "5b8f5c1d7e3f4f0d9c0a2b6de1a4c7f3"
MAX_TARGET: Final = 300
"""How much of what a caller sent goes into a record, in characters."""
_ADVICE: Final = "see `systemctl status systemd-journald`" if IS_JOURNAL else "read what it is connected to"
_refused: Final = [0]  # requests since a record was written last
_log: Final = logging.getLogger("agent.audit")
_NOTICE, _INFO = 5, 6  # syslog(3); what was not served stands out


class Record(NamedTuple):
    """What one request came to. ``names`` are those that were served or asked for, with their versions.

    ``counts_only``: it is counted and not written. Only a scrape is so: there are so many
    that they would bury the rest.
    """

    outcome: str
    status: int
    action: str
    names: Mapping[str, str | None]
    generation: int | None = None
    grants: tuple[int, ...] = ()
    reason: str = ""
    counts_only: bool = False


class Caller(NamedTuple):
    """What is the same in every record of one connection: as JSON members, as journal fields, in words."""

    members: str
    fields: str
    words: str


@functools.lru_cache(maxsize=64)
def caller(door: str, peer: Peer | None) -> Caller:
    """Return who asks at which door."""
    members, fields, words = f'"door": "{door}"', f"VPS_SECRETS_DOOR={door}\n", "nobody known"
    if peer is not None:
        members = f'{members}, "uid": {peer.uid}, "gid": {peer.gid}, "pid": {peer.pid}'
        fields = (
            f"{fields}VPS_SECRETS_UID={peer.uid}\nVPS_SECRETS_GID={peer.gid}\nVPS_SECRETS_PID={peer.pid}\n"
        )
        words = f"uid {peer.uid} (pid {peer.pid})"
        if peer.unit is not None:
            unit = encode_basestring_ascii(peer.unit)
            members = f'{members}, "unit": {unit}'
            fields = f"{fields}VPS_SECRETS_UNIT={unit[1:-1]}\n"
            words = f"{words} in {unit[1:-1]}"
    return Caller(members, fields, f"{words} at the {door} socket")


def line(who: Caller, method: str, record: Record, now: float) -> str:
    """Return one record as a line; ``who`` is from :func:`caller`, ``now`` is Unix time (s)."""
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
        f'audit {{"time": {now:.3f}, {who.members}, "outcome": "{record.outcome}", '
        f'"status": {record.status}, '
        f'"method": {encode_basestring_ascii(method[:16])}, '
        f'"action": {encode_basestring_ascii(record.action[:MAX_TARGET])}{more}}}\n'
    )


def entry(who: Caller, method: str, record: Record) -> str:
    """Return one record in the journal's own protocol (systemd.io, "Native Journal Protocol")."""
    asked = encode_basestring_ascii(method[:16])[1:-1]
    action = encode_basestring_ascii(record.action[:MAX_TARGET])[1:-1]
    more = ""
    for name, version in record.names.items():
        more = f"{more}VPS_SECRETS_NAME={name}\n"
        if version:
            more = f"{more}VPS_SECRETS_VERSION={version}\n"
    if record.generation is not None:
        more = f"{more}VPS_SECRETS_GENERATION={record.generation}\n"
    for grant in record.grants:
        more = f"{more}VPS_SECRETS_GRANT={grant}\n"
    if record.reason:
        more = f"{more}VPS_SECRETS_REASON={record.reason}\n"
    reason = f", {record.reason}" if record.reason else ""
    priority = _INFO if record.outcome == "served" else _NOTICE
    return (
        f"MESSAGE={record.outcome}: {asked} {action} by {who.words} ({record.status}{reason})\n"
        f"MESSAGE_ID={MESSAGE_ID}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=vps-secrets-agent\n{who.fields}"
        f"VPS_SECRETS_OUTCOME={record.outcome}\nVPS_SECRETS_STATUS={record.status}\n"
        f"VPS_SECRETS_METHOD={asked}\nVPS_SECRETS_ACTION={action}\n{more}"
    )


def write(who: Caller, method: str, record: Record) -> bool:
    """Write one record now; return whether it was written."""
    return _noted(OUTBOX.send(_message(who, method, record)))


async def written(who: Caller, method: str, record: Record) -> bool:
    """Write one record, waiting for its place where the journal is behind; return whether it was written."""
    if await OUTBOX.deliver(_message(who, method, record)):
        return _noted(done=True)
    _refused[0] += 1
    if _refused[0] == 1:
        _log.error("%s", trouble() or "an audit record could not be written in time")
    return False


def post(who: Caller, method: str, record: Record) -> bool:
    """Write one record, or keep it until it can be written; return whether there was a place for it."""
    return OUTBOX.post(_message(who, method, record))


def trouble() -> str | None:
    """Return why no record can be written at the moment, or None while all is well."""
    if not OUTBOX.fails:
        return None
    where = "the journal takes" if IS_JOURNAL else "standard error takes"
    return f"{where} no audit records ({OUTBOX.reason}), so no secret is served; {_ADVICE}"


def _noted(done: bool) -> bool:  # noqa: FBT001  # it passes through
    """Say once that all is well again."""
    if done and _refused[0]:
        refused, _refused[0] = _refused[0], 0
        _log.warning("audit records are written again; requests refused meanwhile: %d", refused)
    return done


def _message(who: Caller, method: str, record: Record) -> bytes:
    text = entry(who, method, record) if IS_JOURNAL else line(who, method, record, time.time())
    return text.encode("ascii")
