"""The real daemon's life: start, reload, signals, faults of the fetch program, and its end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from agent.core import wire
from agent.core.errors import Failure, Fault, Step
from lab.testbed.fakes.fetch_server import FetchServer, World
from lab.testbed.running import ROOT, Agent, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DENIED = Failure(Step.PERMISSION, Fault.DENIED, "to read the container", "restore the ACL", 403)
GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'


class Faulty:
    """An agent whose fetch program answers as a test tells it."""

    def __init__(self, extra: str = GRANT) -> None:
        self.world = World()
        self.world.put("A", b"canary-one")
        self.extra = extra
        self.agent = Agent(self._configure)
        self.server: FetchServer

    def _configure(self, directory: Path) -> str:
        self.server, text = fake_configuration(directory, self.world, self.extra)
        return text

    def again(self) -> None:
        """Have one more cycle and wait for its end."""
        total = self.agent.status()["cycles"]["total"]
        self.agent.signal(signal.SIGHUP)
        self.agent.until(lambda: self.agent.status()["cycles"]["total"] > total)


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    """A running agent that is ready."""
    made = Faulty()
    with made.agent:
        made.agent.start().until_ready()
        yield made
        assert ("canary" in made.agent.log) is False
        assert "Traceback" not in made.agent.log


def _flipped(reply: bytes) -> bytes:
    return reply[:-40] + bytes([reply[-40] ^ 1]) + reply[-39:]


FORGERIES: dict[str, Callable[[bytes], bytes | None]] = {
    "nothing": lambda _: b"",
    "truncated": lambda reply: reply[:-1],
    "flipped": _flipped,
    "more": lambda reply: reply + b"x",
    "noise": lambda _: b"\x00" * 5000,
    "too long": lambda reply: reply[:5] + b"\xff" * 8 + reply[13:],
    "hangs": lambda _: None,
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_bad_reply_is_refused_whole(faulty: Faulty, kind: str) -> None:
    """What is held stays; the failing step, what was tried and the next attempt are told."""
    faulty.world.rotate("A", b"canary-two")
    faulty.server.answer = lambda request: FORGERIES[kind](faulty.server.honest(request))
    faulty.again()
    status = faulty.agent.status()
    assert (status["failure"]["step"], status["failure"]["fault"]) == ("fetch process", "transient")
    assert status["generation"] is not None
    assert faulty.agent.get("/v1/secrets/A").body == b"canary-one"
    faulty.server.answer = faulty.server.honest
    faulty.again()
    assert faulty.agent.get("/v1/secrets/A").body == b"canary-two"
    assert faulty.agent.status()["failure"] is None


@pytest.mark.parametrize(
    "forge",
    [
        {"nonce": "0" * 32},
        {"vps_id": "vps-prod-002"},
        {"container": "00000000-0000-4000-8000-000000000000"},
    ],
)
def test_a_reply_for_somebody_else_is_refused(faulty: Faulty, forge: dict[str, str]) -> None:
    """Another request's, another VPS's, another container's."""

    def answer(request: wire.Request) -> bytes:
        honest = faulty.world.reply(request)
        fields = {name: getattr(honest, name) for name in wire.Reply.__slots__}
        return wire.encode_reply(wire.Reply(**(fields | forge)))

    faulty.world.rotate("A", b"canary-two")
    faulty.server.answer = answer
    faulty.again()
    assert faulty.agent.status()["failure"]["step"] == "fetch process"
    assert faulty.agent.get("/v1/secrets/A").body == b"canary-one"


def test_a_fetch_program_that_is_not_there(faulty: Faulty) -> None:
    """Told with the unit to look at; served on."""
    faulty.server.close()
    faulty.again()
    failure = faulty.agent.status()["failure"]
    assert failure["step"] == "fetch process"
    assert "vps-secrets-fetch.socket" in failure["advice"]
    assert faulty.agent.get("/v1/secrets/A").status == 200


def test_not_ready_is_told_with_reason_and_next_attempt() -> None:
    """Before the first reading the app socket answers already, and says what is wrong."""
    made = Faulty()
    made.world.failure = Failure(Step.DNS, Fault.TRANSIENT, "to resolve k.example", "check the resolver")
    with made.agent as agent:
        agent.start()
        agent.until(lambda: agent.status()["cycles"]["failed"] > 0)
        for target in ("/v1/secrets", "/v1/secrets/A", "/v1/bundle", "/v1/health/ready"):
            response = agent.get(target)
            assert (response.status, response.problem) == (503, "not-ready")
            assert "DNS failed: to resolve k.example" in response.json["detail"]
            assert "retry-after" in response.headers
        assert agent.get("/v1/health/live").status == 200
        assert agent.status()["state"] == "starting"
        made.world.failure = None
        agent.until_ready()


