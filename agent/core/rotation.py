"""What to hold after each reading of Barbican: a pure machine, a reading or a failure in, a step out.

The rules are those of "Staleness" in docs/design.md. The machine never sees a payload: it decides over
names and versions, and its caller (agent/serve/keeper.py) builds the snapshot that was decided.

Invariants: a step either keeps everything or names the whole new set; values that were rotated together
change in one step, since whoever rotates adds all new entries before removing an old one, so that every
state in between has a name twice; nothing is dropped on a transient failure; whatever Barbican took away
is dropped, at the latest after its grace.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from agent.core.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.errors import Failure
    from agent.core.secret import Facts, SecretName, Version

SETTLE_S: Final = 60.0
"""How long a rotation may be under way before it is published as far as it has come."""
SETTLE_POLL_S: Final = 2.0
"""How soon the container is read again while a rotation is under way."""
LEAVING_S: Final = 30.0
"""How far apart two readings without a name must be before the name is dropped."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant: ``boot`` on CLOCK_BOOTTIME (s, never set back), ``wall`` as Unix time (s)."""

    boot: float
    wall: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the container that carries this VPS's prefix."""

    name: SecretName
    version: Version


class Unread(enum.StrEnum):
    """Why the payload of a listed version was not read."""

    ABSENT = "absent"  # 404: expired, deleted, or not yet written
    DENIED = "denied"  # 403
    FAILED = "failed"  # anything else: the next reading may succeed


