"""The refresher: decides when to read, has it read, and publishes what the rotation machine decides.

The only writer of the store and of the machine's progress. One cycle at a time; identical work is coalesced:
whoever asks for a refresh joins the next cycle that starts after the request. No failure of a cycle ends the
loop. What has to go goes, also where no memory is left to publish the rest (docs/adr/0016).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.core import clocks, rotation, schedule, wire
from agent.core.errors import (
    INTERNAL,
    TOO_MANY_REQUESTS,
    CloudError,
    Failure,
    Fault,
    MemoryLockError,
    RequestError,
    Step,
)
from agent.serve.host import clock
from agent.serve.host.logs import place
from agent.serve.sync.call_budget import CallBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.config.model import Config
    from agent.core.secret import SecretMetadata
    from agent.serve.state import State
    from common.names import SecretName, Version

REFRESH_EVERY_S: Final = 1.0
"""A refresh may start a cycle this often."""
STUCK_S: Final = 60.0
"""How late the refresher may be, on a machine under load, before it counts as stuck."""
RESTART_EVERY_S: Final = 10.0
"""An agent that keeps dying reads Barbican this often, and serves what it kept meanwhile."""
PARTED_EVERY_S: Final = 60.0
"""How often clocks that part may start a cycle."""

_log: Final = logging.getLogger("agent.refresher")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How a cycle ended: the generation served now, the names that changed, why it failed if it did."""

    generation: int | None
    changed: tuple[SecretName, ...]
    failure: Failure | None
    seconds: float


