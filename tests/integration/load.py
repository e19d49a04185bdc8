"""An application that reads while others misbehave; ``python -m tests.integration.load`` prints a table.

Needs root: each caller is a process with a uid of its own.
"""

from __future__ import annotations

import argparse
import json
import pwd
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = Path(__file__).with_name("load_client.py")
USERS = ("www-data", "backup")  # of every Debian
APPLICATION, OTHER = (pwd.getpwnam(user).pw_uid for user in USERS)
"""Those that grants name; any other uid is a stranger."""
STRANGER = 64100
GRANTS = "".join(f'[[grant]]\nuser = "{user}"\nsecrets = ["*"]\n' for user in USERS)
ROOM = """
[app.limits]
connections = 3000
connections_per_uid = 1100
header_timeout = "2s"
idle_timeout = "2s"
"""
"""Limits that let every kind in: what is measured is what it does once it is there."""


@dataclass(frozen=True)
class Kind:
    """A kind of misbehaviour: what each of ``processes`` does, as which uid, with how many connections."""

    words: str
    client: str
    uid: int
    count: int
    processes: int = 1


KINDS = {
    "nobody": Kind("nobody else", "", 0, 0, 0),
    "slow": Kind("1,000 slow clients, a byte each half second", "slow", OTHER, 1000),
    "watch": Kind("1,000 watchers, half of them event streams", "watch", OTHER, 1000),
    "churn": Kind("a stranger opens and closes as fast as it can, in 2 processes", "churn", STRANGER, 0, 2),
    "hoard": Kind("50 connections ask for 19 kB on and on and never read", "hoard", OTHER, 50),
    "greedy": Kind("64 connections read as fast as they can, 20 requests at once", "greedy", OTHER, 64),
}


class Crowded:
    """An agent that has read its secrets, and callers; all end with the context."""

    def __init__(self, limits: str) -> None:
        world = World()
        world.put("A", b"x" * 200)
        world.put("BIG", b"x" * 19_000)
        self.agent = Agent(lambda directory: fake_configuration(directory, world, limits + GRANTS)[1])
        self._callers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.agent.start()
        self.agent.until(lambda: self.agent.status()["state"] == "ready")
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.kill()
            caller.communicate()
        self.agent.__exit__()

    def start(self, kind: str, uid: int, seconds: float, count: int = 0) -> subprocess.Popen[bytes]:
        """Start one caller."""
        arguments = map(str, (CLIENT, uid, kind, self.agent.app, seconds, count))
        command = [sys.executable, "-I", *arguments]
        self._callers.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return self._callers[-1]

    def resident(self) -> int:
        """Return the most resident memory that the agent ever had, in bytes."""
        assert self.agent.process is not None
        status = Path(f"/proc/{self.agent.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


def result(caller: subprocess.Popen[bytes]) -> Any:
    """Return what a caller tells at its end."""
    output, _ = caller.communicate(timeout=60)
    assert caller.returncode == 0
    return json.loads(output.splitlines()[-1])


@dataclass(frozen=True)
class Outcome:
    """What the application had: answers by status, latencies (s); how much the agent has grown (bytes)."""

    answers: dict[str, int]
    latencies: dict[str, list[float]]
    others: dict[str, int]
    grown: int

    def quantile(self, kind: str, share: float) -> float:
        """Return a quantile of the reads on kept or new connections, in seconds."""
        ordered = sorted(self.latencies[kind])
        return ordered[int(share * (len(ordered) - 1))]

    def __str__(self) -> str:
        """The figures in a row of a table, in milliseconds."""
        shown = [f"{self.quantile(k, s) * 1e3:.2f}" for k in ("kept", "new") for s in (0.5, 0.99, 1.0)]
        return " | ".join([*shown, f"{self.grown / 1e6:.1f}", str(sum(self.answers.values()))])


def measure(name: str, seconds: float) -> Outcome:
    """Have the application read while others do what they do."""
    kind = KINDS[name]
    with Crowded(ROOM) as crowded:
        result(crowded.start("application", APPLICATION, 0.2))
        before = crowded.resident()
        others = [
            crowded.start(kind.client, kind.uid, seconds + 2, kind.count) for _ in range(kind.processes)
        ]
        if kind.count:
            agent = crowded.agent
            agent.until(lambda: agent.status()["connections"].get("app", 0) >= kind.count, 90)
        own = result(crowded.start("application", APPLICATION, seconds))
        told = [result(other)["answers"] for other in others]
        assert "unhandled" not in crowded.agent.log
        together = {key: sum(one.get(key, 0) for one in told) for one in told for key in one}
        return Outcome(own["answers"], own["latencies"], together, crowded.resident() - before)


def table(seconds: float) -> Iterator[str]:
    """Return the rows of docs/figures.md, as they are measured."""
    yield "| meanwhile | kept, ms: p50 | p99 | worst | new, ms: p50 | p99 | worst | grown, MB | reads |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, kind in KINDS.items():
        yield f"| {kind.words} | {measure(name, seconds)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind")
    options = parser.parse_args()
    began = time.monotonic()
    for row in table(options.seconds):
        print(row, flush=True)  # noqa: T201  # for a person at a terminal
    print(f"done after {time.monotonic() - began:.0f} s", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
