"""A VPS's own user in Keystone, as the VPS uses it: password, login, and everything that the user has.

Each function is one or a few calls and can be repeated; none keeps anything. Passwords, tokens and secrets
are parameters and members that no ``repr`` shows. Source: Identity API v3, and what both releases do.
"""

from __future__ import annotations

import enum
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from agent.identity.errors import UNAUTHORIZED, IdentityError, refused
from common import untrusted_json
from common.http_status import FORBIDDEN
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agent.identity.calls import Answer, Line

REVOCATION_SECOND_S: Final = 1.1
"""Keystone revokes every token of the second in which a password changes, also later ones of that second."""
RECEIPT: Final = "Openstack-Auth-Receipt"
READER: Final = "reader"
MAX_ID: Final = 64
_MAX_ITEMS: Final = 1000
_MAX_NAME: Final = 255
_MAX_SECRET: Final = 1024
_MAX_URL: Final = 2048
_LAST_TIME: Final = 253402300799.0  # the year 9999
_GENERATION: Final = re.compile(r"vps-secrets-([1-9][0-9]{0,8})")
_EXPIRED: Final = b"The password is expired"  # Keystone's words, of a right one that has to be changed first
_TIME: Final = "%Y-%m-%dT%H:%M:%S"

Rule = tuple[str, str]
"""An access rule: HTTP method and path (``*`` is one segment). A path below ``/v3/`` is Keystone's."""
RULES: Final[tuple[Rule, ...]] = (
    ("GET", "/v1/containers/*"),
    ("GET", "/v1/secrets/*"),
    ("GET", "/v1/secrets/*/payload"),
    ("POST", "/v1/containers/*/consumers"),
    ("DELETE", "/v1/containers/*/consumers"),
    ("GET", "/v3/users/*/application_credentials/*"),
)
"""Of a VPS's own application credential: it reads, says what it serves, and asks when it expires."""


class Refusal(enum.StrEnum):
    """Why a password logs in nowhere."""

    LOCKED = "locked"
    """It is right, and the user can't log in yet: a second method is asked for."""
    WRONG = "wrong"
    """It is wrong, or the user is disabled or gone: Keystone does not tell which."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One line of Keystone's catalog."""

    service: str
    interface: str
    region: str
    url: str


@dataclass(frozen=True, slots=True)
class Token:
    """A token. ``issued_at`` is Keystone's clock (s since 1970): this machine's may be wrong."""

    issued_at: float
    project_id: str
    """Empty for a token without a scope."""
    catalog: tuple[Endpoint, ...]
    """Empty for a token without a scope."""
    value: str = field(repr=False)

    def endpoint(self, service: str, region: str | None, interface: str) -> str | None:
        """Return the first address of a service, or None where the catalog has none."""
        found = (
            one.url
            for one in self.catalog
            if (one.service, one.interface) == (service, interface) and region in {None, one.region}
        )
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Credential:
    """An application credential without its secret. ``expires_at`` is in s since 1970; None: never."""

    id: str
    name: str
    expires_at: float | None

    @property
    def generation(self) -> int:
        """Return N of ``vps-secrets-N``, 0 for another name."""
        match = _GENERATION.fullmatch(self.name)
        return int(match[1]) if match else 0


@dataclass(frozen=True, slots=True)
class NewCredential:
    """An application credential that was just made: Keystone tells its secret once."""

    credential: Credential
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Belonging:
    """Something that a user has: ``kind`` as Keystone lists it, ``path`` below ``/v3``."""

    kind: str
    id: str
    name: str
    path: str

    def __str__(self) -> str:
        """Return it in words for people."""
        return f"{_KINDS[self.kind]} {self.id}" + (f" ({self.name})" if self.name else "")


_KINDS: Final = {
    "application_credentials": "application credential",
    "ec2": "EC2 credential",
    "credentials": "credential",
    "trusts": "trust",
    "access_rules": "access rule",
}


