"""docs/examples: an application in Node.js and in Python reads its secrets at start and on change."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from lab.demo.application import Application
from lab.demo.screen import digest
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, fake_configuration

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
BINARY = b"\xff\x00key\n\xfe"
"""No text, so a bundle gives it as {"base64": …}."""
PROGRAMS = {
    "node": (shutil.which("node") or "node is missing", str(EXAMPLES / "app.mjs")),
    "python": (sys.executable, str(EXAMPLES / "app.py")),
}


@pytest.mark.parametrize("language", PROGRAMS)
def test_an_application_reads_at_start_on_change_and_after_a_restart(language: str) -> None:
    """The agent is even killed in between, with a rotation while it is away."""
    world = World()
    world.put("A", b"first")
    world.put("B", BINARY)
    grant = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
    with Agent(lambda directory: fake_configuration(directory, world, grant)[1]) as agent:
        agent.start().until_ready()
        application = Application(agent.app, PROGRAMS[language])
        try:
            assert application.next_reading() == {"A": digest(b"first"), "B": digest(BINARY)}
            world.rotate("A", b"second")
            assert agent.ask_control("/v1/refresh", "POST").status == 200
            assert application.next_reading() == {"A": digest(b"second"), "B": digest(BINARY)}
            assert agent.process is not None
            agent.process.kill()
            agent.process.wait()
            (agent.directory / "fetch.sock").unlink()
            world.rotate("A", b"third")
            agent.start().until_ready()
            while (read := application.next_reading()) != {"A": digest(b"third"), "B": digest(BINARY)}:
                assert read == {"A": digest(b"second"), "B": digest(BINARY)}
        finally:
            application.close()


@pytest.mark.parametrize("name", ["vps_secrets.mjs", "vps_secrets.py"])
def test_the_examples_are_short(name: str) -> None:
    """At most 30 lines of code, and no dependency."""
    lines = [line for line in (EXAMPLES / name).read_text().splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("//", '"""'))]) <= 30
