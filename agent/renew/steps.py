"""The steps of a renewal. Killed between any two, the next run goes on, and what reads never misses.

1. Where the password is a year old: the next one is kept before Keystone is asked to take it.
2. The next application credential is made, if a third of the former's life is left by Keystone's clock.
3. Its id and secret replace the former's, as one file, by one rename.
4. It logs in, and the agent reads with it: only now the former may go.
5. Everything else that the user has is deleted: the former, its access rules, and what somebody else made.
6. Where it is time for that, the next sealing key (agent/renew/keys.py).
7. The password's token is ended.

A credential that was made and not kept (killed between 2 and 3) has a secret that nobody knows: step 5 of the
next run deletes it.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent.cli.answer import AnswerError
from agent.cli.http import PermissionDeniedError, UnreachableError, ask
from agent.core import renewal
from agent.core.renewal import Pair, Record
from agent.identity import credential_file, held, sealing_chain
from agent.identity.account import REVOCATION_SECOND_S, Refusal, Token
from agent.identity.errors import CONFLICT, IdentityError
from agent.identity.held import Held
from agent.renew.keys import Keys
from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.identity.account import Account, Belonging, Credential
    from agent.identity.consumers import Consumers

PASSWORD_BYTES: Final = 32
READING_S: Final = 120.0
"""For the agent's reading with the new credential."""
MAX_ROUNDS: Final = 5
MAX_NAMES: Final = 5
NAME: Final = "vps-secrets-"
_OK: Final = 200
_TOO_MANY: Final = 429


class RenewalError(VpsSecretsError):
    """It can't be done now; the text says why, and what to do. What was in force is in force."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: ``directory`` has the credentials and the record."""

    directory: Path
    control_socket: str

    def kept(self) -> Pair | None:
        """Return the credential in force with its id, None where its file has a secret alone, or nothing."""
        return held.pair(self.directory)