class Account:
    """One user; ``auth_url`` ends with ``/v3``. Every method may raise IdentityError."""

    def __init__(self, line: Line, auth_url: str, user_id: str) -> None:
        self._line = line
        self._url = auth_url
        self.user_id: Final = user_id

    def change_password(self, former: str, new: str) -> bool:
        """Change the password; return False where the former one is not in force (or the user is disabled).

        No token is needed. Return once the second is over in which no token lasts.
        """
        step, path = "change the password", f"/users/{self.user_id}/password"
        body = {"user": {"original_password": former, "password": new}}
        answer = self._call("POST", path, step, (200, 204, 401), json=body)
        if answer.status == UNAUTHORIZED:
            return False
        time.sleep(REVOCATION_SECOND_S)
        return True

    def log_in(self, password: str, project_id: str | None = None) -> Token | Refusal:
        """Log in by password, for a project or without a scope."""
        user = {"id": self.user_id, "password": password}
        scope: Any = {"project": {"id": project_id}} if project_id else "unscoped"
        identity = {"methods": ["password"], "password": {"user": user}}
        body = {"auth": {"identity": identity, "scope": scope}}
        answer = self._call("POST", "/auth/tokens", "log in by password", (201, 401), json=body)
        if answer.status == UNAUTHORIZED:
            right = RECEIPT in answer.headers or _EXPIRED in answer.body
            return Refusal.LOCKED if right else Refusal.WRONG
        return _token(answer)

    def log_in_with(self, credential_id: str, secret: str) -> Token:
        """Log in with an application credential."""
        method = {"id": credential_id, "secret": secret}
        identity = {"methods": ["application_credential"], "application_credential": method}
        body = {"auth": {"identity": identity}}
        return _token(self._call("POST", "/auth/tokens", "log in with the new credential", (201,), json=body))

    def drop(self, token: Token) -> None:
        """End a token."""
        url, step = f"{self._url}/auth/tokens", "end a token"
        # Keystone takes the token that is to end as a header of its own; ending the one in use is allowed
        self._line.call("DELETE", url, step, (204, 404), token=token.value, subject=token.value)

    def projects(self, token: Token) -> tuple[str, ...]:
        """Return the ids of the projects in which the user has a role."""
        answer = self._call("GET", "/auth/projects", "list the projects", (200,), token=token)
        return answer.read(lambda untrusted: tuple(_id(one, "id") for one in _items(untrusted, "projects")))

    def credentials(self, token: Token) -> tuple[Credential, ...]:
        """Return the user's application credentials."""
        path, step = f"/users/{self.user_id}/application_credentials", "list the application credentials"
        answer = self._call("GET", path, step, (200,), token=token)
        return answer.read(
            lambda untrusted: tuple(map(_credential, _items(untrusted, "application_credentials")))
        )

    def belongings(self, token: Token) -> tuple[Belonging, ...]:
        """Return everything with which somebody could log in as this user, or that is left of such a thing.

        Application credentials, EC2 credentials, other credentials (TOTP), trusts, access rules.
        """
        mine = f"/users/{self.user_id}"
        places = (
            ("application_credentials", f"{mine}/application_credentials", "id", ""),
            ("ec2", f"{mine}/credentials/OS-EC2", "access", ""),
            ("credentials", "/credentials", "id", f"?user_id={self.user_id}"),
            ("trusts", "/OS-TRUST/trusts", "id", f"?trustor_user_id={self.user_id}"),
            ("access_rules", f"{mine}/access_rules", "id", ""),
        )
        found: list[Belonging] = []
        for kind, path, key, query in places:
            step = f"list what the user has ({_KINDS[kind]}s)"
            answer = self._call("GET", path + query, step, (200,), token=token)
            listed = answer.read(_lister("credentials" if kind == "ec2" else kind, key))
            found += [Belonging(kind, one_id, name, f"{path}/{one_id}") for one_id, name in listed]
        return tuple(found)

    def delete(self, token: Token, one: Belonging) -> None:
        """Delete something that the user has; whether it is gone, :meth:`belongings` tells.

        Keystone answers 403 for an access rule that is in use, and for much that is gone already.
        """
        step = f"delete the {_KINDS[one.kind]} {one.id}"
        self._call("DELETE", one.path, step, (204, 403, 404), token=token)

    def delete_all_but(self, token: Token, spared: str, note: Callable[[Belonging], None]) -> bool:
        """Delete whatever logs in as this user but one application credential; return whether there was any.

        Access rules go last, when nothing uses them; Keystone keeps those of what is spared.
        """
        others = [one for one in self.belongings(token) if one.id != spared]
        rules = [one for one in others if one.kind == "access_rules"]
        logins = [one for one in others if one.kind != "access_rules"]
        for one in logins:
            note(one)
        for one in (*logins, *rules):
            self.delete(token, one)
        return bool(logins)

    def make_credential(
        self, token: Token, name: str, life_s: float, rules: Sequence[Rule] = RULES
    ) -> NewCredential:
        """Make an application credential: reader only, bound by rules, for ``life_s`` by Keystone's clock.

        A name that is taken is an error with status 409.
        """
        wanted = {
            "name": name,
            "roles": [{"name": READER}],
            "expires_at": datetime.fromtimestamp(token.issued_at + life_s, UTC).strftime(_TIME),
            "access_rules": [
                {"service": _service_of(path), "method": method, "path": path} for method, path in rules
            ],
        }
        path, step = f"/users/{self.user_id}/application_credentials", f"make the credential {name}"
        body = {"application_credential": wanted}
        answer = self._call("POST", path, step, (201,), json=body, token=token)
        return answer.read(_new_credential)

    def delete_credential(self, token: Token, credential_id: str) -> None:
        """Delete an application credential; it may be gone already."""
        path = f"/users/{self.user_id}/application_credentials/{credential_id}"
        step = f"delete the credential {credential_id}"
        answer = self._call("DELETE", path, step, (204, 403, 404), token=token)
        # 403 is also Keystone's answer where it is gone
        if answer.status == FORBIDDEN and credential_id in {one.id for one in self.credentials(token)}:
            raise refused(step, answer.status)

    def _call(
        self,
        method: str,
        path: str,
        step: str,
        statuses: Collection[int],
        *,
        json: object = None,
        token: Token | None = None,
    ) -> Answer:
        value = token.value if token else ""
        return self._line.call(method, self._url + path, step, statuses, json=json, token=value)


