"""The secrets of a VPS in Barbican, as the deployment service makes, rotates and removes them.

Two orders of steps carry the security of the whole:

* a secret gets its ACL before its payload, so there is no moment in which a colleague could read it or change
  its ACL; and it enters the container last, so the agent never finds one that can't be read;
* a rotation adds all new entries before it removes an old one, so every state in between has a name twice,
  from which the agent knows that values belong together and waits for the end.

A secret that was listed before is listed again as ``VPS/NAME~K`` (docs/provisioning.md, "Roll back").

Payloads go as ``application/octet-stream`` by PUT: Barbican strips white space from text in a POST, and
keystoneauth1 logs JSON bodies. Source: https://docs.openstack.org/barbican/latest/api/
"""

from __future__ import annotations

import base64
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from common.names import SecretName, entry_name, parse_entry_name
from deployer.cloud.calls import call

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence

    from keystoneauth1.session import Session

DEMO_NAMES: Final = (
    *("JWT_SECRET", "DATABASE_URL", "SESSION_SECRET", "ENCRYPTION_KEY"),
    *("SMTP_PASSWORD", "S3_SECRET_KEY", "WEBHOOK_SECRET"),
)


@dataclass(frozen=True, slots=True)
class Vps:
    """A VPS: the Keystone user that may read, and the reference of the container that lists its secrets."""

    vps_id: str
    user_id: str
    container_ref: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a container; ``name`` as it stands there."""

    name: str
    secret_ref: str


def generate_value(name: str) -> bytes:
    """Return a new random value of the kind that the name suggests."""
    token = secrets.token_urlsafe(32)
    if name == "DATABASE_URL":
        return f"postgresql://app:{token}@db.internal:5432/app".encode()
    if name == "ENCRYPTION_KEY":
        return base64.b64encode(secrets.token_bytes(32))
    return token.encode()


class Deployment:
    """Barbican at ``barbican_url`` (without ``/v1``), with the deployment service's ``session``."""

    def __init__(self, session: Session, barbican_url: str, touch: Callable[[], None] = lambda: None) -> None:
        """``touch`` touches the beacon: the last step of whatever agents should notice soon."""
        self._session = session
        self._touch = touch
        self._url = barbican_url.rstrip("/") + "/v1"

    def create_vps(self, vps_id: str, user_id: str) -> Vps:
        """Return the VPS with its container, found by name or made; only ``user_id`` may read it."""
        ref = self._find_container(vps_id)
        if ref is None:
            body = {"name": vps_id, "type": "generic", "secret_refs": []}
            ref = str(self._call("POST", "/containers", "make the container", json=body)["container_ref"])
        vps = Vps(vps_id, user_id, ref)
        self._grant(_path(ref), vps)
        return vps

    def entries(self, vps: Vps) -> list[Entry]:
        """Return what the container lists now."""
        listed = self._call("GET", _path(vps.container_ref), "read the container")["secret_refs"]
        return [Entry(entry["name"], entry["secret_ref"]) for entry in listed]

    def rotate(
        self, vps: Vps, values: Mapping[str, bytes], expires: str | None = None, *, keeps: bool = False
    ) -> None:
        """Put new values under these names, together; names that are new are added.

        ``expires`` is the expiration of the new versions, ISO 8601 in UTC, or None. ``keeps``: the former
        versions are not deleted, for a rollback.
        """
        for _ in self.rotation_steps(vps, values, expires, keeps=keeps):
            pass

    def rotation_steps(
        self, vps: Vps, values: Mapping[str, bytes], expires: str | None = None, *, keeps: bool = False
    ) -> Iterator[str]:
        """Do what :meth:`rotate` does and yield after every call what has just been done.

        Safe to repeat after a failure: what an unfinished run has added counts as old then.
        """
        old = self._listed(vps, values)
        yield "read the container"
        new: list[Entry] = []
        for name, value in values.items():
            ref = yield from self.creation_steps(vps, f"{vps.vps_id}/{name}", value, expires)
            highest = max((k for k, _ in old[name]), default=0)
            k = highest + 1 if highest else 0
            new.append(Entry(entry_name(vps.vps_id, SecretName(name), k), ref))
        former = [entry for entries in old.values() for _, entry in entries]
        yield from self._replace(vps, new, former)
        for entry in [] if keeps else former:
            self.delete(entry)
            yield f"deleted the old secret of {entry.name}"
        self._touch()
        yield "touched the beacon"

    def roll_back(self, vps: Vps, refs: Mapping[str, str]) -> None:
        """List former secrets again under these names, together; what is listed now is not deleted."""
        for _ in self.rollback_steps(vps, refs):
            pass

    def rollback_steps(self, vps: Vps, refs: Mapping[str, str]) -> Iterator[str]:
        """Do what :meth:`roll_back` does and yield after every call what has just been done.

        Barbican takes no entry again that was removed: hence the K, the time, or above what is listed.
        """
        old = self._listed(vps, refs)
        yield "read the container"
        new: list[Entry] = []
        for name, ref in refs.items():
            k = max([int(time.time()), *(k + 1 for k, _ in old[name])])
            new.append(Entry(entry_name(vps.vps_id, SecretName(name), k), ref))
        yield from self._replace(vps, new, [entry for entries in old.values() for _, entry in entries])
        self._touch()
        yield "touched the beacon"

    def _replace(self, vps: Vps, new: Sequence[Entry], former: Sequence[Entry]) -> Iterator[str]:
        """Add all new entries, then remove the former ones; yield after every call what has been done."""
        for entry in new:
            self._entry("POST", vps, entry, "add the new entry")
            yield f"added the new entry {entry.name}"
        for entry in former:
            self._entry("DELETE", vps, entry, "remove the old entry")
            yield f"removed the old entry {entry.name}"

    def _listed(self, vps: Vps, names: Collection[str]) -> dict[str, list[tuple[int, Entry]]]:
        """Return the entries of each of these names, with their K."""
        listed: dict[str, list[tuple[int, Entry]]] = {name: [] for name in names}
        for entry in self.entries(vps):
            parsed = parse_entry_name(vps.vps_id, entry.name)
            if parsed is not None and parsed[0] in listed:
                listed[parsed[0]].append((parsed[1], entry))
        return listed

    def creation_steps(
        self, vps: Vps, full_name: str, value: bytes, expires: str | None = None
    ) -> Generator[str, None, str]:
        """Make one secret, readable by the VPS only; yield after every call, return its reference."""
        body: dict[str, Any] = {"name": full_name, "secret_type": "opaque"}
        if expires is not None:
            body["expiration"] = expires
        made = self._call("POST", "/secrets", "make the secret without its payload", json=body)
        ref = str(made["secret_ref"])
        yield f"made {full_name} without its payload"
        self._grant(_path(ref), vps)
        yield f"set the ACL of {full_name}"
        headers = {"Content-Type": "application/octet-stream"}
        self._call("PUT", _path(ref), "write the payload", data=value, headers=headers)
        yield f"wrote the payload of {full_name}"
        return ref

    def remove(self, vps: Vps, names: Sequence[str]) -> None:
        """Take names away from the VPS and delete their secrets."""
        gone = [entry for entries in self._listed(vps, names).values() for _, entry in entries]
        for entry in gone:
            self._entry("DELETE", vps, entry, "remove the entry")
        for entry in gone:
            self.delete(entry)
        self._touch()

    def revoke(self, vps: Vps) -> None:
        """Take the VPS's access away at once: ACLs have no cache. Delete its credential as well."""
        nobody = Vps(vps.vps_id, "", vps.container_ref)
        self._grant(_path(vps.container_ref), nobody)
        for entry in self.entries(vps):
            self._grant(_path(entry.secret_ref), nobody)
        self._touch()

    def restore(self, vps: Vps) -> None:
        """Give back what :meth:`revoke` took."""
        for entry in self.entries(vps):
            self._grant(_path(entry.secret_ref), vps)
        self._grant(_path(vps.container_ref), vps)
        self._touch()

    def delete(self, entry: Entry) -> None:
        """Delete a secret; one that is gone already is fine."""
        self._call("DELETE", _path(entry.secret_ref), "delete the secret", also=404)

    def delete_vps(self, vps: Vps) -> None:
        """Delete all its secrets, then the container."""
        for entry in self.entries(vps):
            self.delete(entry)
        self._call("DELETE", _path(vps.container_ref), "delete the container", also=404)

    def _find_container(self, name: str) -> str | None:
        at, total = 0, 1
        while at < total:
            page = self._call("GET", f"/containers?limit=100&offset={at}", "list the containers")
            for container in page["containers"]:
                if container["name"] == name:
                    return str(container["container_ref"])
            at, total = at + 100, page["total"]
        return None

    def _grant(self, path: str, vps: Vps) -> None:
        """Let the VPS's user read, and nobody else of the project."""
        users = [vps.user_id] if vps.user_id else []
        acl = {"read": {"users": users, "project-access": False}}
        self._call("PUT", f"{path}/acl", "set the ACL", json=acl)

    def _entry(self, method: str, vps: Vps, entry: Entry, step: str) -> None:
        body = {"name": entry.name, "secret_ref": entry.secret_ref}
        also = 409 if method == "POST" else 404  # done already
        self._call(method, f"{_path(vps.container_ref)}/secrets", step, json=body, also=also)

    def _call(self, method: str, path: str, step: str, also: int | None = None, **request: Any) -> Any:
        """Make one call, unlogged. ``also`` is a status that is as good as success."""
        answer = call(
            self._session, method, self._url + path, step, {*range(200, 300), also or 200}, **request
        )
        return answer.read(lambda read: read) if answer.body and method in {"GET", "POST"} else {}


def _path(ref: str) -> str:
    """Return ``/secrets/UUID`` or ``/containers/UUID`` of a reference."""
    kind, _, uuid = ref.rpartition("/")
    return f"/{kind.rpartition('/')[2]}/{uuid}"
