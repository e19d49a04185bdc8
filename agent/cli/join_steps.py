"""The steps of a VPS that joins, up to what its agent is started with. Each can be repeated.

In this order, so that whatever is killed in between, the next run goes on:

1. a new password is kept, encrypted, *before* Keystone is asked to take it: the next run tries it first;
2. Keystone takes it: from here on the one-time password is worthless, and who had it is out;
3. the deployer sees that, unlocks the user and gives it its role: waited for;
4. whatever else the user has is deleted, since this machine did not make it, or lost it when it was killed;
   but what an agent reads with here now stays until step 7;
5. the sealing key is kept before it is announced; a key of somebody else is taken out of the container;
6. the application credential: its secret is in the draft of the configuration (agent/cli/join_machine.py);
   one that was lost with a killed run is found in step 4 of the next;
7. when the agent has read with it all that it served before, the former credential is deleted.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from agent.identity import consumers, held, sealing_chain
from agent.identity.account import REVOCATION_SECOND_S, Account, Refusal, Token
from agent.identity.consumers import Consumer, Consumers
from agent.identity.errors import IdentityError
from agent.identity.held import Held
from common import sealing_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.cli.join_claim import Claim
    from agent.identity.account import Belonging, NewCredential
    from agent.identity.calls import Line

Got = TypeVar("Got")
LIFE_S: Final = 90 * 86400.0
SERVICE: Final = "key-manager"
PASSWORD_BYTES: Final = 32
_BAD_REQUEST: Final = 400
_NOT_YET: Final = {403, 404}
AGAIN_S: Final = 2.0
SAY_AGAIN_S: Final = 60.0
MAX_ROUNDS: Final = 5
"""Of deleting what is not ours: whoever makes more while we delete is an alarm."""
REFUSED_S: Final = 30.0
"""A password that was just in force and is refused this long: the user is disabled, or has another."""


class JoinError(Exception):
    """It can't go on, and trying again does not help; the text says why, and what to do."""


class LaterError(Exception):
    """It has waited long enough for now; the next run goes on."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, on the monotonic clock, and how to say for what."""

    until: float
    say: Callable[[str], None]

    def wait(self, step: Callable[[], Got | None], otherwise: str = "") -> Got:
        """Return what a step gives, once it does; errors that may pass are waited out.

        Raises:
            LaterError: there is no more time. JoinError: waiting does not help.
        """
        told, told_at = "", 0.0
        while True:
            try:
                found = step()
            except IdentityError as error:
                if not error.retriable:
                    raise
                found, reason = None, str(error)
            else:
                reason = otherwise
            if found is not None:
                return found
            now = time.monotonic()
            if now >= self.until:
                raise LaterError(reason)
            if reason != told or now - told_at >= SAY_AGAIN_S:
                told, told_at = reason, now
                self.say(f"waiting        {reason}; tried again every {AGAIN_S:g} s")
            time.sleep(AGAIN_S)

    def do(self, step: Callable[[], None]) -> None:
        """Take a step that gives nothing; see :meth:`wait`."""

        def done() -> bool:
            step()
            return True

        self.wait(done)


