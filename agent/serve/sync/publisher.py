"""Publishes what the rotation machine decides: the only writer of the snapshot and of the machine's progress.

Owns the progress, and of the health what follows from it: ``confirmed``, ``denied_since`` and ``lost``. The
refresher says when and what was read. What has to go goes, also where no memory is left to publish the rest
(docs/adr/0016).
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.core import clocks, order, rotation
from agent.core.errors import Failure, Fault, MemoryLockError, Step
from agent.core.secret import NO_REMARKS
from agent.serve.host import clock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.secret import SecretMetadata
    from agent.serve.state import State
    from common.names import SecretName, Version

_log: Final = logging.getLogger("agent.refresher")


class Published(NamedTuple):
    """What became of a step: the names that changed, and why the rest of it could not be held, if so.

    ``wiped``: more is gone than had to go, so Barbican is to be read at once. ``refused``: what was read and
    is over, in words.
    """

    step: rotation.Step
    changed: tuple[SecretName, ...]
    failure: Failure | None
    wiped: bool
    refused: tuple[str, ...] = ()


class Publisher:
    """Applies steps to the store of ``state``, and remembers how far they have come."""

    def __init__(self, state: State) -> None:
        self._state: Final = state
        self._store: Final = state.store
        self._progress = rotation.Progress(
            confirmed=state.store.moments.confirmed, denied_since=state.store.moments.denied_since
        )
        self._ahead = state.store.moments.ahead
        self._show()

    def known(self, now: rotation.Moment) -> frozenset[Version]:
        """Return the versions that need no reading."""
        return rotation.known(self._store.held(), now)

    def reads_doubles(self, now: rotation.Moment) -> bool:
        """Return whether payloads are to be read although a name is listed twice."""
        return rotation.reads_doubles(self._store.held(), self._progress, now)

    def publish(
        self, reading: rotation.Reading, payloads: Mapping[Version, bytes], asked: rotation.Moment
    ) -> Published:
        """Publish what a reading leads to; it is as old as its request, ``asked``."""
        held = self._store.held()
        reading, over = order.ordered(held, reading)
        refused = tuple(
            f"{name}: the version {version} is older than one that ended it, so it is not served: rotate "
            "the secret"
            for version, name in sorted(over.items(), key=lambda pair: (pair[1], pair[0]))
        )
        for line in refused:
            _log.warning("%s", line)
        step = rotation.after_reading(held, reading, self._progress, self._policy, asked)
        published = self._apply(step, {v: (facts, payloads[v]) for v, facts in reading.read.items()})
        return published._replace(refused=refused)

    def failed(self, failure: Failure) -> Published:
        """Keep what is held after a cycle that failed, or drop what has outlived its grace."""
        now = clock.moment()
        step = rotation.after_failure(self._store.held(), failure, self._progress, self._policy, now)
        return self._apply(step, {})

    def drop_overdue(self) -> Published:
        """Wipe and drop what has outlived its time."""
        now = clock.moment()
        self._store.expire_previous(now.boot)
        return self._apply(rotation.overdue(self._store.held(), self._progress, self._policy, now), {})

    def next_end(self, published: Published) -> float:
        """Return in how many seconds the next value has to go after :meth:`drop_overdue`; inf for never."""
        snapshot, now = self._store.snapshot, clock.boot()
        ends = [until - now for _, until in snapshot.previous.values()] if snapshot else []
        again_in = published.step.again_in
        return min(ends if again_in is None else (again_in, *ends), default=math.inf)

    def give_up(self) -> None:
        """Drop what is due for the last time, or wipe all: the next process must not find it."""
        try:
            self.drop_overdue()
        except Exception:  # noqa: BLE001  # fail closed
            self._store.wipe()

    def age(self, seconds: float, ahead: float) -> None:
        """Count all that is counted by age as so much older: time of which the boot clock does not know.

        ``ahead`` is how far (s) the wall clock is ahead of the boot clock now; it is kept with the ages, so
        that the next process sees whether the clocks have parted since.
        """
        self._progress, self._ahead = clocks.aged(self._progress, seconds), ahead
        self._show()

    @property
    def _policy(self) -> rotation.Policy:
        staleness = self._state.config.staleness
        if staleness.after_max_stale == "serve-stale":
            return rotation.Policy(staleness.revocation_grace)
        limits = {name: limit for name, limit in staleness.secrets.items() if limit is not None}
        never = {name: math.inf for name, limit in staleness.secrets.items() if limit is None}
        return rotation.Policy(staleness.revocation_grace, {**limits, **never}, staleness.max_stale)

    def _apply(self, step: rotation.Step, read: Mapping[Version, tuple[SecretMetadata, bytes]]) -> Published:
        """Publish what the machine decided, then remember its progress.

        Where there is no memory for what is new, that is a failure; what has to go has gone all the same.
        """
        before, progress = self._store.held(), step.progress
        changed: tuple[SecretName, ...] = ()
        failure: Failure | None = None
        if step.versions is not None:
            try:
                changed = self._hold(step, step.versions, read)
            except MemoryLockError as error:
                changed = tuple(sorted(before.keys() - self._store.held().keys()))
                failure = Failure(Step.MEMORY, Fault.TRANSIENT, "to hold what was read", str(error))
                progress = rotation.unpublished(self._progress, step)
        self._store.remember(
            self._store.moments._replace(
                confirmed=progress.confirmed, denied_since=progress.denied_since, ahead=self._ahead
            )
        )
        self._tell(step, changed)
        self._progress = progress
        self._state.health.lost = self._lost(step)
        self._show()
        return Published(step, changed, failure, wiped=bool(before) and self._store.snapshot is None)

    def _hold(
        self,
        step: rotation.Step,
        versions: Mapping[SecretName, Version],
        read: Mapping[Version, tuple[SecretMetadata, bytes]],
    ) -> tuple[SecretName, ...]:
        snapshot, now = self._store.snapshot, clock.boot()
        remarks = step.remarks
        if remarks is None:  # nothing was learned: what is left is as it was
            remarks = (snapshot.remarks if snapshot else NO_REMARKS).without(step.dropped)
        until = now + self._state.config.rotation.previous_grace
        return self._store.publish(versions, read, previous_until=until, now=now, remarks=remarks)

    def _lost(self, step: rotation.Step) -> frozenset[SecretName]:
        """Return the names that are listed and have no value, less those of which the snapshot says so."""
        listed = {*(step.versions or ()), *step.dropped} - step.progress.leaving.keys()
        listed |= self._state.health.lost if step.remarks is None else step.remarks.pending
        snapshot = self._store.snapshot
        said = snapshot.remarks.pending if snapshot else frozenset()
        return frozenset(listed - self._store.held().keys() - said)

    def _tell(self, step: rotation.Step, changed: tuple[SecretName, ...]) -> None:
        for name, reason in sorted(step.dropped.items()):
            _log.warning("secret %s is served no more: %s", name, reason)
        if changed:
            snapshot = self._store.snapshot
            _log.info("generation %s: changed %s", snapshot and snapshot.generation, ", ".join(changed))

    def _show(self) -> None:
        """Have the health say what the progress says."""
        health = self._state.health
        health.confirmed, health.denied_since = self._progress.confirmed, self._progress.denied_since
