"""What a new VPS does with its one-time password, for tests and the demo.

It changes the password to one that only it knows, waits until the registrar has seen that and unlocked it,
deletes whatever it did not make itself, and makes its application credential: reader only, with access rules.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from deployer.cloud.accounts import REVOCATION_SECOND_S, RUNTIME_RULES, ApplicationCredential, Rule
from deployer.cloud.calls import call
from deployer.cloud.identity import Identity
from lab.testbed.testbed import REGION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lab.testbed.cloud import Cloud

LIFE: timedelta = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Joined:
    """What the VPS has now."""

    user_id: str
    credential: ApplicationCredential
    deleted: tuple[str, ...]
    """Paths of what was there and not its own: somebody else had been there."""
    password: str = field(repr=False)


def join(
    auth_url: str,
    user_id: str,
    one_time_password: str,
    project_id: str,
    until_unlocked: Callable[[], None],
    *,
    verify: str | bool = True,
    rules: Sequence[Rule] = RUNTIME_RULES,
) -> Joined:
    """Take the user over. ``until_unlocked`` returns when the registrar has unlocked it.

    Raises:
        CloudError: a call was refused; of the first one, the one-time password is not in force any more.
    """
    password = secrets.token_urlsafe(32)
    Identity(Session(verify=verify), auth_url).change_password(user_id, one_time_password, password)
    time.sleep(REVOCATION_SECOND_S)
    until_unlocked()
    login = v3.Password(auth_url=auth_url, user_id=user_id, password=password, project_id=project_id)
    session = Session(auth=login, verify=verify)
    deleted = tuple(_delete_others(session, auth_url, user_id))
    return Joined(user_id, _credential(session, auth_url, user_id, rules), deleted, password)


def agent_configuration(
    cloud: Cloud, vps_id: str, container: str, credential: ApplicationCredential, directory: Path
) -> str:
    """Return the agent.toml of a VPS that has joined: without grants, [fetch] last. Write its credential."""
    secret = private_file(directory / "keystone-credential", credential.secret)
    places = cloud.testbed.places
    return (
        f'vps_id = "{vps_id}"\n'
        f'container = "{places.barbican_url}/v1/containers/{container}"\n'
        f'[keystone]\nauth_url = "{places.auth_url}"\nregion = "{REGION}"\n'
        f'application_credential_id = "{credential.id}"\n'
        f'credential_file = "{secret}"\n'
        f'[app]\nsocket = "{directory}/app.sock"\n[control]\nsocket = "{directory}/control.sock"\n'
        '[rotation]\npoll_interval = "1s"\nfleet_size = 1\n'
        "[fetch]\nacknowledge = true\n"
    )


def private_file(path: Path, content: str) -> Path:
    """Write what only the agent may read; with the package systemd gives it, decrypted."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    return path


def _delete_others(session: Session, auth_url: str, user_id: str) -> list[str]:
    """Delete every credential and trust of the user, which has made none yet; return their paths."""
    mine = f"/users/{user_id}"
    places = (
        (f"{mine}/application_credentials", f"{mine}/application_credentials", "id"),
        (f"{mine}/credentials/OS-EC2", f"{mine}/credentials/OS-EC2", "access"),
        (f"/credentials?user_id={user_id}", "/credentials", "id"),
        (f"/OS-TRUST/trusts?trustor_user_id={user_id}", "/OS-TRUST/trusts", "id"),
    )
    gone = []
    for listing, path, key in places:
        listed = call(session, "GET", auth_url + listing, "list what the user has", (200,))
        kind = {"OS-EC2": "credentials"}.get(path.rpartition("/")[2], path.rpartition("/")[2])
        # place by place: an EC2 credential is listed among the others, too
        for item in json.loads(listed.body)[kind]:
            one = f"{path}/{item[key]}"
            call(session, "DELETE", auth_url + one, "delete what the VPS did not make", (204,))
            gone.append(one)
    return gone


def _credential(
    session: Session, auth_url: str, user_id: str, rules: Sequence[Rule]
) -> ApplicationCredential:
    wanted: dict[str, Any] = {
        "name": "vps-secrets-1",
        "roles": [{"name": "reader"}],
        "expires_at": (datetime.now(UTC) + LIFE).strftime("%Y-%m-%dT%H:%M:%S"),
        "access_rules": [
            {
                "service": "identity" if path.startswith("/v3/") else "key-manager",
                "method": method,
                "path": path,
            }
            for method, path in rules
        ],
    }
    path = f"{auth_url}/users/{user_id}/application_credentials"
    body = {"application_credential": wanted}
    made = call(session, "POST", path, "make the VPS's application credential", (201,), json=body)
    credential = json.loads(made.body)["application_credential"]
    return ApplicationCredential(credential["id"], credential["secret"])
