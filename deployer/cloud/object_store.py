"""Containers of Swift, as cloud.toml wants them: what is there, and how they are made.

A container is made and looked at by an operator of its project, which an administrator of Keystone is not. So
a user is made for these seconds, with that role there, and deleted. Its name is one of ``cloud verify``'s
throw-away objects: where this program is killed, the next verify removes it.
Source: https://docs.openstack.org/api-ref/object-store/
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deployer.cloud.calls import access, call
from deployer.cloud.errors import CloudError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystoneauth1.session import Session

    from deployer.cloud.identity import Identity

READ, WRITE, VERSIONS = "X-Container-Read", "X-Container-Write", "X-Versions-Enabled"
SERVICE: Final = "object-store"
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class Shape:
    """Who may use a container: elements of Swift's ACLs, such as ``PROJECT:USER`` by their ids."""

    read: frozenset[str] = frozenset()
    write: frozenset[str] = frozenset()
    versioned: bool = False

    def has(self, wanted: Shape) -> bool:
        """Tell whether all that is wanted is there."""
        return (
            wanted.read <= self.read
            and wanted.write <= self.write
            and (self.versioned or not wanted.versioned)
        )

    def excess(self, wanted: Shape) -> frozenset[str]:
        """Return what others may do, in words."""
        return frozenset(
            {f"read by {one}" for one in self.read - wanted.read}
            | {f"written by {one}" for one in self.write - wanted.write}
        )


@dataclass(frozen=True, slots=True)
class Account:
    """A project's account: its address, with a session that may do everything in it."""

    url: str
    session: Session

    def shape(self, container: str) -> Shape | None:
        """Return who may use a container, or None where there is none.

        Raises:
            CloudError: Swift refused, or did not answer.
        """
        step = f"look at the container {container}"
        answer = call(self.session, "HEAD", f"{self.url}/{container}", step, (200, 204, _NOT_FOUND))
        if answer.status == _NOT_FOUND:
            return None
        return Shape(
            read=_elements(answer.headers.get(READ, "")),
            write=_elements(answer.headers.get(WRITE, "")),
            versioned=answer.headers.get(VERSIONS, "").lower() == "true",
        )

    def make(self, container: str, shape: Shape) -> None:
        """Make a container, or give one that is there what it lacks; what others may do stays.

        Raises:
            CloudError: Swift refused, or did not answer.
        """
        now = self.shape(container) or Shape()
        headers = {
            READ: ",".join(sorted(now.read | shape.read)),
            WRITE: ",".join(sorted(now.write | shape.write)),
        } | ({VERSIONS: "true"} if shape.versioned else {})
        step = f"make the container {container}"
        call(self.session, "PUT", f"{self.url}/{container}", step, (201, 202), headers=headers)


def account_url(session: Session, region: str | None = None) -> str:
    """Return the address of the account of a session's project, as Keystone's catalog has it.

    Raises:
        CloudError: the login failed, or the cloud has no object store.
    """
    step = "look for the object store"
    catalog = access(session, step).service_catalog
    urls = catalog.get_urls(service_type=SERVICE, interface="public", region_name=region)
    if not urls:
        raise CloudError(step, "Keystone's catalog has none, at least for this project", retriable=False)
    return str(urls[0]).rstrip("/")


@contextlib.contextmanager
def operating(
    identity: Identity, *, role: str, project_id: str, domain_id: str, region: str | None
) -> Iterator[Account]:
    """Give a project's account to a user of these seconds, in the domain of the VPS users.

    Raises:
        CloudError: the user could not be made or log in, or there is no object store.
    """
    found = identity.find("roles", role)
    if found is None:
        raise CloudError("look at containers", f"there is no role {role}", retriable=False)
    password = secrets.token_urlsafe(32)
    name = f"verify-{int(time.time()):010d}-{secrets.token_hex(4)}"
    user = identity.make("users", name, domain_id=domain_id, password=password)
    try:
        identity.grant(found.id, user.id, "project", project_id)
        session = identity.log_in(user.id, password, project_id)
        yield Account(account_url(session, region), session)
    finally:
        identity.remove("users", user.id)


def _elements(acl: str) -> frozenset[str]:
    return frozenset(one.strip() for one in acl.split(",") if one.strip())
