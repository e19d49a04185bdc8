"""Who may read what: a pure decision over the peer that the kernel named and the grants.

The last line of :func:`decide` denies. No grants, no answers. uid 0 has no rights of its own.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from fnmatch import translate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from common.names import SecretName


@dataclass(frozen=True, slots=True)
class Peer:
    """A local caller as the kernel describes it (unix(7), SO_PEERCRED), taken once per connection.

    ``groups`` are all its group ids, primary and supplementary. ``unit`` is the systemd unit of its
    process, or None where it is in none or no grant has asked for one yet.
    """

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    unit: str | None = None


class NoId(enum.Enum):
    """Why a named user or group has no id; the value is what to say after its name."""

    GONE = "does not exist on this machine"
    UNKNOWN = "is not known: the system's user database has not answered"


Id: TypeAlias = int | NoId


def _compile(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")


@dataclass(frozen=True, slots=True)
class Grant:
    """A rule: callers that match all of the given ``uid``, ``gid``, ``unit`` may read ``secrets`` (globs).

    ``user`` and ``group`` are the names as configured, for people; ``uid`` and ``gid`` what they
    resolved to. With a named user or group that has no id the grant matches nobody.
    """

    index: int
    secrets: tuple[str, ...]
    user: str | None = None
    group: str | None = None
    unit: str | None = None
    uid: Id = NoId.GONE
    gid: Id = NoId.GONE
    decision: Decision = field(init=False, repr=False, compare=False)
    """What :func:`decide` says where this grant allows; made once, since every read asks."""
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pattern", _compile(self.secrets))
        object.__setattr__(self, "decision", Decision(allowed=True, grant=self))

    def mismatch(self, peer: Peer) -> str | None:
        """Return why this caller is not meant by the grant, or None if it is."""
        if self.user is not None:
            if isinstance(self.uid, NoId):
                return f"user {self.user} {self.uid.value}"
            if peer.uid != self.uid:
                return f"it is for user {self.user}"
        if self.group is not None:
            if isinstance(self.gid, NoId):
                return f"group {self.group} {self.gid.value}"
            if self.gid not in peer.groups:
                return f"it is for group {self.group}"
        if self.unit is not None and peer.unit != self.unit:
            return f"it is for unit {self.unit}"
        if self.user is None and self.group is None and self.unit is None:
            return "it names no caller"
        return None

    def caller(self) -> str | None:
        """Return whom it means, by number; None is nobody."""
        asked = [("uid", self.user, self.uid), ("gid", self.group, self.gid), ("unit", self.unit, self.unit)]
        known = [(key, value) for key, name, value in asked if name is not None]
        if not known or any(isinstance(value, NoId) for _, value in known):
            return None
        return " ".join(f"{key}={value}" for key, value in known)

    def covers(self, name: SecretName) -> bool:
        """Return whether the grant's globs match the name."""
        return self._pattern.fullmatch(name) is not None

    def __str__(self) -> str:
        """The rule in words, for ``explain`` and the audit record."""
        who = [f"{key} {value}" for key, value in self._callers() if value is not None]
        return f"grant {self.index + 1} ({', '.join(who) or 'nobody'}: {', '.join(self.secrets)})"

    def _callers(self) -> tuple[tuple[str, str | None], ...]:
        return (("user", self.user), ("group", self.group), ("unit", self.unit))


class Decision(NamedTuple):
    """Whether a caller may read a name, and by which grant."""

    allowed: bool
    grant: Grant | None = None


_DENIED = Decision(allowed=False)


def decide(peer: Peer | None, name: SecretName, grants: tuple[Grant, ...]) -> Decision:
    """Decide whether ``peer`` may read ``name``; the first grant that matches allows."""
    if peer is not None:
        for grant in grants:
            if grant.covers(name) and grant.mismatch(peer) is None:
                return grant.decision
    return _DENIED


def readers(name: SecretName, grants: tuple[Grant, ...]) -> frozenset[str]:
    """Return the callers that the grants over a name mean, in words to compare."""
    return frozenset(
        caller for grant in grants if grant.covers(name) and (caller := grant.caller()) is not None
    )


def any_grant_matches(peer: Peer, grants: tuple[Grant, ...]) -> bool:
    """Return whether any grant means this caller, whatever the names."""
    return any(grant.mismatch(peer) is None for grant in grants)


def explain(peer: Peer, name: SecretName, grants: tuple[Grant, ...]) -> list[str]:
    """Return one line per grant: why it lets this caller read this name, or why not."""
    lines = []
    for grant in grants:
        reason = grant.mismatch(peer)
        if reason is None and not grant.covers(name):
            reason = "its names do not match"
        lines.append(f"{grant}: {'no, ' + reason if reason else 'yes'}")
    return lines or ["there are no grants: nobody may read anything"]
