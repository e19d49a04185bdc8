"""What serve holds: the current snapshot, and when each name last changed.

One writer, the refresher. A new snapshot is complete, with its payloads in a memory file of its own that
systemd keeps for the next process (agent/serve/store/handover.py), before it is assigned; then the former
file is wiped. What has to go goes also where no new file can be made: then it is overwritten in place
(docs/adr/0016). Readers take ``snapshot`` once and do not await before they have built their answer, so they
never see two snapshots mixed nor a wiped one.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

from agent.core.order import former_until
from agent.core.secret import NO_REMARKS, Remarks, Secret, SecretMetadata, Snapshot, next_generation
from agent.serve.host import clock
from agent.serve.host.logs import place
from agent.serve.store import index as kept_file
from agent.serve.store.handover import SNAPSHOT, TOKEN, Kept
from agent.serve.store.memory_file import MemoryFile, Moments

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from agent.serve.store.handover import Adopted, Handover
    from agent.serve.store.published import Published
    from common.names import SecretName, Version

MAX_GONE: Final = 1000
"""How many names that exist no more are remembered for watchers."""

_log: Final = logging.getLogger("agent.store")


class Store:
    """The snapshot and its memory. ``handover`` hands the memory to the next process, None does not."""

    def __init__(self, handover: Handover | None = None) -> None:
        self.snapshot: Snapshot | None = None
        self.changed: dict[SecretName, int] = {}
        """Generation in which each name last changed, appeared or went."""
        self._former: Published | None = None
        self._handover: Final = handover
        self._memory: Kept | None = None
        self._token: Kept | None = None
        self._moments = Moments()
        self._generation = 0  # of the last snapshot, whether it is still held or not
        self._published = asyncio.Event()

    def adopt(self, adopted: Adopted) -> None:
        """Begin with what a former process left."""
        self._token = adopted.token
        if adopted.snapshot is not None:
            self._memory, index = adopted.snapshot
            self.snapshot = index.snapshot(self._memory.memory.views)
            self.changed, self._generation = dict(index.changed), index.generation
            self._moments = self._memory.memory.moments

    def resume(self, former: Published | None) -> None:
        """Go on with the generation of a former run, whose values are not here any more.

        What is published first is compared with what that run published last, so that whoever has waited
        since then learns what has changed meanwhile, and nothing where nothing has.
        """
        if former is not None:
            self._generation = max(self._generation, former.generation)
            if self.snapshot is None:
                self._former, self.changed = former, dict(former.changed)

    @property
    def moments(self) -> Moments:
        """What is remembered for the next process."""
        return self._moments

    def remember(self, moments: Moments) -> None:
        """Remember moments for the next process."""
        self._moments = moments
        if self._memory is not None:
            self._memory.memory.remember(moments)

    def held(self) -> dict[SecretName, SecretMetadata]:
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

    def note_readable(self, names: tuple[SecretName, ...]) -> None:
        """Give names a new generation, and wake whoever waits: other grants cover them now.

        Without it, a caller who reads before the grants change and begins to wait afterwards would not hear
        of them.
        """
        snapshot = self.snapshot
        names = tuple(name for name in names if snapshot is not None and name in snapshot.current)
        if snapshot is None or not names:
            return
        self._generation = self._next_generation()
        self.changed = self._noted(names, self._generation, snapshot.current)
        self.snapshot = replace(snapshot, generation=self._generation)
        self.wake()

    def publish(
        self,
        versions: Mapping[SecretName, Version],
        read: Mapping[Version, tuple[SecretMetadata, bytes]],
        *,
        previous_until: float,
        now: float,
        remarks: Remarks = NO_REMARKS,
    ) -> tuple[SecretName, ...]:
        """Make ``versions`` the whole of what is served and return the names that changed.

        Payloads come from ``read`` and from what is held. The version that a name had before stays readable
        as its previous one until ``previous_until`` (boot clock, s), or as the seal of the new one says. The
        generation moves on only when a version changed, appeared or went.

        Raises:
            MemoryLockError: there is no memory for what is new; what ``versions`` still names is served on in
                the version that is held, all else is gone.
            KeyError: a version is neither read nor held, which the caller must rule out.
        """
        snapshot, former = self.snapshot, self.snapshot.current if self.snapshot else {}
        before = self._versions_before()
        changed = tuple(
            sorted(n for n in before.keys() | versions.keys() if before.get(n) != versions.get(n))
        )
        sources: dict[Version, tuple[SecretMetadata, bytes | Secret]] = {
            **{secret.facts.version: (secret.facts, secret) for secret in former.values()},
            **read,
        }
        facts = {name: sources[version][0] for name, version in versions.items()}
        previous = self._previous_after(facts, previous_until, now)
        if snapshot is not None and not changed and previous == snapshot.previous:
            if remarks == snapshot.remarks:
                return ()
            if self._handover is None:
                self.snapshot = replace(snapshot, remarks=remarks)
                return ()
        generation = self._generation
        if changed or (snapshot is None and self._former is None):
            generation = self._next_generation()
        if snapshot is None:  # what was held before and can't be read now is not known to have changed
            changed = tuple(name for name in changed if name in versions or name not in remarks.pending)
        payloads = {name: sources[version] for name, version in versions.items()}
        noted = self._noted(changed, generation, versions)
        try:
            self._assign(payloads, previous, (generation, noted), remarks)
        except Exception:
            self.keep_only(versions, now, remarks=remarks)
            if snapshot is None or any(version not in before.values() for version in versions.values()):
                raise
            return tuple(sorted(before.keys() - self.held().keys()))
        if changed or snapshot is None:
            self.wake()
        return changed

    def keep_only(
        self,
        names: Collection[SecretName],
        now: float,
        *,
        remarks: Remarks = NO_REMARKS,
    ) -> None:
        """Drop all other names, and what is past its grace (boot clock, s), without a new memory file.

        Where even that can't be done, nothing is held any more.
        """
        snapshot = self.snapshot
        if snapshot is None:
            return
        try:
            self._shrink(snapshot, names, now, remarks)
        except Exception as error:  # noqa: BLE001  # fail closed, whatever it is
            _log.error("what is held is wiped, since a part of it had to go: %s", place(error))
            self.wipe()

    def wipe(self) -> None:
        """Hold nothing any more, here and in the descriptor store."""
        self.snapshot = None
        file, self._memory = self._memory, None
        if file is not None and self._handover is not None:
            self._handover.give_up(file)
        elif file is not None:
            file.memory.close()
        self._generation, self._former = self._next_generation(), None
        self.changed = dict.fromkeys(self.changed, self._generation)
        self.wake()

    def _shrink(
        self,
        snapshot: Snapshot,
        names: Collection[SecretName],
        now: float,
        remarks: Remarks,
    ) -> None:
        held = [
            *((name, secret, inf) for name, secret in snapshot.current.items()),
            *((name, secret, until) for name, (secret, until) in snapshot.previous.items()),
        ]  # in the order of the file
        stays = [at for at, (name, _, until) in enumerate(held) if name in names and until > now]
        if len(stays) == len(held):
            self.snapshot = replace(snapshot, remarks=remarks)
            return
        gone = tuple(name for name in snapshot.current if name not in names)
        generation = self._next_generation() if gone else self._generation
        index = kept_file.Index(
            sequence=self._handover.next_sequence() if self._handover else 0,
            generation=generation,
            changed=self._noted(gone, generation, snapshot.current.keys() - gone),
            remarks=Remarks(remarks.pending, remarks.kept & snapshot.current.keys() - gone),
            facts=tuple(held[at][1].facts for at in stays),
            until=tuple(held[at][2] for at in stays if held[at][2] != inf),
        )
        assert self._memory is not None  # noqa: S101  # there is a snapshot
        memory = self._memory.memory
        memory.keep_only(stays, kept_file.encode(self._handover.owner, index) if self._handover else b"")
        self.snapshot, self.changed = index.snapshot(memory.views), dict(index.changed)
        self._generation = generation
        if gone:
            self.wake()

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
            remarks=snapshot.remarks,
        )

    def token_state(self) -> bytes:
        """Return the token state that fetch gave back last, or nothing."""
        return b"" if self._token is None else bytes(self._token.memory.views[0])

    def keep_token_state(self, token_state: bytes) -> None:
        """Hold the token state, in a memory file of its own since it changes without the secrets.

        Raises:
            MemoryLockError: there is no memory for it; the former one is still held.
        """
        if token_state != self.token_state():
            index = kept_file.token_index(self._handover.owner) if self._handover else b""
            self._token = self._replace(self._token, TOKEN, MemoryFile((token_state,), index))

    def memory_facts(self) -> dict[str, str | int | bool | None]:
        """Return what kind of memory holds the payloads, and whether a restart keeps it, for ``status``."""
        file = self._memory or self._token
        if file is None:
            return {"kind": None, "bytes": 0, "unswappable": True, "kept": False, "whyNotKept": None}
        memory = file.memory
        why_not = self._handover.why_not(memory) if self._handover else "systemd does not run this agent"
        return {
            "kind": memory.kind,
            "bytes": memory.size,
            "unswappable": memory.locked,
            "kept": why_not is None,
            "whyNotKept": why_not,
        }

    def close(self) -> None:
        """End: leave to the next process what systemd keeps for it, wipe all else."""
        self.snapshot = None
        for file in (self._memory, self._token):
            if file is not None and self._handover is not None:
                self._handover.leave(file)
            elif file is not None:
                file.memory.close()

    def _replace(self, former: Kept | None, kind: str, memory: MemoryFile) -> Kept:
        """Have the new file kept, then give the former one up; nothing that can fail is in between."""
        if self._handover is None:
            if former is not None:
                former.memory.close()
            return Kept(kind, memory)
        file = self._handover.keep(kind, memory)
        if former is not None:
            self._handover.give_up(former)
        return file

    def _previous_after(
        self, new: Mapping[SecretName, SecretMetadata], until: float, now: float
    ) -> dict[SecretName, tuple[Secret, float]]:
        """Return the previous versions that the next snapshot keeps: those of names that still exist."""
        if self.snapshot is None:
            return {}
        kept = {
            name: (secret, end)
            for name, (secret, end) in self.snapshot.previous.items()
            if name in new and end > now
        }
        for name, secret in self.snapshot.current.items():
            if name in new and new[name].version != secret.facts.version:
                kept.pop(name, None)
                end = former_until(secret.facts, new[name], until, now)
                if end > now:
                    kept[name] = (secret, end)
        return kept

    def _assign(
        self,
        current: Mapping[SecretName, tuple[SecretMetadata, bytes | Secret]],
        previous: Mapping[SecretName, tuple[Secret, float]],
        when: tuple[int, dict[SecretName, int]],
        remarks: Remarks,
    ) -> None:
        """Copy all payloads into a new memory file, assign the snapshot, wipe the former file.

        ``when`` are the generation, and those in which each name changed.
        """
        generation, noted = when
        payloads = [payload for _, payload in current.values()] + [secret for secret, _ in previous.values()]
        facts = [facts for facts, _ in current.values()] + [secret.facts for secret, _ in previous.values()]
        index = kept_file.Index(
            sequence=self._handover.next_sequence() if self._handover else 0,
            generation=generation,
            changed=noted,
            remarks=remarks,
            facts=tuple(facts),
            until=tuple(until for _, until in previous.values()),
        )
        memory = MemoryFile(
            [p.borrow() if isinstance(p, Secret) else p for p in payloads],
            kept_file.encode(self._handover.owner, index) if self._handover else b"",
            self._moments,
        )
        snapshot = index.snapshot(memory.views)
        self._memory, self.snapshot = self._replace(self._memory, SNAPSHOT, memory), snapshot
        self.changed, self._generation = noted, generation

    def _next_generation(self) -> int:
        return next_generation(self._generation, clock.wall())

    def _versions_before(self) -> Mapping[SecretName, Version]:
        """Return what was published last, by this run or by the one before it."""
        if self.snapshot is not None:
            return self.snapshot.versions()
        return self._former.versions if self._former else {}

    def _noted(
        self, changed: tuple[SecretName, ...], generation: int, current: Collection[SecretName]
    ) -> dict[SecretName, int]:
        """Return when each name last changed; the order is that of the last change."""
        noted = {name: when for name, when in self.changed.items() if name not in changed}
        noted |= dict.fromkeys(changed, generation)
        gone = [name for name in noted if name not in current]
        for name in gone[: max(0, len(gone) - MAX_GONE)]:
            del noted[name]
        return noted
