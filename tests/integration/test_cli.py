"""The command vps-secrets beside the real agent, and beside servers that answer nonsense."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from agent.cli.http import ALLOWED
from agent.cli.show import clean, span
from agent.core.errors import Failure, Fault, Step
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import ROOT, Agent, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
DOWN = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read the container", "look at its log", 503)


def command(*arguments: str, sockets: Path | None = None) -> list[str]:
    """Return the command line."""
    line = [sys.executable, "-m", "agent.cli", *arguments]
    if sockets is not None:
        line += ["--socket", str(sockets / "app.sock"), "--control-socket", str(sockets / "control.sock")]
    return line


def run(*arguments: str, sockets: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments, sockets=sockets),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Running:
    """An agent and its world."""

    def __init__(self) -> None:
        self.world = World(rejected=("vps-other/X",))
        for name in ("A", "B"):
            self.world.put(name, b"canary-value")
        self.agent = Agent(lambda directory: fake_configuration(directory, self.world, GRANT)[1])


@pytest.fixture
def running() -> Iterator[Running]:
    """A running agent."""
    made = Running()
    with made.agent:
        made.agent.start().until_ready()
        yield made


def test_every_command_on_a_healthy_agent(running: Running) -> None:
    """Human output by default, JSON on demand, status 0, never a value."""
    directory = running.agent.directory
    everything, generation = "", running.agent.generation
    for arguments, expected in (
        (("status",), "vps-prod-001: ready"),
        (("status",), "expires never, or Keystone does not say"),
        (("status", "--configuration"), "the configuration file is in force"),
        (("list",), running.world.entries[0][1]),
        (("wait", "--timeout", "5"), f"ready: generation {generation}"),
        (("refresh",), f"generation {generation}: nothing changed"),
        (("explain", "A"), "grant 1 (user root: *): yes"),
    ):
        human = run(*arguments, sockets=directory)
        assert (human.returncode, human.stderr) == (0, "")
        assert expected in human.stdout
        machine = run(*arguments, "--json", sockets=directory)
        assert machine.returncode == 0
        assert isinstance(json.loads(machine.stdout), dict)
        everything += human.stdout + machine.stdout
    assert ("canary-value" in everything) is False
    assert "\x1b" not in everything


def test_watch_prints_each_change(running: Running) -> None:
    """First what there is, then what changes."""
    with subprocess.Popen(
        command("watch", sockets=running.agent.directory), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        assert [watch.stdout.readline().split()[0] for _ in "AB"] == ["A", "B"]
        running.agent.until(lambda: running.agent.status()["watchers"] == 1)
        version = running.world.rotate("B", b"canary-value")
        assert running.agent.ask_control("/v1/refresh", "POST").status == 200
        assert watch.stdout.readline() == f"B {version}\n"
        watch.send_signal(2)
        assert watch.wait(10) == 130


def test_failures_are_told_with_the_step(running: Running) -> None:
    """Exit 1, what failed, what to do, when next."""
    running.world.failure = DOWN
    failed = run("refresh", sockets=running.agent.directory)
    assert failed.returncode == 1
    assert "failed step:  Barbican (HTTP 503)" in failed.stdout
    assert "what to do:   look at its log" in failed.stdout
    assert re.search(r"next attempt: in \d", failed.stdout)
    status = run("status", sockets=running.agent.directory)
    assert "what to do:   look at its log" in status.stdout
    assert run("explain", "A", "--user", "nobody", sockets=running.agent.directory).returncode == 1


def test_an_agent_that_is_not_ready() -> None:
    """Wait tells why and gives up in time; list says so."""
    made = Running()
    made.world.failure = DOWN
    with made.agent as agent:
        agent.start()
        agent.until(lambda: agent.status()["cycles"]["failed"] > 0)
        waited = run("wait", "--timeout", "1.5", sockets=agent.directory)
        assert waited.returncode == 1
        assert "Barbican failed (HTTP 503)" in waited.stderr
        assert run("list", sockets=agent.directory).returncode == 1
        assert run("status", sockets=agent.directory).returncode == 1


def test_before_the_first_reading_nothing_is_said_to_last_for_ever() -> None:
    """The expiry of the credential is unknown until Keystone was asked for it."""
    made = Running()
    made.world.failure = DOWN
    with made.agent as agent:
        agent.start()
        agent.until(lambda: agent.status()["cycles"]["failed"] > 0)
        shown = run("status", sockets=agent.directory).stdout
        assert "when it expires is not known before the first reading" in shown
        assert "never" not in shown
        made.world.failure = None
        agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)
        assert "expires never, or Keystone does not say" in run("status", sockets=agent.directory).stdout


def test_root_without_a_grant_is_told_why_it_sees_nothing() -> None:
    """On standard error, with what to do; so is any other user without one."""
    world = World()
    world.put("A", b"canary-value")
    grant = '[[grant]]\nuser = "games"\nsecrets = ["*"]\n'
    with Agent(lambda directory: fake_configuration(directory, world, grant)[1]) as agent:
        agent.start()
        agent.until(lambda: agent.status()["state"] == "ready")
        listed = run("list", sockets=agent.directory)
        assert listed.returncode in {0, 4}
        assert "root has no grant" in listed.stderr
        assert "runuser -u USER -- vps-secrets list" in listed.stderr


def test_exit_status_of_what_can_not_work(tmp_path: Path) -> None:
    """3 and the unit to look at, 2 for usage."""
    missing = run("status", sockets=tmp_path)
    assert missing.returncode == 3
    assert "systemctl status vps-secrets-agent" in missing.stderr
    assert run("wait", "--timeout", "0", sockets=tmp_path).returncode == 3
    assert run("wait", "--timeout", "nan", sockets=tmp_path).returncode == 2
    assert run("nonsense").returncode == 2
    assert run().returncode == 2
    assert run("--help").returncode == 0


def test_no_permission(running: Running) -> None:
    """4 and who may."""
    line = command("status", sockets=running.agent.directory)
    line[0] = "/usr/bin/python3"  # the environment's own interpreter is not readable for nobody
    result = subprocess.run(
        line, cwd=ROOT, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False
    )
    assert result.returncode == 4
    assert "vps-secrets-admin may use the control socket" in result.stderr


NONSENSE = {
    "not HTTP": b"\x00\x01\r\n\r\n",
    "truncated": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
    "not JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    "an array": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "huge": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000_000,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_refused_without_a_traceback(kind: str, tmp_path: Path) -> None:
    """Whoever listens there."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=_answer, args=(listener, NONSENSE[kind]))
        thread.start()
        result = run("status", sockets=tmp_path)
        thread.join()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "is another program listening there?" in result.stderr


