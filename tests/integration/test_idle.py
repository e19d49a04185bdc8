"""An idle agent costs nothing: between cycles nothing wakes it but systemd's watchdog."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import pytest

from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, UnixConnection, fake_configuration

pytestmark = pytest.mark.long
IDLE_S = 35.0
SETTLE_S = 2.0
CONFIGURATION = (
    '[app.limits]\nidle_timeout = "1s"\n[control.limits]\nidle_timeout = "1s"\n'
    '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
)


def wakes(agent: Agent) -> int:
    """Return how often any thread of the agent has given the processor away by itself (proc(5))."""
    assert agent.process is not None
    tasks = Path(f"/proc/{agent.process.pid}/task").glob("*/status")
    found = [
        re.findall(r"^voluntary_ctxt_switches:\s+(\d+)$", task.read_text(), re.MULTILINE) for task in tasks
    ]
    return sum(int(count) for counts in found for count in counts)


def test_an_idle_agent_is_not_woken() -> None:
    """Not once, also after it was asked and with a watcher; the next cycle is hours away."""
    world = World()
    world.put("A", b"canary")
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(Agent(lambda at: fake_configuration(at, world, CONFIGURATION)[1]))
        agent.start().until_ready()
        watcher = stack.enter_context(contextlib.closing(UnixConnection(agent.app)))
        watcher.request("GET", "/v1/watch?timeout=300")
        agent.until(lambda: agent.status()["watchers"] == 1)
        time.sleep(SETTLE_S)  # the connections' own deadlines
        before = wakes(agent)
        time.sleep(IDLE_S)
        assert wakes(agent) - before == 0
        agent.get("/v1/secrets/A")
        agent.until(lambda: wakes(agent) > before)  # the counter counts, once it sleeps again
