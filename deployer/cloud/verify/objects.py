"""The throw-away objects: two VPSs with a user, a container and a secret each, and their removal.

Their names begin with ``verify-`` and the second in which they were made, so that a later run can remove
what one that was killed has left.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from keystoneauth1.session import Session

from common import untrusted_json
from common.names import SecretName, Version
from deployer.cloud.accounts import ApplicationCredential, Rule
from deployer.cloud.calls import call
from deployer.core.model import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from keystoneauth1.identity import v3

    from deployer.cloud.barbican import Barbican
    from deployer.cloud.identity import Identity

NAME: Final = SecretName("PROBE")
LEFT_AFTER_S: Final = 3600.0
"""What is older than this was left by a run that was killed."""
_MAX_TEXT: Final = 512
_NAMED: Final = re.compile(r"verify-([0-9]{10})-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Objects:
    """What one throw-away VPS has in Barbican."""

    vps_id: str
    container: Version
    secret: Version


@dataclass(frozen=True, slots=True)
class Vps(Objects):
    """One throw-away VPS; ``session`` is that of its agent."""

    user_id: str
    session: Session


@contextlib.contextmanager
def two(
    identity: Identity,
    barbican: Barbican,
    log_in: Callable[[str, str], ApplicationCredential],
    open_session: Callable[[ApplicationCredential], Session],
    *,
    domain_id: str,
    now: float,
) -> Iterator[tuple[Vps, Vps]]:
    """Make two VPSs, and remove them at the end, whatever happens.

    ``identity`` may make users in the VPSs' domain; ``log_in`` makes a user's application credential from
    its id and password, ``open_session`` a session of it.
    """
    with contextlib.ExitStack() as undo:

        def one() -> Vps:
            vps_id = _name(now)
            password = secrets.token_urlsafe(32)
            user = identity.make("users", vps_id, domain_id=domain_id, password=password)
            undo.callback(identity.remove, "users", user.id)
            session = open_session(log_in(user.id, password))
            made = _made(barbican, vps_id, user.id, undo)
            return Vps(vps_id, made.container, made.secret, user.id, session)

        yield one(), one()


@contextlib.contextmanager
def alone(barbican: Barbican, now: float) -> Iterator[Objects]:
    """Make what a VPS has in Barbican, for nobody, and remove it at the end: where no users can be made."""
    with contextlib.ExitStack() as undo:
        yield _made(barbican, _name(now), "", undo)


def _made(barbican: Barbican, vps_id: str, user_id: str, undo: contextlib.ExitStack) -> Objects:
    version = barbican.create_secret(vps_id, NAME)
    undo.callback(barbican.delete_secret, version)
    barbican.grant_secret(version, user_id)
    barbican.write_payload(version, secrets.token_bytes(16))
    container = barbican.create_container(vps_id, {Entry(NAME, 0, version)})
    undo.callback(barbican.delete_container, container)
    barbican.grant_container(container, user_id)
    return Objects(vps_id, container, version)


def _name(now: float) -> str:
    return f"verify-{int(now):010d}-{secrets.token_hex(4)}"


def is_left_over(name: str, now: float) -> bool:
    """Return whether something of this name was left by a run that was killed."""
    match = _NAMED.fullmatch(name.partition("/")[0])
    return match is not None and now - int(match[1]) > LEFT_AFTER_S


def is_throw_away(name: str) -> bool:
    """Return whether something is a throw-away object of any run."""
    return _NAMED.fullmatch(name.partition("/")[0]) is not None


def agent_credential(
    login: v3.Password, auth_url: str, user_id: str, role: str, rules: Sequence[Rule], *, verify: Any
) -> ApplicationCredential:
    """Make an application credential as a VPS does: of one role, with access rules.

    Raises:
        CloudError: Keystone refused it.
    """
    services = {True: "identity", False: "key-manager"}
    body = {
        "application_credential": {
            "name": "vps-secrets-verify",
            "roles": [{"name": role}],
            "access_rules": [
                {"service": services[path.startswith("/v3/")], "method": method, "path": path}
                for method, path in rules
            ],
        }
    }
    url = f"{auth_url}/users/{user_id}/application_credentials"
    answer = call(Session(auth=login, verify=verify), "POST", url, "make a credential", (201,), json=body)
    found: ApplicationCredential = answer.read(_credential)
    return found


def _credential(untrusted: object) -> ApplicationCredential:
    answer = untrusted_json.mapping(untrusted, "the answer")
    made = untrusted_json.mapping(answer.get("application_credential"), "the credential")
    texts = [untrusted_json.text(made.get(key), key, _MAX_TEXT) for key in ("id", "secret")]
    return ApplicationCredential(*texts)
