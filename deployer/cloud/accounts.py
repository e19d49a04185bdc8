"""The accounts of isolation model A+ (docs/provisioning.md), as a cloud or domain administrator makes them.

* project ``recruitiq-secrets``: only the deployment service has a role in it, no human and no admin;
* project ``vps-runtime``: empty; one user per VPS with the role reader, which lists and creates nothing;
* each account logs in with an application credential of its own.

Every function finds what is there already before it makes anything, so it can be repeated.
Source: Identity API v3, https://docs.openstack.org/api-ref/identity/v3/
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from deployer.cloud.calls import call

if TYPE_CHECKING:
    from collections.abc import Sequence

SECRETS_PROJECT: Final = "recruitiq-secrets"
RUNTIME_PROJECT: Final = "vps-runtime"
DEPLOYER: Final = "recruitiq-deployment-service"
DEPLOYER_ROLES: Final = ("creator", "member")
"""Both, since Barbican's releases differ in which of them may create."""
RUNTIME_ROLES: Final = ("reader",)
LISTING_ROLES: Final = ("reader", "observer", "member")
"""For an agent with ``fetch.list_metadata``: observer lists up to Barbican 22, member from 23 on."""
REVOCATION_SECOND_S: Final = 1.1

Rule = tuple[str, str]
"""An access rule: HTTP method and path (``*`` is one segment)."""

LIFE_RULE: Final[Rule] = ("GET", "/v3/users/*/application_credentials/*")
"""Keystone's, to the credential's own user: when it ends."""
# GET /v1/secrets/* is missing on purpose: with Accept: text/plain it returns the payload
DEPLOYER_RULES: Final[tuple[Rule, ...]] = (
    ("GET", "/v1/secrets"),
    ("POST", "/v1/secrets"),
    ("PUT", "/v1/secrets/*"),
    ("PUT", "/v1/secrets/*/acl"),
    ("GET", "/v1/secrets/*/acl"),  # cloud verify reads every ACL
    ("GET", "/v1/secrets/*/metadata"),
    ("PUT", "/v1/secrets/*/metadata"),
    ("DELETE", "/v1/secrets/*"),
    ("GET", "/v1/containers"),
    ("POST", "/v1/containers"),
    ("GET", "/v1/containers/*"),
    ("PUT", "/v1/containers/*/acl"),
    ("GET", "/v1/containers/*/acl"),
    ("DELETE", "/v1/containers/*"),
    ("POST", "/v1/containers/*/secrets"),
    ("DELETE", "/v1/containers/*/secrets"),
    ("DELETE", "/v1/containers/*/consumers"),
    LIFE_RULE,
)
RUNTIME_RULES: Final[tuple[Rule, ...]] = (
    ("GET", "/v1/containers/*"),
    ("GET", "/v1/secrets/*"),
    ("GET", "/v1/secrets/*/payload"),
    ("GET", "/v3/users/*/application_credentials/*"),  # Keystone's, to its own user: when it expires
)
LISTING_RULES: Final[tuple[Rule, ...]] = (*RUNTIME_RULES, ("GET", "/v1/secrets"))
"""For an agent with ``fetch.list_metadata``."""
ACKNOWLEDGING_RULES: Final[tuple[Rule, ...]] = (
    *RUNTIME_RULES,
    ("POST", "/v1/containers/*/consumers"),
    ("DELETE", "/v1/containers/*/consumers"),
)
"""For an agent with ``fetch.acknowledge``; it reaches the container whose ACL names it, and no other."""


@dataclass(frozen=True, slots=True)
class User:
    """A Keystone user with its password, which nobody needs once it has an application credential."""

    name: str
    id: str
    project_id: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApplicationCredential:
    """An application credential; the secret is told by Keystone once."""

    id: str
    secret: str = field(repr=False)


