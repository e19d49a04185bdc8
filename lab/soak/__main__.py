"""``make soak``: run the real agent on a real cloud for long, with rotations, clients and faults, and judge.

Exit status: 0 everything stayed flat, every value was right and every warning has its reason; 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import itertools
import json
import re
import signal
import sys
import time
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deployer.cloud.secrets import DEMO_NAMES, generate_value
from lab.soak.clients import Clients, Truth
from lab.soak.judging import COUNTS, MEMORY, Fault, at_rest, trend, unexplained
from lab.soak.watching import EVERY_S, Watching
from lab.testbed.cloud import Cloud
from lab.testbed.running import Agent
from lab.testbed.testbed import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deployer.cloud.secrets import Vps

TOKEN_S: Final = 180
"""A token's life. keystoneauth1 asks for a new one two minutes before its end: one login a minute."""
HANG_S: Final = 12.0
DOWN_S: Final = 5.0
REST_S: Final = 6.0
SLACK_S: Final = 25.0
"""How long after a fault its last consequence may be told: a whole cycle's time, and the start of another."""

SETTINGS: Final = f"""admin_group = "root"
[fetch]
timeout = "{HANG_S - 2:.0f}s"
[rotation]
fleet_size = 1
poll_interval = "1s"
previous_grace = "10s"
backoff_cap = "4s"
"""
COUNTERS: Final = re.compile(r"^vps_secrets_((?:cycles|calls)_total\S*) (\d+)$", re.MULTILINE)
AWAY: Final = r"failed( \(HTTP \d+\))?: "
"""A cycle that failed, whatever its step: which one depends on where it was when its cloud went away."""


class Soak:
    """One run: owns the timetable of what is done to the agent and its cloud."""

    def __init__(self, cloud: Cloud, vps: Vps, agent: Agent, truth: Truth, watchers: int) -> None:
        self._cloud: Final = cloud
        self._vps: Final = vps
        self._agent: Final = agent
        self._truth: Final = truth
        self._clients: Final = Clients(agent.app, truth, watchers)
        self._watching: Final = Watching(agent)
        self.faults: Final[list[Fault]] = []
        self.done: Final = Counter[str]()

    def run(self, seconds: float, every: float, least: int) -> None:
        """Do one thing after another, ``every`` so many seconds, until the time is up; ``least`` of them."""
        with self._watching:
            time.sleep(REST_S)
            with self._clients:
                self._work(seconds, every, least)
            time.sleep(2 * REST_S)  # the former versions are gone then, too

    def _work(self, seconds: float, every: float, least: int) -> None:
        for number, act in enumerate(self._timetable()):
            if number >= least and self._watching.now() > seconds:
                break
            began = time.monotonic()
            act()
            if number % 9 == 0:
                print(f"soak: {self._watching.now() / 60:5.1f} min: {dict(self.done)}", flush=True)
            self._refresh_until(min(began + every, self._watching.began + seconds))

    def _refresh_until(self, end: float) -> None:
        """Ask for a cycle a second, which is as often as the agent takes it: sooner it answers 429."""
        while (left := end - time.monotonic()) > 0:
            answer = self._agent.ask_control("/v1/refresh", "POST")
            self.done["refresh"] += answer.status == HTTPStatus.OK
            time.sleep(min(0.1, left))

    def result(self) -> dict[str, object]:
        """Return everything that was seen, for the judgement and the picture."""
        metrics = self._agent.ask_control("/metrics").body.decode()
        return {
            "samples": self._watching.samples,
            "faults": [[fault.name, fault.begin, fault.end] for fault in self.faults],
            "done": dict(self.done),
            "told": dict(self._clients.told),
            "counters": dict(COUNTERS.findall(metrics)),
            "unexplained": unexplained(self._watching.lines, self.faults, SLACK_S),
            "warnings": sum("warning:" in line[1].lower() for line in self._watching.lines),
        }

    def _timetable(self) -> Iterator[Callable[[], None]]:
        names = itertools.cycle(DEMO_NAMES)
        for _ in itertools.count():
            yield lambda: self._rotate(next(names))
            yield self._caller_limits
            yield lambda: self._down("barbican", DOWN_S)
            yield lambda: self._rotate(next(names), next(names))
            yield self._reload
            yield lambda: self._hang("barbican")
            yield self._rotate_while_away
            yield self._bad_reload
            yield lambda: self._down("keystone", DOWN_S)

    @contextlib.contextmanager
    def _fault(self, name: str, says: str) -> Iterator[None]:
        begin = self._watching.now()
        fault = Fault(name, begin, float("inf"), says)
        self.faults.append(fault)
        try:
            yield
        finally:
            self.faults[self.faults.index(fault)] = Fault(name, begin, self._watching.now(), says)
            self.done[name] += 1

    def _rotate(self, *names: str) -> None:
        self._replace(*names)
        self._agent.ask_control("/v1/refresh", "POST")
        self.done["rotation"] += 1

    def _replace(self, *names: str) -> None:
        values = {name: generate_value(name) for name in names}
        for name, value in values.items():
            self._truth.put(name, value)
        self._cloud.deployment.rotate(self._vps, values)

    def _caller_limits(self) -> None:
        self._clients.caller_limits(50)
        self.done["crowd"] += 1

    def _down(self, service: str, seconds: float) -> None:
        with self._fault(f"{service} down", AWAY):
            self._cloud.testbed.kill(service)
            time.sleep(seconds)
            self._cloud.testbed.restart(service)

    def _hang(self, service: str) -> None:
        with self._fault(f"{service} hangs", AWAY):
            self._cloud.testbed.pause(service)
            time.sleep(HANG_S)
            self._cloud.testbed.resume(service)

    def _rotate_while_away(self) -> None:
        """The rotation happens while the agent can't log in; it is read when Keystone is back."""
        self._down("keystone", 1.0)
        self._rotate("JWT_SECRET")

    def _reload(self) -> None:
        self._agent.signal(signal.SIGHUP)
        self.done["reload"] += 1

    def _bad_reload(self) -> None:
        good = self._agent.configuration.read_text()
        with self._fault(
            "bad reload", "reload refused, the configuration in force stays|configuration failed"
        ):
            self._agent.write(good + "nonsense = 1\n")
            self._agent.signal(signal.SIGHUP)
            time.sleep(1.0)
            self._agent.write(good)
            self._agent.signal(signal.SIGHUP)


