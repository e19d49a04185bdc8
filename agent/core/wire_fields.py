"""The header members of a reply: readings, failures and calls as JSON and back, with every check.

Used by agent/core/wire.py; facts by agent/serve/store/index.py too, and agent/fetch keeps to the bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from agent.core.errors import Failure, Fault, Step
from agent.core.rotation import Entry, Reading, Unread
from agent.core.secret import Seal, SecretMetadata
from common import sealing_key, untrusted_json
from common.dates import LAST_TIME
from common.limits import MAX_PAYLOAD, MAX_SECRETS
from common.names import SecretName, Version, entry_name, parse_entry_name, parse_version, strip_prefix
from common.sealed import MAX_KEEP_S, MAX_SEQUENCE
from common.untrusted_json import MalformedError

SERVICES: Final = ("keystone", "barbican")
OUTCOMES: Final = ("ok", "refused", "failed")
"""Of a call: answered; answered with 401, 403 or 404; any other answer, or none."""
FAILURE_CHARACTERS: Final = 500
CONTENT_TYPE_CHARACTERS: Final = 128
MAX_RETRY_AFTER: Final = 30 * 86_400.0
_FULL_NAME_CHARACTERS: Final = 300
_MAX_CALLS: Final = 1_000_000

Calls: TypeAlias = Mapping[str, Mapping[str, int]]
"""Service → outcome → how many HTTP requests."""


def no_calls() -> dict[str, dict[str, int]]:
    """Return a count of none, with every service and outcome in it."""
    return {service: dict.fromkeys(OUTCOMES, 0) for service in SERVICES}


def calls(untrusted: object) -> dict[str, dict[str, int]]:
    """Return a count of calls, or raise MalformedError."""
    return {
        service: {
            outcome: untrusted_json.integer(count, "calls", _MAX_CALLS)
            for outcome, count in untrusted_json.record(outcomes, "calls", OUTCOMES).items()
        }
        for service, outcomes in untrusted_json.record(untrusted, "calls", SERVICES).items()
    }


def reading_out(vps_id: str, reading: Reading) -> dict[str, object]:
    """Return the header member of a reading, with full names."""
    return {
        "entries": [[entry_name(vps_id, entry.name, entry.k), entry.version] for entry in reading.entries],
        "read": [facts_out(vps_id, facts) for facts in reading.read.values()],
        "unread": dict(reading.unread),
    }


def facts_out(vps_id: str, facts: SecretMetadata) -> dict[str, object]:
    """Return facts as JSON members, with the full name."""
    return {
        "name": f"{vps_id}/{facts.name}",
        "version": facts.version,
        "size": facts.size,
        "contentType": facts.content_type,
        "created": facts.created,
        "expires": facts.expires,
        "seal": None if facts.seal is None else _seal_out(facts.seal),
    }


def _seal_out(seal: Seal) -> list[object]:
    return [seal.sequence, seal.floor, seal.keep_s, *([seal.key] if seal.key else [])]


def reading(untrusted: object, vps_id: str, known: frozenset[Version]) -> Reading:
    """Return a reading of this VPS that is consistent in itself and re-sends nothing that was known.

    Raises:
        MalformedError: it breaks a rule.
    """
    members = untrusted_json.record(untrusted, "reading", ("entries", "read", "unread"))
    entries = tuple(
        _entry(item, vps_id) for item in untrusted_json.array(members["entries"], "entries", MAX_SECRETS)
    )
    listed: dict[Version, set[SecretName]] = {}
    for entry in entries:
        listed.setdefault(entry.version, set()).add(entry.name)
    read: dict[Version, SecretMetadata] = {}
    for item in untrusted_json.array(members["read"], "read", MAX_SECRETS):
        facts = facts_in(item, vps_id)
        if facts.version in read:
            raise MalformedError("a version was read twice")
        if facts.name not in listed.get(facts.version, ()):
            raise MalformedError("a version that was read is not listed under its own name")
        read[facts.version] = facts
    unread = _unread(members["unread"])
    if read.keys() & unread.keys() or unread.keys() - listed.keys():
        raise MalformedError("a version is unread that was read or is not listed")
    if read.keys() & known or unread.keys() & known:
        raise MalformedError("a version that was known is sent again")
    return Reading(entries, read, unread)


def _unread(untrusted: object) -> dict[Version, Unread]:
    return {
        version(key): Unread(_one_of(value, "unread", Unread))
        for key, value in untrusted_json.mapping(untrusted, "unread").items()
    }


def _entry(untrusted: object, vps_id: str) -> Entry:
    pair = untrusted_json.array(untrusted, "an entry", 2)
    if len(pair) != 2:  # noqa: PLR2004  # a pair
        raise MalformedError("an entry is not a pair")
    full_name = untrusted_json.text(pair[0], "the name of an entry", _FULL_NAME_CHARACTERS)
    parsed = parse_entry_name(vps_id, full_name)
    if parsed is None:
        raise MalformedError("an entry is not one of this VPS")
    name, k = parsed
    return Entry(name, version(pair[1]), k)


def facts_in(untrusted: object, vps_id: str) -> SecretMetadata:
    """Return the facts of one version of this VPS's, or raise MalformedError."""
    members = untrusted_json.record(
        untrusted, "facts", ("name", "version", "size", "contentType", "created", "expires", "seal")
    )
    return SecretMetadata(
        _name(members["name"], vps_id),
        version(members["version"]),
        untrusted_json.integer(members["size"], "size", MAX_PAYLOAD),
        untrusted_json.text(members["contentType"], "contentType", CONTENT_TYPE_CHARACTERS),
        untrusted_json.number(members["created"], "created", LAST_TIME),
        moment(members["expires"], "expires"),
        None if members["seal"] is None else _seal(members["seal"]),
    )


