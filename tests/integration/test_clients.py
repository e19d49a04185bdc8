"""clients/: Node.js and Python packages read at start and on change, through kills, and show no value."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clients.python import vps_secrets
from lab.demo.application import Application
from lab.demo.screen import digest
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
INDEX = str(ROOT / "clients" / "node" / "index.cjs")
PROGRAMS = Path(__file__).parent / "client_programs"
NODE = shutil.which("node") or "node is missing"
BINARY = b"\xff\x00key\n\xfe"
CANARY = "canary-Qp7vX2"
GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
WATCHERS = {
    "node": (NODE, str(PROGRAMS / "watch.cjs")),
    "python": (sys.executable, str(PROGRAMS / "watch.py")),
    "asyncio": (sys.executable, str(PROGRAMS / "watch.py"), "asyncio"),
}
KILLS = 5


@pytest.fixture
def world() -> World:
    """What Barbican has: a text, and a value that is none."""
    made = World()
    made.put("A", CANARY.encode() + b"-1")
    made.put("B", BINARY)
    return made


@pytest.fixture
def agent(world: World) -> Iterator[Agent]:
    """An agent that is ready."""
    with Agent(lambda directory: fake_configuration(directory, world, GRANT)[1]) as made:
        yield made.start().until_ready()


def _again(agent: Agent) -> None:
    """Kill the agent and start it."""
    assert agent.process is not None
    agent.process.kill()
    agent.process.wait()
    (agent.directory / "fetch.sock").unlink()
    agent.start().until_ready()


@pytest.mark.parametrize("language", WATCHERS)
def test_every_rotation_arrives_through_kills(language: str, agent: Agent, world: World) -> None:
    """With the agent up, and while it is away: the newest value is there after each, and no name is lost."""
    application = Application(agent.app, WATCHERS[language])
    expected = {"A": digest(f"{CANARY}-1".encode()), "B": digest(BINARY)}
    try:
        assert application.next_reading(60) == expected
        for number in range(KILLS):
            value = f"{CANARY}-up-{number}".encode()
            world.rotate("A", value)
            assert agent.ask_control("/v1/refresh", "POST").status == 200
            _until(application, expected := expected | {"A": digest(value)})
            value = f"{CANARY}-away-{number}".encode()
            world.rotate("A", value)
            _again(agent)
            _until(application, expected := expected | {"A": digest(value)})
    finally:
        application.close()


def _until(application: Application, expected: dict[str, str]) -> None:
    while (read := application.next_reading(60)) != expected:
        assert read.keys() == expected.keys()


def test_node_shows_no_value_and_ends_by_itself(agent: Agent, world: World) -> None:
    """inspect, String, JSON and errors have names only; the watch keeps no program alive."""
    world.rotate("A", f"{CANARY}-2".encode())
    assert agent.ask_control("/v1/refresh", "POST").status == 200
    environment = {"PATH": os.environ["PATH"], "VPS_SECRETS_SOCKET": str(agent.app)}
    command = [NODE, str(PROGRAMS / "once.mjs"), f"{CANARY}-1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    assert said | {"shown": None} == {
        "kinds": ["string", True],
        "shown": None,
        "former": True,
        "none": True,
        "odd": 400,
    }
    assert "NEVER" in str(said["shown"]), "the error names what is missing"
    assert CANARY not in done.stdout + done.stderr
    assert json.dumps(BINARY.decode("latin-1"))[1:-1] not in done.stdout


def test_python_shows_no_value(agent: Agent, world: World) -> None:
    """Repr and errors have names only; a former value is there; odd names are the agent's 400."""
    world.rotate("A", f"{CANARY}-2".encode())
    assert agent.ask_control("/v1/refresh", "POST").status == 200
    with vps_secrets.Secrets(str(agent.app), names=["A"]) as secrets:
        assert (secrets["A"], secrets["B"]) == (f"{CANARY}-2", BINARY)
        assert secrets.previous("A") == f"{CANARY}-1"
        assert secrets.previous("B") is None
        assert (list(secrets), len(secrets), "A" in secrets) == (["A", "B"], 2, True)
        assert CANARY not in repr(secrets)
        with pytest.raises(vps_secrets.SecretsError) as odd:
            secrets.previous("A/../B?x")
        assert odd.value.status == 400
    with pytest.raises(vps_secrets.SecretsError, match="no value yet: NEVER") as missing:
        vps_secrets.Secrets(str(agent.app), names=["A", "NEVER"], timeout=0.01)
    assert CANARY not in repr(missing.value) + str(missing.value.__context__)


