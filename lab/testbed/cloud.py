"""A real cloud with the accounts of isolation model A+ in it, for the demo, the tests and the benchmark."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from deployer.cloud.accounts import (
    ACKNOWLEDGING_RULES,
    DEPLOYER_RULES,
    LISTING_RULES,
    RUNTIME_RULES,
    Accounts,
    ApplicationCredential,
    User,
)
from deployer.cloud.secrets import Deployment, Vps
from lab.testbed.testbed import REGION, Options, Testbed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """A VPS's runtime account: its user and what its agent logs in with."""

    user: User
    credential: ApplicationCredential = field(repr=False)


class Cloud:
    """Keystone, Barbican and the deployment service's account; ``vps`` makes a VPS with its secrets."""

    def __init__(self, options: Options | None = None) -> None:
        self.testbed = Testbed(options)
        self.accounts: Accounts
        self.deployment: Deployment
        self.deployer: ApplicationCredential
        self.runtime: dict[str, Account] = {}

    def start(self) -> Self:
        """Start both services and make the accounts that are not a VPS's."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.testbed.close)
            self._start()
            undo.pop_all()
        return self

    def _start(self) -> None:
        places = self.testbed.start().places
        plugin = v3.Password(
            auth_url=places.auth_url,
            username="admin",
            password=places.admin_password,
            project_name="admin",
            user_domain_id="default",
            project_domain_id="default",
        )
        self._ca = str(places.ca_file) if places.ca_file else True
        self.accounts = Accounts(Session(auth=plugin, verify=self._ca), places.auth_url)
        deployer = self.accounts.deployer()
        session = self.accounts.log_in(deployer, verify=self._ca)
        self.deployer = self.accounts.application_credential(deployer, session, "deploy", DEPLOYER_RULES)
        self.deployer_session = self.accounts.log_in_with(self.deployer, verify=self._ca)
        self.deployment = Deployment(self.deployer_session, places.barbican_url)

    def deployment_token(self) -> str:
        """Return a token of the deployment's account, for a program of its own."""
        return str(self.deployer_session.get_token())

    @property
    def auth_url(self) -> str:
        """Keystone's address."""
        return self.testbed.places.auth_url

    def vps(
        self, vps_id: str, values: Mapping[str, bytes], *, lists: bool = False, acknowledges: bool = False
    ) -> Vps:
        """Make a VPS: account, credential, container and secrets.

        ``lists``: it may list what it may read; ``acknowledges``: it may say in its container what it serves.
        """
        user = self.accounts.runtime(vps_id, lists=lists)
        self.new_credential(vps_id, user, lists=lists, acknowledges=acknowledges)
        vps = self.deployment.create_vps(vps_id, user.id)
        if values:
            self.deployment.rotate(vps, values)
        return vps

    def new_credential(
        self,
        vps_id: str,
        user: User,
        expires_in: float | None = None,
        *,
        lists: bool = False,
        acknowledges: bool = False,
    ) -> None:
        """Make another application credential for a VPS, the one of :meth:`configuration` from now on.

        ``expires_in`` is in seconds.
        """
        at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=expires_in or 0.0)
        credential = self.accounts.application_credential(
            user,
            self.session_of(user),
            f"agent-{os.urandom(4).hex()}",
            tuple(
                dict.fromkeys(
                    (LISTING_RULES if lists else RUNTIME_RULES)
                    + (ACKNOWLEDGING_RULES if acknowledges else ())
                )
            ),
            None if expires_in is None else at.strftime("%Y-%m-%dT%H:%M:%S"),
        )
        self.runtime[vps_id] = Account(user, credential)

    def session_of(self, user: User, **more: Any) -> Session:
        """Return a session of a user's own."""
        return self.accounts.log_in(user, verify=self._ca, **more)

    def configuration(self, vps: Vps, directory: Path, extra: str = "") -> str:
        """Return an agent's configuration for the VPS, with its credential in a file in ``directory``.

        ``extra`` is TOML that comes last: further tables.
        """
        account = self.runtime[vps.vps_id]
        secret = directory / "keystone-credential"
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(account.credential.secret)
        ca = self.testbed.places.ca_file
        return (
            f'vps_id = "{vps.vps_id}"\n'
            f'container = "{vps.container_ref}"\n'
            "[keystone]\n"
            f'auth_url = "{self.auth_url}"\n'
            f'application_credential_id = "{account.credential.id}"\n'
            f'credential_file = "{secret}"\n'
            f'region = "{REGION}"\n'
            + (f'ca_file = "{ca}"\n' if ca else "")
            + f'[app]\nsocket = "{directory}/app.sock"\n'
            f'[control]\nsocket = "{directory}/control.sock"\n{fleet_of_one(extra)}'
        )

    def close(self) -> None:
        """End both services and remove every file."""
        self.testbed.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def fleet_of_one(extra: str) -> str:
    """Return further tables of a configuration, so that the agent waits for no others unless they say so."""
    if "fleet_size" in extra:
        return extra
    head, table, rest = extra.partition("[rotation]\n")
    return f"{head}[rotation]\nfleet_size = 1\n{rest}" if table else f"{extra}[rotation]\nfleet_size = 1\n"
