"""Names of users and groups to ids, through the system's databases (getpwnam(3), getgrnam(3))."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.core.access import Grant, Peer

if TYPE_CHECKING:
    from agent.config.grants import GrantRule
    from agent.config.model import Config


def can_be_asked() -> bool:
    """Return whether the system's databases answer at all.

    getpwnam(3) says the same of a user who does not exist and of a file that can't be opened, say because no
    descriptor is left. Every machine has uid 0: where even that is unknown, no other answer means anything.
    """
    try:
        return pwd.getpwuid(0).pw_uid == grp.getgrgid(0).gr_gid == 0
    except KeyError:
        return False


def uid_of(user: str | None) -> int | None:
    """Return the uid of a user, or None where there is no such user."""
    try:
        return None if user is None else pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def gid_of(group: str | None) -> int | None:
    """Return the gid of a group, or None where there is no such group."""
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def grants_of(rules: tuple[GrantRule, ...]) -> tuple[Grant, ...]:
    """Return the grants with their ids; one whose user or group does not exist matches nobody."""
    return tuple(
        Grant(
            index=index,
            secrets=rule.secrets,
            user=rule.user,
            group=rule.group,
            unit=rule.unit,
            uid=uid_of(rule.user),
            gid=gid_of(rule.group),
        )
        for index, rule in enumerate(rules)
    )


def found_again(grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
    """Return the grants with the ids of now; the same object where none is another, or nobody can tell."""
    if not can_be_asked():
        return grants
    now = tuple(replace(grant, uid=uid_of(grant.user), gid=gid_of(grant.group)) for grant in grants)
    return grants if now == grants else now


def differences(before: tuple[Grant, ...], now: tuple[Grant, ...]) -> list[str]:
    """Return in words which users and groups have other ids than before, and who has the former id now."""
    return [
        f"{new}: the {kind} has the id {_shown(number)} now, {_shown(former)} before{_heir(kind, former)}"
        for old, new in zip(before, now, strict=True)
        for kind, former, number in (("user", old.uid, new.uid), ("group", old.gid, new.gid))
        if former != number
    ]


def _shown(number: int | None) -> str:
    return "none" if number is None else str(number)


def _heir(kind: str, former: int | None) -> str:
    """Say who has an id now that was granted something until this look-up; nothing where nobody has it."""
    if former is None:
        return ""
    try:
        name = pwd.getpwuid(former).pw_name if kind == "user" else grp.getgrgid(former).gr_name
    except KeyError:
        return ""
    return f"; {former} is the {kind} {name} now, who could read by this grant until this look-up"


def missing(config: Config, grants: tuple[Grant, ...]) -> tuple[str, ...]:
    """Return a warning for each user and group that is named and that this machine does not have."""
    found = [
        f"{grant} matches nobody: its {kind} does not exist on this machine"
        for grant in grants
        for kind, name, number in (("user", grant.user, grant.uid), ("group", grant.group, grant.gid))
        if name is not None and number is None
    ]
    for key, group in (("app.group", config.app.group), ("control.admin_group", config.control.admin_group)):
        if group is not None and gid_of(group) is None:
            found.append(f"{key}: the group {group} does not exist on this machine")
    return tuple(found)


def peer_of(user: str, unit: str | None) -> Peer | None:
    """Return the caller that a user's process in a unit would be, or None where there is no such user.

    ``user`` is a name or a decimal uid.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError):
        return None
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Peer(0, entry.pw_uid, entry.pw_gid, groups, unit)