def _seal(untrusted: object) -> Seal:
    parts = untrusted_json.array(untrusted, "a seal", 4)
    if len(parts) < 3:  # noqa: PLR2004  # sequence, floor, keep; then the key, where it is known
        raise MalformedError("a seal has not three parts or four")
    sequence = untrusted_json.integer(parts[0], "the sequence of a seal", MAX_SEQUENCE)
    floor = untrusted_json.integer(parts[1], "the floor of a seal", sequence)
    keep = None if parts[2] is None else untrusted_json.number(parts[2], "the keep of a seal", MAX_KEEP_S)
    key = [untrusted_json.text(part, "the key of a seal", sealing_key.ID) for part in parts[3:]]
    return Seal(sequence, floor, keep, *key)


def moment(untrusted: object, what: str) -> float | None:
    """Return a Unix time (s) or None, or raise MalformedError."""
    return None if untrusted is None else untrusted_json.number(untrusted, what, LAST_TIME)


def failure_out(failure: Failure) -> dict[str, object]:
    """Return the header member of a failure."""
    return {
        "step": failure.step,
        "fault": failure.fault,
        "tried": failure.tried,
        "advice": failure.advice,
        "status": failure.status,
        "retryAfter": failure.retry_after,
    }


def failure(untrusted: object) -> Failure:
    """Return a failure whose texts are one printable line each.

    Raises:
        MalformedError: it breaks a rule.
    """
    members = untrusted_json.record(
        untrusted, "failure", ("step", "fault", "tried", "advice", "status", "retryAfter")
    )
    status, retry_after = members["status"], members["retryAfter"]
    return Failure(
        Step(_one_of(members["step"], "step", Step)),
        Fault(_one_of(members["fault"], "fault", Fault)),
        untrusted_json.text(members["tried"], "tried", FAILURE_CHARACTERS),
        untrusted_json.text(members["advice"], "advice", FAILURE_CHARACTERS),
        None if status is None else untrusted_json.integer(status, "status", 999),
        None if retry_after is None else untrusted_json.number(retry_after, "retryAfter", MAX_RETRY_AFTER),
    )


def version(untrusted: object) -> Version:
    """Return a version, or raise MalformedError."""
    parsed = parse_version(untrusted) if isinstance(untrusted, str) else None
    if parsed is None:
        raise MalformedError("a version is not a UUID")
    return parsed


def _name(untrusted: object, vps_id: str) -> SecretName:
    name = strip_prefix(vps_id, untrusted_json.text(untrusted, "a name", _FULL_NAME_CHARACTERS))
    if name is None:
        raise MalformedError("a name is not one of this VPS")
    return name


def _one_of(untrusted: object, what: str, words: type[Step | Fault | Unread]) -> str:
    if not isinstance(untrusted, str) or untrusted not in set(words):
        raise MalformedError(f"{what} is not one of its words")
    return untrusted
