"""Which sealed versions may follow which: the order of one name's versions (docs/adr/0036). Pure.

A sealed value has a sequence number, and a floor below which versions are over. So an old value does not come
in place of a newer one, and a rollback can still list the one that the deployer keeps for it. A value that is
not sealed has no place in that order: ``fetch.require_sealed`` is what refuses it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from agent.core.rotation import Unread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.rotation import Reading
    from agent.core.secret import SecretMetadata
    from common.names import SecretName, Version


class Ordered(NamedTuple):
    """A reading without the versions that are over: those count as not read, and ``refused`` has them."""

    reading: Reading
    refused: Mapping[Version, SecretName]


def ordered(held: Mapping[SecretName, SecretMetadata], reading: Reading) -> Ordered:
    """Take the versions that are over out of a reading; what is left has the highest floor of its name."""
    floors: dict[SecretName, int] = {}
    for facts in (*held.values(), *reading.read.values()):
        if facts.seal is not None:
            floors[facts.name] = max(floors.get(facts.name, 0), facts.seal.floor)
    read: dict[Version, SecretMetadata] = {}
    refused: dict[Version, SecretName] = {}
    for version, facts in reading.read.items():
        seal = facts.seal
        if seal is None:
            read[version] = facts
        elif seal.sequence < floors[facts.name]:
            refused[version] = facts.name
        else:
            read[version] = replace(facts, seal=replace(seal, floor=floors[facts.name]))
    if not refused:
        return Ordered(replace(reading, read=read), {})
    unread = {**reading.unread, **dict.fromkeys(refused, Unread.FAILED)}
    return Ordered(replace(reading, read=read, unread=unread), refused)


def former_until(former: SecretMetadata, new: SecretMetadata, until: float, now: float) -> float:
    """Return until when a former version is served beside the new one; ``now`` where it has ended at once.

    ``until`` is what the configuration says; all of it is on the boot clock (s).
    """
    seal = new.seal
    if seal is None:
        return until
    # one without a seal is before all that are sealed; it ends where there is no former version at all
    ended = former.seal.sequence < seal.floor if former.seal else seal.floor == seal.sequence
    if ended:
        return now
    return until if seal.keep_s is None else now + seal.keep_s
