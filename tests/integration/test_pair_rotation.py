"""Values rotated together arrive together, on the real Barbican. `make scenarios` rotates a hundred times."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from lab.testbed.running import Agent, ask

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud

pytestmark = pytest.mark.long
READERS = 4
GRANT = """
[rotation]
poll_interval = "1s"
[staleness]
fresh_for = "60s"
[[grant]]
user = "root"
secrets = ["*"]
"""


class Reader:
    """Takes bundles as fast as it can and notes which pairs it saw."""

    def __init__(self, socket: Path, over: threading.Event) -> None:
        self.pairs: set[tuple[str, str]] = set()
        self.bundles = 0
        self._thread = threading.Thread(target=self._read, args=(socket, over))
        self._thread.start()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _read(self, socket: Path, over: threading.Event) -> None:
        while not over.wait(0.002):
            with contextlib.suppress(ConnectionError):
                values = ask(socket, "GET", "/v1/bundle").json["secrets"]
                self.pairs.add((values["USER"], values["PASSWORD"]))
                self.bundles += 1


@pytest.mark.timeout(600)  # hundreds of calls to one small Barbican, on a machine that may be busy
def test_no_reader_ever_sees_half_a_pair(cloud: Cloud) -> None:
    """Cycles come one after the other while pairs rotate, so they fall into every state in between."""
    rotate_and_look(cloud, "vps-pair-001", 20)


def rotate_and_look(cloud: Cloud, vps_id: str, rotations: int) -> None:
    """Rotate a pair so many times, and on until enough was seen on a slow machine.

    The values are the numbers of their rotation, so that a failure may show them.
    """
    vps = cloud.vps(vps_id, {"USER": b"0", "PASSWORD": b"0"})
    over = threading.Event()
    number = 0
    with Agent(lambda directory: cloud.configuration(vps, directory, GRANT)) as agent:
        agent.start().until_ready()
        readers = [Reader(agent.app, over) for _ in range(READERS)]
        cycler = threading.Thread(target=_cycle, args=(agent, over))
        cycler.start()
        try:
            while number < rotations or not _enough(agent, readers):
                number += 1
                value = str(number).encode()
                cloud.deployment.rotate(vps, {"USER": value, "PASSWORD": value})
            last = str(number)
            agent.until(lambda: agent.get("/v1/secrets/USER").body.decode() == last, 30)
            bundle = agent.get("/v1/bundle").json["secrets"]
        finally:
            over.set()
            for reader in readers:
                reader.join()
            cycler.join()
        assert bundle == {"USER": last, "PASSWORD": last}
        seen = set[tuple[str, str]]().union(*(reader.pairs for reader in readers))
        assert [pair for pair in seen if pair[0] != pair[1]] == []


def _enough(agent: Agent, readers: list[Reader]) -> bool:
    """Return whether readers had many bundles, of several rotations, while many cycles ended."""
    bundles = sum(reader.bundles for reader in readers)
    several = max(len(reader.pairs) for reader in readers)
    return bundles > 500 and several > 3 and agent.status()["cycles"]["total"] > 10


def _cycle(agent: Agent, over: threading.Event) -> None:
    """Ask for one cycle after the other, faster than the poll."""
    while not over.wait(0.05):
        ask(agent.control, "POST", "/v1/refresh")