def test_python_close_ends_a_watch_in_another_thread(agent: Agent) -> None:
    """At once, not when the watch's time is up."""
    secrets = vps_secrets.Secrets(str(agent.app))
    ended = threading.Event()

    def watch() -> None:
        list(secrets.changes())
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    agent.until(lambda: agent.status()["watchers"] == 1)
    secrets.close()
    assert ended.wait(30)


def test_python_close_ends_a_watch_wherever_it_is(agent: Agent) -> None:
    """Before its thread has connected, while it does, and while it asks: it ends at once."""
    watches = []
    for number in range(300):
        secrets = vps_secrets.Secrets(str(agent.app))
        watch = threading.Thread(target=lambda one=secrets: list(one.changes()), daemon=True)
        watch.start()
        time.sleep(number * 5e-6)
        secrets.close()
        watches.append(watch)
    ends = time.monotonic() + 30  # far less than a watch takes
    for watch in watches:
        watch.join(max(0.0, ends - time.monotonic()))
    assert not any(watch.is_alive() for watch in watches)


async def test_asyncio_a_cancelled_task_ends_the_watch(agent: Agent) -> None:
    """The thread that waits ends, too."""
    secrets = await asyncio.to_thread(vps_secrets.Secrets, str(agent.app))

    async def first() -> list[str]:
        return await anext(vps_secrets.changes(secrets))

    task = asyncio.create_task(first())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    watcher = next((t for t in threading.enumerate() if t.name == "vps-secrets"), None)
    if watcher is not None:
        await asyncio.to_thread(watcher.join, 30)
        assert not watcher.is_alive()


@pytest.mark.parametrize(
    "body", [b'{"generation": 1, "secrets": {"A": "' + CANARY.encode(), b"[]", b"", b"null"]
)
@pytest.mark.parametrize("language", ["node", "python"])
def test_an_answer_that_is_no_bundle_is_not_quoted(language: str, body: bytes, tmp_path: Path) -> None:
    """JSON's own errors quote what they read; ours say that it was no bundle."""
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(head + body)

        threading.Thread(target=answer, daemon=True).start()
        if language == "python":
            with pytest.raises(vps_secrets.SecretsError) as caught:
                vps_secrets.Secrets(str(path), timeout=0)
            told = repr(caught.value) + str(caught.value.__context__) + str(caught.value.__cause__)
        else:
            program = (
                f"require({INDEX!r}).secrets({{ socket: {str(path)!r}, timeout: 0 }})"
                ".catch((e) => console.log(require('node:util').inspect(e, { depth: 9, showHidden: true })))"
            )
            done = subprocess.run(
                [NODE, "-e", program], capture_output=True, text=True, timeout=120, check=True
            )
            told = done.stdout + done.stderr
    assert "the answer is no bundle" in told
    assert CANARY not in told


def test_node_says_that_no_agent_runs(tmp_path: Path) -> None:
    """When the time is up, and what to look at."""
    path = tmp_path / "app.sock"
    program = (
        f"require({INDEX!r}).secrets({{ socket: {str(path)!r}, timeout: 300 }})"
        ".catch((error) => console.log(error.code, error.message))"
    )
    done = subprocess.run([NODE, "-e", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("ENOENT /v1/bundle: ENOENT:")
    assert "is vps-secrets-agent running?" in done.stdout


def test_types_are_those_of_the_code() -> None:
    """index.d.ts names what the module has, and nothing else."""
    program = (
        "const c = require('./index.cjs'); const p = c.Secrets.prototype;"
        "const own = Object.getOwnPropertyNames(p).filter((n) => n[0] !== '_' && n !== 'constructor');"
        "console.log(JSON.stringify([Object.keys(c).sort(), own]))"
    )
    folder = ROOT / "clients" / "node"
    done = subprocess.run(
        [NODE, "-e", program], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    exported, methods = json.loads(done.stdout)
    types = (folder / "index.d.ts").read_text()
    assert exported == ["Secrets", "SecretsError", "secrets"]
    assert all(f"export class {name}" in types or f"export function {name}" in types for name in exported)
    assert [
        name for name in methods if f"\n  {name}" not in types and f"\n  readonly {name}" not in types
    ] == []


@pytest.mark.parametrize("client", ["node/index.cjs", "python/vps_secrets.py"])
def test_they_are_short_and_need_nothing(client: str) -> None:
    """Under 200 lines, and no dependency."""
    assert len([line for line in (ROOT / "clients" / client).read_text().splitlines() if line.strip()]) < 200
    assert "dependencies" not in json.loads((ROOT / "clients/node/package.json").read_text())
    assert "dependencies" not in (ROOT / "clients/python/pyproject.toml").read_text()