@dataclass(frozen=True, slots=True)
class Reading:
    """What one cycle learned: the container's entries, and what became of each version it tried to read."""

    entries: tuple[Entry, ...]
    read: Mapping[Version, Facts] = field(default_factory=dict)
    unread: Mapping[Version, Unread] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's choices, in seconds. ``max_stale`` gives per name when to stop serving, or None."""

    revocation_grace: float = 900.0
    max_stale: Mapping[SecretName, float] = field(default_factory=dict)
    default_max_stale: float | None = None

    def limit(self, name: SecretName) -> float | None:
        """Return after how many seconds without confirmation ``name`` is dropped, or None for never."""
        return self.max_stale.get(name, self.default_max_stale)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the machine remembers between readings. All times are on the boot clock (s).

    ``unsettled_since``: since when the container held a rotation that could not be published whole.
    ``leaving``: per name, the first reading without it. ``denied_since``: since when Barbican or Keystone
    refuses everything; ``denied``: the same per name. ``confirmed``: last time that Barbican agreed with
    what is held.
    """

    confirmed: float | None = None
    unsettled_since: float | None = None
    denied_since: float | None = None
    leaving: Mapping[SecretName, float] = field(default_factory=dict)
    denied: Mapping[SecretName, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """The machine's answer.

    ``versions`` is the whole new set, or None to keep what is held. ``dropped`` says why for every name
    that the new set leaves out. ``again_in`` is the longest wait (s) before the next reading, or None.
    """

    progress: Progress
    versions: Mapping[SecretName, Version] | None = None
    pending: frozenset[SecretName] = frozenset()
    kept: frozenset[SecretName] = frozenset()
    double: frozenset[SecretName] = frozenset()
    dropped: Mapping[SecretName, str] = field(default_factory=dict)
    again_in: float | None = None


def reads_doubles(held: Mapping[SecretName, Facts], progress: Progress, now: Moment) -> bool:
    """Tell whether the next cycle should read payloads although a name stands in the container twice.

    Only when the outcome would be used: at the first start, and when a rotation does not come to its end.
    """
    return not held or _waited(progress.unsettled_since, now, SETTLE_S)


def known(held: Mapping[SecretName, Facts], now: Moment) -> frozenset[Version]:
    """Return the versions that need no reading: what is held, less what has passed its own expiry."""
    return frozenset(facts.version for facts in held.values() if not _expired(facts, now))


def after_reading(
    held: Mapping[SecretName, Facts], reading: Reading, progress: Progress, policy: Policy, now: Moment
) -> Step:
    """Decide what to hold after a reading that Barbican answered."""
    listed = _by_name(reading.entries)
    double = frozenset(name for name, versions in listed.items() if len(versions) > 1)
    since = now.boot if progress.unsettled_since is None else progress.unsettled_since
    must_wait = bool(held) and now.boot - since < SETTLE_S
    if double and must_wait:
        waiting = replace(progress, unsettled_since=since, denied_since=None)
        return Step(waiting, double=double, again_in=SETTLE_POLL_S)

    choice = _Choice(held, reading, progress, policy, now)
    for name, versions in listed.items():
        choice.take(name, versions)
    if choice.incomplete and must_wait:
        waiting = replace(progress, unsettled_since=since, denied_since=None, denied=choice.denied)
        return Step(waiting, again_in=SETTLE_POLL_S)
    for name in held.keys() - listed.keys():
        choice.miss(name)

    unsettled = since if double or choice.incomplete else None
    return Step(
        Progress(now.boot, unsettled, None, choice.leaving, choice.denied),
        versions=choice.versions,
        pending=frozenset(choice.pending),
        kept=frozenset(choice.kept),
        double=double,
        dropped=choice.dropped,
        again_in=choice.again_in,
    )


def after_failure(
    held: Mapping[SecretName, Facts], failure: Failure, progress: Progress, policy: Policy, now: Moment
) -> Step:
    """Decide what to hold after a cycle that failed as a whole."""
    if failure.fault is Fault.DENIED and progress.denied_since is None:
        progress = replace(progress, denied_since=now.boot)
    elif failure.fault is Fault.TRANSIENT and not held:
        progress = replace(progress, denied_since=None)
    return overdue(held, progress, policy, now)


def overdue(held: Mapping[SecretName, Facts], progress: Progress, policy: Policy, now: Moment) -> Step:
    """Drop what has outlived its grace or its ``max_stale``; ``again_in`` tells when to ask again."""
    dropped: dict[SecretName, str] = {}
    waits: list[float] = []
    for name in held:
        for since, limit, reason in (
            (progress.denied_since, policy.revocation_grace, "access was taken away"),
            (progress.confirmed, policy.limit(name), "not confirmed for longer than max_stale"),
        ):
            if since is None or limit is None:
                continue
            if now.boot - since >= limit:
                dropped[name] = reason
            else:
                waits.append(since + limit - now.boot)
    left = {name: facts.version for name, facts in held.items() if name not in dropped}
    return Step(progress, left if dropped else None, dropped=dropped, again_in=min(waits, default=None))


class _Choice:
    """Collects, name by name, what one reading leads to. Lives for one call of :func:`after_reading`."""

    def __init__(
        self,
        held: Mapping[SecretName, Facts],
        reading: Reading,
        progress: Progress,
        policy: Policy,
        now: Moment,
    ) -> None:
        self._held, self._reading, self._progress, self._policy, self._now = (
            held,
            reading,
            progress,
            policy,
            now,
        )
        self.versions: dict[SecretName, Version] = {}
        self.pending: set[SecretName] = set()
        self.kept: set[SecretName] = set()
        self.leaving: dict[SecretName, float] = {}
        self.denied: dict[SecretName, float] = {}
        self.dropped: dict[SecretName, str] = {}
        self.incomplete = False
        self._waits: list[float] = []

    @property
    def again_in(self) -> float | None:
        """The soonest moment at which waiting would change something."""
        return min(self._waits, default=None)

    def take(self, name: SecretName, versions: list[Version]) -> None:
        """Choose among the listed versions of a name: the newest that is readable."""
        former = self._held.get(name)
        readable = [facts for version in versions if (facts := self._facts(former, version))]
        if readable:
            newest = max(readable, key=lambda facts: (facts.created, facts.version))
            self.versions[name] = newest.version
            if len(readable) == len(versions):
                return
            if former is not None and newest.version == former.version:
                self._unsettled(name)
            return
        self._unreadable(name, former, {self._reading.unread.get(version) for version in versions})

    def miss(self, name: SecretName) -> None:
        """A held name is in the container no more: drop it when two readings far enough apart agree."""
        since = self._progress.leaving.get(name, self._now.boot)
        if self._now.boot - since >= LEAVING_S:
            self.dropped[name] = "its entry is gone from the container"
            return
        self.leaving[name] = since
        self._keep(name, self._held[name])
        self._waits.append(since + LEAVING_S - self._now.boot)

    def _facts(self, former: Facts | None, version: Version) -> Facts | None:
        """Return what is known of a version: read in this cycle, or held and not refused in it."""
        if version in self._reading.read:
            return self._reading.read[version]
        if former is not None and former.version == version and version not in self._reading.unread:
            return former
        return None

    def _unreadable(self, name: SecretName, former: Facts | None, reasons: set[Unread | None]) -> None:
        """No listed version of the name can be read."""
        if former is None:
            self.pending.add(name)
            self._waits.append(SETTLE_S)
            return
        if reasons == {Unread.ABSENT} and _expired(former, self._now):
            self.dropped[name] = "it has expired"
            return
        if Unread.DENIED in reasons:
            since = self._progress.denied.get(name, self._now.boot)
            if self._now.boot - since >= self._policy.revocation_grace:
                self.dropped[name] = "access to its payload was taken away"
                return
            self.denied[name] = since
            self._waits.append(since + self._policy.revocation_grace - self._now.boot)
        self._keep(name, former)
        self._unsettled(name)

    def _keep(self, name: SecretName, former: Facts) -> None:
        self.versions[name] = former.version
        self.kept.add(name)

    def _unsettled(self, name: SecretName) -> None:
        """A newer version is listed and can't be read: the rest of its rotation waits with it for a while."""
        self.kept.add(name)
        self.incomplete = True
        self._waits.append(SETTLE_S)


def _by_name(entries: tuple[Entry, ...]) -> dict[SecretName, list[Version]]:
    listed: dict[SecretName, list[Version]] = {}
    for entry in entries:
        versions = listed.setdefault(entry.name, [])
        if entry.version not in versions:
            versions.append(entry.version)
    return listed


def _waited(since: float | None, now: Moment, limit: float) -> bool:
    return since is not None and now.boot - since >= limit


def _expired(facts: Facts, now: Moment) -> bool:
    return facts.expires is not None and facts.expires <= now.wall
