"""The agent's metrics as a stock Prometheus gets them: over TCP, by a process a scrape; and as a file."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from lab.testbed import promtool
from lab.testbed.certificates import SCRAPER, api_tls, scrape_config
from lab.testbed.deployer import Api
from lab.testbed.fakes.fetch_server import World
from lab.testbed.prometheus import Prometheus, metrics_door
from lab.testbed.running import Agent, Caller, fake_configuration
from tests.integration.test_cli import command, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """One that serves two secrets."""
    world = World()
    world.put("A", b"canary-value")
    world.put("B", b"canary-value")
    with Agent(lambda directory: fake_configuration(directory, world, GRANT)[1]) as running:
        yield running.start().until_ready()


@pytest.fixture(scope="module")
def address(agent: Agent) -> Iterator[str]:
    """Where it is scraped."""
    with metrics_door(agent) as made:
        yield made


def test_prometheus_scrapes_agent_and_deployer(agent: Agent, address: str, tmp_path: Path) -> None:
    """The agent over plain TCP on this machine, the deployer by a client certificate."""
    port, tls = api_tls(tmp_path)
    jobs: dict[str, dict[str, object]] = {
        "vps-secrets-agent": {"target": address},
        "vps-secrets-deployer": scrape_config(tmp_path, port),
    }
    with Api(SCRAPER, api=tls), Prometheus(jobs) as prometheus:
        prometheus.until(lambda: prometheus.value("sum(up)") == 2)
        assert prometheus.value("vps_secrets_secrets") == 2
        assert prometheus.value("vps_secrets_deployer_rotations_open") == 0
        prometheus.until(lambda: (prometheus.value('vps_secrets_requests_total{door="control"}') or 0) >= 3)
    assert not [each for each in agent.audit("control") if each["action"] == "/metrics"], (
        "a scrape is no line"
    )


@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("GET /metrics", None, 200),
        ("HEAD /metrics", None, 200),
        ("POST /metrics", None, 405),
        ("POST /v1/refresh", None, 404),
        ("GET /v1/status", None, 404),
        ("GET /v1/manifest", None, 404),
        ("GET /metrics?x=1", None, 404),
        ("GET /metrics", b"x", 413),
        (f"GET /{'x' * 5000}", None, 414),
    ],
)
def test_there_is_nothing_but_metrics(
    agent: Agent, address: str, request_line: str, body: bytes | None, status: int
) -> None:
    """Whatever is asked: the agent itself hears of nothing else."""
    before = len(agent.audit("control"))
    method, target = request_line.split()
    connection = http.client.HTTPConnection(address, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, target, body)
        answer = connection.getresponse()
        text = answer.read()
    assert answer.status == status
    assert (text != b"") == (method == "GET" and status == 200)
    assert not text or promtool.check_metrics(text) == ""
    assert b"canary" not in text
    assert len(agent.audit("control")) == before


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01\x02\x00", b"GET /metrics\r\n\r\n", b"G" * 9000, b"GET /metrics HTTP/1.1\r\n"]
)
def test_what_is_no_request_gets_no_metrics(address: str, sent: bytes) -> None:
    """Ends at once where more could not help, and after some seconds where nothing more comes."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(4096):
                answer += chunk
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_the_command_prints_them(agent: Agent) -> None:
    """Whoever may use the control socket."""
    done = run("metrics", sockets=agent.directory)
    assert done.returncode == 0
    assert promtool.check_metrics(done.stdout.encode()) == ""
    assert "vps_secrets_secrets 2\n" in done.stdout


def test_whoever_may_not_is_refused(agent: Agent) -> None:
    """The agent decides by uid and group, here as on every path of that socket."""
    assert Caller(65534, 65534).ask(agent.control, "/metrics")[0] in {0, 403}
    program = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [*program, *command("metrics", sockets=agent.directory)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""


def test_the_file_is_whole_and_goes_with_the_agent(tmp_path: Path) -> None:
    """Replaced, never written in place; without an agent there are no old figures."""
    file = tmp_path / "vps-secrets.prom"
    world = World()
    with Agent(lambda directory: fake_configuration(directory, world, GRANT)[1]) as agent:
        agent.start()
        agent.until(lambda: agent.ask_control("/v1/status").status == 200)
        assert run("metrics", "--file", str(file), sockets=agent.directory).returncode == 0
        first = file.stat()
        assert first.st_mode & 0o777 == 0o644
        assert promtool.check_metrics(file.read_bytes()) == ""
        assert run("metrics", "--file", str(file), sockets=agent.directory).returncode == 0
        assert file.stat().st_ino != first.st_ino
        agent.stop()
        assert run("metrics", "--file", str(file), sockets=agent.directory).returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_is_away_is_down_for_prometheus() -> None:
    """``up`` is 0, as Prometheus has it for any target."""
    with Agent(lambda directory: fake_configuration(directory, World(), GRANT)[1]) as agent:
        agent.start()
        with metrics_door(agent) as address, Prometheus({"a": {"target": address}}) as prometheus:
            prometheus.until(lambda: prometheus.value("up") == 1)
            agent.stop()
            prometheus.until(lambda: prometheus.value("up") == 0)
