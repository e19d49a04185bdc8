"""Which memory files outlive this process: names them, hands them to systemd, takes those of a former run.

A new file is handed over before it is used and before its forerunner is given up, so systemd holds a whole
snapshot at any instant. What comes back is checked as if anybody had made it; what fails is refused whole.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.serve.host import clock
from agent.serve.host.fdstore import ABSENT, PROBE
from agent.serve.store import index
from agent.serve.store.memory_file import SECRET, AdoptionError, MemoryFile, swap_is_off

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.serve.host.fdstore import DescriptorStore

SNAPSHOT, TOKEN = "snapshot", "token"
_log: Final = logging.getLogger("agent.keeping")


@dataclass(frozen=True, slots=True)
class Kept:
    """A memory file and the name under which systemd keeps it, or would."""

    name: str
    memory: MemoryFile


@dataclass(frozen=True, slots=True)
class Adopted:
    """What a former process left: its newest snapshot and its token state, as far as they are whole."""

    snapshot: tuple[Kept, index.Index] | None = None
    token: Kept | None = None
    refused: tuple[str, ...] = ()


class Handover:
    """Hands files of ``owner`` to the descriptor store."""

    def __init__(self, descriptors: DescriptorStore, owner: index.Owner) -> None:
        self.owner: Final = owner
        self._descriptors: Final = descriptors
        self._swap_is_off: Final = swap_is_off()
        self._sequence = int(clock.boot() * 1000)

    def next_sequence(self) -> int:
        """Return a number that no file of this boot has had."""
        self._sequence += 1
        return self._sequence

    def keep(self, kind: str, memory: MemoryFile) -> Kept:
        """Hand a file over where that is safe."""
        file = Kept(f"{kind}-{self.next_sequence()}", memory)
        if self.why_not(memory) is None:
            self._descriptors.keep(file.name, memory.fd)
        return file

    def give_up(self, file: Kept) -> None:
        """Have a file dropped and wipe it."""
        self._descriptors.drop(file.name)
        file.memory.close()

    def leave(self, file: Kept) -> None:
        """End with a file: the next process gets it where systemd keeps it, else it is wiped."""
        file.memory.close(wipe=self.why_not(file.memory) is not None)

    async def check(self) -> None:
        """Find out whether systemd keeps what it is given."""
        await self._descriptors.check()

    def why_not(self, memory: MemoryFile) -> str | None:
        """Return why a restart does not keep this file, or None where it does."""
        if self._descriptors.works is False:
            return ABSENT
        if memory.kind != SECRET and not self._swap_is_off:
            return "its memory could be swapped to a disk (no memfd_secret, and MemorySwapMax= is not 0)"
        return None

    def why_not_at_all(self) -> str | None:
        """Return why a restart keeps nothing, as far as that is known before there is a file."""
        return None if self._descriptors.works else ABSENT

    def adopt(self, found: Iterable[tuple[str, int]]) -> Adopted:
        """Return what is whole and ours among the descriptors of a former process; drop all else."""
        snapshots: list[tuple[Kept, index.Index]] = []
        tokens: list[Kept] = []
        refused: list[str] = []
        for name, fd in found:
            if name == PROBE:  # a former process ended while it asked whether anything is kept
                os.close(fd)
                self._descriptors.drop(name)
                continue
            try:
                self._take(name, fd, snapshots, tokens)
            except AdoptionError as error:
                self._descriptors.drop(name)
                refused.append(f"what a former run left as {name!r} is refused: {error}")
        snapshots.sort(key=lambda pair: pair[1].sequence)
        tokens.sort(key=lambda file: file.name)
        for file in [older for older, _ in snapshots[:-1]] + tokens[:-1]:
            self.give_up(file)
        for text in refused:
            _log.warning("%s", text)
        if snapshots:
            self._sequence = max(self._sequence, snapshots[-1][1].sequence)
        return Adopted(snapshots[-1] if snapshots else None, tokens[-1] if tokens else None, tuple(refused))

    def _take(
        self, name: str, fd: int, snapshots: list[tuple[Kept, index.Index]], tokens: list[Kept]
    ) -> None:
        kind = name.partition("-")[0]
        if kind not in {SNAPSHOT, TOKEN}:
            os.close(fd)
            raise AdoptionError("it is not a file of this agent")
        memory = MemoryFile.adopt(fd)
        try:
            if kind == SNAPSHOT:
                snapshots.append((Kept(name, memory), self._index(memory)))
            else:
                index.check_token(self.owner, memory.index, len(memory.views))
                tokens.append(Kept(name, memory))
        except AdoptionError:
            memory.close()
            raise

    def _index(self, memory: MemoryFile) -> index.Index:
        """Return the index of a snapshot's file; its digest says nothing about its moments."""
        if not memory.moments.are_possible(clock.boot()):
            raise AdoptionError("its moments can't be: it is damaged")
        return index.decode(self.owner, memory.index, [len(view) for view in memory.views])
