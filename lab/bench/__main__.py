"""``make bench``: the agent beside its peers and floors, in one run, on a real cloud.

Every server is running from the start; a round visits each in turn. Ratios are taken within a round and hold
from run to run, which single figures do not. Servers and the load client share one core. The agent's reads
carry their grant check and their audit record, which goes to a stand-in for the journal that forgets it.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import __version__
from deployer.cloud.secrets import DEMO_NAMES, generate_value
from lab.bench import cycles, openbao, peers, processes, report, tools
from lab.bench.results import AGENT, BAO, IMPORT, MODES, Mode, Read, Results
from lab.bench.system import System
from lab.bench.tools import BUILD, HERE, ROOT, Missing, progress, run
from lab.testbed.cloud import Cloud
from lab.testbed.fakes.nginx import PROGRAM as NGINX

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.bench.peers import Peer, Target

PEERS: Final = {
    BAO: openbao.openbao,
    "custodia": peers.custodia,
    "nginx, static file": peers.nginx,
    "C floor": peers.c_floor,
    "aiohttp floor": peers.aiohttp_floor,
}
DRAW: Final = BUILD / "draw-venv/bin/python"
DOCUMENT: Final = ROOT / "docs/figures.md"


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds of each kind, seconds of each round of reads and of idleness."""

    rounds: int
    seconds: float
    idle: float
    starts: int
    refreshes: int
    quiets: int


FULL: Final = Effort(rounds=6, seconds=0.5, idle=30.0, starts=10, refreshes=40, quiets=8)
QUICK: Final = Effort(rounds=2, seconds=0.1, idle=3.0, starts=2, refreshes=2, quiets=2)


class Bench:
    """One run: owns the cloud, the temporary directory and the results."""

    def __init__(self, effort: Effort, stack: contextlib.ExitStack) -> None:
        self.results: Final = Results()
        self._effort: Final = effort
        self._stack: Final = stack
        self._directory: Final = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vsa-bench-")))
        self._directory.chmod(0o755)  # nginx's worker may be another user
        self._tools: Final = tools.tools(self._directory)
        self._runs = 0
        self._load_before: Final = os.getloadavg()[0]
        progress("Keystone and Barbican are starting")
        self._cloud: Final = stack.enter_context(Cloud())
        self._vps: Final = self._cloud.vps(
            "vps-bench-001", {name: generate_value(name) for name in DEMO_NAMES}
        )

    def all(self) -> None:
        """Measure everything. The cloud ends before the last part."""
        effort, results = self._effort, self.results
        results.parts += cycles.ready(self._system, effort.starts)
        self._side_by_side()
        results.parts += cycles.quiet(
            lambda through: self._system(through=through), self._cloud, effort.quiets
        )
        with self._system() as system:
            system.start().until_ready()
            results.parts += cycles.refresh(system, self._cloud, self._vps, effort.refreshes)
            self._cloud.close()
            results.parts += cycles.restart(system, effort.starts)

    def _system(self, core: int | None = None, through: Callable[[str], str] = str) -> System:
        """Return a new run of the agent, which is allowed to read everything."""
        self._runs += 1
        grant = f'[[grant]]\nuser = "{getpass.getuser()}"\nsecrets = ["*"]\n'
        return System(
            self._tools,
            self._directory / f"agent-{self._runs}",
            lambda directory: through(self._cloud.configuration(self._vps, directory, grant)),
            core=core,
        )

    def _side_by_side(self) -> None:
        with contextlib.ExitStack() as stack:
            system = stack.enter_context(self._system(self._tools.core))
            system.start().until_ready()
            agent = peers.Peer(
                (peers.Target(AGENT, system.app, peers.get(cycles.READ)),), (system.process.pid,)
            )
            running = {AGENT: agent} | self._peers(stack)
            servers = {name: peer.pids for name, peer in running.items()}
            self.results.memory = {name: processes.memory(pids) for name, pids in servers.items()}
            self._bare_import()
            progress(f"nothing is asked for {self._effort.idle:g} s, to count who wakes")
            self.results.wakeups = processes.wakeups(servers, self._effort.idle)
            reads = self._reads([target for peer in running.values() for target in peer.targets])
            audited = system.stamps().audited
            self.results.memory_after = {name: processes.memory(pids) for name, pids in servers.items()}
        if system.records < reads:
            raise SystemExit(f"bench: {reads} reads of the agent left only {system.records} audit records")
        where = {"journal": "a stand-in for the journal", "stderr": "standard error, a socket"}[audited]
        self._describe(f"{system.records:,} for {reads:,} counted reads, to {where}")

    def _peers(self, stack: contextlib.ExitStack) -> dict[str, Peer]:
        """Start all that can be had; note why others can't."""
        found = {}
        for number, (name, start) in enumerate(PEERS.items()):
            place = peers.Place(self._tools, self._directory / f"peer-{number}")
            place.directory.mkdir(mode=0o755)
            try:
                found[name] = stack.enter_context(start(place))
            except Missing as missing:
                self.results.left_out[name] = str(missing)
                progress(f"LEFT OUT: {name}: {missing}")
        return found

    def _bare_import(self) -> None:
        program = "import aiohttp.web, os; os.write(1, b'x'); os.read(0, 1)"
        try:
            python = peers.python()
        except Missing as missing:
            self.results.left_out[IMPORT] = str(missing)
            return
        self.results.memory[IMPORT] = processes.memory_of([python, "-c", program])

    def _reads(self, targets: list[Target]) -> int:
        """Measure all targets in all modes; return how many reads of the agent were counted."""
        effort, count = self._effort, 0
        for number in range(effort.rounds):
            progress(f"reads of {len(targets)} targets, round {number + 1} of {effort.rounds}")
            turn = number % len(targets)  # nobody is always first
            for mode in MODES:
                for target in targets[turn:] + targets[:turn]:
                    if target.keepalive or not mode.keepalive:
                        requests, read = self._load(target, mode)
                        found = self.results.reads.setdefault(mode, {})
                        found.setdefault(target.name, []).append(read)
                        count += requests if target.name == AGENT else 0
        return count

    def _load(self, target: Target, mode: Mode) -> tuple[int, Read]:
        request = self._directory / "request"
        request.write_bytes(target.request)
        how = "keepalive" if mode.keepalive else "connect"
        load = (
            self._tools.built / "load",
            target.socket,
            request,
            str(mode.clients),
            str(self._effort.seconds),
        )
        command: list[str | Path] = [*tools.pinned(self._tools.core), *load, how]
        requests, seconds, p50, p99 = run(command, f"load on {target.name}, {mode}").split()
        return int(requests), Read(int(requests) / float(seconds), int(p50) / 1e9, int(p99) / 1e9)

    def _describe(self, audit: str) -> None:
        effort = self._effort
        self.results.machine = {
            "agent": __version__,
            "system": platform.freedesktop_os_release()["PRETTY_NAME"],
            "kernel": platform.release(),
            "Python": platform.python_version(),
            "cores": str(os.cpu_count()),
            "load before the run": f"{self._load_before:.1f}",
            "peers": ", ".join(_versions()) or "none",
            "rounds": f"{effort.rounds} of {effort.seconds:g} s per server and way of reading",
            "audit records": audit,
        }


