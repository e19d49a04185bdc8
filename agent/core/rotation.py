"""What to hold after each reading of Barbican: a pure machine, a reading or a failure in, a step out.

The rules for failures are in docs/outages.md and docs/adr/0002. The machine never sees a payload: it
decides over names and versions, and its caller (agent/serve/sync/publisher.py) builds the snapshot that was
decided.

Invariants: a step either keeps everything, or leaves out what has to go, or names the whole new set; values
that were rotated together change in one step, since whoever rotates adds all new entries before removing an
old one, so that every state in between has a name twice; nothing is dropped on a transient failure; whatever
Barbican took away is dropped, at the latest after its grace, also while a rotation is under way.

A version that can't be published yet has a clock of its own. So a broken secret, once it was waited for,
does not take the next rotation apart, and a rotation that begins late in the wait for another is whole too.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from agent.core.errors import Fault
from agent.core.schedule import MIN_S
from agent.core.secret import Remarks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from agent.core.errors import Failure
    from agent.core.secret import SecretMetadata
    from common.names import SecretName, Version

SETTLE_S: Final = 60.0
"""How long a listed version holds up the others because it can't be published with them."""
SETTLE_POLL_S: Final = 2.0
"""How soon the container is read again while a rotation is under way."""
MAX_WAIT_S: Final = 600.0
"""How long rotations that follow each other without a gap may hold up what is published."""
LEAVING_S: Final = 30.0
"""How far apart two readings without a name must be before the name is dropped."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant: ``boot`` on CLOCK_BOOTTIME (s, never set back), ``wall`` as Unix time (s)."""

    boot: float
    wall: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the container that carries this VPS's prefix: ``VPS/NAME`` is k = 0, ``VPS/NAME~K`` is K.

    Of several versions of a name that with the highest k is the newest, then the one created last: so a
    former version can be listed again, which Barbican takes under another entry name only.
    """

    name: SecretName
    version: Version
    k: int = 0


def has_double(entries: Iterable[Entry]) -> bool:
    """Return whether two versions of a name are listed: a rotation is under way."""
    lines = {(entry.name, entry.version) for entry in entries}
    return len({name for name, _ in lines}) < len(lines)


class Unread(enum.StrEnum):
    """Why the payload of a listed version was not read."""

    ABSENT = "absent"  # 404: expired, deleted, or not yet written
    DENIED = "denied"  # 403
    FAILED = "failed"  # anything else: the next reading may succeed


@dataclass(frozen=True, slots=True)
class Reading:
    """What one cycle learned: the container's entries, and what became of each version it tried to read.

    The container is read once, before the payloads: what it lists without a double is whole, and a payload
    never changes. What goes on meanwhile is for the next cycle; a version that went meanwhile is unread.
    """

    entries: tuple[Entry, ...]
    read: Mapping[Version, SecretMetadata] = field(default_factory=dict)
    unread: Mapping[Version, Unread] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's choices, in seconds. ``max_stale`` is per name, inf for never."""

    revocation_grace: float = 900.0
    max_stale: Mapping[SecretName, float] = field(default_factory=dict)
    default_max_stale: float | None = None

    def limit(self, name: SecretName) -> float:
        """Return after how many seconds without confirmation ``name`` is dropped, inf for never."""
        limit = self.max_stale.get(name, self.default_max_stale)
        return math.inf if limit is None else limit


