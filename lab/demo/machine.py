"""A VPS of the demo: it claims its identity as a new machine does, and runs the real agent."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from common import sealing, sealing_key
from deployer.cloud.accounts import ACKNOWLEDGING_RULES
from deployer.database import vpses
from lab.testbed import join
from lab.testbed.running import Agent

if TYPE_CHECKING:
    from pathlib import Path

    from lab.demo.application import Application
    from lab.testbed.site import Site

JOIN_S = 60.0


class Machine:
    """One VPS. ``user_data`` is what the portal got for it."""

    def __init__(self, site: Site, user_data: str) -> None:
        claim: dict[str, Any] = json.loads(user_data)
        self.vps_id = str(claim["vps"])
        self.container = str(claim["container"])
        self._site = site
        self._claim = claim
        self._private, self._public = sealing.new_key()
        self.agent: Agent
        self.application: Application

    def join(self) -> None:
        """Change the one-time password, wait until the registrar has seen it, make a credential and a key."""
        self._joined = join.join(
            self._site.cloud.auth_url,
            self._claim["userId"],
            self._claim["oneTimePassword"],
            self._site.tenant.runtime_id,
            self._until_unlocked,
            rules=ACKNOWLEDGING_RULES,
        )
        session = self._site.cloud.accounts.log_in_with(self._joined.credential)
        url = f"{self._site.cloud.testbed.places.barbican_url}/v1/containers/{self.container}/consumers"
        session.post(url, json=sealing_key.announcement_of(self._public), log=False)

    def _until_unlocked(self) -> None:
        """Wait until the worker has seen the claim, by the registrar."""
        end = time.monotonic() + JOIN_S
        while True:
            with self._site.database.read() as c:
                row = vpses.get(c, self.vps_id)
            if row is not None and row.state == "waiting-for-key":
                return
            if time.monotonic() > end:
                raise SystemExit(f"demo: the claim of {self.vps_id} was not seen")
            time.sleep(0.1)

    def start(self, user: str) -> Agent:
        """Start the agent; ``user`` may read everything."""
        self._grant = f'[[grant]]\nuser = "{user}"\nsecrets = ["*"]\n'
        self.agent = Agent(self._configuration)
        return self.agent.start().until_ready()

    def new_container(self) -> str:
        """Return the container that the deployer knows now."""
        with self._site.database.read() as c:
            row = vpses.get(c, self.vps_id)
        return row.container if row else ""

    def restart(self) -> None:
        """Do what configuration management does when the container is another one."""
        self.container = self.new_container()
        self.agent.stop()
        self.agent.configuration.write_text(self._configuration(self.agent.directory))
        self.agent.start()

    def serves(self, name: str) -> bool:
        """Return whether the agent serves a secret."""
        return name in {one["name"] for one in self.agent.status()["secrets"]}

    def _configuration(self, directory: Path) -> str:
        key = join.private_file(directory / "sealing-key", sealing_key.encoded(self._private))
        given = (self._site.cloud, self.vps_id, self.container, self._joined.credential)
        written = join.agent_configuration(*given, directory)
        sealed = f'require_sealed = true\nsealing_key_file = "{key}"\n'
        return f'{written}{sealed}[staleness]\nrevocation_grace = "5s"\n{self._grant}'