def test_access_that_was_taken_away_ends_after_its_grace() -> None:
    """Served for revocation_grace, loudly; then dropped, and back when access is back."""
    made = Faulty('[staleness]\nrevocation_grace = "2s"\n' + GRANT)
    with made.agent as agent:
        agent.start().until_ready()
        made.world.failure = DENIED
        made.again()
        response, status = agent.get("/v1/secrets/A"), agent.status()
        assert status["state"] == "denied"
        if status["droppedIn"] is not None:  # else two seconds have passed already, on a busy machine
            assert response.status == 200
            assert 0 <= status["droppedIn"] <= 2
        agent.until(lambda: agent.get("/v1/secrets/A").status == 404)
        assert agent.status()["droppedIn"] is None
        assert "served no more: access was taken away" in agent.log
        made.world.failure = None
        made.again()
        assert agent.get("/v1/secrets/A").status == 200


def test_max_stale_ends_what_nobody_confirms() -> None:
    """fail-closed drops, per secret where it is set so."""
    made = Faulty(
        '[rotation]\npoll_interval = "1s"\n[staleness]\nfresh_for = "1500ms"\nmax_stale = "2s"\n'
        '[staleness.secrets]\nB = "never"\n' + GRANT
    )
    made.world.put("B", b"canary-b")
    with made.agent as agent:
        agent.start().until_ready()
        made.world.failure = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read", "wait", 503)
        agent.until(lambda: agent.get("/v1/secrets/B").headers.get("secrets-stale") == "true")
        agent.until(lambda: agent.get("/v1/secrets/A").status == 404)
        assert agent.get("/v1/secrets/B").status == 200
        assert agent.get("/v1/health/ready").status == 503


def test_serve_stale_serves_on_but_is_not_ready() -> None:
    """For applications that would rather run on an old value than stop."""
    made = Faulty(
        '[rotation]\npoll_interval = "1s"\n[staleness]\nfresh_for = "1500ms"\nmax_stale = "2s"\n'
        'after_max_stale = "serve-stale"\n' + GRANT
    )
    with made.agent as agent:
        agent.start().until_ready()
        made.world.failure = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read", "wait", 503)
        agent.until(lambda: agent.get("/v1/health/ready").status == 503)
        assert agent.get("/v1/secrets/A").status == 200


def test_a_reload_takes_new_grants_and_refuses_bad_ones(faulty: Faulty) -> None:
    """A bad file leaves the configuration in force and is shown; a good one clears that."""
    good = faulty.agent.configuration.read_text()
    etag = faulty.agent.get("/v1/bundle").headers["etag"]
    assert faulty.agent.get("/v1/bundle", headers={"If-None-Match": etag}).status == 304
    faulty.agent.write(good.replace('secrets = ["*"]', 'secrets = ["B"]'))
    faulty.again()
    assert faulty.agent.get("/v1/secrets/A").status == 403
    assert faulty.agent.get("/v1/bundle", headers={"If-None-Match": etag}).status == 200, "it has less in it"
    faulty.agent.write(good + "nonsense = 1\n")
    faulty.again()
    status = faulty.agent.status()
    assert "nonsense: is not a key of this table" in status["configurationError"]
    assert faulty.agent.get("/v1/secrets/A").status == 403
    faulty.agent.write(good)
    faulty.again()
    assert faulty.agent.status()["configurationError"] is None
    assert faulty.agent.get("/v1/secrets/A").status == 200


def test_a_reload_can_not_make_it_another_vps(faulty: Faulty) -> None:
    """What is held is not the other one's."""
    good = faulty.agent.configuration.read_text()
    faulty.agent.write(good.replace("vps-prod-001", "vps-prod-002"))
    faulty.again()
    status = faulty.agent.status()
    assert "vps_id: can't be changed by a reload" in status["configurationError"]
    assert status["vpsId"] == "vps-prod-001"
    assert faulty.agent.get("/v1/secrets/A").body == b"canary-one"


def test_a_reload_of_what_nobody_writes_stops_nothing(faulty: Faulty) -> None:
    """A FIFO in the place of the file: refused like any mistake; the event loop does not wait for it."""
    good = faulty.agent.configuration.read_text()
    faulty.agent.configuration.unlink()
    os.mkfifo(faulty.agent.configuration)
    faulty.again()
    assert "is no plain file" in faulty.agent.status()["configurationError"]
    assert faulty.agent.get("/v1/secrets/A").body == b"canary-one"
    faulty.agent.configuration.unlink()
    faulty.agent.write(good)
    faulty.again()
    assert faulty.agent.status()["configurationError"] is None


