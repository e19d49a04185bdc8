"""Barbican, as the worker uses it: every call once, every answer checked.

No request here could return a payload: neither ``GET /v1/secrets/{id}``, which returns one for
``Accept: text/plain``, nor ``…/payload``; the account's access rules have neither (accounts.DEPLOYER_RULES).
What exists is learnt from lists, containers and metadata.

Whatever may be repeated succeeds when repeated: an entry that is there already (409), a thing that is gone
already (404). ``create_secret`` and ``create_container`` make another one each time: look first.
Every method raises :class:`CloudError`. Source: https://docs.openstack.org/barbican/latest/api/
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from common.names import entry_name
from deployer.cloud import barbican_answers as answers
from deployer.cloud.calls import Answer, call
from deployer.cloud.errors import CloudError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from keystoneauth1.session import Session

    from common.names import SecretName, Version
    from deployer.cloud.barbican_answers import Listing, Reference
    from deployer.core.model import Entry, Made, Marks

PAGE: Final = 100
"""The most that Barbican gives in one answer."""
MAX_PAGES: Final = 100
_OK: Final = (200,)
_CREATED: Final = (201,)
_GONE: Final = (204, 404)
_USER_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


class Barbican:
    """Barbican at ``url`` (without ``/v1``), with the deployment service's ``session``."""

    def __init__(self, session: Session, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/") + "/v1"
        self._base: str | None = None
        """The address that Barbican's references have, once it is known."""

    @property
    def url(self) -> str:
        """Return the address, with ``/v1``: the beginning of every reference."""
        return self._url

    def containers(self) -> dict[str, Version]:
        """Return every container of the project by its name, of two of one name the newest."""
        return {
            name: version
            for page in self._pages("/containers", "%", "list the containers")
            for name, version in page.read(answers.named_containers)
        }

    def granted_to(self, vps_id: str, container: Version) -> str:
        """Return the user whom a container's ACL names; "" is nobody. Several are refused."""
        step = f"read the ACL of the container of {vps_id}"
        users = self._call("GET", f"/containers/{container}/acl", step, _OK).read(answers.readers)
        if len(users) > 1:
            raise CloudError(step, f"it names {len(users)} users: leave the VPS's own only", retriable=False)
        return "".join(users)

    def container_named(self, vps_id: str) -> Version | None:
        """Return the container of a VPS, or None; two of one name are refused."""
        step = f"look for the container of {vps_id}"
        found = [
            version
            for page in self._pages("/containers", vps_id, step)
            for version in page.read(lambda listed: answers.containers(listed, vps_id))
        ]
        if len(found) > 1:
            reason = (
                f"there are {len(found)} containers of this name: delete those that its agent does not read"
            )
            raise CloudError(step, reason, retriable=False)
        return found[0] if found else None

    def container(self, vps_id: str, version: Version) -> Listing:
        """Return what the container of this VPS lists, and who has registered there.

        Refused: another VPS's container, an entry that is not this VPS's, a reference to another place.
        """
        answer = self._call("GET", f"/containers/{version}", f"read the container of {vps_id}", _OK)
        listing: Listing = answer.read(lambda read: answers.container(read, vps_id, version))
        return listing

    def made(self, vps_id: str, name: SecretName) -> frozenset[Made]:
        """Return all versions of a name, listed or not; without their marks (see :meth:`marks`)."""
        full = entry_name(vps_id, name, 0)
        found: set[Made] = set()
        for page in self._pages("/secrets", full, f"look for the versions of {full}"):
            found |= page.read(lambda listed: answers.versions(listed, full, name))
        return frozenset(found)

    def marks(self, version: Version) -> Marks | None:
        """Return a version's marks, or None where it has none, or somebody else's."""
        answer = self._call("GET", f"/secrets/{version}/metadata", f"read the marks of {version}", _OK)
        marks: Marks | None = answer.read(answers.marks)
        return marks

    def create_secret(self, vps_id: str, name: SecretName, expires: float | None = None) -> Version:
        """Make a version without payload and return it. ``expires`` is Unix time (s).

        Grant it before its payload is written: until then any colleague in the project could read it.
        """
        full = entry_name(vps_id, name, 0)
        body: dict[str, Any] = {"name": full, "secret_type": "opaque"}
        if expires is not None:
            body["expiration"] = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = self._call("POST", "/secrets", f"make a version of {full}", _CREATED, json=body)
        made: Reference = answer.read(answers.new_secret)
        self._base = made.base
        return made.id

    def grant_secret(self, version: Version, user_id: str) -> None:
        """Let this user read a version, and nobody else; "" is nobody."""
        self._grant(f"/secrets/{version}", user_id, f"set the ACL of {version}")

    def write_payload(self, version: Version, payload: bytes | bytearray | memoryview) -> None:
        """Write the value, once; a version that has one is refused (409): whose it is can't be known."""
        if not len(payload):
            raise CloudError(f"write the payload of {version}", "it is empty", retriable=False)
        self._call(
            "PUT",
            f"/secrets/{version}",
            f"write the payload of {version}",
            (204,),
            data=payload,
            headers={"Content-Type": "application/octet-stream"},
        )

    def mark(self, version: Version, marks: Marks) -> None:
        """Mark a version as ready to be listed: last, when everything else is done."""
        body = {"metadata": answers.written(marks)}
        self._call("PUT", f"/secrets/{version}/metadata", f"mark {version} as ready", _CREATED, json=body)

    def create_container(self, vps_id: str, entries: Iterable[Entry]) -> Version:
        """Make the VPS's container with these entries and return it; nobody else can read it yet."""
        step = f"make the container of {vps_id}"
        listed = sorted(entries, key=_order)
        if listed and self._base is None:  # here, and only here, Barbican compares the whole reference
            self._base = self._call("GET", "/secrets", step, _OK, params={"limit": 1}).read(answers.any_base)
        secret_refs = [self._written(vps_id, entry) for entry in listed]
        body = {"name": vps_id, "type": "generic", "secret_refs": secret_refs}
        answer = self._call("POST", "/containers", step, _CREATED, json=body)
        version: Version = answer.read(answers.new_container)
        return version

    def grant_container(self, version: Version, user_id: str) -> None:
        """Let this user read the container, and nobody else; "" is nobody."""
        self._grant(f"/containers/{version}", user_id, f"set the ACL of the container {version}")

    def add_entry(self, vps_id: str, container: Version, entry: Entry) -> None:
        """Add a line to the container.

        An entry that was there once can't be added again under its old k: Barbican answers 500.
        """
        body = self._written(vps_id, entry)
        step = f"add the entry {body['name']}"
        self._call("POST", f"/containers/{container}/secrets", step, (201, 409), json=body)

    def remove_entry(self, vps_id: str, container: Version, entry: Entry) -> None:
        """Take a line away from the container; the version stays."""
        body = self._written(vps_id, entry)
        step = f"remove the entry {body['name']}"
        self._call("DELETE", f"/containers/{container}/secrets", step, _GONE, json=body)

    def delete_secret(self, version: Version) -> None:
        """Delete a version with its payload, for ever."""
        self._call("DELETE", f"/secrets/{version}", f"delete the version {version}", _GONE)

    def delete_container(self, version: Version) -> None:
        """Delete a container; what it lists stays."""
        self._call("DELETE", f"/containers/{version}", f"delete the container {version}", _GONE)

    def delete_consumer(self, vps_id: str, container: Version, url: str) -> None:
        """Delete whoever has registered in the container with this URL, under whatever name."""
        step = f"read the consumers of {vps_id}"
        answer = self._call("GET", f"/containers/{container}", step, (200, 404))
        if answer.status == answers.NOT_FOUND:
            return
        for name in sorted(answer.read(lambda read: answers.consumer_names(read, url))):
            body = {"name": name, "URL": url}
            step = f"delete a consumer of {vps_id}"
            self._call("DELETE", f"/containers/{container}/consumers", step, (200, 404), json=body)

    def _pages(self, path: str, name: str, step: str) -> Iterator[Answer]:
        """Yield each page of a list, oldest first, so that what is made meanwhile comes at the end.

        ``name`` is a pattern for Barbican (SQL's LIKE, ``_`` is any character): the answers hold more than
        was asked for. Offsets are ours: Barbican's link to the next page loses the filter on old releases.
        """
        for number in range(MAX_PAGES):
            query = {"name": name, "sort": "created:asc", "limit": PAGE, "offset": number * PAGE}
            page = self._call("GET", path, step, _OK, params=query)
            yield page
            if page.read(answers.total) <= (number + 1) * PAGE:
                return
        raise CloudError(step, f"the list has more than {MAX_PAGES * PAGE} items", retriable=False)

    def _grant(self, path: str, user_id: str, step: str) -> None:
        if user_id and not _USER_ID.fullmatch(user_id):
            raise CloudError(step, "that is no id of a Keystone user", retriable=False)
        acl = {"read": {"users": [user_id] if user_id else [], "project-access": False}}
        self._call("PUT", f"{path}/acl", step, _OK, json=acl)

    def _written(self, vps_id: str, entry: Entry) -> dict[str, str]:
        name = entry_name(vps_id, entry.name, entry.k)
        base = self._url if self._base is None else f"{self._base}/v1"
        return {"name": name, "secret_ref": f"{base}/secrets/{entry.version}"}

    def _call(self, method: str, path: str, step: str, statuses: Collection[int], **request: Any) -> Answer:
        return call(self._session, method, self._url + path, step, statuses, **request)


def _order(entry: Entry) -> tuple[str, int, str]:
    return entry.name, entry.k, entry.version