def verdict(found: dict[str, object]) -> bool:
    """Print how everything went; return whether it went well."""
    samples = found["samples"]
    assert isinstance(samples, list)  # noqa: S101  # result() made it
    times = [sample["time"] for sample in samples]
    good = True
    rows = int(REST_S / EVERY_S) - 1
    before, after = samples[:rows], samples[-rows:]
    for one in (
        *(trend(name, bound, times, [row[name] for row in samples]) for name, bound in MEMORY.items()),
        *(at_rest(name, [row[name] for row in before], [row[name] for row in after]) for name in COUNTS),
    ):
        good &= one.is_flat
        print(one)
    told = found["told"]
    assert isinstance(told, dict)  # noqa: S101  # as above
    wrong = {what: count for what, count in told.items() if what.startswith(("WRONG", "failed"))}
    print(f"done: {found['done']}; clients: {told}")
    spent = samples[-1]["cpu"] - samples[0]["cpu"]
    print(f"agent: {found['counters']}; CPU of serve and its fetch processes {spent:.1f} s")
    print(f"{found['warnings']} warnings, unexplained: {found['unexplained'] or 'none'}")
    if wrong:
        print(f"WRONG answers or failed requests: {wrong}")
    return good and not wrong and not found["unexplained"]


def main(arguments: list[str] | None = None) -> int:
    """Run, judge, and write what was seen where asked for."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="between two events")
    parser.add_argument("--least", type=int, default=9, metavar="EVENTS", help="even if it takes longer")
    parser.add_argument("--watchers", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write every sample there")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order: the agent and the testbed end too
    truth = Truth()
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(Cloud(Options(token_expiration=TOKEN_S)))
        values = {name: generate_value(name) for name in DEMO_NAMES}
        for name, value in values.items():
            truth.put(name, value)
        vps = cloud.vps("vps-soak-001", values)
        grant = f'[[grant]]\nuser = "{getpass.getuser()}"\nsecrets = ["*"]\n'
        make = Agent(lambda directory: cloud.configuration(vps, directory, SETTINGS + grant))
        agent = stack.enter_context(make).start().until_ready()
        soak = Soak(cloud, vps, agent, truth, options.watchers)
        soak.run(options.minutes * 60, options.every, options.least)
        found = soak.result()
        status = agent.stop()
    if options.json:
        options.json.write_text(json.dumps(found))
    good = verdict(found)
    print(f"exit status of the agent: {status}")
    return 0 if good and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
