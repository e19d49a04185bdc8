"""What is held: names, facts about one version, the payload and the snapshot.

Invariants: a :class:`SecretName` has passed :func:`parse_name`; a payload is reachable only through
:meth:`Secret.reveal`; nothing here can be pickled, copied or printed into a payload; a
:class:`Snapshot` never changes once it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from common.names import SecretName, Version


@dataclass(frozen=True, slots=True)
class Seal:
    """What a sealed value says of its place among the versions of its name (common/sealed.py).

    Versions with a lower ``sequence`` than ``floor`` are over. ``keep_s`` is for how long (s) the version
    before it is served, None where the configuration says it. ``key`` tells which key has opened it; "": not
    known.
    """

    sequence: int
    floor: int = 0
    keep_s: float | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class SecretMetadata:
    """What may be told about one version of one secret. ``created`` and ``expires`` are Unix times (s).

    ``seal`` is None for a value that came without one.
    """

    name: SecretName
    version: Version
    size: int
    content_type: str
    created: float
    expires: float | None
    seal: Seal | None = None


def next_generation(former: int, wall: float) -> int:
    """Return the generation after ``former``, of a snapshot published at ``wall`` (Unix time, s).

    It is the time in milliseconds, or one more than the former where the clock does not say more. So it grows
    over restarts, reboots and restored snapshots without anything being remembered; and where the clock was
    set back and nothing is remembered, it is another one at least (docs/adr/0023).
    """
    return max(former + 1, int(wall * 1000))


class Secret:
    """One version of one secret: its facts, and a view of its payload in the snapshot's memory file.

    The view is the only reference to the payload; whoever owns the memory file may wipe it, after which
    :meth:`reveal` raises ValueError.
    """

    __slots__ = ("_view", "facts")

    def __init__(self, facts: SecretMetadata, view: memoryview) -> None:
        self.facts: Final = facts
        self._view: Final = view

    def reveal(self) -> bytes:
        """Return the payload. Called in one place per door, on the way to the socket, nowhere else."""
        return bytes(self._view)

    def borrow(self) -> memoryview:
        """Return the view itself, for the store to copy into the next memory file without a copy between."""
        return self._view

    def __repr__(self) -> str:
        return f"<Secret {self.facts.name} {self.facts.version}>"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        """Compare versions: a Barbican payload can never be replaced, so equal versions are equal."""
        return isinstance(other, Secret) and other.facts.version == self.facts.version

    def __hash__(self) -> int:
        return hash(self.facts.version)

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("a secret can't be copied or serialised")

    __reduce__ = __reduce_ex__ = __getstate__ = __copy__ = __deepcopy__ = _refuse


@dataclass(frozen=True, slots=True)
class Remarks:
    """What is to be known about a set of versions beside the versions.

    ``pending`` are names that Barbican lists and that have no value. ``kept`` are names that may be served in
    an older version than Barbican has: they are stale whatever their age.
    """

    pending: frozenset[SecretName] = frozenset()
    kept: frozenset[SecretName] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.pending or self.kept)

    def without(self, dropped: Iterable[SecretName]) -> Remarks:
        """Return what still holds once names are served no more: they are listed, or nobody knows."""
        return Remarks(self.pending, self.kept.difference(dropped))


NO_REMARKS: Final = Remarks()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the VPS has at one moment, from one reading of Barbican; immutable.

    ``generation`` is from :func:`next_generation`: another one for every snapshot whose versions differ.
    ``previous`` holds, for a bounded grace time, the version before a rotation, and until when
    (seconds on the boot clock).
    """

    generation: int
    current: Mapping[SecretName, Secret]
    previous: Mapping[SecretName, tuple[Secret, float]]
    remarks: Remarks = NO_REMARKS

    def __post_init__(self) -> None:
        object.__setattr__(self, "current", MappingProxyType(dict(self.current)))
        object.__setattr__(self, "previous", MappingProxyType(dict(self.previous)))

    def versions(self) -> dict[SecretName, Version]:
        """Return name → version of what is served now."""
        return {name: secret.facts.version for name, secret in self.current.items()}
