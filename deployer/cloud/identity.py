"""Keystone's accounts, as whoever administers some of them sees them: domains, projects, users, roles.

Source: Identity API v3, https://docs.openstack.org/api-ref/identity/v3/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from common import untrusted_json
from common.untrusted_json import MalformedError
from deployer.cloud import own_login
from deployer.cloud.calls import Answer, access, call
from deployer.cloud.errors import CloudError, ForeignError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from deployer.cloud.own_login import PasswordDates

RECEIPT: Final = "Openstack-Auth-Receipt"
"""The header of a login that was right so far and needs another method (Keystone's multi-factor rules)."""
_OK: Final = (200,)
_CREATED: Final = (201,)
_DONE: Final = (204,)
_UNAUTHORIZED: Final = 401
_MAX_ID: Final = 64
_MAX_NAME: Final = 255
_MAX_ITEMS: Final = 100_000


class Item(NamedTuple):
    """A domain, project, role or user. ``domain_id`` is "" where there is none."""

    id: str
    name: str
    domain_id: str
    enabled: bool
    description: str


@dataclass(frozen=True, slots=True)
class User:
    """A user with its options, such as ``multi_factor_auth_enabled``."""

    item: Item
    options: Mapping[str, object]


class Assignment(NamedTuple):
    """A role of a user or a group somewhere. ``where`` is ``project``, ``domain`` or ``system``."""

    role_id: str
    user_id: str
    """Empty for a group's."""
    group_id: str
    where: str
    where_id: str
    inherited: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a login by password came to.

    ``token`` is there where it succeeded; ``right`` says that the password is right, though the login was
    refused: another method is wanted, or the password has to be changed first.
    """

    right: bool
    token: str | None = field(default=None, repr=False)


class Identity:
    """Keystone at ``auth_url`` (with ``/v3``), with somebody's session; every method raises CloudError."""

    def __init__(self, session: Session, auth_url: str) -> None:
        self._session = session
        self._url = auth_url.rstrip("/")

    def find(self, kind: str, name: str, domain_id: str | None = None) -> Item | None:
        """Return the one of ``domains``, ``projects``, ``roles`` or ``users`` that has exactly this name."""
        found: Item | None = self._find(kind, name, domain_id, _item)
        return found

    def find_user(self, name: str, domain_id: str) -> User | None:
        """Return the user of a domain that has exactly this name, as it is now.

        Keystone answers :meth:`user` from a cache, and a user that was read while it was changed stays there
        as it was before for as long as that keeps it, 600 s: so 54 of 60 times with three readers. A list
        comes from its database.
        """
        found: User | None = self._find("users", name, domain_id, _user)
        return found

    def _find(self, kind: str, name: str, domain_id: str | None, parse: Callable[[object], Any]) -> Any:
        query = {"name": name} | ({"domain_id": domain_id} if domain_id is not None else {})
        answer = self._call("GET", f"/{kind}", f"look for {name} in {kind}", _OK, params=query)
        listed = answer.read(lambda read: [(_item(one), parse(one)) for one in _listed(read, kind)])
        found = [one for item, one in listed if item.name == name and domain_id in (None, item.domain_id)]
        if len(found) > 1:
            raise CloudError(answer.step, f"there are {len(found)} of this name", retriable=False)
        return found[0] if found else None

    def all(self, kind: str, domain_id: str | None = None) -> list[Item]:
        """Return all of a kind, of one domain."""
        query = {"domain_id": domain_id} if domain_id is not None else {}
        answer = self._call("GET", f"/{kind}", f"list {kind}", _OK, params=query)
        found: list[Item] = answer.read(lambda read: _items(read, kind))
        return found

    def make(self, kind: str, name: str, **members: object) -> Item:
        """Make one; there may be none of this name yet in its domain (HTTP 409)."""
        one = kind.removesuffix("s")
        body = {one: {"name": name, **members}}
        answer = self._call("POST", f"/{kind}", f"make the {one} {name}", _CREATED, json=body)
        made: Item = answer.read(lambda read: _item(untrusted_json.mapping(read, "the answer").get(one)))
        return made

    def remove(self, kind: str, item_id: str) -> None:
        """Delete one; one that is gone already is fine. A domain has to be disabled first."""
        self._call("DELETE", f"/{kind}/{item_id}", f"delete one of {kind}", (204, 404))

    def user(self, user_id: str) -> User:
        """Return a user."""
        answer = self._call("GET", f"/users/{user_id}", f"read the user {user_id}", _OK)
        found: User = answer.read(lambda read: _user(untrusted_json.mapping(read, "the answer").get("user")))
        return found

    def change(self, kind: str, item_id: str, step: str, **members: object) -> None:
        """Change some members of a user, project or domain."""
        one = kind.removesuffix("s")
        self._call("PATCH", f"/{kind}/{item_id}", step, _OK, json={one: members})

    def grant(self, role_id: str, user_id: str, where: str, where_id: str) -> None:
        """Give a user a role on a ``project`` or a ``domain``; it may have it already."""
        path = f"/{where}s/{where_id}/users/{user_id}/roles/{role_id}"
        self._call("PUT", path, f"give {user_id} a role in a {where}", _DONE)

    def take(self, assignment: Assignment) -> None:
        """Take a user's role away; it may be gone already."""
        where = f"/{assignment.where}s/{assignment.where_id}"
        path = f"{where}/users/{assignment.user_id}/roles/{assignment.role_id}"
        self._call("DELETE", path, f"take a role from {assignment.user_id}", (204, 404))

    def assignments(self, **query: str) -> list[Assignment]:
        """Return role assignments, as ``user_id=`` or ``scope_project_id=`` say (``scope.project.id``)."""
        params = {
            key.replace("scope_", "scope.").replace("_id", ".id"): value for key, value in query.items()
        }
        answer = self._call("GET", "/role_assignments", "read role assignments", _OK, params=params)
        found: list[Assignment] = answer.read(_assignments)
        return found

    def try_password(self, user_id: str, password: str, project_id: str | None = None) -> Attempt:
        """Log in by a password, to see whether it is right; needs no session of its own."""
        body: dict[str, Any] = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"id": user_id, "password": password}},
                },
                "scope": "unscoped" if project_id is None else {"project": {"id": project_id}},
            }
        }
        answer = self._call(
            "POST",
            "/auth/tokens",
            f"try the password of {user_id}",
            (201, 401),
            json=body,
            authenticated=False,
        )
        if answer.status == _UNAUTHORIZED:
            # Keystone's own words, where a password is right and has to be changed first
            return Attempt(RECEIPT in answer.headers or b"The password is expired" in answer.body)
        return Attempt(right=True, token=answer.headers.get("X-Subject-Token"))

    def log_in(self, user_id: str, password: str, project_id: str) -> Session:
        """Return a session of a user's own, in one project; nothing is asked yet."""
        login = v3.Password(auth_url=self._url, user_id=user_id, password=password, project_id=project_id)
        return Session(auth=login, verify=self._session.verify, timeout=self._session.timeout)

    def change_password(self, user_id: str, password: str, new: str) -> None:
        """Change a user's password as the user does it: the former one suffices, no token is needed.

        Keystone revokes what the user had, and every token of this second: wait for the next one.
        """
        self._call(
            "POST",
            f"/users/{user_id}/password",
            "change the password",
            _DONE,
            json={"user": {"original_password": password, "password": new}},
            authenticated=False,
        )

    def password_dates(self) -> PasswordDates:
        """Return the dates of the password by which this session logs in."""
        return own_login.password_dates(self._session, self._url)

    def _call(self, method: str, path: str, step: str, statuses: Collection[int], **request: Any) -> Answer:
        return call(self._session, method, self._url + path, step, statuses, **request)


