"""What serve holds: the current snapshot, when each name last changed, and the health of the cycles.

One writer, the keeper. A new snapshot is complete, with its payloads in a memory file of its own, before it
is assigned; then the former file is wiped. Readers take ``snapshot`` once and do not await before they have
built their answer, so they never see two snapshots mixed nor a wiped one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from agent.core.secret import Facts, Secret, SecretName, Snapshot, Version
from agent.serve.memory import MemoryFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.errors import Failure

MOST_GONE: Final = 1000
"""How many names that exist no more are remembered for watchers."""


@dataclass(slots=True)
class Health:
    """How the cycles go. Written by the keeper only. Moments are on the boot clock, in seconds."""

    confirmed: float | None = None
    next_attempt: float | None = None
    failure: Failure | None = None
    failures: int = 0
    denied_since: float | None = None
    cycles: int = 0
    cycles_failed: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    last_cycle: float | None = None
    timings: dict[str, float] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    configuration_error: str | None = None


class Store:
    """The snapshot and its memory."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.changed: dict[SecretName, int] = {}
        """Generation in which each name last changed, appeared or went."""
        self.health: Final = Health()
        self._memory: MemoryFile | None = None
        self._token = MemoryFile(())
        self._published = asyncio.Event()

    def held(self) -> dict[SecretName, Facts]:
        """Return the facts of what is served now."""
        current = self.snapshot.current if self.snapshot else {}
        return {name: secret.facts for name, secret in current.items()}

    def next_publication(self) -> asyncio.Event:
        """Return the event of the next publication; take it before looking at ``snapshot``."""
        return self._published

    def wake(self) -> None:
        """Wake whoever waits for a publication, without one: the agent stops."""
        published, self._published = self._published, asyncio.Event()
        published.set()

    def publish(
        self,
        versions: Mapping[SecretName, Version],
        read: Mapping[Version, tuple[Facts, bytes]],
        *,
        previous_until: float,
        now: float,
        pending: frozenset[SecretName] = frozenset(),
        kept: frozenset[SecretName] = frozenset(),
    ) -> tuple[SecretName, ...]:
        """Make ``versions`` the whole of what is served and return the names that changed.

        Payloads come from ``read`` and from what is held. The version that a name had before stays readable
        as its previous one until ``previous_until`` (boot clock, s). The generation moves on only when a
        version changed, appeared or went.

        Raises:
            MemoryLockError: there is no memory for it; what was held is still served.
            KeyError: a version is neither read nor held, which the caller must rule out.
        """
        former = self.snapshot.current if self.snapshot else {}
        before = {name: secret.facts.version for name, secret in former.items()}
        changed = tuple(
            sorted(n for n in before.keys() | versions.keys() if before.get(n) != versions.get(n))
        )
        previous = self._previous_after(versions, previous_until, now)
        if self.snapshot is not None and not changed and previous == self.snapshot.previous:
            # only remarks changed: the payloads stay where they are
            self.snapshot = replace(self.snapshot, pending=pending, kept=kept)
            return ()
        generation = self.snapshot.generation if self.snapshot else 0
        if changed or self.snapshot is None:
            generation += 1
        sources: dict[Version, tuple[Facts, bytes | Secret]] = {
            **{secret.facts.version: (secret.facts, secret) for secret in former.values()},
            **read,
        }
        self._assign(
            generation,
            {name: sources[version] for name, version in versions.items()},
            previous,
            pending,
            kept,
        )
        self._note(changed, generation)
        return changed

    def expire_previous(self, now: float) -> None:
        """Wipe the previous versions whose grace is over (boot clock, s)."""
        snapshot = self.snapshot
        if snapshot is None or all(until > now for _, until in snapshot.previous.values()):
            return
        self.publish(
            snapshot.versions(),
            {},
            previous_until=now,
            now=now,
            pending=snapshot.pending,
            kept=snapshot.kept,
        )

    def token_state(self) -> bytes:
        """Return the token state that fetch gave back last, or nothing."""
        return bytes(self._token.views[0]) if self._token.views else b""

    def keep_token_state(self, token_state: bytes) -> None:
        """Hold the token state, in a memory file of its own since it changes without the secrets.

        Raises:
            MemoryLockError: there is no memory for it; the former one is still held.
        """
        if token_state != self.token_state():
            former, self._token = self._token, MemoryFile((token_state,))
            former.close()

    def memory_facts(self) -> dict[str, str | int | bool]:
        """Return what kind of memory holds the payloads, for ``status``."""
        memory = self._memory or self._token
        return {"kind": memory.kind, "bytes": memory.size, "unswappable": memory.locked}

    def close(self) -> None:
        """Wipe everything."""
        self.snapshot = None
        for memory in (self._memory, self._token):
            if memory is not None:
                memory.close()

    def _previous_after(
        self, versions: Mapping[SecretName, Version], until: float, now: float
    ) -> dict[SecretName, tuple[Secret, float]]:
        """Return the previous versions that the next snapshot keeps: those of names that still exist."""
        if self.snapshot is None:
            return {}
        kept = {
            name: (secret, end)
            for name, (secret, end) in self.snapshot.previous.items()
            if name in versions and end > now
        }
        for name, secret in self.snapshot.current.items():
            if name in versions and versions[name] != secret.facts.version:
                kept.pop(name, None)
                if until > now:
                    kept[name] = (secret, until)
        return kept

    def _assign(
        self,
        generation: int,
        current: Mapping[SecretName, tuple[Facts, bytes | Secret]],
        previous: Mapping[SecretName, tuple[Secret, float]],
        pending: frozenset[SecretName],
        kept: frozenset[SecretName],
    ) -> None:
        """Copy all payloads into a new memory file, assign the snapshot, wipe the former file."""
        payloads = [payload for _, payload in current.values()] + [secret for secret, _ in previous.values()]
        memory = MemoryFile([p.borrow() if isinstance(p, Secret) else p for p in payloads])
        views = iter(memory.views)
        snapshot = Snapshot(
            generation,
            {name: Secret(facts, next(views)) for name, (facts, _) in current.items()},
            {name: (Secret(secret.facts, next(views)), until) for name, (secret, until) in previous.items()},
            pending,
            kept,
        )
        former, self._memory, self.snapshot = self._memory, memory, snapshot
        if former is not None:
            former.close()

    def _note(self, changed: tuple[SecretName, ...], generation: int) -> None:
        """Remember when names changed, and wake whoever waits."""
        current = self.held()
        for name in changed:
            self.changed.pop(name, None)  # to the end: the order is that of the last change
            self.changed[name] = generation
        gone = [name for name in self.changed if name not in current]
        for name in gone[: max(0, len(gone) - MOST_GONE)]:
            del self.changed[name]
        self.wake()
