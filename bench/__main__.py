"""``make bench``: the agent and its floors side by side in one run, on a real cloud.

The floor of the reads is bench/floor.py, constant bytes from an aiohttp low-level server; that of the memory
is a process that has only imported aiohttp.web. Agent and floor are measured in turn: ratios hold from run to
run, single figures do not.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from provisioning.secrets import DEMO_NAMES, generate_value
from tests.cloud.cloud import Cloud
from tests.integration.running import Agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioning.secrets import Vps

HERE: Final = Path(__file__).parent
CONNECTIONS: Final = 8


@dataclass(frozen=True)
class Figure:
    """One measured thing. ``ratio`` is to the floor of the same run, with ``goal`` where there is one."""

    name: str
    unit: str
    median: float
    least: float
    most: float
    floor: float | None = None
    ratio: float | None = None
    goal: str = ""

    def __str__(self) -> str:
        text = f"{self.name:<44} {self.median:10.3f} {self.unit:<5} ({self.least:.3f} to {self.most:.3f})"
        if self.floor is not None and self.ratio is not None:
            text += f"  floor {self.floor:.3f}, ratio {self.ratio:.2f}"
        return f"{text}  goal {self.goal}" if self.goal else text


def figure(
    name: str, unit: str, values: list[float], floors: list[float] | None = None, goal: str = ""
) -> Figure:
    """Return the medians and spread of one figure, and its ratio to the floor."""
    median = statistics.median(values)
    floor = statistics.median(floors) if floors else None
    ratio = median / floor if floor else None
    return Figure(name, unit, median, min(values), max(values), floor, ratio, goal)


def reads(agent: Agent, floor: Path, load: Path, rounds: int, seconds: float) -> list[Figure]:
    """Measure requests a second, in turn: kept alive, and with a connection for each."""
    request = "GET /v1/secrets/JWT_SECRET HTTP/1.1\r\nHost: a\r\n\r\n"

    def rate(socket: Path, mode: str) -> float:
        command = [str(load), str(socket), request, str(CONNECTIONS), str(seconds), mode]
        count, spent, *_ = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return float(count) / float(spent)

    found = []
    for mode, name in (("keepalive", "read, kept-alive connection"), ("connect", "connect + read + close")):
        ours, floors = [], []
        for _ in range(rounds):
            ours.append(rate(agent.app, mode))
            floors.append(rate(floor, mode))
        found.append(figure(name, "/s", ours, floors, "ratio at least 0.60"))
    return found


def memory(agent: Agent, rounds: int) -> Figure:
    """Measure resident memory of serve with seven secrets, and of a bare import of aiohttp.web."""
    assert agent.process is not None  # noqa: S101  # it runs
    ours = [_resident(agent.process.pid)]
    floors = []
    for _ in range(rounds):
        program = "import aiohttp.web, sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as bare:
            assert bare.stdout is not None  # noqa: S101  # it is a pipe
            bare.stdout.read(1)
            floors.append(_resident(bare.pid))
            bare.communicate()
    return figure("resident memory of serve, 7 secrets", "MB", ours, floors, "ratio at most 1.25")


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmRSS of {pid}")


def starts(make: Callable[[], Agent], rounds: int) -> list[Figure]:
    """Measure from exec to ready, and its parts as fetch tells them."""
    whole: list[float] = []
    parts: dict[str, list[float]] = {}
    for _ in range(rounds):
        with make() as agent:
            began = time.monotonic()
            agent.start(wait=False)
            while not agent.app.exists() or not agent._is_ready():  # noqa: SLF001  # the test's own helper
                time.sleep(0.005)
            whole.append(time.monotonic() - began)
            for part, spent in agent.status()["cycles"]["timings"].items():
                parts.setdefault(part, []).append(spent)
            agent.stop()
    return [
        figure("exec to ready", "s", whole),
        *(figure(f"  of it {part} of fetch", "s", spent) for part, spent in parts.items()),
    ]


def wakes(agent: Agent, cloud: Cloud, vps: Vps, rounds: int) -> list[Figure]:
    """Measure from the request to refresh to a watching client's answer, and the refresh itself."""
    whole, cycles = [], []
    for _ in range(rounds):
        cloud.deployment.rotate(vps, {"JWT_SECRET": generate_value("JWT_SECRET")})
        after = agent.status()["generation"]
        woken: list[float] = []
        watcher = threading.Thread(target=_watch, args=(agent, after, woken))
        watcher.start()
        agent.until(lambda: agent.status()["watchers"] == 1)
        time.sleep(1.0)  # at most one refresh a second is accepted
        began = time.monotonic()
        answer = agent.ask_control("/v1/refresh", "POST")
        watcher.join(30)
        whole.append(woken[0] - began)
        cycles.append(answer.json["seconds"])
    return [
        figure("refresh to a watching client's wake-up", "s", whole),
        figure("  of it the cycle (one new version)", "s", cycles),
    ]


def _watch(agent: Agent, after: int, woken: list[float]) -> None:
    agent.get(f"/v1/watch?after={after}&timeout=30")
    woken.append(time.monotonic())


def build(directory: Path) -> Path:
    """Compile the load client."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("bench: no C compiler; mend it with: sudo apt-get install --yes gcc libc6-dev")
    load = directory / "load"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", load, HERE / "load.c"], check=True)
    return load


def main() -> int:
    """Measure everything; print a table, and JSON where asked for."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round of reads")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(Cloud())
        vps = cloud.vps("vps-bench-001", {name: generate_value(name) for name in DEMO_NAMES})
        grant = f'[[grant]]\nuser = "{getpass.getuser()}"\nsecrets = ["*"]\n'

        def make() -> Agent:
            return Agent(lambda directory: cloud.configuration(vps, directory, grant))

        found = starts(make, options.rounds)
        agent = stack.enter_context(make()).start().until_ready()
        found.append(memory(agent, options.rounds))
        load, floor = build(agent.directory), agent.directory / "floor.sock"
        server = subprocess.Popen([sys.executable, str(HERE / "floor.py"), str(floor)])
        stack.callback(server.wait)
        stack.callback(server.kill)
        agent.until(floor.exists)
        found += reads(agent, floor, load, options.rounds, options.seconds)
        found += wakes(agent, cloud, vps, options.rounds)
    print(f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}, {os.cpu_count()} cores,")
    print(f"{options.rounds} rounds in turn, median (least to most)\n")
    print(*found, sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
