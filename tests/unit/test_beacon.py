"""agent/serve/sync/beacon_watch.py: when a change leads to a poll; see also integration/test_beacon.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config.beacon import BeaconSettings
from agent.config.reader import load
from agent.serve.host import clock
from agent.serve.state import State
from agent.serve.store.store import Store
from agent.serve.sync import beacon_watch as module
from agent.serve.sync.beacon_watch import Beacon

if TYPE_CHECKING:
    import pytest

    from agent.config.model import Config
    from agent.core.wire_watch import Watch, WatchResult

EXAMPLE = Path(__file__).parents[2] / "packaging" / "agent.toml"
SETTINGS = BeaconSettings("https://b.example/fleet", spread=0.3)


class Made:
    """A beacon whose watch breaks, and how often it had Barbican read."""

    def __init__(self) -> None:
        self.signals = 0
        self.watches = 0
        self.state = State(load(EXAMPLE), (), Store(), clock.boot())
        self.beacon = Beacon(self.state, self._watch, self._signal)

    async def _watch(self, watch: Watch, config: Config) -> WatchResult:
        del watch, config
        self.watches += 1
        raise RuntimeError("a bug")

    def _signal(self) -> None:
        self.signals += 1

    async def until_polled(self) -> None:
        """Wait until no poll is planned."""
        while self.state.beacon.poll_at is not None:  # noqa: ASYNC110  # nothing tells it
            await asyncio.sleep(0.01)


def read_now(made: Made) -> None:
    """Note that a reading of Barbican begins."""
    made.state.store.remember(made.state.store.moments._replace(attempted=clock.boot()))


async def test_a_change_leads_to_a_poll() -> None:
    """One, also for two changes within the spread; none where nothing has changed."""
    made = Made()
    read_now(made)
    made.beacon._saw("etag:one", SETTINGS)
    made.beacon._saw("etag:two", SETTINGS)
    await made.until_polled()
    assert made.signals == 1
    made.beacon._saw("etag:two", SETTINGS)
    assert made.state.beacon.poll_at is None
    assert made.state.beacon.events["change"] == 1


async def test_a_reading_that_has_begun_since_saves_the_poll() -> None:
    """But not one that began before the last change, whichever poll was planned for the change before."""
    made = Made()
    made.beacon._saw("etag:one", SETTINGS)
    read_now(made)
    await made.until_polled()
    assert made.signals == 0
    made.beacon._saw("etag:two", SETTINGS)
    read_now(made)
    await asyncio.sleep(0.001)
    made.beacon._saw("etag:three", SETTINGS)
    await made.until_polled()
    assert made.signals == 1


async def test_a_bug_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """It is told, without its text, and the watch begins anew; serve serves."""
    monkeypatch.setattr(module, "BUG_S", 0.01)
    made = Made()
    path = tmp_path / "agent.toml"
    path.write_text(EXAMPLE.read_text().replace("# url = ", "url = "))
    made.state.config = load(path)
    task = asyncio.create_task(made.beacon.run())
    await asyncio.sleep(0.05)
    assert made.watches == 0, "not before the first reading has ended"
    made.beacon.begin()
    while made.watches < 3:  # noqa: ASYNC110  # nothing tells it
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "report it: RuntimeError at" in caplog.text
    assert "a bug\n" not in caplog.text.replace("by a bug", "")
