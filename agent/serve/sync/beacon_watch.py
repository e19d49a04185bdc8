"""The watch over the beacon: a fetch process looks, and what it tells causes polls, so many and no more.

Owns what was seen last, the bucket and ``state.beacon``. The beacon is trusted for nothing but "look now":
whatever is said about it, the worst that comes of it is a poll, and polls are limited by the bucket. Its
failures touch nothing that is served, are told once, and back off.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from typing import TYPE_CHECKING, Final

from agent.core import bucket, schedule
from agent.core.errors import CloudError
from agent.core.wire_watch import Watch
from agent.serve.host import clock
from agent.serve.host.logs import place
from common.durations import span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.config.beacon import BeaconSettings
    from agent.config.model import Config
    from agent.core.errors import Failure
    from agent.core.wire_watch import WatchResult
    from agent.serve.state import State

BURST: Final = 6
REFILL_S: Final = 900.0
"""Polls that a beacon may cause: so many at once, then one each so many seconds (docs/adr/0010)."""
LIFETIME_S: Final = 3600.0
"""How long one process watches (s, with jitter): its start is what a look costs most."""
BUG_S: Final = 60.0

_log: Final = logging.getLogger("agent.beacon")


class Beacon:
    """``watch`` makes one exchange with a fetch process; ``signal`` has Barbican read."""

    def __init__(
        self,
        state: State,
        watch: Callable[[Watch, Config], Awaitable[WatchResult]],
        signal: Callable[[], None],
    ) -> None:
        self._state: Final = state
        self._lookout: Final = state.beacon
        self._watch: Final = watch
        self._signal: Final = signal
        self._uniform: Final = random.SystemRandom().uniform
        self._bucket = bucket.Bucket(BURST, REFILL_S)
        self._begun: Final = asyncio.Event()
        self._url = ""
        self._seen: str | None = None
        self._news = 0.0
        self._poll: asyncio.TimerHandle | None = None
        self._following: asyncio.Task[None] | None = None
        if state.config.beacon is not None:
            self._become("starting")

    def begin(self) -> None:
        """The first reading has ended: an agent that keeps dying does no more than that."""
        self._begun.set()

    def reload(self) -> None:
        """Go on with the configuration that is in force now."""
        if self._following is not None:
            self._following.cancel()

    async def run(self) -> None:
        """Watch, until cancelled. No failure ends it."""
        await self._begun.wait()
        try:
            while True:
                self._following = asyncio.create_task(self._follow())
                await asyncio.wait({self._following})
                if not self._following.cancelled() and (error := self._following.exception()):
                    _log.error("the watch over the beacon was ended by a bug, report it: %s", place(error))
                    await asyncio.sleep(BUG_S)
        finally:
            if self._poll is not None:
                self._poll.cancel()
            if self._following is not None:
                self._following.cancel()
                await asyncio.wait({self._following})

    async def _follow(self) -> None:
        """Watch the beacon that is configured, if any, until cancelled."""
        settings = self._state.config.beacon
        if settings is None:
            self._become("off")
            await asyncio.Event().wait()
            return
        if settings.url != self._url:
            self._url, self._seen = settings.url, None
        self._become("starting")
        self._lookout.failures, self._lookout.failure = 0, None
        while True:
            delay = await self._look(settings)
            self._lookout.next_look = clock.boot() + delay
            await asyncio.sleep(delay)
            self._lookout.next_look = None

    async def _look(self, settings: BeaconSettings) -> float:
        """Have a process look, once or for long, and return in how many seconds to go on.

        Once, until a look was good: a process that stays says nothing while all is well.
        """
        config = self._state.config
        self._lookout.watched = self._lookout.state == "watching"
        lifetime = schedule.look(LIFETIME_S, self._uniform) if self._lookout.watched else 0.0
        token_state = self._state.store.token_state() if settings.auth == "keystone" else b""
        watch = Watch(secrets.token_hex(16), self._seen, settings.interval, lifetime, token_state)
        try:
            sight = await self._watch(watch, config)
        except CloudError as error:
            return self._failed(error.failure, settings)
        finally:
            self._lookout.watched = False
        self._lookout.events.update(look=sight.looks, login=sight.logins)
        if sight.seen is None:
            assert sight.failure is not None  # noqa: S101  # the wire's own check
            return self._failed(sight.failure, settings)
        self._saw(sight.seen, settings)
        return schedule.look(settings.interval, self._uniform)

    def _saw(self, seen: str, settings: BeaconSettings) -> None:
        beacon_status, now = self._lookout, clock.boot()
        if beacon_status.state == "failing":
            _log.info("the beacon is seen again")
        beacon_status.seen, beacon_status.failures, beacon_status.failure = now, 0, None
        self._become("watching")
        if seen == self._seen:
            return
        if self._seen is not None:
            beacon_status.changed = now
            beacon_status.events["change"] += 1
            _log.info("the beacon has changed")
        # the first sight of it is no change, but a touch may have come between the last reading and now
        self._seen, self._news = seen, now
        self._plan_poll(now, settings)

    def _plan_poll(self, now: float, settings: BeaconSettings) -> None:
        if self._poll is not None:
            return  # that one comes later than what was seen now
        wanted = now + schedule.spread(settings.spread, self._uniform)
        self._bucket, at = bucket.take(self._bucket, wanted)
        self._lookout.poll_at = at
        if at > wanted:
            self._lookout.events["postponed"] += 1
            _log.warning("the beacon changes too often; Barbican is read because of it in %.0f s", at - now)
        self._poll = asyncio.get_running_loop().call_later(at - now, self._ask)

    def _ask(self) -> None:
        """Have Barbican read, unless a reading has begun since the last change was seen."""
        self._poll = self._lookout.poll_at = None
        if (self._state.store.moments.attempted or 0.0) <= self._news:
            self._lookout.events["poll"] += 1
            self._signal()

    def _failed(self, failure: Failure, settings: BeaconSettings) -> float:
        """Tell it, where it is news, and return when to look again."""
        beacon_status = self._lookout
        beacon_status.failure = failure
        beacon_status.failures += 1
        beacon_status.events["failure"] += 1
        rotation = self._state.config.rotation
        pace = schedule.Pace(backoff_base=settings.interval, backoff_cap=rotation.backoff_cap)
        delay = schedule.backoff(pace, beacon_status.failures, self._uniform, failure.retry_after)
        every = self._state.health.poll_interval or rotation.poll_interval
        if beacon_status.state != "failing":
            _log.warning(
                "%s; nothing that is served depends on it, a rotation is noticed by the poll every %s; "
                "next look in %.0f s",
                *(failure, span(every), delay),
            )
        self._become("failing")
        return delay

    def _become(self, state: str) -> None:
        if state != self._lookout.state:
            self._lookout.state, self._lookout.since = state, clock.boot()
