"""When the refresher wakes up."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config.reader import load
from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.rotation import Moment
from agent.serve.host import clock
from agent.serve.state import State
from agent.serve.store.store import Store
from agent.serve.sync import freshness
from agent.serve.sync.publisher import Publisher
from agent.serve.sync.refresher import Refreshed, Refresher
from lab.testbed.fakes.fetch_server import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from agent.config.model import Config
    from agent.core import wire


EXAMPLE: Final = load(Path("packaging/agent.toml"))
CONFIG: Final = replace(EXAMPLE, rotation=replace(EXAMPLE.rotation, start_jitter=0.0))
"""The example's configuration, but that nothing is waited for before the first reading."""


@contextlib.asynccontextmanager
async def running(refresher: Refresher) -> AsyncIterator[None]:
    """Run it, and cancel it at the end."""
    task = asyncio.create_task(refresher.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_bug_in_what_is_told_ends_no_reading(caplog: pytest.LogCaptureFixture) -> None:
    """It is told, by type and place only; the next reading comes."""
    world, told = World(), asyncio.Queue[Refreshed]()

    async def fetch(request: wire.Request, config: Config) -> wire.Reply:
        del config
        return world.reply(request)

    def broken(refreshed: Refreshed) -> None:
        told.put_nowait(refreshed)
        raise ValueError("canary")

    state = State(CONFIG, (), Store(), clock.boot())
    refresher = Refresher(state, fetch, broken, Publisher(state))
    async with running(refresher):
        await asyncio.wait_for(told.get(), 20)
        await refresher.refresh()
    assert "report this bug: ValueError at" in caplog.text
    assert "canary" not in caplog.text


async def test_a_refresher_that_does_not_move_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle that never ends, against every rule; one that only takes its time is not."""
    began = asyncio.Event()

    async def hanging(request: wire.Request, config: Config) -> wire.Reply:
        del request, config
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    state = State(CONFIG, (), Store(), clock.boot())
    refresher = Refresher(state, hanging, lambda _: None, Publisher(state))
    assert not refresher.is_stuck()
    async with running(refresher):
        await asyncio.wait_for(began.wait(), 20)
        assert not refresher.is_stuck()
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1e9)
        assert refresher.is_stuck()
        monkeypatch.undo()
        waiting = asyncio.create_task(refresher.refresh())
    waiting.cancel()


async def test_a_machine_that_was_suspended_reads_when_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers stand still meanwhile, the boot clock does not. No machine can be suspended here: it jumps."""
    cycles = asyncio.Queue[Refreshed]()
    world = World()

    async def fetch(request: wire.Request, config: Config) -> wire.Reply:
        del config
        return world.reply(request)

    state = State(CONFIG, (), Store(), clock.boot())
    refresher = Refresher(state, fetch, cycles.put_nowait, Publisher(state))
    async with running(refresher):
        await asyncio.wait_for(cycles.get(), 20)
        refresher.look()
        await asyncio.sleep(0.05)
        assert cycles.empty(), "it is not time"
        suspended = clock.boot() + 3600.0
        monkeypatch.setattr(clock, "boot", lambda: suspended)
        await asyncio.sleep(0.05)
        assert cycles.empty(), "nothing else looks"
        refresher.look()
        await asyncio.wait_for(cycles.get(), 20)


class Clocks:
    """Both clocks, as a test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        self.passed = 0.0
        boot, wall = clock.boot, clock.wall
        monkeypatch.setattr(clock, "boot", lambda: boot() + self.passed)
        monkeypatch.setattr(clock, "wall", lambda: wall() + self.passed + self.ahead)
        monkeypatch.setattr(clock, "moment", lambda: Moment(clock.boot(), clock.wall()))


async def test_clocks_that_part_cause_a_reading_and_older_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot of the machine is restored three days later: only the wall clock knows."""
    cycles = asyncio.Queue[Refreshed]()
    world, clocks = World(), Clocks(monkeypatch)
    world.put("A", b"canary")
    away = asyncio.Event()

    async def fetch(request: wire.Request, config: Config) -> wire.Reply:
        del config
        if away.is_set():
            raise CloudError(Failure(Step.BARBICAN, Fault.TRANSIENT, "to read", "wait"))
        return world.reply(request)

    state = State(CONFIG, (), Store(), clock.boot())
    refresher = Refresher(state, fetch, cycles.put_nowait, Publisher(state))
    async with running(refresher):
        await asyncio.wait_for(cycles.get(), 20)
        refresher.look()
        await asyncio.sleep(0.05)
        assert cycles.empty(), "nothing has happened"

        away.set()
        clocks.ahead = 3 * 86400.0
        refresher.look()
        assert (await asyncio.wait_for(cycles.get(), 20)).failure is not None
        assert freshness.age(state) > 3 * 86400 - 60
        assert freshness.summary(state) == "stale"

        away.clear()
        refresher.ask()
        await asyncio.wait_for(cycles.get(), 20)
        assert freshness.age(state) < 3600
        assert freshness.summary(state) == "ready"


async def test_clocks_that_parted_while_no_agent_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process counts what it adopts as older, unless Barbican confirms it; and only once."""
    cycles = asyncio.Queue[Refreshed]()
    world, clocks, config = World(), Clocks(monkeypatch), CONFIG
    world.put("A", b"canary")
    store, away = Store(), asyncio.Event()

    async def fetch(request: wire.Request, config: Config) -> wire.Reply:
        del config
        if away.is_set():
            raise CloudError(Failure(Step.BARBICAN, Fault.TRANSIENT, "to read", "wait"))
        return world.reply(request)

    async def age_after_a_reading() -> float:
        """Make a process of its own over what the one before has left."""
        state = State(config, (), store, clock.boot())
        refresher = Refresher(state, fetch, cycles.put_nowait, Publisher(state))
        async with running(refresher):
            refresher.ask()
            await asyncio.wait_for(cycles.get(), 20)
            return freshness.age(state)

    assert await age_after_a_reading() < 3600
    clocks.ahead = 3 * 86400.0
    away.set()
    for _ in range(2):
        assert 3 * 86400 - 60 < await age_after_a_reading() < 3 * 86400 + 3600
    away.clear()
    assert await age_after_a_reading() < 3600


async def test_clocks_that_are_set_to_and_fro_cause_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reading a minute at most; setting a clock back makes nothing younger."""
    cycles = asyncio.Queue[Refreshed]()
    world, clocks = World(), Clocks(monkeypatch)
    world.put("A", b"canary")

    async def fetch(request: wire.Request, config: Config) -> wire.Reply:
        del config
        return world.reply(request)

    state = State(CONFIG, (), Store(), clock.boot())
    refresher = Refresher(state, fetch, cycles.put_nowait, Publisher(state))
    async with running(refresher):
        await asyncio.wait_for(cycles.get(), 20)
        for turn in range(20):
            clocks.ahead = -7200.0 if turn % 2 else 7200.0
            refresher.look()
            await asyncio.sleep(0.01)
        assert cycles.qsize() <= 2
        assert freshness.age(state) >= 0


async def test_nothing_is_dropped_for_its_age_before_the_reading_that_may_confirm_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody sets the clock ahead while Barbican is up, and max_stale is an hour."""
    cycles = asyncio.Queue[Refreshed]()
    world, clocks = World(), Clocks(monkeypatch)
    world.put("A", b"canary")
    configuration = replace(CONFIG, staleness=replace(CONFIG.staleness, max_stale=3600.0))

    async def fetch(request: wire.Request, config: Config) -> wire.Reply:
        del config
        return world.reply(request)

    state = State(configuration, (), Store(), clock.boot())
    refresher = Refresher(state, fetch, cycles.put_nowait, Publisher(state))
    async with running(refresher):
        await asyncio.wait_for(cycles.get(), 20)
        clocks.ahead = 7200.0
        refresher._housekeep()
        assert len(state.store.held()) == 1
        await asyncio.wait_for(cycles.get(), 20)
        assert len(state.store.held()) == 1
        assert freshness.age(state) < 3600