def test_an_agent_that_dies_is_told_as_such(tmp_path: Path) -> None:
    """Its connection ends without a word: it can't be reached."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=_answer, args=(listener, b""))
        thread.start()
        result = run("status", sockets=tmp_path)
        thread.join()
    assert (result.returncode, "closed without an answer" in result.stderr) == (3, True)


def _answer(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        with contextlib.suppress(OSError):  # it has had enough
            connection.sendall(answer)


def test_there_is_no_way_to_a_value(running: Running) -> None:
    """No path that answers with one is ever asked for: by the list, and by the agent's own record."""
    assert not [path for path in ALLOWED if path.startswith(("/v1/secrets/", "/v1/bundle"))]
    for arguments in (("status",), ("list",), ("wait",), ("refresh",), ("explain", "A")):
        run(*arguments, sockets=running.agent.directory)
    asked = {record["action"] for door in ("app", "control") for record in running.agent.audit(door)}
    assert asked - {"/v1/health/ready"} <= set(ALLOWED)


def test_it_imports_little() -> None:
    """It starts in well under 100 ms since it loads nothing that it does not need."""
    program = "import sys, agent.cli.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"asyncio", "ssl", "email", "http.client", "aiohttp", "dataclasses", "logging"}.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 d"), (None, "-")],
)
def test_durations_are_told_in_words(seconds: object, text: str) -> None:
    """In the largest unit that tells enough."""
    assert span(seconds) == text


def test_control_characters_are_escaped() -> None:
    """A name from elsewhere can't change the terminal."""
    assert clean("a\x1b]0;x\x07\r\nb\u202e") == r"a\x1b]0;x\x07\r\nb\u202e"


def test_a_refused_reload_is_reported_by_the_exit_status(running: Running) -> None:
    """For systemd, whose reload fails by it; the container may not change while the agent runs."""
    text = running.agent.configuration.read_text()
    running.agent.write(text.replace("vps-prod-001", "vps-prod-002"))
    running.agent.signal(signal.SIGHUP)
    running.agent.until(lambda: running.agent.status()["configurationError"] is not None)
    refused = run("status", "--configuration", sockets=running.agent.directory)
    assert refused.returncode == 1
    assert "vps_id: can't be changed by a reload" in refused.stdout
    running.agent.write(text)
    running.agent.signal(signal.SIGHUP)
    running.agent.until(lambda: running.agent.status()["configurationError"] is None)
    assert run("status", "--configuration", sockets=running.agent.directory).returncode == 0
