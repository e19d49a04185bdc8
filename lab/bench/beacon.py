"""Measures the beacon on a real Keystone, Barbican and nginx: ``python -m lab.bench.beacon``.

What a look costs in a process that stays and in one of its own, side by side; what the process that stays
holds; how long it takes from a touch to the application, at the real interval; and what all of it costs.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deployer.cloud.accounts import RUNTIME_PROJECT, RUNTIME_RULES
from deployer.cloud.beacon import Beacons, touch_file
from deployer.cloud.secrets import DEMO_NAMES, generate_value
from lab.testbed.cloud import Account, Cloud
from lab.testbed.fakes.nginx import Nginx
from lab.testbed.fakes.tls import tls_context
from lab.testbed.fakes.watching import Watcher, configuration, look
from lab.testbed.running import Agent
from lab.testbed.swift import Swift

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.cloud.secrets import Vps

MONTH_S: Final = 30 * 86_400
CALLS_EUR: Final = 0.01 / 1000
STORED_EUR: Final = 14.0
"""A month of 700 secrets, at EUR 0.02 each."""
VPSS: Final = 100
ROTATING: Final = threading.Lock()
"""The testbed's sqlite bears one deployer at a time."""
TICKS: Final = os.sysconf("SC_CLK_TCK")
MAX_TOUCHES: Final = 5
"""Of one agent: a sixth poll in this time would meet the bucket, since the first sight is one."""


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process, those of its former threads included (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def member(pid: int, file: str, name: str) -> float:
    """Return a number from a file of /proc/PID."""
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1])
    raise RuntimeError(f"no {name} of {pid}")


def with_a_token() -> dict[str, float]:
    """Measure the memory of a process that stays and has the account's own token, for a Swift object."""
    with Cloud() as cloud, Swift(cloud) as swift, tempfile.TemporaryDirectory() as place:
        deployer = cloud.accounts.deployer()
        beacons = Beacons(cloud.session_of(deployer), f"{swift.url(deployer.project_id)}/beacons")
        beacons.create(cloud.accounts.project(RUNTIME_PROJECT))
        beacons.touch("fleet")
        vps = cloud.vps("vps-bench-token", {})
        user = cloud.runtime[vps.vps_id].user
        rule = ("GET", urlsplit(f"{beacons.url}/fleet").path)
        credential = cloud.accounts.application_credential(
            user, cloud.session_of(user), "bench", RUNTIME_RULES, objects=[rule]
        )
        cloud.runtime[vps.vps_id] = Account(user, credential)
        config = Path(place, "agent.toml")
        beacon = f'[beacon]\nurl = "{beacons.url}/fleet"\nauth = "keystone"\n'
        config.write_text(cloud.configuration(vps, Path(place), beacon))
        seen = look(config).seen
        with Watcher(config, seen, interval=0.05) as watcher:
            time.sleep(10.0)
            found = memory(watcher.process.pid)
            beacons.touch("fleet")
            ended = watcher.end().sight
        return found | {"looks": ended.looks, "logins": ended.logins}


def memory(pid: int) -> dict[str, float]:
    """Return what a process holds, in MB."""
    names = {"resident_mb": "Rss", "proportional_mb": "Pss", "anonymous_mb": "Anonymous"}
    return {key: member(pid, "smaps_rollup", name) / 1024 for key, name in names.items()}


def staying(config: Path, nginx: Nginx, looks: int) -> dict[str, float]:
    """Measure a process that stays: CPU and wake-ups for each look, and its memory."""
    seen = look(config).seen
    with Watcher(config, seen, interval=0.02, lifetime=3600.0) as watcher:
        pid = watcher.process.pid

        def count() -> int:
            return nginx.log.read_text().count("\n")

        def until(wanted: int) -> None:
            while count() < wanted:
                time.sleep(0.05)

        until(count() + 50)
        before, spent, wakes = count(), cpu(pid), member(pid, "status", "voluntary_ctxt_switches")
        until(before + looks)
        made = count() - before
        return {
            "cpu_per_look_s": (cpu(pid) - spent) / made,
            "wakeups_per_look": (member(pid, "status", "voluntary_ctxt_switches") - wakes) / made,
        } | memory(pid)


def coming_and_going(config: Path, looks: int) -> dict[str, float]:
    """Measure a process for each look, systemd's part not included."""
    seen = look(config).seen
    before, began = os.times(), time.monotonic()
    for _ in range(looks):
        look(config, seen)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"cpu_per_look_s": spent / looks, "wall_per_look_s": (time.monotonic() - began) / looks}


class Touched(threading.Thread):
    """One VPS: its secret is rotated and its beacon touched at random moments; a client waits for each."""

    def __init__(self, cloud: Cloud, vps: Vps, agent: Agent, file: Path, interval: float) -> None:
        super().__init__()
        self._cloud, self._agent, self._file, self._interval = cloud, agent, file, interval
        self.vps = vps
        self.told: list[float] = []
        """Seconds from a touch to the application told."""
        self.moments: list[tuple[float, float]] = []
        """When it was touched and told, as Unix times."""

    def run(self) -> None:
        """Touch and wait."""
        for _ in range(MAX_TOUCHES):
            generation = self._agent.generation
            time.sleep(random.uniform(0, self._interval))  # noqa: S311  # a moment, not a secret
            with ROTATING:
                self._cloud.deployment.rotate(self.vps, {"JWT_SECRET": generate_value("JWT_SECRET")})
            touch_file(self._file)
            touched, began = time.time(), time.monotonic()
            while self._agent.get(f"/v1/watch?after={generation}&timeout=15").status != 200:  # noqa: PLR2004
                pass
            self.told.append(time.monotonic() - began)
            self.moments.append((touched, time.time()))


