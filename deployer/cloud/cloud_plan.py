"""What a cloud still needs to be as cloud.toml says. Pure: from what is there to what is to be made.

Nothing is ever taken away here: what is too much is told, and a person decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.cloud.cloud_file import Account, CloudFile, Container, Place


class Make(StrEnum):
    """What a change makes."""

    DOMAIN = "domain"
    PROJECT = "project"
    ROLE = "role"
    USER = "user"
    GRANT = "grant"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to be made. A grant gives ``user`` the role ``name`` in the project or domain ``place``."""

    make: Make
    name: str
    domain: str = ""
    user: str = ""
    user_domain: str = ""
    project: str = ""
    """Of a grant, empty where it is on the domain; and of a container."""
    detail: str = ""
    """Of a container: who may use it."""

    def __str__(self) -> str:
        """Return it in words."""
        if self.make is Make.GRANT:
            where = f"project {self.project}" if self.project else "domain"
            return (
                f"give {self.user} ({self.user_domain}) the role {self.name} in the {where} ({self.domain})"
            )
        if self.make is Make.CONTAINER:
            return (
                f"make the container {self.name} in the project {self.project} ({self.domain}): {self.detail}"
            )
        inside = f" in the domain {self.domain}" if self.domain else ""
        return f"make the {self.make} {self.name}{inside}"


class Granted(NamedTuple):
    """A role that somebody has in a place of ours. ``project`` is empty for one on the domain itself."""

    role: str
    user: str
    """A user's name, or ``group NAME``."""
    user_domain: str
    project: str
    domain: str


@dataclass(frozen=True, slots=True)
class Present:
    """What is there, as far as cloud.toml names it. Pairs are name and domain."""

    domains: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    projects: frozenset[tuple[str, str]] = frozenset()
    users: frozenset[tuple[str, str]] = frozenset()
    granted: frozenset[Granted] = frozenset()
    containers: frozenset[Container] = frozenset()
    """Those that are as the file wants them."""
    open_to_others: frozenset[str] = frozenset()
    """Who else may use one of them, in words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes, in their order, and what is there and should not be."""

    changes: tuple[Change, ...]
    excess: tuple[str, ...]


def plan(wanted: CloudFile, present: Present) -> Plan:
    """Return what is to be made, and what is too much."""
    changes = tuple(dict.fromkeys(_changes(wanted, present)))
    return Plan(changes, tuple(sorted(_excess(wanted, present))))


def _changes(wanted: CloudFile, present: Present) -> Iterator[Change]:
    roles = (*wanted.vps.roles, *(role for account in wanted.accounts for role in account.roles))
    domains = (wanted.domain, *(place.domain for place in wanted.places))
    wishes = [
        *(Change(Make.DOMAIN, name) for name in domains if name not in present.domains),
        *(Change(Make.PROJECT, *place) for place in _pairs(wanted) if place not in present.projects),
        *(Change(Make.ROLE, role) for role in roles if role not in present.roles),
        *(
            Change(Make.USER, account.user, account.domain)
            for account in wanted.accounts
            if (account.user, account.domain) not in present.users
        ),
    ]
    yield from wishes
    for granted in _grants(wanted):
        if granted not in present.granted:
            role, user, user_domain, project, domain = granted
            yield Change(Make.GRANT, role, domain, user, user_domain, project)
    for container in wanted.containers:
        if container not in present.containers:
            place = container.place
            detail = _described(container)
            yield Change(Make.CONTAINER, container.name, place.domain, project=place.name, detail=detail)


def _described(container: Container) -> str:
    said = [
        *(["former versions stay"] if container.versioned else []),
        *([f"users of {container.readers.name} may read"] if container.readers else []),
        *([f"{container.writer.user} may put, nothing else"] if container.writer else []),
    ]
    return ", ".join(said)


def _pairs(wanted: CloudFile) -> list[tuple[str, str]]:
    return [(place.name, place.domain) for place in wanted.places]


def _grants(wanted: CloudFile) -> Iterator[Granted]:
    yield from _in_project(wanted.deployer, wanted.secrets)
    if wanted.backup is not None:
        yield from _in_project(wanted.backup_writer, wanted.backup_writers)
    if wanted.registrar is not None:
        for role in wanted.registrar.roles:
            yield Granted(role, wanted.registrar.user, wanted.registrar.domain, "", wanted.domain)


def _in_project(account: Account, place: Place) -> Iterator[Granted]:
    for role in account.roles:
        yield Granted(role, account.user, account.domain, place.name, place.domain)


def _excess(wanted: CloudFile, present: Present) -> Iterator[str]:
    """Tell every role in a place of ours that cloud.toml does not give."""
    yield from present.open_to_others
    grants = set(_grants(wanted))
    ours = {(account.user, account.domain) for account in wanted.accounts}
    for found in present.granted - grants:
        where = f"project {found.project}" if found.project else f"domain {found.domain}"
        is_vps = (
            found.project == wanted.runtime.name
            and found.user_domain == wanted.domain
            and found.role in wanted.vps.roles
        )
        # who owns the backups is a person, and has to be there
        is_owner = (
            wanted.backup is not None
            and (found.project, found.domain) == (wanted.backup.name, wanted.backup.domain)
            and (found.user, found.user_domain) not in ours
        )
        if not is_vps and not is_owner:
            yield f"{found.user} ({found.user_domain}) has the role {found.role} in the {where}: take it away"