def _versions() -> list[str]:
    """Return the pinned peers' versions, and that of nginx."""
    pins = (ROOT / "scripts/constraints/peers.txt").read_text().split()
    found = [pin.replace("==", " ") for pin in pins if pin.startswith(("openbao", "custodia", "aiohttp="))]
    if NGINX.exists():
        told = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
        found.append(f"nginx {told.strip().rpartition('/')[2]}")
    return found


def main() -> int:
    """Measure everything; print the tables, and write what is asked for."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="see that everything runs; the figures say little"
    )
    parser.add_argument("--json", type=Path, help="write everything there, round by round")
    parser.add_argument("--picture", type=Path, help="draw there (PNG)")
    parser.add_argument("--write", action="store_true", help="write docs/figures.md and docs/figures.png")
    options = parser.parse_args()
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):  # also in the background, where SIGINT is ignored
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        bench = Bench(QUICK if options.quick else FULL, stack)
        bench.all()
    text = report.markdown(bench.results)
    print(f"\n{text}")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(bench.results), indent=1))
    picture = DOCUMENT.with_suffix(".png") if options.write else options.picture
    if picture:
        draw(report.as_json(bench.results), picture)
    if options.write:
        DOCUMENT.write_text(report.replaced(DOCUMENT.read_text(), text))
    progress(f"done after {time.monotonic() - began:.0f} s")
    return 0


def draw(results: dict[str, object], picture: Path) -> None:
    """Draw the comparison, with the environment that has the library for it."""
    if not DRAW.exists():
        raise SystemExit("bench: build/draw-venv is missing; fix it with: scripts/setup draw")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(results, file)
        file.flush()
        run([DRAW, HERE / "draw.py", file.name, picture])


if __name__ == "__main__":
    sys.exit(main())