def test_a_reload_says_what_needs_a_restart(faulty: Faulty) -> None:
    """Sockets are made once."""
    good = faulty.agent.configuration.read_text()
    faulty.agent.write(good.replace('mode = "0666"', 'mode = "0600"'))
    faulty.again()
    assert "[app] has changed; restart the agent for it to take effect" in faulty.agent.status()["warnings"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order(faulty: Faulty, number: signal.Signals) -> None:
    """Status 0, the sockets are gone, whoever waited is told."""
    faulty.agent.signal(number)
    assert faulty.agent.process is not None
    assert faulty.agent.process.wait(10) == 0
    assert not faulty.agent.app.exists()
    assert not faulty.agent.control.exists()


def test_the_sockets_have_their_permissions(faulty: Faulty) -> None:
    """As configured, from the first moment."""
    assert stat.S_IMODE(faulty.agent.app.stat().st_mode) == 0o666
    assert stat.S_IMODE(faulty.agent.control.stat().st_mode) == 0o660
    assert faulty.agent.control.stat().st_gid == 60


def test_a_second_agent_does_not_take_the_sockets(faulty: Faulty) -> None:
    """It ends with 1 and says why; the first serves on."""
    result = subprocess.run(
        [sys.executable, "-m", "agent.serve", "--config", str(faulty.agent.configuration)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == 78
    assert "another agent is serving there" in result.stderr
    assert faulty.agent.get("/v1/secrets/A").status == 200


def test_it_starts_over_the_sockets_of_a_killed_one(faulty: Faulty) -> None:
    """Kill -9 leaves them behind."""
    assert faulty.agent.process is not None
    faulty.agent.process.kill()
    faulty.agent.process.wait(10)
    assert faulty.agent.app.exists()
    faulty.server.close()
    (faulty.agent.directory / "fetch.sock").unlink()
    faulty.agent.start().until_ready()


def test_no_core_and_no_tracing(faulty: Faulty) -> None:
    """RLIMIT_CORE is 0 and the process is not dumpable: its memory belongs to root."""
    assert faulty.agent.process is not None
    proc = f"/proc/{faulty.agent.process.pid}"
    with open(f"{proc}/limits") as limits:  # noqa: PTH123  # procfs
        core = next(line for line in limits if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.serve", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_check_config(tmp_path: Path) -> None:
    """0 for the example, 78 and every mistake for a bad file, 2 for bad usage."""
    good = _run("--check-config", "--config", "packaging/agent.toml")
    assert good.returncode == 0
    assert "warning: grant 1 (user recruitiq: *) matches nobody" in good.stderr, "and what this machine lacks"
    bad = tmp_path / "agent.toml"
    bad.write_text("vps_id = 1\n")
    result = _run("--check-config", "--config", str(bad))
    assert result.returncode == 78
    assert f"{bad}: vps_id: must be the id of this VPS" in result.stderr
    assert f"{bad}: container: is missing" in result.stderr
    assert _run("--config", str(bad)).returncode == 78
    assert _run("--nonsense").returncode == 2
    assert _run("--version").stdout.startswith("vps-secrets-agent ")


def test_a_name_that_stands_twice_at_first_start_is_served_and_told() -> None:
    """The newest of both at once, with a warning until the old entry is removed."""
    made = Faulty()
    made.world.put("A", b"canary-two")
    with made.agent as agent:
        agent.start().until_ready()
        assert [w for w in agent.status()["warnings"] if w.startswith("A stands in the container twice")]
        made.world.rotate("A", b"canary-three")
        made.again()
        assert not [w for w in agent.status()["warnings"] if "twice" in w]


def test_a_pair_waits_until_it_is_whole(faulty: Faulty) -> None:
    """While a name stands twice nothing changes, and the next reading comes soon."""
    faulty.world.put("A", b"canary-two")
    faulty.again()
    assert faulty.agent.get("/v1/secrets/A").body == b"canary-one"
    assert faulty.agent.status()["nextAttemptIn"] <= 2.1
    faulty.world.entries = faulty.world.entries[1:]
    faulty.agent.until(lambda: faulty.agent.get("/v1/secrets/A").body == b"canary-two")


def test_the_poll_after_a_refresh_comes_anywhere_in_its_interval() -> None:
    """A fleet that was told something together must not poll together ever after."""
    made = Faulty('[rotation]\npoll_interval = "1000s"\n' + GRANT)
    with made.agent as agent:
        agent.start().until_ready()
        waits = []
        for _ in range(12):
            made.again()
            waits.append(agent.status()["nextAttemptIn"])
        assert min(waits) < 890  # a settled poll comes after 900 s at least; 12 in a row by chance: 1e-11
        assert max(waits) <= 1000


def test_polls_that_follow_each_other_keep_their_interval() -> None:
    """What is spread once needs no more; else polls would cost twice as much."""
    made = Faulty('[rotation]\npoll_interval = "2s"\n' + GRANT)
    with made.agent as agent:
        agent.start().until_ready()
        agent.until(lambda: agent.status()["cycles"]["total"] >= 2)
        began = time.monotonic()
        agent.until(lambda: agent.status()["cycles"]["total"] >= 8, 60.0)
        assert time.monotonic() - began > 9.0  # six intervals of 1.8 s at least; else 7.5 s on average
