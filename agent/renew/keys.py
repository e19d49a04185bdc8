"""The VPS takes its next sealing key, once a year, and drops the former when nothing is sealed to it.

1. Fetch gets the next key beside the former one, as one file, by one rename: it opens with both.
2. The next key is announced in the container, as the one that the former has said to come after it.
3. The announcement of the former is deleted. From here on the deployer seals to the next key.
4. The agent reads.
5. Weeks later, when all that it serves is sealed to the next key, the former is dropped.

Everything is read from the files and from the container, so whatever is killed in between, the next run does
what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.cli.answer import AnswerError
from agent.cli.http import PermissionDeniedError, UnreachableError, ask
from agent.core import renewal
from agent.identity import sealing_chain
from agent.identity.consumers import Consumer
from common import sealing_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.identity.account import Token
    from agent.identity.consumers import Consumers
    from agent.identity.sealing_chain import Chain

KEYS: Final = 2


@dataclass(frozen=True, slots=True)
class Keys:
    """The sealing keys of this machine. Methods may raise IdentityError or CredentialFileError."""

    directory: Path
    control_socket: str
    container: Consumers
    say: Callable[[str], None]

    begin: Callable[[float], None]
    """Writes down that the next key is taken: before that is done."""

    def turn(self, token: Token, since: float | None, now: float, *, at_once: bool) -> float:
        """Do what is to be done; return since when the key is in force (s since 1970).

        ``since`` is what the record says, ``at_once``: a person wants the next key now.
        """
        chain, held = sealing_chain.read(self.directory), sealing_chain.lines(self.directory)
        number = chain.number_of(held[0]) if chain and held else None
        if chain is None or number is None:
            if at_once:
                self.say("this VPS has no chain of keys: another key comes with another claim")
            return since or now
        if since is None:
            since = now
        if len(held) == KEYS:
            if at_once:
                self.say("the next key is in force already; the former one is needed still, or not for long")
            elif now - since >= renewal.FORMER_KEY_S and not self._needs_former(held[0]):
                sealing_chain.put(held[:1], self.directory)
                self.say("the former sealing key is dropped: nothing that is served is sealed to it")
        elif (at_once or now - since >= renewal.KEY_S) and number + 1 < sealing_chain.LENGTH:
            number, since = number + 1, now
            self.begin(now)
            sealing_chain.put([chain.line(number), held[0]], self.directory)
            self.say(f"sealing key {number + 1} of {sealing_chain.LENGTH} is in force, beside the former one")
        self._announce(token, chain, number)
        return since

    def _announce(self, token: Token, chain: Chain, number: int) -> None:
        """Have the container announce the key in force, and none that was before it."""
        wanted = Consumer(**_named(chain, number))
        listed = self.container.listed(token)
        if wanted not in listed:
            self.container.add(token, chain.announced[number].consumer)
        before = {one.key for one in chain.announced[:number]}
        for one in listed:
            if one.name != sealing_key.CONSUMER or one == wanted:
                continue
            found = sealing_key.announced_by(one.url)
            if found is not None and found.key in before:
                self.container.remove(token, one)
            else:
                self.say(f"ALARM: the container announces a key that this machine has not: {one.url}")

    def _needs_former(self, line: str) -> bool:
        """Tell whether something that is served was opened by another key than this one, or nobody knows."""
        held = sealing_key.parse(line)
        try:
            secrets = ask(self.control_socket, "GET", "/v1/status").content.get("secrets")
        except (UnreachableError, PermissionDeniedError, AnswerError):
            return True
        if secrets is None or held is None:
            return True
        return any(one.get("openedBy") not in {None, sealing_key.id_of(held.key)} for one in secrets)


def _named(chain: Chain, number: int) -> dict[str, str]:
    consumer = chain.announced[number].consumer
    return {"name": consumer["name"], "url": consumer["URL"]}