def _service_of(path: str) -> str:
    return "identity" if path.startswith("/v3/") else "key-manager"


def _items(untrusted: object, kind: str) -> list[dict[str, object]]:
    page = untrusted_json.mapping(untrusted, "the answer")
    if page.get("truncated"):
        raise MalformedError(f"the list of {kind} is cut short")
    listed = untrusted_json.array(page.get(kind), kind, _MAX_ITEMS)
    return [untrusted_json.mapping(one, f"one of {kind}") for one in listed]


def _id(item: dict[str, object], key: str) -> str:
    text = untrusted_json.text(item.get(key), "an id", MAX_ID)
    if not is_id(text):
        raise MalformedError("an id is not of letters, digits and dashes")
    return text


def is_id(untrusted: str) -> bool:
    """Return whether a text is an id of Keystone's: letters, digits and dashes."""
    plain = untrusted.replace("-", "").replace("_", "")
    return len(untrusted) <= MAX_ID and plain.isascii() and plain.isalnum()


def _lister(kind: str, key: str) -> Callable[[object], list[tuple[str, str]]]:
    def listed(untrusted: object) -> list[tuple[str, str]]:
        found = []
        for item in _items(untrusted, kind):
            name = item.get("name")
            shown = untrusted_json.printable(name, _MAX_NAME) if isinstance(name, str) else ""
            found.append((_id(item, key), shown))
        return found

    return listed


def _credential(item: dict[str, object]) -> Credential:
    name = untrusted_json.text(item.get("name"), "a name", _MAX_NAME)
    expires = item.get("expires_at")
    return Credential(_id(item, "id"), name, None if expires is None else _moment(expires, "expires_at"))


def _new_credential(untrusted: object) -> NewCredential:
    members = untrusted_json.mapping(untrusted, "the answer")
    item = untrusted_json.mapping(members.get("application_credential"), "the application credential")
    return NewCredential(
        _credential(item), untrusted_json.text(item.get("secret"), "the secret", _MAX_SECRET)
    )


def _token(answer: Answer) -> Token:
    value = answer.headers.get("X-Subject-Token", "")
    if not value or not value.isascii() or not value.isprintable():
        raise IdentityError(answer.step, "the answer has no token", status=answer.status, retriable=True)
    return Token(*answer.read(_facts), value)


def _facts(untrusted: object) -> tuple[float, str, tuple[Endpoint, ...]]:
    token = untrusted_json.mapping(untrusted_json.mapping(untrusted, "the answer").get("token"), "the token")
    project = token.get("project")
    project_id = "" if project is None else _id(untrusted_json.mapping(project, "the project"), "id")
    catalog = untrusted_json.array(token.get("catalog", []), "the catalog", _MAX_ITEMS)
    services = [untrusted_json.mapping(service, "a service") for service in catalog]
    endpoints = tuple(
        Endpoint(
            _word(service.get("type")),
            _word(endpoint.get("interface")),
            _word(endpoint.get("region")),
            _word(endpoint.get("url"), _MAX_URL),
        )
        for service in services
        for endpoint in _items(service, "endpoints")
    )
    return _moment(token.get("issued_at"), "issued_at"), project_id, endpoints


def _word(untrusted: object, most: int = _MAX_NAME) -> str:
    """Return a text of the catalog; what may be null is empty."""
    return "" if untrusted is None else untrusted_json.text(untrusted, "a word of the catalog", most)


def _moment(untrusted: object, what: str) -> float:
    """Return a time of Keystone's (UTC, with or without a zone) in s since 1970."""
    text = untrusted_json.text(untrusted, what, 40)
    try:
        at = datetime.fromisoformat(text)
        moment = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        moment = -1.0
    if not 0 <= moment <= _LAST_TIME:
        raise MalformedError(f"{what} is no time")
    return moment