class Renewal:
    """One run for one user. Every method may raise RenewalError, IdentityError or CredentialFileError."""

    def __init__(self, account: Account, mine: Held, place: Place, say: Callable[[str], None]) -> None:
        self._account = account
        self._mine = mine
        self._place = place
        self._say = say
        self._foreign: list[str] = []

    def run(
        self,
        in_force: str,
        record: Record,
        container_of: Callable[[Token], Consumers],
        *,
        new_key: bool = False,
    ) -> Record:
        """Renew if it is time; return how it stands then. ``in_force`` is the id of the credential in use.

        ``container_of`` finds the container by a token's catalog, ``new_key``: a person wants the next
        sealing key now.
        """
        token = self._log_in()
        now = token.issued_at
        since = record.password_since or now
        if now - since >= renewal.PASSWORD_S:
            token, since = self._change_password(), now
        there = self._account.credentials(token)
        current = next((one for one in there if one.id == in_force), None)
        renewed = record.renewed
        if current is None or renewal.is_due(current.expires_at, now):
            current, renewed = self._renew(token, there), now
        else:
            self._confirm(current)
        found = replace(
            record,
            credential=current.id,
            expires=current.expires_at,
            password_since=since,
            renewed=renewed,
            pending=True,
        )
        self._keep(found)  # from here on the next run knows it, and goes on
        self._read()
        self._clean(token, current)
        found = self._turn_key(container_of, token, found, now, at_once=new_key)
        self._drop(token)
        return replace(found, pending=False, problem="", foreign=(*record.foreign, *self._foreign))

    def check(self) -> None:
        """Make sure that the password in force logs in: somebody may have set another one."""
        self._drop(self._unscoped()[1])

    def _turn_key(
        self,
        container_of: Callable[[Token], Consumers],
        token: Token,
        record: Record,
        now: float,
        *,
        at_once: bool,
    ) -> Record:
        """See to the sealing key, where this machine has a chain of them."""
        place = self._place
        if not credential_file.path_of(sealing_chain.CREDENTIAL, place.directory).exists():
            if at_once:
                raise RenewalError("this VPS has no chain of sealing keys: another key comes with a claim")
            return record

        def begin(at: float) -> None:
            self._keep(replace(record, key_since=at))

        keys = Keys(place.directory, place.control_socket, container_of(token), self._say, begin)
        return replace(record, key_since=keys.turn(token, record.key_since, now, at_once=at_once))

    def _keep(self, record: Record) -> None:
        keep(record, self._place.directory)

    def _log_in(self) -> Token:
        """Log in to the VPS's project."""
        return self._scoped(*self._unscoped())

    def _unscoped(self) -> tuple[str, Token]:
        """Log in by the password in force, whichever of the two that may be, and return both."""
        for password in (self._mine.password, self._mine.next):
            if password is None:
                continue
            found = self._account.log_in(password)
            if found is Refusal.LOCKED:
                raise RenewalError("the user is locked: this VPS has not joined to the end: vps-secrets join")
            if isinstance(found, Token):
                if password == self._mine.next:
                    time.sleep(REVOCATION_SECOND_S)  # it may have been a moment ago
                    self._mine = Held(self._mine.user_id, password)
                    held.write(self._mine, self._place.directory)
                return password, found
        raise RenewalError(
            "Keystone refuses this machine's password: the user was disabled or deleted, or somebody else "
            "has set another one, which is an alarm: vps-secrets-deploy vps show says what was ordered"
        )

    def _scoped(self, password: str, unscoped: Token) -> Token:
        projects = self._account.projects(unscoped)
        if len(projects) != 1:
            raise RenewalError(f"the user has roles in {len(projects)} projects, and must have one")
        self._drop(unscoped)
        found = self._account.log_in(password, projects[0])
        if not isinstance(found, Token):
            raise RenewalError("Keystone does not let the user into its project")
        return found

    def _change_password(self) -> Token:
        """Give the user a new password; this ends its tokens, and what reads logs in anew."""
        former, new = self._mine.password or "", secrets.token_urlsafe(PASSWORD_BYTES)
        self._mine = Held(self._mine.user_id, former, new)
        held.write(self._mine, self._place.directory)
        if not self._account.change_password(former, new):
            raise RenewalError("Keystone does not change the password: it was changed by somebody else")
        self._mine = Held(self._mine.user_id, new)
        held.write(self._mine, self._place.directory)
        self._say("the account has a new password")
        return self._log_in()

    def _renew(self, token: Token, there: tuple[Credential, ...]) -> Credential:
        """Make the next credential and put it in force."""
        generation = 1 + max((one.generation for one in there), default=0)
        for number in range(generation, generation + MAX_NAMES):
            try:
                made = self._account.make_credential(token, f"{NAME}{number}", renewal.LIFE_S)
            except IdentityError as error:
                if error.status != CONFLICT:
                    raise
                continue
            pair = Pair(made.credential.id, made.secret)
            credential_file.write(credential_file.KEYSTONE_CREDENTIAL, pair.content(), self._place.directory)
            self._say(f"{made.credential.name} is in force: {pair.id}")
            self._try(pair)
            return made.credential
        raise RenewalError(f"the names from {NAME}{generation} on are taken: delete what nobody uses")

    def _confirm(self, current: Credential) -> None:
        """Make sure that what is in force logs in, before others are deleted."""
        kept = self._place.kept()
        if kept is not None and kept.id == current.id:
            self._try(kept)

    def _try(self, pair: Pair) -> None:
        self._account.log_in_with(pair.id, pair.secret)  # its rules do not let it end its token

    def _read(self) -> None:
        """Have the agent read with what is in force now."""
        reason = ""
        for _ in range(MAX_ROUNDS):
            try:
                answer = ask(self._place.control_socket, "POST", "/v1/refresh", READING_S)
            except (UnreachableError, PermissionDeniedError, AnswerError) as error:
                reason = str(error)
                break
            reason = "" if answer.status == _OK else str(answer.content.get("detail") or answer.status)
            if answer.status != _TOO_MANY:
                break
            time.sleep(max(1.0, answer.retry_after))  # an operator has just asked for one
        if reason:
            raise RenewalError(
                f"the agent has not read with the credential in force: {reason}; the former one stays until "
                "it has: vps-secrets status"
            )

    def _clean(self, token: Token, current: Credential) -> None:
        """Delete all else that the user has; what this machine can't have made is an alarm."""
        for _ in range(MAX_ROUNDS):
            if not self._account.delete_all_but(token, current.id, self._note):
                return
        raise RenewalError(
            "somebody makes credentials of this user as fast as they are deleted: revoke the VPS"
        )

    def _note(self, one: Belonging) -> None:
        ours = one.kind == "application_credentials" and one.name.startswith(NAME)
        if not ours and str(one) not in self._foreign:
            self._foreign.append(str(one))
        self._say(f"deleted {one}" + ("" if ours else ": this machine did not make it"))

    def _drop(self, token: Token) -> None:
        try:
            self._account.drop(token)
        except IdentityError as error:
            self._say(f"{error}; it ends by itself")


def keep(record: Record, directory: Path) -> None:
    """Write the record, which everybody may read.

    Raises:
        CredentialFileError: it can't be written.
    """
    credential_file.put(directory / renewal.RECORD, renewal.encode(record), 0o644)
