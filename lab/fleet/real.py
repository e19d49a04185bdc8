"""A fleet of real fetch cycles against the real Keystone and Barbican, to check the model.

Each agent is a machine and a thread that makes whole cycles with the agent's own code (agent/fetch/cycle.py):
login, requests, time-outs, answers. Only the processes are spared: on one machine their start would cost more
than the cloud's work. The agents share a few VPSs' accounts, each with a token of its own.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from agent.config import reader as configuration
from agent.core import rotation, schedule, wire
from agent.core.rotation import Moment
from agent.fetch.cycle import Cycle
from deployer.cloud.secrets import DEMO_NAMES, generate_value
from lab.fleet.machine import Machine

if TYPE_CHECKING:
    from agent.config.model import Config
    from agent.core.schedule import Pace
    from lab.testbed.cloud import Cloud

ACCOUNTS: Final = 8
CYCLE_S: Final = 30.0


@dataclass(slots=True)
class Seen:
    """What happened: requests by second and service, when each agent was served (s), and how cycles ended."""

    barbican: array[int]
    keystone: array[int]
    served: list[float] = field(default_factory=list)
    cycles: int = 0
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    calls: list[int] = field(default_factory=list)
    """Requests to Barbican of each first good cycle."""


class RealFleet:
    """``agents`` of them start within ``boot`` seconds and run until all are served, at most ``seconds``."""

    def __init__(self, cloud: Cloud, agents: int, pace: Pace, boot: float, seconds: float) -> None:
        self._cloud: Final = cloud
        self._pace: Final = pace
        self._boot: Final = boot
        self._seconds: Final = seconds
        self._agents: Final = agents
        self._uniform: Final = random.Random(2).uniform
        size = bytes(8 * int(seconds + CYCLE_S + 2))
        self.seen: Final = Seen(array("Q", size), array("Q", size))
        self._port: Final = urlsplit(cloud.testbed.places.barbican_url).port
        self._lock: Final = threading.Lock()
        self._began = 0.0
        self._counting = False

    def run(self) -> Seen:
        """Make the accounts, start everybody, and return what happened."""
        with tempfile.TemporaryDirectory() as directory:
            configs = accounts(self._cloud, Path(directory))
            sys.addaudithook(self._count)
            threads = [
                threading.Thread(target=self._agent, args=(configs[k % len(configs)],))
                for k in range(self._agents)
            ]
            self._began = time.monotonic()
            self._counting = True
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self._counting = False
        return self.seen

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _count(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count requests as they are sent (audit event http.client.send; it can't be taken off again)."""
        if event == "http.client.send" and self._counting and bytes(arguments[1][:5]) in {b"GET /", b"POST "}:
            service = self.seen.barbican if arguments[0].port == self._port else self.seen.keystone
            service[int(self._now())] += 1

    def _agent(self, config: Config) -> None:
        """One agent from its boot until it is served."""
        machine, token = Machine(), b""
        wait = self._uniform(0.0, self._boot) + schedule.first(self._pace, self._uniform)
        while self._now() + wait < self._seconds:
            time.sleep(wait)
            began = time.monotonic()
            request = wire.Request(
                nonce="0" * 32,
                known=rotation.known(machine.held, Moment(self._now(), time.time())),
                reads_doubles=True,
                timeout=CYCLE_S,
                token_state=token,
            )
            reply = Cycle(config, request, began).run()
            token = reply.token_state
            with self._lock:
                self.seen.cycles += 1
                self.seen.failed += reply.failure is not None
                if reply.failure is not None:
                    self.seen.failures[f"{reply.failure.step}: {reply.failure.advice}"] += 1
            if reply.reading is None:
                assert reply.failure is not None  # noqa: S101  # exactly one of them
                wait = machine.fail(reply.failure, self._now(), self._pace, self._uniform)
                continue
            wait = machine.read(reply.reading, self._now(), self._pace, self._uniform)
            if len(machine.held) == len(DEMO_NAMES):
                with self._lock:
                    self.seen.served.append(self._now())
                    self.seen.calls.append(_requests(reply.calls["barbican"]))
                return


def _requests(calls: Any) -> int:
    return calls if isinstance(calls, int) else sum(calls.values())


def accounts(cloud: Cloud, directory: Path) -> list[Config]:
    """Make some VPSs with seven secrets each; return their agents' configurations."""
    configs = []
    for number in range(ACCOUNTS):
        vps = cloud.vps(f"vps-fleet-{number:03d}", {name: generate_value(name) for name in DEMO_NAMES})
        place = directory / str(number)
        place.mkdir(mode=0o700)
        path = place / "agent.toml"
        path.write_text(cloud.configuration(vps, place))
        configs.append(configuration.load(path, passing_over=configuration.NOT_FETCH))
    return configs
