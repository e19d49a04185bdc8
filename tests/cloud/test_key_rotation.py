"""A VPS takes its next sealing key: its agent opens what is sealed to both, the deployer seals to the next.

Real Keystone, Barbican, deployer and agent; joined by ``vps-secrets join``, driven by ``vps-secrets-renew``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agent.core.renewal import DAY_S
from agent.identity import credential_file, sealing_chain
from common import sealing_key
from common.names import Version
from lab.testbed import first_boot
from lab.testbed.join import private_file
from lab.testbed.running import ROOT, Agent
from lab.testbed.site import Site
from tests.integration.drilling import Command, Joined, barbican, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.cloud import Cloud

DEADLINE_S = 180.0
VPS = "vps-keys-001"
ROTATING = frozenset({"JWT_SECRET", "SESSION_SECRET"})
NAMES = ROTATING | {"ENCRYPTION_KEY"}
TABLES = """[app]
socket = "{at}/app.sock"
[control]
socket = "{at}/control.sock"
[rotation]
poll_interval = "24h"
fleet_size = 1
[[grant]]
user = "root"
secrets = ["*"]
"""
LAST_STEPS = 14
"""Of a run that takes the next key: those that it takes for the key, and some before."""


class Vps:
    """One that has joined, with its agent, which gets its credentials as systemd gives them."""

    def __init__(self, site: Site) -> None:
        self.site, self.run = site, Command(site)
        first_boot.wished(site, VPS)
        Joined(site, "machine", first_boot.claim_in_file(site, VPS))
        self.etc = site.folder / "machine" / "etc"
        self.agent = Agent(self._configuration)

    def _configuration(self, directory: Path) -> str:
        """Return the agent's configuration, and have the renewal find its socket."""
        tables = TABLES.format(at=directory)
        text = (self.etc / "agent.toml").read_text().partition("\n[app]\n")[0] + "\n"
        (self.etc / "agent.toml").write_text(f"{text}{tables}")
        self._place = directory
        self.follow()
        text = text.replace(
            'credential = "keystone-credential"', f'credential_file = "{directory}/credential"'
        )
        text = text.replace('socket = "/run/vps-secrets/fetch.sock"\n', "")  # it starts fetch itself
        return text.replace("[fetch]\n", f'[fetch]\nsealing_key_file = "{directory}/keys"\n') + tables

    def follow(self) -> None:
        """Have the next fetch get what is in force."""
        for name, file in ((credential_file.KEYSTONE_CREDENTIAL, "credential"), ("sealing-key", "keys")):
            private_file(self._place / file, (credential_file.read(name, self.etc) or b"").decode())

    def renew(self, *options: str, die_after: int = 0, days: float = 0) -> subprocess.CompletedProcess[str]:
        """Run the renewal, so many days later."""
        command = [sys.executable, "-m", "lab.testbed.renewing", str(self.etc), str(die_after)]
        return subprocess.run(
            [*command, str(days * DAY_S), *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def opened_by(self) -> dict[str, str]:
        """Read, and return which key has opened what is served."""
        self.agent.ask_control("/v1/refresh", "POST")
        return {one["name"]: one["openedBy"] for one in self.agent.status()["secrets"]}

    def keys(self) -> list[str]:
        """Return what tells the keys that fetch has, the one in force first."""
        held = [sealing_key.parse(line) for line in sealing_chain.lines(self.etc)]
        return [sealing_key.id_of(one.key) for one in held if one]

    def announced(self) -> list[str]:
        """Return the announcements of keys in its container."""
        found = barbican(self.site).container(VPS, Version(self.shown("container")))
        return [url for url in found.consumers if sealing_key.announced_by(url)]

    def shown(self, what: str) -> str:
        """Return what the deployer says of it."""
        return str(json.loads(self.run("vps", "show", VPS, "--json"))["vps"][what])

    def until_opened(self, wanted: dict[str, str]) -> None:
        """Wait until all of this is served, opened by these keys."""
        self.agent.until(lambda: self.opened_by() == wanted, DEADLINE_S)

    def until_resealed(self) -> None:
        """Wait until what rotates is opened by the key in force."""
        in_force = self.keys()[0]
        self.site.wake(VPS)
        self.agent.until(lambda: {self.opened_by().get(name) for name in ROTATING} == {in_force}, DEADLINE_S)


@pytest.fixture
def vps(cloud: Cloud, tmp_path: Path) -> Iterator[Vps]:
    """A VPS that serves."""
    with Site(cloud, tmp_path, worker='sweep = "1s"\n', registrar=False, sealing="required") as site:
        site.serve(first_boot.BLUEPRINT)
        made = Vps(site)
        with made.agent as agent:
            agent.start()
            (first,) = made.keys()
            made.until_opened(dict.fromkeys(NAMES, first))
            yield made


def next_key(vps: Vps) -> None:
    """Have it take the next key, and the deployer seal to it."""
    done = vps.renew("--new-key")
    assert done.returncode == 0, done.stderr
    vps.follow()
    vps.site.wake(VPS)  # it would look within a quarter of an hour


@pytest.mark.timeout(900)
def test_the_next_key_with_an_overlap(vps: Vps) -> None:
    """What rotates is made anew for it; what does not is opened with the former, which stays as long."""
    (first,) = vps.keys()
    versions = {one["name"]: one["version"] for one in vps.agent.status()["secrets"]}
    next_key(vps)
    second, former = vps.keys()
    assert (second != first, former) == (True, first)
    chain = sealing_chain.read(vps.etc)
    assert chain is not None
    assert vps.announced() == [chain.announced[1].consumer["URL"]]
    vps.until_opened({**dict.fromkeys(ROTATING, second), "ENCRYPTION_KEY": first})
    now = {one["name"]: one["version"] for one in vps.agent.status()["secrets"]}
    assert {name for name in NAMES if now[name] == versions[name]} == {"ENCRYPTION_KEY"}
    assert vps.shown("state") in {"listed", "serving"}
    until(lambda: "former key of the VPS" in vps.run("vps", "show", VPS))
    vps.agent.stop()
    vps.agent.start()  # it holds nothing any more, and opens both again
    vps.until_opened({**dict.fromkeys(ROTATING, second), "ENCRYPTION_KEY": first})
    assert vps.renew(days=61).returncode == 0
    assert vps.keys() == [second, first], "it is needed still"
    vps.follow()
    vps.run("rotate", VPS, "ENCRYPTION_KEY", "--reason", "test", "--no-wait")
    vps.until_opened(dict.fromkeys(NAMES, second))
    done = vps.renew(days=122)
    assert done.returncode == 0, done.stderr
    assert vps.keys() == [second]
    assert "the former sealing key is dropped" in done.stderr


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_killed_between_any_two_steps(vps: Vps) -> None:
    """The agent reads on; the next run, an hour later, does what is left; one key is announced then."""
    total = int(vps.renew("--new-key").stderr.splitlines()[-1])
    for die_after in range(total - LAST_STEPS, total + LAST_STEPS):
        vps.follow()
        vps.until_resealed()
        sealing_chain.put(sealing_chain.lines(vps.etc)[:1], vps.etc)  # as weeks later
        killed = vps.renew("--new-key", die_after=die_after)
        vps.follow()
        assert vps.opened_by().keys() >= ROTATING
        if killed.returncode == 0:
            break
        assert killed.returncode == -9, killed.stderr
        done = vps.renew()
        assert done.returncode == 0, (die_after, done.stderr)
        chain = sealing_chain.read(vps.etc)
        assert chain is not None
        number = chain.number_of(sealing_chain.lines(vps.etc)[0])
        assert number is not None
        assert vps.announced() == [chain.announced[number].consumer["URL"]]
        assert vps.shown("state") != "two-keys"
    else:
        pytest.fail("it never came to its end")