def domain_of(session: Session) -> str:
    """Return the domain that a session's token is scoped to.

    Raises:
        CloudError: the login failed, or is for no domain.
    """
    domain_id = access(session, "log in to the domain").domain_id
    if not isinstance(domain_id, str):
        raise CloudError("log in to the domain", "the token is for no domain", retriable=False)
    return domain_id


def _items(untrusted: object, kind: str) -> list[Item]:
    return [_item(item) for item in _listed(untrusted, kind)]


def _listed(untrusted: object, kind: str) -> list[object]:
    page = untrusted_json.mapping(untrusted, f"the list of {kind}")
    if page.get("truncated"):
        raise ForeignError(f"the list of {kind} is cut short by Keystone's list_limit")
    return untrusted_json.array(page.get(kind), kind, _MAX_ITEMS)


def _item(untrusted: object) -> Item:
    item = untrusted_json.mapping(untrusted, "an item")
    domain, description = item.get("domain_id"), item.get("description")
    return Item(
        parse_id(item.get("id")),
        untrusted_json.text(item.get("name"), "a name", _MAX_NAME),
        parse_id(domain) if domain is not None else "",
        item.get("enabled", True) is True,
        description if isinstance(description, str) else "",
    )


def _user(untrusted: object) -> User:
    options = untrusted_json.mapping(untrusted, "the user").get("options", {})
    return User(_item(untrusted), untrusted_json.mapping(options, "options"))


def _assignments(untrusted: object) -> list[Assignment]:
    page = untrusted_json.mapping(untrusted, "the answer")
    listed = untrusted_json.array(page.get("role_assignments"), "role_assignments", _MAX_ITEMS)
    return [_assignment(untrusted_json.mapping(item, "a role assignment")) for item in listed]


def _assignment(item: dict[str, object]) -> Assignment:
    def id_in(key: str) -> str:
        member = item.get(key)
        return parse_id(untrusted_json.mapping(member, key).get("id")) if member is not None else ""

    scope = untrusted_json.mapping(item.get("scope"), "scope")
    where = next((where for where in ("project", "domain", "system") if where in scope), "")
    place = untrusted_json.mapping(scope.get(where), "scope")
    return Assignment(
        id_in("role"),
        id_in("user"),
        id_in("group"),
        where,
        "" if where == "system" else parse_id(place.get("id")),
        "OS-INHERIT:inherited_to" in scope,
    )


def parse_id(untrusted: object) -> str:
    """Return an id of Keystone's: letters, digits and dashes; 32 or 64 hexadecimal digits, mostly."""
    text = untrusted_json.text(untrusted, "an id", _MAX_ID)
    if not text or not text.replace("-", "").replace("_", "").isalnum() or not text.isascii():
        raise MalformedError("an id is not of letters, digits and dashes")
    return text
