"""What one agent decides, by its own code: agent/core/rotation.py and schedule.py, not a copy of them.

The simulator and the real fleet both use it. It is what agent/serve/sync/refresher.py does around that code,
without payloads: one machine per VPS, a reading or a failure in, the seconds to the next cycle out.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from agent.core import rotation, schedule
from agent.core.rotation import Entry, Moment, Policy, Progress, Reading
from agent.core.secret import SecretMetadata
from common.names import SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.errors import Failure
    from agent.core.schedule import Pace, Uniform

_POLICY: Final = Policy()


class Generations:
    """The versions that containers list, one generation after another; the same names for every VPS."""

    def __init__(self, names: int, generations: int) -> None:
        self.facts: Final = tuple(
            {
                name: SecretMetadata(
                    name, Version(str(uuid.UUID(int=1000 * generation + k))), 32, "", generation, None
                )
                for k, name in enumerate(SecretName(f"SECRET_{k}") for k in range(names))
            }
            for generation in range(1, generations + 1)
        )
        """By generation: what is to be held."""
        self._entries: Final = tuple(
            tuple(Entry(fact.name, fact.version) for fact in facts.values()) for facts in self.facts
        )

        self.new: Final = tuple(
            Reading(entries, {fact.version: fact for fact in facts.values()})
            for entries, facts in zip(self._entries, self.facts, strict=True)
        )
        """By generation: what a cycle learns that has read everything."""
        self.known: Final = tuple(Reading(entries) for entries in self._entries)
        """By generation: what a cycle learns that had nothing to read but the list."""


class Machine:
    """One agent between its cycles. ``held`` is what it serves, ``confirmed`` when Barbican last agreed."""

    __slots__ = ("failures", "held", "progress", "settled")

    def __init__(self) -> None:
        self.held: Mapping[SecretName, SecretMetadata] = {}
        self.progress = Progress()
        self.failures = 0
        self.settled = False

    @property
    def confirmed(self) -> float | None:
        """When Barbican last agreed with what is held (s)."""
        return self.progress.confirmed

    def knows(self, reading: Reading, now: float) -> bool:
        """Return whether a cycle has nothing to read but the list."""
        known = rotation.known(self.held, Moment(now, now))
        return all(entry.version in known for entry in reading.entries)

    def disturb(self) -> None:
        """Note that the cycle under way was not started by its own interval."""
        self.settled = False

    def read(self, reading: Reading, now: float, pace: Pace, uniform: Uniform) -> float:
        """Take a reading; return the seconds to the next cycle."""
        step = rotation.after_reading(self.held, reading, self.progress, _POLICY, Moment(now, now))
        self.progress = step.progress
        if step.versions is not None and reading.read:
            facts = {fact.version: fact for fact in (*self.held.values(), *reading.read.values())}
            self.held = {name: facts[version] for name, version in step.versions.items()}
        settled, self.settled, self.failures = self.settled, step.again_in is None, 0
        sooner = () if step.again_in is None else (step.again_in,)
        return schedule.poll(pace, uniform, sooner, settled=settled)

    def fail(self, failure: Failure, now: float, pace: Pace, uniform: Uniform) -> float:
        """Take the failure of a whole cycle; return the seconds to the next one."""
        self.progress = rotation.after_failure(
            self.held, failure, self.progress, _POLICY, Moment(now, now)
        ).progress
        self.failures += 1
        self.settled = False
        return schedule.backoff(pace, self.failures, uniform, failure.retry_after)
