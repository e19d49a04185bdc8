"""What a VPS has in Barbican, what it should have, and the steps from one to the other.

One secret object of Barbican is a *version*. Its metadata are written last, when its payload is there and
the third party, where there is one, has taken the value: they mark it as ready to be listed. A version
without them that no container lists is what a broken run has left behind.

Times are seconds since 1970, UTC, as Barbican tells them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from common import sealing_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.names import SecretName, Version
    from common.sealing_key import Announced


EXTERNAL: Final = "external"
"""The kind whose values only a person has."""


def fingerprint(key: bytes) -> str:
    """Return what tells a public key that says of no next one from others, in marks."""
    return sealing_key.Announced(key).fingerprint


NO_TARGETS: Final[Mapping[SecretName, Version]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Marks:
    """The metadata of a version that is ready."""

    rotation: str
    """Of which rotation it is; versions of one rotation belong together."""
    kind: str
    slot: str = ""
    """Which of the third party's two accounts has this value; empty where there are none."""
    sequence: int = 0
    """Its place among the versions of its name, where it is sealed (common/sealed.py); 0 where it is not."""
    key: str = ""
    """To which key of the VPS it is sealed: its fingerprint; empty where it is not."""

    @property
    def making(self) -> tuple[str, str, str]:
        """For what it was made: two versions with the same are twins, made for one purpose."""
        return self.rotation, self.kind, self.slot


@dataclass(frozen=True, slots=True)
class Made:
    """One version as Barbican lists it. ``marks`` is None until it is ready, and where a person made it."""

    name: SecretName
    version: Version
    created: float
    marks: Marks | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the container: ``VPS/NAME`` is k = 0, ``VPS/NAME~K`` is k = K."""

    name: SecretName
    k: int
    version: Version


@dataclass(frozen=True, slots=True)
class Observed:
    """What Barbican has of one VPS.

    ``granted_to`` is the user whom all ACLs name, "" for nobody, None where it is not known.
    """

    container: Version | None = None
    entries: frozenset[Entry] = frozenset()
    made: frozenset[Made] = frozenset()
    granted_to: str | None = None
    consumers: frozenset[str] = frozenset()

    @property
    def keys(self) -> frozenset[Announced]:
        """The public keys that are registered in the container; there should be one (docs/deployment.md).

        One that a registered key has said to come after it takes its place.
        """
        found = (sealing_key.announced_by(url) for url in self.consumers)
        return sealing_key.in_force(frozenset(one for one in found if one is not None))


@dataclass(frozen=True, slots=True)
class Wish:
    """What one name should be."""

    name: SecretName
    kind: str
    group: str
    slots: tuple[str, ...] = ()
    keep_former_s: float = 86400.0
    """How long a former version stays in Barbican, unlisted, so that it can be listed again."""
    may_make: bool = True
    """Whether a missing one may be made: not where only a person has it, nor where old data need it."""
    keep_previous_s: int | None = None
    """How long the agent serves the version before a new one, where the blueprint says so."""
    last: Version | None = None
    """What was its current version when it was looked at last: listed again where only its entry is gone."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """An order to list these names with versions of one rotation.

    ``targets`` are versions that are there already and are to be listed again, as in a rollback.
    ``compromised`` deletes what was replaced at once.
    """

    id: str
    names: frozenset[SecretName]
    targets: Mapping[SecretName, Version] = field(default_factory=lambda: NO_TARGETS)
    compromised: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    """What a VPS should have. ``user_id`` is its Keystone user; "" while it has none."""

    vps_id: str
    user_id: str
    wishes: tuple[Wish, ...]
    rotations: tuple[Rotation, ...] = ()
    access: bool = True
    """False: revoked; the ACLs name nobody."""
    present: bool = True
    """False: everything of it is to be deleted."""
    sealed: bool = False
    """Whether each value is made for the one key of this VPS: none is, before that is there."""
    claimed_at: float = 0.0
    """When its user was claimed last, as far as that is known: only then its key may be another one."""


@dataclass(frozen=True, slots=True)
class Seal:
    """To which key a version is sealed, and what its header says besides its marks (common/sealed.py)."""

    key: bytes
    floor: int = 0
    keep_s: int | None = None


@dataclass(frozen=True, slots=True)
class Make:
    """Make one version and mark it ready; the only step in which a value exists."""

    name: SecretName
    marks: Marks
    seal: Seal | None = None


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """Create the container with these entries at once, then let the user read it: all or nothing."""

    user_id: str
    entries: frozenset[Entry]


@dataclass(frozen=True, slots=True)
class Grant:
    """Let this user read these versions, then the container; "" is nobody."""

    user_id: str
    versions: frozenset[Version]


@dataclass(frozen=True, slots=True)
class AddEntry:
    """Add a line to the container."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class RemoveEntry:
    """Take a line away from the container."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class DeleteSecret:
    """Delete a version that no container lists."""

    name: SecretName
    version: Version


@dataclass(frozen=True, slots=True)
class DeleteContainer:
    """Delete the container."""


Action: TypeAlias = Make | CreateContainer | Grant | AddEntry | RemoveEntry | DeleteSecret | DeleteContainer