class Steps:
    """The steps of one VPS; ``directory`` is where its credentials are."""

    def __init__(self, claim: Claim, patience: Patience, directory: Path, line: Line) -> None:
        self._claim = claim
        self._patience = patience
        self._say = patience.say
        self._directory = directory
        self._line = line
        self._account = Account(self._line, claim.auth_url, claim.user_id)

    def take_over(self) -> Held:
        """Make the password one that only this machine knows, and return it.

        Raises:
            JoinError: the one-time password is not in force. LaterError: Keystone does not answer.
            CredentialFileError: the password can't be kept; nothing was changed.
        """
        mine = held.read(self._directory)
        if mine is None or mine.user_id != self._claim.user_id:
            mine = Held(self._claim.user_id, None)
        elif mine.password and self._is_in_force(mine.password):
            self._say("claim          done before: this machine's own password is in force")
            return mine
        if mine.next is None:
            mine = Held(mine.user_id, mine.password, secrets.token_urlsafe(PASSWORD_BYTES))
            held.write(mine, self._directory)
        new = mine.next or ""
        self._patience.wait(lambda: self._changed(new))
        mine = Held(mine.user_id, new)
        held.write(mine, self._directory)
        self._say(
            "claim          done: the one-time password is worthless, only this machine has the new one"
        )
        return mine

    def _is_in_force(self, password: str) -> bool:
        return self._patience.wait(lambda: self._account.log_in(password) is not Refusal.WRONG)

    def _changed(self, new: str) -> bool:
        """Have the new password in force, whether this call changes it or an earlier one did."""
        if self._account.change_password(self._claim.one_time_password, new):
            return True
        if self._account.log_in(new) is not Refusal.WRONG:
            time.sleep(REVOCATION_SECOND_S)  # it may have been a moment ago
            return True
        raise JoinError(
            f"the one-time password of {self._claim.vps_id} is not in force: somebody used it before this "
            "machine, or the user was disabled. Take its user data for stolen, and with it whatever was made "
            "for this VPS since; nothing older was ever its own. What to do now: "
            f"vps-secrets-deploy vps retire {self._claim.vps_id}, which shuts out whoever has it"
        )

    def let_in(self, mine: Held) -> Token:
        """Wait until the deployer has seen the claim, and return a token for the VPS's project.

        Raises:
            JoinError: the user is shut out, or has several projects. LaterError: nobody lets it in.
        """
        password = mine.password or ""
        refused_since: list[float] = []
        project = self._patience.wait(
            lambda: self._project(password, refused_since),
            "the deployer has not let this VPS in yet: it looks every few seconds; is it running?",
        )
        token = self._patience.wait(lambda: self._scoped(password, project), "its role is not in force yet")
        self._say(f"let in         by the deployer, in project {project}")
        return token

    def _project(self, password: str, refused_since: list[float]) -> str | None:
        found = self._account.log_in(password)
        if found is Refusal.WRONG:
            refused_since.append(time.monotonic())
            if refused_since[-1] - refused_since[0] < REFUSED_S:
                return None
            raise JoinError(
                "Keystone refuses the password that this machine has made: its user was disabled or deleted, "
                f"or got another password. vps-secrets-deploy vps show {self._claim.vps_id} says which"
            )
        if not isinstance(found, Token):
            return None
        projects = self._account.projects(found)
        if len(projects) > 1:
            raise JoinError(
                f"the user has roles in {len(projects)} projects, and must have one, that of the VPSs"
            )
        return projects[0] if projects else None

    def _scoped(self, password: str, project: str) -> Token | None:
        found = self._account.log_in(password, project)
        return found if isinstance(found, Token) else None

    def clean(self, token: Token, spared: str) -> int:
        """Delete everything that the user has but one credential; return N of the next one.

        Raises:
            JoinError: there is always more. LaterError: Keystone does not answer.
        """
        credentials = self._patience.wait(lambda: self._account.credentials(token))
        self._delete_all_but(token, spared, "this machine does not hold it")
        return 1 + max((one.generation for one in credentials), default=0)

    def end_former(self, token: Token, made: NewCredential) -> None:
        """Delete the credential that the agent read with before.

        Raises:
            JoinError: there is always more. LaterError: Keystone does not answer.
        """
        self._delete_all_but(token, made.credential.id, "the agent reads with another one now")

    def _delete_all_but(self, token: Token, spared: str, why: str) -> None:
        def note(one: Belonging) -> None:
            self._say(f"deleted        {one}: {why}")

        for _ in range(MAX_ROUNDS):
            if not self._patience.wait(lambda: self._account.delete_all_but(token, spared, note)):
                return
        raise JoinError(
            "somebody makes credentials of this user as fast as they are deleted: take its user data for "
            f"stolen, and retire it: vps-secrets-deploy vps retire {self._claim.vps_id}"
        )

    def key(self) -> sealing_key.Announced:
        """Return the announcement of this machine's sealing key, made and kept if need be.

        Raises:
            CredentialFileError: it can't be kept.
        """
        chain = sealing_chain.read(self._directory)
        held = [found for line in sealing_chain.lines(self._directory) if (found := sealing_key.parse(line))]
        if held:
            from common import sealing  # noqa: PLC0415  # cryptography is loaded only where a key is used

            return replace(held[0], key=sealing.public_of(held[0].key))
        if chain is None:
            chain = sealing_chain.make(self._directory)
        sealing_chain.put([chain.line(0)], self._directory)
        return chain.announced[0]

    def announce(self, token: Token, key: sealing_key.Announced) -> None:
        """Have the container announce this machine's key, and no other.

        Raises:
            IdentityError: it can't be. LaterError: the container is not there, or not this VPS's, yet.
        """
        claim = self._claim
        endpoint = token.endpoint(SERVICE, claim.region, claim.interface or "public")
        container = Consumers(self._line, consumers.url_of(endpoint, claim.auth_url, claim.container_id))
        wanted = key.consumer
        listed = self._patience.wait(
            lambda: self._listed(container, token), "the deployer has not given this VPS its container yet"
        )
        for one in listed:
            if one.name == sealing_key.CONSUMER and one.url != wanted["URL"]:
                self._say(f"deleted        a sealing key that is not this machine's: {one.url}")
                self._remove(container, token, one)
        if Consumer(wanted["name"], wanted["URL"]) not in listed:
            self._patience.do(lambda: container.add(token, wanted))
        self._say("key            announced in the container")

    def _remove(self, container: Consumers, token: Token, one: Consumer) -> None:
        self._patience.do(lambda: container.remove(token, one))

    def _listed(self, container: Consumers, token: Token) -> tuple[Consumer, ...] | None:
        try:
            return container.listed(token)
        except IdentityError as error:
            if error.status not in _NOT_YET:
                raise
        return None

    def credential(self, token: Token, generation: int) -> NewCredential:
        """Make the application credential.

        Raises:
            IdentityError: Keystone makes none. LaterError: it does not answer.
        """
        made = self._patience.wait(lambda: self._made(token, generation), "the role is not in force yet")
        self._say(f"credential     {made.credential.name}: {made.credential.id}")
        return made

    def _made(self, token: Token, generation: int) -> NewCredential | None:
        try:
            return self._account.make_credential(token, f"vps-secrets-{generation}", LIFE_S)
        except IdentityError as error:
            if error.status != _BAD_REQUEST:  # right after a role is given: "could not find role assignment"
                raise
        return None

    def drop(self, token: Token) -> None:
        """End the password's token; where that fails it ends by itself."""
        try:
            self._account.drop(token)
        except IdentityError as error:
            self._say(f"warning        {error}; it ends by itself")
