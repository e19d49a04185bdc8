"""The users of a domain that is ours: made locked, claimed by their VPS, and only then given their role.

Until the claim a user has no role, and rules of multi-factor authentication that nobody can meet: its
one-time password logs in nowhere and can do one thing, change itself. So whoever reads a VPS's user data
before it does can take the name over, which its VPS notices, and has nothing yet.

Everything is read from Keystone each time; the registrar keeps no state.
"""

from __future__ import annotations

import fcntl
import secrets
import time
from typing import TYPE_CHECKING, Final

from deployer.registrar import one_time
from deployer.registrar.errors import RefusalError
from deployer.registrar.one_time import Note

if TYPE_CHECKING:
    from pathlib import Path

    from deployer.cloud.identity import Identity, Item, User

READER: Final = "reader"
LOCK: Final = "multi_factor_auth_enabled"
OPTIONS: Final = {
    # a password alone logs in nowhere; an application credential, which only the user of a machine that was
    # set up by hand has before its claim, does
    "multi_factor_auth_rules": [["application_credential"]],
    LOCK: True,
    # a stranger who knows the user's id could lock the claim out; the password has 256 bits
    "ignore_lockout_failure_attempts": True,
    # a VPS that was off for a year still has its password
    "ignore_password_expiry": True,
    "ignore_user_inactivity": True,
    # or no login could tell whether the one-time password is still in force
    "ignore_change_password_upon_first_use": True,
}
SETTLE_S: Final = 1.0
"""In which Keystone ends what it was answering when a user was changed."""


