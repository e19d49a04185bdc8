"""The users and groups that the configuration names, and their ids.

Three answers are told apart: an id, "does not exist", and "nobody can tell". What nobody can tell changes
nothing: an id that was known stays, since a service that is away must take no secret from anybody who had it
(docs/adr/0018). :func:`look_up` and :func:`peer_of` ask the system and may hang, all else computes.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from agent.core.access import Grant, Id, NoId, Peer
from agent.serve.host import name_service

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.config.grants import GrantRule
    from agent.config.model import Config

USER: Final = "user"
GROUP: Final = "group"


class Account(NamedTuple):
    """A user or a group by its name; ``kind`` is :data:`USER` or :data:`GROUP`."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


Ids: TypeAlias = "Mapping[Account, Id]"


class Found(NamedTuple):
    """What a look-up found.

    ``unsure`` are those about whom nobody can tell, ``why`` the reason for one of them. ``heirs`` say who has
    the id now that an account had before.
    """

    ids: dict[Account, Id]
    unsure: frozenset[Account]
    why: str
    heirs: dict[Account, str]


def named(config: Config) -> frozenset[Account]:
    """Return all that the configuration names."""
    groups = (config.app.group, config.control.admin_group, *(rule.group for rule in config.grants))
    return frozenset(
        {Account(USER, rule.user) for rule in config.grants if rule.user is not None}
        | {Account(GROUP, group) for group in groups if group is not None}
    )


def look_up(wanted: Iterable[Account], known: Ids) -> Found:
    """Ask for the ids of now; ``known`` are those of before, which stay where nobody can tell."""
    found = Found({}, frozenset(), "", {})
    for account in sorted(wanted):
        former = known.get(account, NoId.UNKNOWN)
        try:
            number = _id_of(account)
        except OSError as error:
            number = former
            found = found._replace(unsure=found.unsure | {account}, why=reason(error))
        found.ids[account] = number
        if isinstance(former, int) and number != former:
            with contextlib.suppress(OSError):
                found.heirs[account] = _name_of(account.kind, former)
    return found


def reason(error: OSError) -> str:
    """Return in words why a question had no answer."""
    return error.strerror or type(error).__name__


def _id_of(account: Account) -> Id:
    if account.kind == USER:
        user = name_service.user(account.name)
        return NoId.GONE if user is None else user.uid
    group = name_service.group(account.name)
    return NoId.GONE if group is None else group.gid


def _name_of(kind: str, number: int) -> str:
    """Return who has an id, or nothing where nobody has it."""
    entry = name_service.user(number) if kind == USER else name_service.group(number)
    return "" if entry is None else entry.name


def name_of(kind: str, number: int) -> str:
    """Return who has an id, or the id itself where nobody has it or nobody can tell."""
    try:
        return _name_of(kind, number) or str(number)
    except OSError:
        return str(number)


def grants_of(rules: tuple[GrantRule, ...], ids: Ids) -> tuple[Grant, ...]:
    """Return the grants with their ids; one whose user or group has none matches nobody."""

    def id_of(kind: str, name: str | None) -> Id:
        return NoId.GONE if name is None else ids.get(Account(kind, name), NoId.UNKNOWN)

    return tuple(
        Grant(
            index=index,
            secrets=rule.secrets,
            user=rule.user,
            group=rule.group,
            unit=rule.unit,
            uid=id_of(USER, rule.user),
            gid=id_of(GROUP, rule.group),
        )
        for index, rule in enumerate(rules)
    )


def gid_of(group: str | None, ids: Ids) -> int | None:
    """Return the gid of a group, or None where it is not named or has none."""
    gid = None if group is None else ids.get(Account(GROUP, group))
    return gid if isinstance(gid, int) else None


def differences(before: tuple[Grant, ...], now: tuple[Grant, ...], heirs: Mapping[Account, str]) -> list[str]:
    """Return in words which users and groups have other ids than before, and who has the former id now."""
    return [
        f"{new}: the {kind} has the id {_shown(number)} now, {_shown(former)} before"
        f"{_heir(kind, former, heirs.get(Account(kind, name), ''))}"
        for old, new in zip(before, now, strict=True)
        for kind, name, former, number in (
            (USER, new.user, old.uid, new.uid),
            (GROUP, new.group, old.gid, new.gid),
        )
        if name is not None and former not in {number, NoId.UNKNOWN}
    ]


def _shown(number: Id) -> str:
    return str(number) if isinstance(number, int) else "none"


def _heir(kind: str, former: Id, name: str) -> str:
    """Say who has an id now that was granted something until this look-up; nothing where nobody has it."""
    if not name:
        return ""
    return f"; {former} is the {kind} {name} now, who could read by this grant until this look-up"


def missing(config: Config, grants: tuple[Grant, ...], ids: Ids) -> tuple[str, ...]:
    """Return a warning for each user and group that is named and that this machine does not have."""
    found = [
        f"{grant} matches nobody: its {kind} does not exist on this machine"
        for grant in grants
        for kind, name, number in ((USER, grant.user, grant.uid), (GROUP, grant.group, grant.gid))
        if name is not None and number is NoId.GONE
    ]
    for key, group in (("app.group", config.app.group), ("control.admin_group", config.control.admin_group)):
        if group is not None and ids.get(Account(GROUP, group)) is NoId.GONE:
            found.append(f"{key}: the group {group} does not exist on this machine")
    return tuple(found)


def peer_of(user: str, unit: str | None) -> Peer | None:
    """Return the caller that a user's process in a unit would be, or None where there is no such user.

    ``user`` is a name or a decimal uid.

    Raises:
        OSError: nobody can tell.
    """
    entry = name_service.user(int(user) if user.isdecimal() else user)
    if entry is None:
        return None
    groups = frozenset(os.getgrouplist(entry.name, entry.gid))
    return Peer(0, entry.uid, entry.gid, groups, unit)
