"""When the refresher wakes up."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config.reader import load
from agent.serve.host import clock
from agent.serve.state import State
from agent.serve.store.store import Store
from agent.serve.sync.refresher import Refreshed, Refresher
from lab.testbed.fakes.fetch_server import World

if TYPE_CHECKING:
    import pytest

    from agent.config.model import Config
    from agent.core import wire


async def test_a_bug_in_what_is_told_ends_no_reading(caplog: pytest.LogCaptureFixture) -> None:
    """It is told, by type and place only; the next reading comes."""
    world, told = World(), asyncio.Queue[Refreshed]()

    async def fetch(request: wire.Request, config: Config) -> wire.Reply:
        del config
        return world.reply(request)

    def broken(refreshed: Refreshed) -> None:
        told.put_nowait(refreshed)
        raise ValueError("canary")

    refresher = Refresher(State(load(Path("packaging/agent.toml")), (), Store(), clock.boot()), fetch, broken)
    task = asyncio.create_task(refresher.run())
    await asyncio.wait_for(told.get(), 20)
    await refresher.refresh()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
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

    state = State(load(Path("packaging/agent.toml")), (), Store(), clock.boot())
    refresher = Refresher(state, hanging, lambda _: None)
    assert not refresher.is_stuck()
    task = asyncio.create_task(refresher.run())
    await asyncio.wait_for(began.wait(), 20)
    assert not refresher.is_stuck()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1e9)
    assert refresher.is_stuck()
    monkeypatch.undo()
    waiting = asyncio.create_task(refresher.refresh())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    waiting.cancel()


async def test_a_machine_that_was_suspended_reads_when_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers stand still meanwhile, the boot clock does not. No machine can be suspended here: it jumps."""
    cycles = asyncio.Queue[Refreshed]()
    world = World()

    async def fetch(request: wire.Request, config: Config) -> wire.Reply:
        del config
        return world.reply(request)

    state = State(load(Path("packaging/agent.toml")), (), Store(), clock.boot())
    refresher = Refresher(state, fetch, cycles.put_nowait)
    task = asyncio.create_task(refresher.run())
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
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
