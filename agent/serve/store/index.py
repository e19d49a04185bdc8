"""The index of a kept memory file: what a snapshot is besides its payloads, as JSON, and back with checks.

It says whose snapshot it is (VPS, container, boot), so that one that is not ours is refused whole. It holds
names and versions, never a payload.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.core import wire_fields
from agent.core.secret import Remarks, Secret, SecretMetadata, Snapshot
from agent.serve.store.memory_file import AdoptionError
from common import untrusted_json
from common.names import SecretName, parse_name

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = 2
"""Of 1 is what an agent has left that knew of no seals: it is taken, so that an update is no cold start."""
MAX_NAMES: Final = 2000
_KEYS: Final = (
    *("format", "vpsId", "container", "bootId", "sequence"),
    *("generation", "changed", "pending", "kept", "facts", "current", "until"),
)
_MOST: Final = 2**53
_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose secrets they are. ``boot_id``: moments are on the clock of one boot (proc(5), boot_id)."""

    vps_id: str
    container: str
    boot_id: str

    @classmethod
    def of(cls, vps_id: str, container: str) -> Owner:
        """Return this VPS in this boot."""
        return cls(vps_id, container, Path("/proc/sys/kernel/random/boot_id").read_text().strip())


@dataclass(frozen=True, slots=True)
class Index:
    """A snapshot without its payloads, which lie in the order of ``facts``: current ones, then previous ones.

    ``until`` has one moment (boot clock, s) per previous one. ``sequence`` grows with every file.
    """

    sequence: int
    generation: int
    changed: Mapping[SecretName, int]
    remarks: Remarks
    facts: tuple[SecretMetadata, ...]
    until: tuple[float, ...]

    @property
    def current(self) -> int:
        """How many of ``facts`` are current."""
        return len(self.facts) - len(self.until)

    def snapshot(self, views: list[memoryview]) -> Snapshot:
        """Return the snapshot over the payloads' views."""
        secrets = [Secret(facts, view) for facts, view in zip(self.facts, views, strict=True)]
        previous = zip(secrets[self.current :], self.until, strict=True)
        return Snapshot(
            self.generation,
            {secret.facts.name: secret for secret in secrets[: self.current]},
            {secret.facts.name: (secret, until) for secret, until in previous},
            self.remarks,
        )


def encode(owner: Owner, index: Index) -> bytes:
    """Return the index as it is written beside the payloads."""
    return json.dumps(
        {
            "format": FORMAT,
            "vpsId": owner.vps_id,
            "container": owner.container,
            "bootId": owner.boot_id,
            "sequence": index.sequence,
            "generation": index.generation,
            "changed": index.changed,
            "pending": sorted(index.remarks.pending),
            "kept": sorted(index.remarks.kept),
            "facts": [wire_fields.facts_out(owner.vps_id, facts) for facts in index.facts],
            "current": index.current,
            "until": index.until,
        }
    ).encode()


def decode(owner: Owner, untrusted: bytes, sizes: list[int]) -> Index:
    """Return the index of a file whose payloads have these sizes.

    Raises:
        AdoptionError: it is another VPS's, another boot's, another format's, or breaks a rule.
    """
    try:
        return _decode(owner, untrusted, sizes)
    except untrusted_json.MalformedError as error:
        problem = f"{error}: it is damaged"
    raise AdoptionError(problem)


def _decode(owner: Owner, untrusted: bytes, sizes: list[int]) -> Index:
    members = untrusted_json.mapping(untrusted_json.parse(untrusted, "its index"), "its index")
    if members.get("format") not in {1, FORMAT}:
        raise AdoptionError("another version of the agent made it")
    unsealed = {"seal": None} if members["format"] == 1 else {}
    untrusted_json.record(members, "its index", _KEYS)
    for key, ours, whose in (
        ("vpsId", owner.vps_id, "VPS"),
        ("container", owner.container, "container"),
        ("bootId", owner.boot_id, "boot"),
    ):
        if members[key] != ours:
            raise AdoptionError(f"it is of another {whose}")
    facts = tuple(
        wire_fields.facts_in(untrusted_json.mapping(item, "its facts") | unsealed, owner.vps_id)
        for item in untrusted_json.array(members["facts"], "its facts", MAX_NAMES)
    )
    until = tuple(
        untrusted_json.number(item, "until", float(_MOST))
        for item in untrusted_json.array(members["until"], "until", MAX_NAMES)
    )
    current = untrusted_json.integer(members["current"], "current", MAX_NAMES)
    if [item.size for item in facts] != sizes or current + len(until) != len(facts):
        raise untrusted_json.MalformedError("its facts do not fit its payloads")
    for part in (facts[:current], facts[current:]):
        if len({item.name for item in part}) != len(part):
            raise untrusted_json.MalformedError("a name is in it twice")
    return Index(
        untrusted_json.integer(members["sequence"], "sequence", _MOST),
        untrusted_json.integer(members["generation"], "generation", _MOST),
        {
            _name(key): untrusted_json.integer(value, "changed", _MOST)
            for key, value in untrusted_json.mapping(members["changed"], "changed").items()
        },
        Remarks(_names(members["pending"], "pending"), _names(members["kept"], "kept")),
        facts,
        until,
    )


def _names(untrusted: object, what: str) -> frozenset[SecretName]:
    return frozenset(_name(item) for item in untrusted_json.array(untrusted, what, MAX_NAMES))


def _name(untrusted: object) -> SecretName:
    name = parse_name(untrusted_json.text(untrusted, "a name", _TEXT))
    if name is None:
        raise untrusted_json.MalformedError("a name is not one")
    return name


def token_index(owner: Owner) -> bytes:
    """Return the index of the token state's file: whose it is."""
    return f"token {FORMAT} {owner.vps_id} {owner.container} {owner.boot_id}".encode()


def check_token(owner: Owner, untrusted: bytes, count: int) -> None:
    """Check the index of a token state's file, which holds ``count`` payloads.

    Raises:
        AdoptionError: it is not ours.
    """
    if untrusted != token_index(owner) or count != 1:
        raise AdoptionError("it is of another VPS, container, boot or version")