@dataclass(frozen=True, slots=True)
class Progress:
    """What the machine remembers between readings. All times are on the boot clock (s).

    ``confirmed``: the last time that Barbican agreed with what is held; ``superseded``: the same for the held
    names whose version the container lists no more. ``waiting_since``: since when nothing is published
    because a rotation is under way; ``unsettled``: for each listed version, since when its name is double or
    can't be read. ``leaving``: per held name, the first of the readings without it. ``denied_since``: since
    when Barbican or Keystone refuses everything; ``denied``: per held name, since when its listed payloads.
    """

    confirmed: float | None = None
    superseded: Mapping[SecretName, float] = field(default_factory=dict)
    waiting_since: float | None = None
    unsettled: Mapping[Version, float] = field(default_factory=dict)
    leaving: Mapping[SecretName, float] = field(default_factory=dict)
    denied_since: float | None = None
    denied: Mapping[SecretName, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """The machine's answer.

    ``versions`` is the whole new set, or None to keep what is held. ``dropped`` says why for every held name
    that the new set leaves out. ``remarks`` belong to the new set; None where nothing new was learned, so
    that the remarks before still hold for what is left. While there are any, the caller reads again, backing
    off. ``duplicates`` are names listed twice. ``again_in`` is the longest wait (s) before the next reading,
    or None.
    """

    progress: Progress
    versions: Mapping[SecretName, Version] | None = None
    remarks: Remarks | None = None
    duplicates: frozenset[SecretName] = frozenset()
    dropped: Mapping[SecretName, str] = field(default_factory=dict)
    again_in: float | None = None


def reads_doubles(held: Mapping[SecretName, SecretMetadata], progress: Progress, now: Moment) -> bool:
    """Return whether the next cycle should read payloads although a name stands in the container twice.

    Only when the outcome would be used: at the first start, and when a rotation does not come to its end.
    """
    return not held or any(now.boot - since >= SETTLE_S for since in progress.unsettled.values())


def known(held: Mapping[SecretName, SecretMetadata], now: Moment) -> frozenset[Version]:
    """Return the versions that need no reading: what is held, less what has passed its own expiry."""
    return frozenset(facts.version for facts in held.values() if not _expired(facts, now))


def after_reading(
    held: Mapping[SecretName, SecretMetadata],
    reading: Reading,
    progress: Progress,
    policy: Policy,
    now: Moment,
) -> Step:
    """Decide what to hold after a reading that Barbican answered."""
    lines = _lines(held, reading)
    progress = _learn(held, lines, progress, now)
    left = {name: facts for name, facts in held.items() if name not in lines or not lines[name].readable}
    outlived = overdue(left, progress, policy, now)
    dropped = {**outlived.dropped, **_taken_away(left, lines, progress, now)}
    kept = {name: facts.version for name, facts in left.items() if name not in dropped}
    duplicates = frozenset(name for name, line in lines.items() if len(line.versions) > 1)

    if held and _must_wait(lines, progress, now):
        rest = {name: facts.version for name, facts in held.items() if name not in dropped}
        return Step(
            progress,
            versions=rest if dropped else None,
            duplicates=duplicates,
            dropped=dropped,
            again_in=SETTLE_POLL_S,
        )
    chosen = {name: line.newest.version for name, line in lines.items() if line.newest is not None}
    ends = [since + LEAVING_S - now.boot for name, since in progress.leaving.items() if name in kept]
    if outlived.again_in is not None:
        ends.append(outlived.again_in)
    return Step(
        replace(
            progress,
            confirmed=now.boot,
            superseded={n: since for n, since in progress.superseded.items() if n in kept},
            waiting_since=None,
        ),
        versions=chosen | kept,
        remarks=Remarks(
            pending=frozenset(lines.keys() - chosen.keys() - kept.keys()),
            kept=frozenset(kept) | {name for name in chosen if lines[name].why_unread},
        ),
        duplicates=duplicates,
        dropped=dropped,
        again_in=max(MIN_S, min(ends)) if ends else None,
    )


def unpublished(former: Progress, step: Step) -> Progress:
    """Return the progress where a step's new versions could not be held.

    What Barbican refuses or lists no more counts all the same; but what is held is not what it
    confirmed, so that stays as it was.
    """
    return replace(step.progress, confirmed=former.confirmed, superseded=former.superseded)


def after_failure(
    held: Mapping[SecretName, SecretMetadata],
    failure: Failure,
    progress: Progress,
    policy: Policy,
    now: Moment,
) -> Step:
    """Decide what to hold after a cycle that failed as a whole.

    A refusal counts until Barbican answers: a time-out after it tells nothing about the access.
    """
    if failure.fault is Fault.DENIED and progress.denied_since is None:
        progress = replace(progress, denied_since=now.boot)
    return overdue(held, progress, policy, now)


def overdue(
    held: Mapping[SecretName, SecretMetadata], progress: Progress, policy: Policy, now: Moment
) -> Step:
    """Drop what has outlived its grace or its ``max_stale``; ``again_in`` tells when the next one would."""
    dropped: dict[SecretName, str] = {}
    soonest = math.inf
    for name in held:
        end, reason = min(_ends(name, progress, policy), default=(math.inf, ""))
        if end <= now.boot:
            dropped[name] = reason
        else:
            soonest = min(soonest, end - now.boot)
    rest = {name: facts.version for name, facts in held.items() if name not in dropped}
    again_in = None if math.isinf(soonest) else soonest
    return Step(progress, rest if dropped else None, dropped=dropped, again_in=again_in)


@dataclass(frozen=True, slots=True)
class _Line:
    """What one reading tells of one listed name.

    ``versions`` has for each version the highest k of its entries. ``why_unread`` has a reason for every
    version without facts, None for one that was not tried, as all that are new while a name is double.
    """

    versions: Mapping[Version, int]
    readable: tuple[SecretMetadata, ...]
    why_unread: tuple[Unread | None, ...]

    @property
    def settled(self) -> bool:
        return len(self.versions) == 1 and not self.why_unread

    @property
    def newest(self) -> SecretMetadata | None:
        return max(self.readable, key=self._rank, default=None)

    def _rank(self, facts: SecretMetadata) -> tuple[int, float, str]:
        """Order versions from the oldest to the newest; by the version itself where all else is equal."""
        return self.versions[facts.version], facts.created, facts.version


def _lines(held: Mapping[SecretName, SecretMetadata], reading: Reading) -> dict[SecretName, _Line]:
    """Return what the reading tells, by name. What is held is as good as read, unless it was refused."""
    listed: dict[SecretName, dict[Version, int]] = {}
    for entry in reading.entries:
        versions = listed.setdefault(entry.name, {})
        versions[entry.version] = max(entry.k, versions.get(entry.version, 0))
    # an entry may name the version of another secret: to that entry it is unread
    owner = {facts.version: facts.name for facts in (*held.values(), *reading.read.values())}
    lines = {}
    for name, versions in listed.items():
        former = held.get(name)
        found = {
            version: reading.read[version]
            for version in versions
            if version in reading.read and owner[version] == name
        }
        if former is not None and former.version in versions and former.version not in reading.unread:
            found[former.version] = former
        lines[name] = _Line(
            versions=versions,
            readable=tuple(found.values()),
            why_unread=tuple(
                reading.unread.get(version) if owner.get(version, name) == name else Unread.FAILED
                for version in versions
                if version not in found
            ),
        )
    return lines


def _learn(
    held: Mapping[SecretName, SecretMetadata],
    lines: Mapping[SecretName, _Line],
    progress: Progress,
    now: Moment,
) -> Progress:
    """Start, carry on and end the clocks as one reading demands, if nothing is published after it."""
    superseded = {
        name: progress.superseded.get(name, now.boot if progress.confirmed is None else progress.confirmed)
        for name, facts in held.items()
        if name not in lines or facts.version not in lines[name].versions
    }
    return Progress(
        confirmed=progress.confirmed if superseded else now.boot,
        superseded=superseded,
        waiting_since=now.boot if progress.waiting_since is None else progress.waiting_since,
        unsettled={
            version: progress.unsettled.get(version, now.boot)
            for line in lines.values()
            if not line.settled
            for version in line.versions
        },
        leaving={name: progress.leaving.get(name, now.boot) for name in held.keys() - lines.keys()},
        denied={
            name: progress.denied.get(name, now.boot)
            for name in held
            if _is_denied(lines.get(name), already=name in progress.denied)
        },
    )


def _is_denied(line: _Line | None, *, already: bool) -> bool:
    """Whether access to a name is taken away. A failure, or not having tried, does not give it back."""
    if line is None:
        return already
    if line.readable:
        return False
    return Unread.DENIED in line.why_unread or (already and set(line.why_unread) != {Unread.ABSENT})


def _must_wait(lines: Mapping[SecretName, _Line], progress: Progress, now: Moment) -> bool:
    """Return whether a rotation may be under way, of which publishing now would show a half."""
    if _waited(progress.waiting_since, now) >= MAX_WAIT_S:
        return False
    young = any(now.boot - since < SETTLE_S for since in progress.unsettled.values())
    untried = any(None in line.why_unread for line in lines.values())
    return young or untried


def _taken_away(
    left: Mapping[SecretName, SecretMetadata],
    lines: Mapping[SecretName, _Line],
    progress: Progress,
    now: Moment,
) -> dict[SecretName, str]:
    """Return which of the names that this reading could not confirm are gone by its own word, and why."""
    gone: dict[SecretName, str] = {}
    for name, facts in left.items():
        if name not in lines:
            if now.boot - progress.leaving[name] >= LEAVING_S:
                gone[name] = "its entry is gone from the container"
        elif set(lines[name].why_unread) == {Unread.ABSENT} and _expired(facts, now):
            gone[name] = "it has expired"
    return gone


def _ends(name: SecretName, progress: Progress, policy: Policy) -> Iterator[tuple[float, str]]:
    """Yield when ``name`` has to go (boot clock, s), and why."""
    confirmed = progress.superseded.get(name, progress.confirmed)
    for since, limit, reason in (
        (progress.denied_since, policy.revocation_grace, "access was taken away"),
        (progress.denied.get(name), policy.revocation_grace, "access to its payload was taken away"),
        (confirmed, policy.limit(name), "not confirmed for longer than max_stale"),
    ):
        if since is not None:
            yield since + limit, reason


def _waited(since: float | None, now: Moment) -> float:
    return 0.0 if since is None else now.boot - since


def _expired(facts: SecretMetadata, now: Moment) -> bool:
    return facts.expires is not None and facts.expires <= now.wall