class Refresher:
    """``fetch`` makes one cycle's exchange; ``on_cycle_end`` is called after every cycle and every drop."""

    def __init__(
        self,
        state: State,
        fetch: Callable[[wire.Request, Config], Awaitable[wire.Reply]],
        on_cycle_end: Callable[[Refreshed], None],
    ) -> None:
        self._state = state
        self._store: Final = state.store
        self._fetch = fetch
        self._on_cycle_end = on_cycle_end
        self._progress = rotation.Progress(
            confirmed=state.store.moments.confirmed, denied_since=state.store.moments.denied_since
        )
        self._call_budget: Final = CallBudget(state)
        self._uniform: Final = random.SystemRandom().uniform
        self._wake: Final = asyncio.Event()
        self._wakes_at = float("inf")
        self._next: asyncio.Future[Refreshed] | None = None
        self._last_refresh = float("-inf")
        self._unreadable = 0
        self._seen = clock.moment()
        self._missed = 0.0  # seconds that only the wall clock knows of, until a reading has ended
        self._parted_at = float("-inf")
        self._settled = False  # whether the cycle to come is brought about by nothing but its interval
        self._must_move_by = math.inf

    async def run(self) -> None:
        """Read, publish and wait, until cancelled; whatever else ends it is a bug, or no memory."""
        attempted = self._store.moments.attempted
        since = RESTART_EVERY_S if attempted is None else clock.boot() - attempted
        self._plan(max(schedule.first(self._call_budget.pace(), self._uniform), RESTART_EVERY_S - since))
        while True:
            await self._wait()
            if self._next is not None or clock.boot() >= self._due:
                await self._cycle()

    async def refresh(self) -> Refreshed:
        """Read Barbican now and return how that ended.

        Raises:
            RequestError: TOO_MANY_REQUESTS, where a refresh has started a cycle within the last second.
        """
        if self._next is None:
            wait = self._last_refresh + REFRESH_EVERY_S - clock.boot()
            if wait > 0:
                raise RequestError(TOO_MANY_REQUESTS, "a refresh has just been made", retry_after=wait)
            self.ask()
        assert self._next is not None  # noqa: S101  # ask() has set it
        return await asyncio.shield(self._next)

    def ask(self) -> None:
        """Have Barbican read as soon as the cycle under way, if any, has ended."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._wake.set()

    def signal(self) -> None:
        """As :meth:`ask`, for whoever is not trusted: a ``Retry-After`` of the cloud's is obeyed.

        Nothing is lost then: the attempt that is planned reads what there is.
        """
        failure = self._state.health.failure
        if failure is None or failure.retry_after is None:
            self.ask()

    def look(self) -> None:
        """Wake up where it is time: a suspended machine's timers stand still, its boot clock does not.

        A month that has begun is noticed here too, whenever the next reading is.
        """
        self._call_budget.note({})
        self._compare_clocks()
        if clock.boot() >= self._wakes_at:
            self._wake.set()

    def is_stuck(self) -> bool:
        """Return whether a wait or a cycle takes far longer than it may.

        On the clock of the loop's timers, which stands still with them while a machine is suspended.
        """
        return asyncio.get_running_loop().time() > self._must_move_by

    def _must_move_within(self, seconds: float) -> None:
        self._must_move_by = asyncio.get_running_loop().time() + seconds + STUCK_S

    def _compare_clocks(self) -> None:
        """Read Barbican at once where wall and boot clock have parted.

        At most once in ``PARTED_EVERY_S``: a clock that is set to and fro must not become a storm of calls.
        """
        before, self._seen = self._seen, clock.moment()
        ahead = clocks.parted(before, self._seen)
        if abs(ahead) < clocks.PARTED_S:
            return
        self._missed += max(0.0, ahead)
        _log.warning(
            "the wall clock went %.0f s %s of the boot clock (a restored snapshot, or a clock that was set): "
            "reading Barbican now",
            abs(ahead),
            "ahead" if ahead > 0 else "behind",
        )
        if self._seen.boot - self._parted_at >= PARTED_EVERY_S:
            self._parted_at = self._seen.boot
            self.signal()

    def _count_missed(self) -> None:
        """Count what the reading that has ended did not confirm as older by what the boot clock missed."""
        self._progress, self._missed = clocks.aged(self._progress, self._missed), 0.0

    @property
    def _due(self) -> float:
        return self._state.health.next_attempt or 0.0

    @property
    def _policy(self) -> rotation.Policy:
        staleness = self._state.config.staleness
        if staleness.after_max_stale == "serve-stale":
            return rotation.Policy(staleness.revocation_grace)
        limits = {name: limit for name, limit in staleness.secrets.items() if limit is not None}
        never = {name: float("inf") for name, limit in staleness.secrets.items() if limit is None}
        return rotation.Policy(staleness.revocation_grace, {**limits, **never}, staleness.max_stale)

    def _plan(self, delay: float) -> None:
        self._state.health.next_attempt = clock.boot() + delay

    async def _wait(self) -> None:
        """Wait for a refresh or the next attempt, and do what is due on the way."""
        wait = min(self._housekeep(), self._due - clock.boot())
        self._wakes_at = clock.boot() + wait
        seconds = clock.loop_seconds(max(0.0, wait))
        self._must_move_within(seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _housekeep(self) -> float:
        """Wipe and drop what has outlived its time; return in how many seconds to look again."""
        now = clock.moment()
        self._store.expire_previous(now.boot)
        self._call_budget.note({})
        self._compare_clocks()
        step = rotation.overdue(self._store.held(), self._progress, self._policy, now)
        changed, _ = self._apply(step, {}, now)
        if changed:
            self._tell(Refreshed(self._generation(), changed, self._state.health.failure, 0.0))
        snapshot = self._store.snapshot
        ends = [until - now.boot for _, until in snapshot.previous.values()] if snapshot else []
        return min((step.again_in, *ends) if step.again_in is not None else ends, default=float("inf"))

    async def _cycle(self) -> None:
        """Make one cycle and tell everybody who waits for it how it ended."""
        self._compare_clocks()  # before, so that what it confirms is not counted as older after it
        asked, self._next = self._next, None
        began = clock.boot()
        if asked is not None:
            self._last_refresh = began
            self._settled = False
        self._must_move_within(2 * self._state.config.fetch.timeout)
        try:
            refreshed = await self._refreshed(began)
        except BaseException:
            if asked is not None and not asked.done():
                asked.set_exception(RequestError(INTERNAL, "the agent ends"))
                asked.exception()  # nobody may be waiting
            raise
        if asked is not None and not asked.done():
            asked.set_result(refreshed)
        self._tell(refreshed)

    async def _refreshed(self, began: float) -> Refreshed:
        """Make one cycle, whatever becomes of it."""
        changed: tuple[SecretName, ...] = ()
        failure: Failure | None = None
        try:
            changed, failure = await self._read()
        except CloudError as error:
            failure = error.failure
        except Exception as error:  # noqa: BLE001  # rule 5: serve stays up; only the type is told, texts may hold values
            failure = Failure(Step.FETCH, Fault.TRANSIENT, "a cycle", f"report this bug: {place(error)}")
        if failure is not None:
            changed = (*changed, *self._fail(failure))
        health = self._state.health
        health.cycles += 1
        health.last_cycle = clock.boot() - began
        health.denied_since = self._progress.denied_since
        return Refreshed(self._generation(), changed, failure, health.last_cycle)

    def _tell(self, refreshed: Refreshed) -> None:
        """Call ``on_cycle_end``; a bug there is told and must not end the readings."""
        try:
            self._on_cycle_end(refreshed)
        except Exception as error:  # noqa: BLE001  # as in _cycle
            _log.error("report this bug: %s", place(error))  # no traceback

    async def _read(self) -> tuple[tuple[SecretName, ...], Failure | None]:
        """Exchange one request for a reply and publish what it leads to."""
        held, asked = self._store.held(), clock.moment()
        self._store.remember(self._store.moments._replace(attempted=asked.boot))
        request = wire.Request(
            nonce=secrets.token_hex(16),
            known=rotation.known(held, asked),
            reads_doubles=rotation.reads_doubles(held, self._progress, asked),
            timeout=self._state.config.fetch.timeout,
            token_state=self._store.token_state(),
        )
        reply = await self._fetch(request, self._state.config)
        self._note(reply)
        if reply.reading is None:
            return (), reply.failure
        self._count_missed()
        # a reading is as old as its request: the container is the first that it reads
        step = rotation.after_reading(held, reply.reading, self._progress, self._policy, asked)
        now = clock.moment()
        read = {v: (facts, reply.payloads[v]) for v, facts in reply.reading.read.items()}
        changed, refused = self._apply(step, read, now)
        if refused is not None:
            return changed, refused
        health = self._state.health
        health.failure, health.failures, health.confirmed = None, 0, step.progress.confirmed
        health.warnings = _unfinished(step)
        self._plan(self._until_next(step, now))
        return changed, None

    def _note(self, reply: wire.Reply) -> None:
        try:
            self._store.keep_token_state(reply.token_state)
        except MemoryLockError as error:  # what the reading says must not depend on it
            _log.warning("the token is not kept, so the next cycle logs in again: %s", error)
        self._call_budget.note(reply.calls)
        health = self._state.health
        health.timings = dict(reply.timings)
        if reply.reading is not None:  # what the last good one could not do stays true until the next
            health.rejected, health.notices = tuple(reply.rejected), tuple(reply.notices)
        if reply.listed is not None:
            health.list_refused = not reply.listed
        if reply.failure is None or reply.credential_expires is not None:
            health.credential_expires = reply.credential_expires

    def _until_next(self, step: rotation.Step, now: rotation.Moment) -> float:
        """Return in how many seconds to read again after a cycle that Barbican answered."""
        pace = self._call_budget.pace()
        sooner = [] if step.again_in is None else [step.again_in]
        sooner += [
            schedule.until_expiry(pace, facts.expires, now.wall, self._uniform)
            for facts in self._store.held().values()
            if facts.expires is not None and facts.expires > now.wall
        ]
        self._unreadable = self._unreadable + 1 if step.remarks else 0
        if self._unreadable:
            sooner.append(schedule.backoff(pace, self._unreadable, self._uniform))
        wait = schedule.poll(pace, self._uniform, tuple(sooner), settled=self._settled)
        self._settled = wait < min(sooner, default=math.inf)
        return wait

    def _fail(self, failure: Failure) -> tuple[SecretName, ...]:
        """Keep, or drop what has outlived its grace, and plan the next attempt."""
        health, now = self._state.health, clock.moment()
        health.failure = failure
        health.failures += 1
        self._settled = False
        health.cycles_failed += 1
        self._count_missed()
        health.confirmed = self._progress.confirmed
        step = rotation.after_failure(self._store.held(), failure, self._progress, self._policy, now)
        changed, _ = self._apply(step, {}, now)
        delay = schedule.backoff(
            self._call_budget.pace(), health.failures, self._uniform, failure.retry_after
        )
        self._plan(delay)
        _log.warning("%s; next attempt in %.0f s", failure, delay)
        return changed

    def drop_overdue(self) -> None:
        """Drop, before anybody is served, what has outlived its grace while no agent was running."""
        now = clock.moment()
        self._store.expire_previous(now.boot)
        self._apply(rotation.overdue(self._store.held(), self._progress, self._policy, now), {}, now)

    def give_up(self) -> None:
        """Drop what is due for the last time, or wipe all: the next process must not find it."""
        try:
            self.drop_overdue()
        except Exception:  # noqa: BLE001  # fail closed
            self._store.wipe()

    def _apply(
        self, step: rotation.Step, read: dict[Version, tuple[SecretMetadata, bytes]], now: rotation.Moment
    ) -> tuple[tuple[SecretName, ...], Failure | None]:
        """Publish what the machine decided, then remember its progress; return what changed.

        Where there is no memory for what is new, that is a failure; what has to go has gone all the same.
        """
        changed: tuple[SecretName, ...] = ()
        failure: Failure | None = None
        progress, before = step.progress, self._store.held()
        if step.versions is not None:
            snapshot = self._store.snapshot
            remarks = step.remarks
            if remarks is None:  # nothing was learned: what is left is as it was
                former = (snapshot.pending, snapshot.kept) if snapshot else ()
                remarks = rotation.Remarks(*former).without(step.dropped)
            try:
                changed = self._store.publish(
                    step.versions,
                    read,
                    previous_until=now.boot + self._state.config.rotation.previous_grace,
                    now=now.boot,
                    pending=remarks.pending,
                    kept=remarks.kept,
                )
            except MemoryLockError as error:
                changed = tuple(sorted(before.keys() - self._store.held().keys()))
                failure = Failure(Step.MEMORY, Fault.TRANSIENT, "to hold what was read", str(error))
                progress = rotation.unpublished(self._progress, step)
        self._store.remember(
            self._store.moments._replace(confirmed=progress.confirmed, denied_since=progress.denied_since)
        )
        for name, reason in sorted(step.dropped.items()):
            _log.warning("secret %s is served no more: %s", name, reason)
        if changed:
            _log.info("generation %s: changed %s", self._generation(), ", ".join(changed))
        self._progress = progress
        health = self._state.health
        listed = step.dropped.keys() - progress.leaving.keys()
        health.lost = frozenset() if step.remarks is not None else health.lost | listed
        if before and self._store.snapshot is None:
            self.ask()  # all was wiped, more than had to go: it is read again at once
        return changed, failure

    def _generation(self) -> int | None:
        return self._store.snapshot.generation if self._store.snapshot else None


def _unfinished(step: rotation.Step) -> tuple[str, ...]:
    """Return a warning for each rotation that was published although its old entry is still there."""
    if step.versions is None or not step.duplicates:
        return ()
    warnings = tuple(
        f"{name} stands in the container twice; the newest is served: remove the old entry"
        for name in sorted(step.duplicates)
    )
    for warning in warnings:
        _log.warning("%s", warning)
    return warnings
