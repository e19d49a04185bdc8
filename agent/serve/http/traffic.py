"""What the sockets count, for the metrics and the status."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_READERS: Final = 10_000
"""So many pairs of caller and name are remembered; each one after that counts as new."""


@dataclass(slots=True)
class Traffic:
    """What the doors count. ``requests`` by (door, outcome), ``connections`` open now by door.

    ``unrecorded`` by door: requests that were refused because their record could not be written.
    ``first_reads`` by door: names that a caller was served and had not been since the agent started.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unrecorded: Counter[str] = field(default_factory=Counter)
    watchers: int = 0
    first_reads: Counter[str] = field(default_factory=Counter)
    _readers: set[tuple[int | str | None, str]] = field(default_factory=set)

    def served(self, door: str, caller: int | str | None, names: Iterable[str]) -> None:
        """Note who was served what: a uid or, where systemd asks for it, a unit."""
        for name in names:
            if (caller, name) not in self._readers:
                self.first_reads[door] += 1
                if len(self._readers) < MAX_READERS:
                    self._readers.add((caller, name))