@contextlib.contextmanager
def fleet(cloud: Cloud, nginx: Nginx, agents: int, interval: float) -> Iterator[list[Touched]]:
    """Run agents with a beacon each, at the given interval."""
    with contextlib.ExitStack() as stack:
        touched = []
        for number in range(agents):
            values = {name: generate_value(name) for name in DEMO_NAMES}
            vps = cloud.vps(f"vps-bench-{number:03}", values)
            file = nginx.file.with_name(vps.vps_id)
            touch_file(file)
            beacon = f'[beacon]\nurl = "{nginx.origin}/{vps.vps_id}"\ninterval = "{interval:g}s"\n'
            grant = f'[[grant]]\nuser = "{getpass.getuser()}"\nsecrets = ["*"]\n'
            agent = stack.enter_context(_watching(cloud, vps, beacon + grant))
            touched.append(Touched(cloud, vps, agent, file, interval))
        yield touched


def _watching(cloud: Cloud, vps: Vps, extra: str) -> Agent:
    agent = Agent(lambda place: cloud.configuration(vps, place, extra)).start().until_ready()
    agent.until(lambda: agent.status()["beacon"]["state"] == "watching")
    return agent


def reaction(cloud: Cloud, agents: int, interval: float) -> dict[str, float]:
    """Measure from a touch to the application told, and the part after the look."""
    with Nginx() as nginx, fleet(cloud, nginx, agents, interval) as touched:
        for one in touched:
            one.start()
        for one in touched:
            one.join()
        after_look = [
            told - at
            for one in touched
            for touch, told in one.moments
            for at in [first_look(nginx.log, f"/{one.vps.vps_id}", touch)]
        ]
        told = sorted(spent for one in touched for spent in one.told)
        if len(told) < agents * MAX_TOUCHES:
            raise SystemExit("bench: a VPS broke off; its error is above")
    return {
        "samples": len(told),
        "interval_s": interval,
        "p50_s": statistics.median(told),
        "p99_s": percentile(told, 0.99),
        "most_s": told[-1],
        "after_look_p50_s": statistics.median(after_look),
        "after_look_p99_s": percentile(sorted(after_look), 0.99),
    }


def first_look(log: Path, path: str, touched: float) -> float:
    """Return when the first look after the touch found a new object."""
    for line in log.read_text().splitlines():
        at, status, uri = line.split()
        if (
            uri == path and status == "200" and float(at) >= touched - 0.002
        ):  # nginx's clock has steps of 1 ms
            return float(at)
    raise RuntimeError(f"no look at {path}")


def percentile(ordered: list[float], share: float) -> float:
    """Return the value below which so large a share lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def costs(rotations: float = 1.0, new_versions: int = 7) -> dict[str, dict[str, float]]:
    """Return Barbican calls per VPS and month and EUR for 100 VPSs, from one call a poll.

    ``rotations`` a month are of ``new_versions`` secrets at once: two calls each; the reading of
    the container a poll would have made anyway. The beacon adds one poll for each rotation at most.
    """
    found = {}
    rotating = rotations * 2 * new_versions
    for name, interval, more in (
        ("poll every 15 min", 900, 0.0),
        ("poll every 4 min", 240, 0.0),
        ("poll every 15 min + beacon", 900, rotations),
        ("the same, a beacon that flaps for ever", 900, MONTH_S / 900),
    ):
        calls = MONTH_S / interval + rotating + more
        found[name] = {"calls": calls, "eur": calls * VPSS * CALLS_EUR + STORED_EUR}
    return found


def main() -> int:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(prog="bench.beacon", description=__doc__)
    parser.add_argument("--looks", type=int, default=1000, help="of the process that stays")
    parser.add_argument("--agents", type=int, default=12)
    parser.add_argument("--interval", type=float, default=30.0, help="s, between looks of the reaction")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        tls_context(place)
        with Nginx(place / "server.pem") as nginx:
            touch_file(nginx.file)
            config = configuration(place, nginx.url, f'ca_file = "{place}/ca.pem"\n')
            found["a process that stays (HTTPS)"] = staying(config, nginx, options.looks)
            found["a process for each look (HTTPS)"] = coming_and_going(config, 30)
    found["a process that stays, with a token (Swift)"] = with_a_token()
    with Cloud() as cloud:
        found["touch to application told"] = reaction(cloud, options.agents, options.interval)
    found |= {f"cost: {name}": cost for name, cost in costs().items()}
    for name, figures in found.items():
        print(name)
        assert isinstance(figures, dict)  # noqa: S101  # all are
        for key, value in figures.items():
            print(f"  {key:<20} {value:12.4f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