class Domain:
    """The VPS users of one domain, and their project in it; ``identity`` is its manager's."""

    def __init__(self, identity: Identity, domain_id: str, project: str, key: bytes, lock_file: Path) -> None:
        """``lock_file`` is any file that every process of the registrar can read."""
        self._identity = identity
        self._domain_id = domain_id
        self._project = project
        self._key = key
        self._lock_file = lock_file

    def make(self, vps_id: str) -> dict[str, object]:
        """Make the user of a VPS, locked and without a role; it may be there already."""
        found = self._identity.find("users", vps_id, self._domain_id)
        if found is None:
            found = self._identity.make(
                "users",
                vps_id,
                domain_id=self._domain_id,
                password=secrets.token_urlsafe(32),  # nobody ever learns it
                description=str(Note(0, one_time.fingerprint(self._key))),
                options=OPTIONS,
            )
        return {"userId": found.id}

    def claim(self, vps_id: str, *, again: bool = False, keep: str = "") -> dict[str, object]:
        """Return a one-time password, once; ``again`` makes another one and ends the former.

        Refused: a user that a VPS has claimed already. With ``again`` it is deleted with all that it has, and
        made anew, with another id: for a machine that was made anew. ``keep`` is the id of a user that a
        person made: its application credentials, with which a machine reads, go on logging in.
        """
        with self._lock_file.open("rb") as lock:  # two at once would both be told the same password
            fcntl.flock(lock, fcntl.LOCK_EX)
            return self._claim(vps_id, again=again, keep=keep)

    def _claim(self, vps_id: str, *, again: bool, keep: str) -> dict[str, object]:
        if again:
            self._end_former(vps_id)
        user, note = self._by_hand(vps_id, keep) if keep else self._unclaimed(vps_id)
        if note.generation and not (again or keep):
            raise RefusalError(
                409,
                "already-told",
                f"the one-time password of {vps_id} was told before; ask with again=true for another one, "
                "which ends the former",
            )
        generation = note.generation + 1
        password = one_time.password(self._key, vps_id, user.item.id, generation)
        self._change(
            user.item.id,
            f"set a one-time password for {vps_id}",
            password=password,
            description=str(Note(generation, note.fingerprint)),
            # once more: Keystone ignores some of them at creation
            options=OPTIONS,
        )
        attempt = self._identity.try_password(user.item.id, password)
        if attempt.token is not None or not attempt.right:
            self._end_password(vps_id, user.item.id, disable=not keep)
            raise RefusalError(
                502,
                "lock-does-not-bind",
                f"this Keystone does not keep {vps_id} locked until its claim: its one-time password logs "
                "in, or does not work; it is ended now; check the release and its methods of login",
            )
        return {"userId": user.item.id, "oneTimePassword": password}

    def _by_hand(self, vps_id: str, user_id: str) -> tuple[User, Note]:
        """Return a user that a person made, or one that was handed out as such and nobody has claimed."""
        user = self._user(vps_id)
        if user.item.id != user_id:
            raise RefusalError(
                409,
                "another-user",
                f"the user {user_id}, which the ACLs of {vps_id} name, is not the one of this name in the "
                "domain of the VPS users: only that one can be kept",
            )
        if user.item.enabled and one_time.parse(user.item.description) is None:
            return user, Note(0, one_time.fingerprint(self._key))
        return self._unclaimed(vps_id)

    def _end_password(self, vps_id: str, user_id: str, *, disable: bool) -> None:
        """End a one-time password that is not locked; a machine that uses the user is not cut off."""
        if disable:
            self._change(user_id, f"disable {vps_id}", enabled=False)
        else:
            password = secrets.token_urlsafe(32)  # nobody ever learns it
            self._identity.change("users", user_id, f"end the password of {vps_id}", password=password)

    def _end_former(self, vps_id: str) -> None:
        """Have a user that nobody has claimed: one that somebody has is deleted, whoever that was."""
        found = self._identity.find_user(vps_id, self._domain_id)
        if found is not None and self._is_claimed(vps_id, found):
            self._identity.remove("users", found.item.id)
        self.make(vps_id)

    def _is_claimed(self, vps_id: str, user: User) -> bool:
        """Tell whether somebody has, or had, the user of a VPS; with another key that can't be known."""
        note = one_time.parse(user.item.description)
        if note is None:
            return False
        if not user.item.enabled or user.options.get(LOCK) is not True:
            return True
        if not note.generation or note.fingerprint != one_time.fingerprint(self._key):
            return False
        password = one_time.password(self._key, vps_id, user.item.id, note.generation)
        return not self._identity.try_password(user.item.id, password).right

    def observe(self, vps_id: str) -> dict[str, object]:
        """Return whether a VPS has claimed its user; once it has, unlock it and give it its role."""
        user = self._user(vps_id)
        if not user.item.enabled:
            raise RefusalError(409, "disabled", f"the user of {vps_id} is disabled")
        if user.options.get(LOCK) is True:
            note = self._note(vps_id, user)
            if note.generation == 0:
                return self._said(user, claimed=False)
            password = one_time.password(self._key, vps_id, user.item.id, note.generation)
            if self._identity.try_password(user.item.id, password).right:
                return self._said(user, claimed=False)
            self._change(user.item.id, f"unlock {vps_id}", options={LOCK: False})
        # after the unlocking each time: a former observation may have ended between both
        self._grant(user.item)
        return self._said(user, claimed=True)

    def disable(self, vps_id: str) -> dict[str, object]:
        """Shut the user out of Keystone: its logins and tokens end. Barbican's cache may last 300 s."""
        return self._set_enabled(vps_id, "disable", enabled=False)

    def enable(self, vps_id: str) -> dict[str, object]:
        """Let the user in again: it has what it had."""
        return self._set_enabled(vps_id, "enable", enabled=True)

    def delete(self, vps_id: str) -> dict[str, object]:
        """Delete the user with all that it has; one that is gone already is fine."""
        found = self._identity.find("users", vps_id, self._domain_id)
        if found is not None:
            self._identity.remove("users", found.id)
        return {"remains": False}

    def login(self) -> dict[str, object]:
        """Return how long the manager's own password lasts."""
        dates = self._identity.password_dates()
        return {"ends": dates.ends, "since": dates.since}

    def _set_enabled(self, vps_id: str, word: str, *, enabled: bool) -> dict[str, object]:
        user = self._user(vps_id)
        if user.item.enabled is not enabled:
            self._change(user.item.id, f"{word} the user of {vps_id}", enabled=enabled)
        return {"userId": user.item.id, "enabled": enabled}

    def _change(self, user_id: str, step: str, **members: object) -> None:
        """Change a user so that it holds at once, twice.

        Keystone decides about a login by a cache. One that was under way during the change may put the former
        state there, which holds for 600 s: a disabled user logs in, an unlocked one does not. The second
        change empties the cache again, and what is read after the first one is the new state.
        """
        self._identity.change("users", user_id, step, **members)
        time.sleep(SETTLE_S)
        self._identity.change("users", user_id, step, **members)

    def _user(self, vps_id: str) -> User:
        found = self._identity.find_user(vps_id, self._domain_id)
        if found is None:
            raise RefusalError(404, "no-user", f"{vps_id} has no user yet: make it first")
        return found

    def _unclaimed(self, vps_id: str) -> tuple[User, Note]:
        """Return a user whose one-time password may be set: nobody has claimed it."""
        user = self._user(vps_id)
        if not user.item.enabled:
            raise RefusalError(409, "disabled", f"the user of {vps_id} is disabled")
        if user.options.get(LOCK) is not True:
            raise RefusalError(409, "already-claimed", f"{vps_id} has claimed its user already")
        note = one_time.parse(user.item.description)
        if note is None:
            raise RefusalError(409, "not-ours", f"the user {vps_id} was not made by the registrar: delete it")
        if note.generation and note.fingerprint == one_time.fingerprint(self._key):
            password = one_time.password(self._key, vps_id, user.item.id, note.generation)
            if not self._identity.try_password(user.item.id, password).right:
                raise RefusalError(409, "already-claimed", f"{vps_id} has claimed its user already")
        return user, Note(note.generation, one_time.fingerprint(self._key))

    def _note(self, vps_id: str, user: User) -> Note:
        """Return which one-time password is in force, of this registrar's key."""
        note = one_time.parse(user.item.description)
        if note is None or note.fingerprint != one_time.fingerprint(self._key):
            raise RefusalError(
                409,
                "another-key",
                f"the one-time password of {vps_id} was made with another key of the registrar: whether it "
                "was changed can't be known; claim it again",
            )
        return note

    def _grant(self, user: Item) -> None:
        project = self._identity.find("projects", self._project, self._domain_id)
        role = self._identity.find("roles", READER)
        if project is None or role is None:
            missing = f"the project {self._project}" if project is None else f"the role {READER}"
            raise RefusalError(502, "cloud-incomplete", f"{missing} is not there: run cloud plan")
        self._identity.grant(role.id, user.id, "project", project.id)

    @staticmethod
    def _said(user: User, *, claimed: bool) -> dict[str, object]:
        return {"userId": user.item.id, "claimed": claimed}