class Accounts:
    """Keystone, with an administrator's ``session``."""

    def __init__(self, session: Session, auth_url: str) -> None:
        self._session = session
        self._auth_url = auth_url

    def project(self, name: str) -> str:
        """Return the id of a project, made if need be."""
        return self._find_or_make("projects", name, {"domain_id": "default"})

    def role(self, name: str) -> str:
        """Return the id of a role, made if need be."""
        return self._find_or_make("roles", name, {})

    def user(self, name: str, project: str, roles: Sequence[str]) -> User:
        """Return a user with these roles in one project, and a new random password."""
        password = secrets.token_urlsafe(32)
        user_id = self._find("users", name)
        if user_id is None:
            user_id = self._make("users", name, {"domain_id": "default", "password": password})
        else:
            self._call("PATCH", f"/users/{user_id}", "set a new password", {"user": {"password": password}})
            # Keystone revokes every token of the second in which a password changes, also newer ones
            time.sleep(REVOCATION_SECOND_S)
        project_id = self.project(project)
        for role in roles:
            path = f"/projects/{project_id}/users/{user_id}/roles/{self.role(role)}"
            self._call("PUT", path, f"give {name} the role {role}")
        return User(name, user_id, project_id, password)

    def deployer(self) -> User:
        """Return the deployment service's user."""
        return self.user(DEPLOYER, SECRETS_PROJECT, DEPLOYER_ROLES)

    def runtime(self, vps_id: str, *, lists: bool = False) -> User:
        """Return the user of one VPS; ``lists`` where its agent has ``fetch.list_metadata``."""
        return self.user(vps_id, RUNTIME_PROJECT, LISTING_ROLES if lists else RUNTIME_ROLES)

    def log_in(self, user: User, **session: Any) -> Session:
        """Return a session of the user's own, by its password."""
        plugin = v3.Password(
            auth_url=self._auth_url,
            user_id=user.id,
            password=user.password,
            project_id=user.project_id,
        )
        return Session(auth=plugin, **session)

    def log_in_with(self, credential: ApplicationCredential, **session: Any) -> Session:
        """Return a session by an application credential."""
        plugin = v3.ApplicationCredential(
            auth_url=self._auth_url,
            application_credential_id=credential.id,
            application_credential_secret=credential.secret,
        )
        return Session(auth=plugin, **session)

    def application_credential(
        self,
        user: User,
        session: Session,
        name: str,
        rules: Sequence[Rule] | None = None,
        expires_at: str | None = None,
        *,
        objects: Sequence[Rule] = (),
    ) -> ApplicationCredential:
        """Return a new application credential; only the user's own ``session`` may make one.

        ``rules`` are Barbican's and Keystone's, ``objects`` Swift's: without one for the beacon's path a
        runtime account can't read it. ``expires_at`` is UTC as ``2026-11-24T12:00:00``.
        """
        wanted: dict[str, Any] = {"name": name}
        if rules is not None:
            of_services = [(_service_of(path), method, path) for method, path in rules]
            of_services += [("object-store", method, path) for method, path in objects]
            wanted["access_rules"] = [
                {"service": service, "method": method, "path": path} for service, method, path in of_services
            ]
        if expires_at is not None:
            wanted["expires_at"] = expires_at
        made = self._call(
            "POST",
            f"/users/{user.id}/application_credentials",
            f"make the application credential {name}",
            {"application_credential": wanted},
            session,
        )["application_credential"]
        return ApplicationCredential(made["id"], made["secret"])

    def delete_application_credential(
        self, user: User, session: Session, credential: ApplicationCredential
    ) -> None:
        """Delete it; tokens made with it work until the services' caches have forgotten them."""
        path = f"/users/{user.id}/application_credentials/{credential.id}"
        self._call("DELETE", path, "delete the application credential", session=session)

    def application_credentials(self, user: User, session: Session) -> frozenset[str]:
        """Return the ids of all that a user has; only its own ``session`` may see them."""
        path = f"/users/{user.id}/application_credentials"
        found = self._call("GET", path, "list application credentials", session=session)
        return frozenset(str(each["id"]) for each in found["application_credentials"])

    def disable(self, user: User) -> None:
        """Shut the user out of Keystone."""
        self._call("PATCH", f"/users/{user.id}", "disable the user", {"user": {"enabled": False}})

    def service(self, name: str, kind: str, url: str, region: str, password: str) -> str:
        """Make a service of the cloud: its account in the project ``service``, its entry in the catalog.

        Returns its id, for :meth:`end_service`.
        """
        user = self.user(name, "service", ("admin",))
        self._call("PATCH", f"/users/{user.id}", "set the password", {"user": {"password": password}})
        body: dict[str, Any] = {"type": kind, "name": name}
        made = self._call("POST", "/services", f"make the service {name}", {"service": body})
        body = {"service_id": made["service"]["id"], "interface": "public", "region_id": region, "url": url}
        self._call("POST", "/endpoints", f"make the endpoint of {name}", {"endpoint": body})
        return str(made["service"]["id"])

    def end_service(self, service_id: str) -> None:
        """Take a service and its endpoints out of the catalog."""
        self._call("DELETE", f"/services/{service_id}", "take a service out of the catalog")

    def _find_or_make(self, kind: str, name: str, more: dict[str, Any]) -> str:
        return self._find(kind, name) or self._make(kind, name, more)

    def _find(self, kind: str, name: str) -> str | None:
        found = self._call("GET", f"/{kind}?name={name}", f"look for {kind} {name}")[kind]
        return str(found[0]["id"]) if found else None

    def _make(self, kind: str, name: str, more: dict[str, Any]) -> str:
        one = kind.removesuffix("s")
        made = self._call("POST", f"/{kind}", f"make {one} {name}", {one: {"name": name, **more}})
        return str(made[one]["id"])

    def _call(
        self, method: str, path: str, step: str, body: object = None, session: Session | None = None
    ) -> Any:
        """Make one call; nothing of it is logged, since it may carry a password."""
        answer = call(
            session or self._session, method, self._auth_url + path, step, range(200, 300), json=body
        )
        return answer.read(lambda read: read) if answer.body else {}


def _service_of(path: str) -> str:
    return "identity" if path.startswith("/v3/") else "key-manager"
