"""Users that a person made, for a cloud where no account may make them (a panel, no domain manager).

The pool is JSON: ``[{"userId": "…", "oneTimePassword": "…"}, …]``. One with ``"vps": ID`` is for that VPS,
which was set up by hand with it, and for no other. Which of them is whose stands in a file
of the registrar's own, one line for each event; it holds ids only. A user is given to one VPS, once: whoever
had it keeps the password that it made. What such a cloud does not allow is said, not tried.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from common import untrusted_json
from common.names import parse_vps_id
from common.untrusted_json import MalformedError
from deployer.cloud.identity import parse_id
from deployer.registrar.errors import RefusalError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from deployer.cloud.identity import Identity

MAX_USERS: Final = 10_000
_MAX_PASSWORD: Final = 256
GIVEN, TOLD, LEFT = "given", "told", "left"
"""Events: a user was given to a VPS; its one-time password was told; the VPS is no more."""


@dataclass(frozen=True, slots=True)
class Member:
    """A user of the pool."""

    user_id: str
    password: str = field(repr=False)
    vps_id: str | None = None
    """The only VPS that it is for, where a person said one."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Which user a VPS has, and whether its one-time password was told."""

    user_id: str
    told: bool = False


class Pool:
    """The pool; ``identity`` needs no login of its own. ``state`` is made where it is not there."""

    def __init__(self, identity: Identity, members: dict[str, Member], state: Path) -> None:
        self._identity = identity
        self._members = members
        self._state = state

    def make(self, vps_id: str) -> dict[str, object]:
        """Give a user to a VPS; it may have one already."""
        with self._locked() as file:
            taken, used = _replay(file, self._state)
            if vps_id not in taken:
                free = self._free(vps_id, used)
                if free is None:
                    raise RefusalError(
                        409,
                        "pool-empty",
                        f"all {len(self._members)} users of the pool are taken: have more made in the panel "
                        "of the cloud and add them to the pool",
                    )
                _append(file, GIVEN, vps_id, free)
                taken[vps_id] = Taken(free)
        return {"userId": taken[vps_id].user_id}

    def _free(self, vps_id: str, used: set[str]) -> str | None:
        """Return a user that nobody has had: the one that is for this VPS, or one that is for any."""
        free = [member for user_id, member in self._members.items() if user_id not in used]
        its_own = [member for member in free if member.vps_id == vps_id]
        return next((one.user_id for one in (*its_own, *free) if one.vps_id in {vps_id, None}), None)

    def claim(self, vps_id: str, *, again: bool = False, keep: str = "") -> dict[str, object]:
        """Return the user's one-time password, once; ``again`` tells the same one again."""
        if keep:
            raise RefusalError(409, "pool", "a user of a pool is kept by its line in the pool: vps")
        with self._locked() as file:
            member, taken = self._member(vps_id, _replay(file, self._state)[0])
            if taken.told and not again:
                detail = f"the one-time password of {vps_id} was told before; again=true tells it again"
                raise RefusalError(409, "already-told", detail)
            if not self._identity.try_password(member.user_id, member.password).right:
                detail = f"the one-time password of {vps_id} is not in force: it was claimed, or never right"
                raise RefusalError(409, "already-claimed", detail)
            if not taken.told:
                _append(file, TOLD, vps_id, member.user_id)
        return {"userId": member.user_id, "oneTimePassword": member.password}

    def observe(self, vps_id: str) -> dict[str, object]:
        """Return whether a VPS has changed its one-time password; its roles are given by whoever made it."""
        with self._locked() as file:
            member, taken = self._member(vps_id, _replay(file, self._state)[0])
        claimed = taken.told and not self._identity.try_password(member.user_id, member.password).right
        return {"userId": member.user_id, "claimed": claimed}

    def disable(self, vps_id: str) -> dict[str, object]:
        """Say that a person has to."""
        return self._by_hand(vps_id, "disable")

    def enable(self, vps_id: str) -> dict[str, object]:
        """Say that a person has to, if a person has disabled it."""
        return self._by_hand(vps_id, "enable")

    def delete(self, vps_id: str) -> dict[str, object]:
        """Give the user up, for good: it remains in the cloud until a person deletes it."""
        with self._locked() as file:
            taken = _replay(file, self._state)[0].get(vps_id)
            if taken is None:
                return {"remains": False}
            _append(file, LEFT, vps_id, taken.user_id)
        return {
            "userId": taken.user_id,
            "remains": True,
            "byHand": _in_the_panel("delete", vps_id, taken.user_id),
        }

    def users(self) -> dict[str, str]:
        """Return the VPSs by the ids of their users."""
        with self._locked() as file:
            return {taken.user_id: vps_id for vps_id, taken in _replay(file, self._state)[0].items()}

    def login(self) -> dict[str, object]:
        """There is no login of its own."""
        return {"ends": None, "since": None}

    def _by_hand(self, vps_id: str, word: str) -> dict[str, object]:
        with self._locked() as file:
            taken = _replay(file, self._state)[0].get(vps_id)
        if taken is None:
            raise RefusalError(404, "no-user", f"{vps_id} has no user yet: make it first")
        return {"userId": taken.user_id, "byHand": _in_the_panel(word, vps_id, taken.user_id)}

    def _member(self, vps_id: str, taken: dict[str, Taken]) -> tuple[Member, Taken]:
        found = taken.get(vps_id)
        if found is None:
            raise RefusalError(404, "no-user", f"{vps_id} has no user yet: make it first")
        member = self._members.get(found.user_id)
        if member is None:
            raise RefusalError(502, "pool", f"the user of {vps_id} is not in the pool any more: add it again")
        return member, found

    def _locked(self) -> BinaryIO:
        """Open the state for one process at a time, until it is closed."""
        descriptor = os.open(self._state, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return os.fdopen(descriptor, "rb+")


def parse_members(untrusted: bytes) -> dict[str, Member]:
    """Return the pool's users by their ids, in their order.

    Raises:
        MalformedError: it is not as documented.
    """
    members: dict[str, Member] = {}
    for item in untrusted_json.array(untrusted_json.parse(untrusted, "the pool"), "the pool", MAX_USERS):
        entry = dict(untrusted_json.mapping(item, "a user of the pool"))
        named = entry.pop("vps", None)
        vps_id = parse_vps_id(named) if isinstance(named, str) else None
        if named is not None and (vps_id is None or vps_id in {one.vps_id for one in members.values()}):
            raise MalformedError("vps of a user of the pool is no id of a VPS, or stands there twice")
        untrusted_json.record(entry, "a user of the pool", ("userId", "oneTimePassword"))
        password = untrusted_json.text(entry["oneTimePassword"], "a one-time password", _MAX_PASSWORD)
        user_id = parse_id(entry["userId"])
        if user_id in members:
            raise MalformedError("the pool has a user twice")
        members[user_id] = Member(user_id, password, vps_id)
    return members


def _in_the_panel(word: str, vps_id: str, user_id: str) -> str:
    return f"{word} the user {user_id} of {vps_id} in the cloud's panel: of a pool's, only a person can"


def _append(file: BinaryIO, event: str, vps_id: str, user_id: str) -> None:
    """Write an event down, on the disk, before anybody is told of it."""
    file.write(json.dumps({"event": event, "vps": vps_id, "user": user_id}).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _replay(file: BinaryIO, path: Path) -> tuple[dict[str, Taken], set[str]]:
    """Return who has which user now, and every user that was ever given away."""
    taken: dict[str, Taken] = {}
    used: set[str] = set()
    lines = file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):  # of a crash: nobody was told of it
        file.truncate(sum(map(len, lines[:-1])))
        del lines[-1]
    try:
        for kind, vps_id, user_id in map(_event, lines):
            used.add(user_id)
            if kind == LEFT:
                taken.pop(vps_id, None)
            else:
                taken[vps_id] = Taken(user_id, told=kind == TOLD)
    except MalformedError:
        pass
    else:
        return taken, used
    # whoever went on could give one user to two VPSs
    raise RefusalError(500, "pool-state", f"{path} is damaged: mend it by hand, one event a line")


def _event(line: bytes) -> tuple[str, str, str]:
    untrusted = untrusted_json.parse(line, "an event")
    event = untrusted_json.record(untrusted, "an event", ("event", "vps", "user"))
    kind, vps_id = str(event["event"]), parse_vps_id(str(event["vps"]))
    if vps_id is None or kind not in {GIVEN, TOLD, LEFT}:
        raise MalformedError("an event is unknown")
    return kind, vps_id, parse_id(event["user"])
