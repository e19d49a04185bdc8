"""How long a VPS that is revoked can read on, by what is done, with Barbican's cache of tokens as shipped.

A token that Barbican has answered before is trusted until its cache ends (``token_cache_time``); of one that
it has not seen Keystone is asked. So a user who is disabled reads on for so long by the first; an ACL that
names nobody ends both at once. ``vps revoke`` does both.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from keystoneauth1 import exceptions as keystone_errors
from keystoneauth1.session import Session

from deployer.cli.client import wake_worker
from deployer.database import blueprints, vpses
from lab.bench_deployer.figures import Figure
from lab.testbed import join
from lab.testbed.cloud import Cloud
from lab.testbed.running import UnixConnection
from lab.testbed.site import Site
from lab.testbed.testbed import Options

if TYPE_CHECKING:
    from collections.abc import Callable

SHIPPED_S: Final = 300
"""keystonemiddleware's default of token_cache_time."""
WAIT_S: Final = 600.0
EACH_S: Final = 0.05
BLUEPRINT: Final = '[JWT_SECRET]\nkind = "random"\nrotate = "30d"\n'
ACTOR: Final = "bench"
_OK: Final = 200


class Vps:
    """One that has joined, and whose credential somebody else has, too."""

    def __init__(self, site: Site, vps_id: str) -> None:
        self._site = site
        self.vps_id = vps_id
        with site.database.write() as c:
            blueprints.put(c, time.time(), "backend", BLUEPRINT, ACTOR)
            vpses.wish(c, time.time(), vps_id, "backend", labels={}, actor=ACTOR)
        site.wake(vps_id)
        wait(lambda: bool(self._container))
        told = self._ask("/claim")
        self._credential = join.join(
            site.cloud.auth_url,
            told["userId"],
            told["oneTimePassword"],
            site.tenant.runtime_id,
            self._until_let_in,
        ).credential
        wait(lambda: self.reads(self.token()))

    def _until_let_in(self) -> None:
        wait(lambda: bool(self._ask("/observe")["claimed"]))

    @property
    def _container(self) -> str:
        with self._site.database.read() as c:
            row = vpses.get(c, self.vps_id)
        return row.container or "" if row else ""

    def disable(self) -> None:
        """Have its user disabled, and no ACL changed."""
        self._ask("/disable")

    def token(self) -> str:
        """Return a token that Barbican has not seen."""
        return str(self._site.cloud.accounts.log_in_with(self._credential).get_token())

    def reads(self, token: str) -> bool:
        """Read the container with a token."""
        url = f"{self._site.cloud.testbed.places.barbican_url}/v1/containers/{self._container}"
        headers = {"X-Auth-Token": token, "Accept": "application/json"}
        answer = Session().get(url, headers=headers, authenticated=False, raise_exc=False, log=False)
        return bool(answer.status_code == _OK)

    def _ask(self, what: str) -> Any:
        connection = UnixConnection(self._site.folder / "registrar.sock", WAIT_S)
        with contextlib.closing(connection):
            connection.request("POST", f"/vps/{self.vps_id}{what}")
            answer = connection.getresponse()
            content = json.loads(answer.read())
        if answer.status != _OK:
            raise SystemExit(f"bench: the registrar: {content['detail']}")
        return content


def wait(condition: Callable[[], bool]) -> float:
    """Wait for a condition; return how long that took (s)."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > WAIT_S:
            raise SystemExit(f"bench: waited {WAIT_S:.0f} s in vain")
        time.sleep(EACH_S)
    return time.monotonic() - began


def measure(cache_s: int = SHIPPED_S) -> list[Figure]:
    """Revoke one VPS as ``vps revoke`` does; disable the user of another one, and no more."""
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(Cloud(Options(token_cache_time=cache_s)))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-revocation-")))
        site = stack.enter_context(Site(cloud, place, worker='sweep = "1s"\n'))
        site.start("deployer.worker", place / "worker.sock")
        revoked, disabled = Vps(site, "vps-revoked"), Vps(site, "vps-disabled")
        return [*_revoke(site, revoked), *_disable(disabled, cache_s)]


def _revoke(site: Site, vps: Vps) -> list[Figure]:
    """From the order until nothing answers: a token that Barbican knows, one that it does not, a login."""
    known, new = vps.token(), vps.token()
    wait(lambda: vps.reads(known))  # so that Barbican knows it
    began = time.monotonic()
    with site.database.write() as c:
        vpses.order(c, time.time(), vps.vps_id, "revoked", ACTOR)
    wake_worker(site.folder / "worker.sock")
    wait(lambda: not vps.reads(known))
    ended = time.monotonic() - began
    wait(lambda: not vps.reads(new) and not _logs_in(vps))
    what = "vps revoke: order to"
    return [
        Figure(f"{what} a token that Barbican knows reads nothing", ended, "s"),
        Figure(f"{what} nothing reads, and nobody logs in", time.monotonic() - began, "s", most=60.0),
    ]


def _disable(vps: Vps, cache_s: int) -> list[Figure]:
    """From the user's being disabled, with its ACLs as they were."""
    known, new = vps.token(), vps.token()
    wait(lambda: vps.reads(known))  # so that Barbican knows it
    vps.disable()
    began = time.monotonic()
    wait(lambda: not vps.reads(new))
    unknown = time.monotonic() - began
    wait(lambda: not vps.reads(known))
    what = f"user disabled only, cache {cache_s} s: a token that Barbican"
    return [
        Figure(f"{what} does not know reads nothing", unknown, "s"),
        Figure(f"{what} knows reads nothing", time.monotonic() - began, "s"),
    ]


def _logs_in(vps: Vps) -> bool:
    try:
        return bool(vps.token())
    except keystone_errors.ClientException:
        return False
