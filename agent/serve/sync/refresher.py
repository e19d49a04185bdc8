"""The refresher: decides when to read, has it read, and hands what was read to the publisher.

One cycle at a time; identical work is coalesced: whoever asks for a refresh joins the next cycle that starts
after the request. No failure of a cycle ends the loop (docs/adr/0016). Owns when the next attempt is, and of
the health all that is not the publisher's (agent/serve/sync/publisher.py).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.core import bucket, clocks, schedule, wire
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
from agent.serve.sync.acknowledging import Acknowledging
from agent.serve.sync.call_budget import CallBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.config.model import Config
    from agent.core import rotation
    from agent.serve.state import State
    from agent.serve.sync.publisher import Published, Publisher
    from common.names import SecretName

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
        publisher: Publisher,
    ) -> None:
        self._state = state
        self._store: Final = state.store
        self._fetch = fetch
        self._on_cycle_end = on_cycle_end
        self._publisher: Final = publisher
        self._call_budget: Final = CallBudget(state)
        self._acknowledging: Final = Acknowledging(state)
        self._uniform: Final = random.SystemRandom().uniform
        self._wake: Final = asyncio.Event()
        self._wakes_at = float("inf")
        self._next: asyncio.Future[Refreshed] | None = None
        self._refreshes = bucket.Bucket(1, REFRESH_EVERY_S)
        self._unreadable = 0
        self._seen = clocks.told(state.store.moments.ahead) or clock.moment()
        self._missed = 0.0  # seconds that only the wall clock knows of, until a reading has ended
        self._parted = bucket.Bucket(1, PARTED_EVERY_S)
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
            RequestError: TOO_MANY_REQUESTS, where a refresh has asked for a cycle within the last second.
        """
        if self._next is None:
            now = clock.boot()
            if wait := bucket.wait(self._refreshes, now):
                raise RequestError(TOO_MANY_REQUESTS, "a refresh has just been made", retry_after=wait)
            self._refreshes, _ = bucket.take(self._refreshes, now)
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
        if not bucket.wait(self._parted, self._seen.boot):
            self._parted, _ = bucket.take(self._parted, self._seen.boot)
            self.signal()

    def _count_missed(self) -> None:
        """Count what the reading that has ended did not confirm as older by what the boot clock missed."""
        self._publisher.age(self._missed, clocks.ahead(self._seen))
        self._missed = 0.0

    @property
    def _due(self) -> float:
        return self._state.health.next_attempt or 0.0

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
        """Have wiped and dropped what has outlived its time; return in how many seconds to look again."""
        self._call_budget.note({})
        self._compare_clocks()
        published = self._publisher.drop_overdue()
        self._ask_for_what_is_gone(published)
        if published.changed:
            self._tell(Refreshed(self._generation(), published.changed, self._state.health.failure, 0.0))
        return self._publisher.next_end(published)

    def _ask_for_what_is_gone(self, published: Published) -> None:
        if published.wiped:
            self.ask()

    async def _cycle(self) -> None:
        """Make one cycle and tell everybody who waits for it how it ended."""
        self._compare_clocks()  # before, so that what it confirms is not counted as older after it
        asked, self._next = self._next, None
        began = clock.boot()
        if asked is not None:
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
        return Refreshed(self._generation(), changed, failure, health.last_cycle)

    def _tell(self, refreshed: Refreshed) -> None:
        """Call ``on_cycle_end``; a bug there is told and must not end the readings."""
        try:
            self._on_cycle_end(refreshed)
        except Exception as error:  # noqa: BLE001  # as in _cycle
            _log.error("report this bug: %s", place(error))  # no traceback

    async def _read(self) -> tuple[tuple[SecretName, ...], Failure | None]:
        """Exchange one request for a reply and publish what it leads to."""
        asked = clock.moment()
        self._store.remember(self._store.moments._replace(attempted=asked.boot))
        request = wire.Request(
            nonce=secrets.token_hex(16),
            known=self._publisher.known(asked),
            reads_doubles=self._publisher.reads_doubles(asked),
            timeout=self._state.config.fetch.timeout,
            token_state=self._store.token_state(),
            serves=self._acknowledging.ask(),
        )
        reply = await self._fetch(request, self._state.config)
        self._note(reply)
        if reply.reading is None:
            return (), reply.failure
        self._count_missed()
        # a reading is as old as its request: the container is the first that it reads
        published = self._publisher.publish(reply.reading, reply.payloads, asked)
        self._ask_for_what_is_gone(published)
        self._acknowledging.note(reply)
        if published.failure is None:
            health = self._state.health
            health.failure, health.failures = None, 0
            health.warnings = (*_unfinished(published.step), *published.refused)
            self._plan(self._until_next(published.step, clock.wall()))
        return published.changed, published.failure

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

    def _until_next(self, step: rotation.Step, wall: float) -> float:
        """Return in how many seconds to read again after a cycle that Barbican answered."""
        pace = self._call_budget.pace()
        if self._acknowledging.is_due():  # a cycle between two, which leaves the pace of the others as it is
            return schedule.follow_up(self._uniform)
        sooner = [] if step.again_in is None else [step.again_in]
        sooner += [
            schedule.until_expiry(pace, facts.expires, wall, self._uniform)
            for facts in self._store.held().values()
            if facts.expires is not None and facts.expires > wall
        ]
        self._unreadable = self._unreadable + 1 if step.remarks else 0
        if self._unreadable:
            sooner.append(schedule.backoff(pace, self._unreadable, self._uniform))
        wait = schedule.poll(pace, self._uniform, tuple(sooner), settled=self._settled)
        self._settled = wait < min(sooner, default=math.inf)
        return wait

    def _fail(self, failure: Failure) -> tuple[SecretName, ...]:
        """Keep, or drop what has outlived its grace, and plan the next attempt."""
        health = self._state.health
        health.failure = failure
        health.failures += 1
        self._settled = False
        health.cycles_failed += 1
        self._count_missed()
        published = self._publisher.failed(failure)
        self._ask_for_what_is_gone(published)
        delay = schedule.backoff(
            self._call_budget.pace(), health.failures, self._uniform, failure.retry_after
        )
        self._plan(delay)
        _log.warning("%s; next attempt in %.0f s", failure, delay)
        return published.changed

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
