"""``drill``: plays two recoveries on a VPS of its own, on the real cloud, and says how long each took.

It wants a VPS, deletes one of its secrets and then its container behind the deployer's back, as a mistaken
person would, has the worker look, and retires the VPS again. No other VPS is touched.
"""

from __future__ import annotations

import getpass
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.durations import span
from deployer.cli import screen
from deployer.cli.client import NO, OK, ApiError, wake_worker
from deployer.config import reader
from deployer.config.zones import zone
from deployer.core import blueprint
from deployer.database import blueprints, vpses
from deployer.database.engine import open_database
from deployer.worker import opening

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from common.names import SecretName, Version
    from deployer.cloud.barbican import Barbican
    from deployer.database.engine import Database

OWN_KINDS: Final = frozenset({"random", "password", "keypair"})
"""Those that reach no third party."""
POLL_S: Final = 0.2


def run(options: argparse.Namespace) -> int:
    """Play it; exit with 1 where something did not come back in time.

    Raises:
        ApiError: the VPS is there already, the blueprint is not fit, or something took too long.
        VpsSecretsError: the configuration, a credential, the cloud, or the database.
    """
    config = reader.load(options.config)
    drill = _Drill(
        open_database(config.database), opening.barbican(config), config.worker.socket.path, options
    )
    try:
        drill.begin()
        try:
            drill.play()
        finally:
            drill.end()
    finally:
        drill.database.close()
    if options.json:
        screen.document({"vps": options.vps, "seconds": drill.took})
    else:
        rows = [(what, f"{seconds:.1f} s", span(options.most)) for what, seconds in drill.took.items()]
        screen.table(("WHAT", "TOOK", "AT MOST"), rows)
    return NO if any(seconds > options.most for seconds in drill.took.values()) else OK


@dataclass
class _Drill:
    """One drill, with the seconds that each part took."""

    database: Database
    barbican: Barbican
    worker: Path
    """Its socket."""
    options: argparse.Namespace
    took: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Want the VPS, unless there is one of this id."""
        vps_id, name = self.options.vps, self.options.blueprint
        with self.database.write() as c:
            kept = blueprints.get(c, name)
            if kept is None:
                raise ApiError(f"no blueprint {name} has been applied; nothing was done", NO)
            wanted = blueprint.parse(kept.text.encode(), Path(f"{name}.toml"), zone)
            if any(spec.kind not in OWN_KINDS for spec in wanted.secrets.values()):
                kinds = ", ".join(sorted(OWN_KINDS))
                raise ApiError(f"{name} is not fit for a drill: only the kinds {kinds} reach nobody else", NO)
            rotating = [secret for secret, spec in wanted.secrets.items() if spec.rotate_s is not None]
            if not rotating:
                raise ApiError(f"{name} is not fit for a drill: nothing in it rotates", NO)
            if vpses.get(c, vps_id) is not None:
                raise ApiError(f"there is a VPS {vps_id} already; nothing was done", NO)
            vpses.wish(c, time.time(), vps_id, name, labels={"drill": "yes"}, actor=_actor())
        self._names = frozenset(wanted.secrets)
        self._victim: SecretName = min(rotating)

    def play(self) -> None:
        """Provision; lose a secret; lose the container."""
        whole = self._time("a VPS is provisioned", lambda found: found.keys() == self._names)
        lost = whole[self._victim]
        self.barbican.delete_secret(lost)
        whole = self._time(
            "a deleted secret is made anew",
            lambda found: found.keys() == self._names and found[self._victim] != lost,
        )
        container = self.barbican.container_named(self.options.vps)
        if container is not None:
            self.barbican.delete_container(container)
        self._time("a deleted container is made again with the same secrets", lambda found: found == whole)

    def end(self) -> None:
        """Retire the VPS, and wait until nothing of it is left."""
        with self.database.write() as c:
            vpses.order(c, time.time(), self.options.vps, "retired", _actor(), note="drill")
        wake_worker(self.worker)
        began = time.monotonic()
        while True:
            with self.database.read() as c:
                if vpses.get(c, self.options.vps) is None:
                    break
            self._in_time(began, "the VPS is retired")
        self.took["the VPS is retired"] = time.monotonic() - began

    def _time(
        self, what: str, reached: Callable[[dict[SecretName, Version]], bool]
    ) -> dict[SecretName, Version]:
        """Have the worker look, until Barbican lists what is to be; keep how long that took."""
        began = time.monotonic()
        with self.database.write() as c:
            vpses.wake(c, self.options.vps, vpses.ORDERED)
        wake_worker(self.worker)
        while not reached(found := self._listed()):
            self._in_time(began, what)
        self.took[what] = time.monotonic() - began
        return found

    def _listed(self) -> dict[SecretName, Version]:
        container = self.barbican.container_named(self.options.vps)
        if container is None:
            return {}
        listing = self.barbican.container(self.options.vps, container)
        return {entry.name: entry.version for entry in sorted(listing.entries, key=lambda entry: entry.k)}

    def _in_time(self, began: float, what: str) -> None:
        if time.monotonic() - began > self.options.timeout:
            raise ApiError(
                f"not after {span(self.options.timeout)}: {what}. Does the worker run? "
                f"See: vps-secrets-deploy vps show {self.options.vps}",
                NO,
            )
        time.sleep(POLL_S)


def _actor() -> str:
    return f"command:{getpass.getuser()}"
