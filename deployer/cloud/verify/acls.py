"""Every ACL in the secrets project: no project access, and nobody but the VPS itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from common import untrusted_json
from deployer.cloud import barbican_answers as answers
from deployer.cloud.calls import call
from deployer.cloud.errors import CloudError
from deployer.cloud.verify.objects import is_left_over, is_throw_away
from deployer.cloud.verify.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystoneauth1.session import Session

PAGE: Final = 100
MAX_LISTED: Final = 1_000_000
MAX_SHOWN: Final = 300


class Listed(NamedTuple):
    """A secret or container of the project, by its name; ``path`` is below ``/v1``."""

    name: str
    path: str


def listed(session: Session, url: str, kind: str) -> list[Listed]:
    """Return all ``secrets`` or ``containers``; secrets without payload are in the making and left out."""
    found: list[Listed] = []
    for offset in range(0, MAX_LISTED, PAGE):
        query = {"limit": PAGE, "offset": offset, "sort": "created:asc"}
        page = call(session, "GET", f"{url}/{kind}", f"list {kind}", (200,), params=query)
        found += page.read(lambda read: list(_listed(read, kind)))
        if page.read(answers.total) <= offset + PAGE:
            return found
    raise CloudError(f"list {kind}", f"there are more than {MAX_LISTED}", retriable=False)


def _listed(untrusted: object, kind: str) -> Iterator[Listed]:
    page = untrusted_json.mapping(untrusted, "the list")
    for one in untrusted_json.array(page.get(kind), kind, PAGE):
        item = untrusted_json.mapping(one, "an item")
        if kind == "containers" or item.get("content_types"):
            found = answers.reference(item.get(f"{kind.removesuffix('s')}_ref"), kind)
            name = untrusted_json.printable(str(item.get("name")), MAX_SHOWN)
            yield Listed(name, f"/{kind}/{found.id}")


def findings(
    session: Session, url: str, users: Mapping[str, str], counted: dict[str, int]
) -> Iterator[Finding]:
    """Look at every ACL. ``users`` are the VPS users: names by ids."""
    for kind in ("containers", "secrets"):
        for item in listed(session, url, kind):
            if not is_throw_away(item.name):
                counted["ACLs"] = counted.get("ACLs", 0) + 1
                yield from _of(session, url, item, users)


def _of(session: Session, url: str, item: Listed, users: Mapping[str, str]) -> Iterator[Finding]:
    answer = call(session, "GET", f"{url}{item.path}/acl", f"read the ACL of {item.name}", (200, 404))
    if answer.status == answers.NOT_FOUND:  # it was deleted meanwhile
        return
    is_open, named = answer.read(_acl)
    if is_open:
        yield Finding(
            "acl-project-access",
            f"{item.name} ({item.path}) may be read by everybody with a role in the project: set its ACL",
        )
    vps_id = item.name.partition("/")[0]
    for user_id in named:
        if users.get(user_id) != vps_id:
            yield Finding(
                "acl-foreign-user",
                f"{item.name} ({item.path}) may be read by the user {users.get(user_id, user_id)}, "
                f"which is not that of {vps_id}: set its ACL",
            )


def _acl(untrusted: object) -> tuple[bool, list[str]]:
    """Return whether the project may read, and whom the ACL names."""
    read = untrusted_json.mapping(untrusted_json.mapping(untrusted, "the ACL").get("read", {}), "read")
    users = untrusted_json.array(read.get("users", []), "users", MAX_LISTED)
    is_open = untrusted_json.boolean(read.get("project-access", True), "project-access")
    return is_open, [untrusted_json.text(user, "a user", MAX_SHOWN) for user in users]


def sweep(session: Session, url: str, now: float) -> int:
    """Delete what a run that was killed has left; return how many."""
    gone = 0
    for kind in ("containers", "secrets"):
        for item in listed(session, url, kind):
            if is_left_over(item.name, now):
                call(session, "DELETE", url + item.path, f"delete {item.name}", (204, 404))
                gone += 1
    return gone
