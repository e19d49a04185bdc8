"""The kind ``command``: an executable of the operator's brings the value to a third party.

Its steps are ``plan``, ``create``, ``apply``, ``test``, ``retire`` and ``lock``; exit status 0 is done, 1 try
again, 2 never (docs/blueprints.md). Only what deployer.toml lists is run, and never here: in a process of its
own, with a user of its own (deployer/hook).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from common.errors import VpsSecretsError
from common.limits import MAX_PAYLOAD
from deployer.core.options import CommandOptions
from deployer.hook import asking
from deployer.hook.asking import HookError
from deployer.hook.messages import Request
from deployer.hook.process import CREATED, CREDENTIAL, FACTS, VALUE
from deployer.kinds.kind import KindError
from deployer.kinds.random import draw
from deployer.kinds.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path, PurePosixPath

    from deployer.core.blueprint import SecretSpec
    from deployer.kinds.kind import Facts

DONE, AGAIN, NEVER = range(3)
MAX_WORDS: Final = 16
# A word of a message: short, in small letters but for the first one. Random values hardly ever look so.
_WORD: Final = re.compile(r"[A-Za-z]?[a-z]{1,14}[.,:;!?]?|[aAI]")
_LONG: Final = 3
"""From so many letters on a word that the value contains is left out."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One executable that may be run. ``timeout`` in seconds, of one step.

    ``credential`` reads the third party's, whenever it is needed; it may raise VpsSecretsError.
    """

    timeout: float = 30.0
    credential: Callable[[], bytes] | None = None


class Command:
    """The executables by their paths; any other is refused."""

    name = "command"

    def __init__(self, rules: Mapping[PurePosixPath, Rule], hook: Path) -> None:
        """``hook``: the socket behind which they are run."""
        self._rules = rules
        self._hook = hook

    def slots(self, spec: SecretSpec) -> tuple[str, ...]:
        """Return the third party's two accounts, or none."""
        return spec.slots

    def preflight(self, facts: Facts) -> None:
        """Let it look at the third party (``plan``), and first be looked at itself."""
        self._run(facts, "preflight", "plan")

    def make(self, facts: Facts) -> Value:
        """Draw the value, or let the command create it."""
        options = facts.options(CommandOptions)
        if options.value is not None:
            return draw(options.value)
        created = self._run(facts, "make", "create")
        if not 0 < len(created) <= MAX_PAYLOAD:
            what = f"more than {MAX_PAYLOAD} bytes" if created else "nothing"
            created[:] = bytes(len(created))
            _refuse(options.path, "create", f"wrote {what} to descriptor {CREATED}")
        return Value(created)

    def apply(self, facts: Facts, value: Value) -> None:
        """Let it give the value to the third party."""
        self._run(facts, "apply", "apply", value)

    def test(self, facts: Facts, value: Value) -> None:
        """Let it prove that the third party takes the value."""
        self._run(facts, "test", "test", value)

    def retire(self, facts: Facts) -> None:
        """Let it end a former version."""
        self._run(facts, "retire", "retire")

    def lock(self, facts: Facts) -> None:
        """Let it end every account of the secret."""
        self._run(facts, "lock", "lock")

    def public(self, facts: Facts, value: Value) -> str | None:  # noqa: ARG002  # as Kind has it
        """Nothing of it may be known."""
        return None

    def _run(self, facts: Facts, step: str, verb: str, value: Value | None = None) -> bytearray:
        """Run one step; return what it created."""
        path = facts.options(CommandOptions).path
        rule = self._rules.get(path)
        if rule is None:
            _refuse(path, step, "deployer.toml has no [[command]] with this path")
        given: dict[int, bytes | memoryview] = {FACTS: _facts(facts, verb)}
        if value is not None:
            given[VALUE] = value.reveal()
        if rule.credential is not None:
            given[CREDENTIAL] = _credential(path, step, rule.credential)
        problem = ""
        try:
            answer = asking.ask(self._hook, Request(path, verb, given), rule.timeout)
        except HookError as error:
            problem = str(error)
        if problem:
            raise KindError(step, f"{path} {verb}: {problem}")
        if answer.refused:
            raise KindError(step, f"{path}: {answer.refused}", permanent=step == "preflight")
        if answer.status == DONE:
            return answer.created
        secret = value.reveal() if value is not None else answer.created
        said = _words(answer.said, bytes(secret))
        answer.created[:] = bytes(len(answer.created))
        what = f"{_status(answer.status, rule.timeout)}{f'; it said: {said}' if said else ''}"
        raise KindError(step, f"{path} {verb}: {what}", permanent=answer.status == NEVER)


def _facts(facts: Facts, verb: str) -> bytes:
    told = {
        "step": verb,
        "vps": facts.vps_id,
        "name": facts.name,
        "slot": facts.slot,
        "secret": facts.version,
        "rotation": facts.rotation,
    }
    return json.dumps(told).encode() + b"\n"


def _credential(path: PurePosixPath, step: str, read: Callable[[], bytes]) -> bytes:
    problem, content = "", b""
    try:
        content = read()
    except VpsSecretsError as error:
        problem = str(error)
    if problem:
        _refuse(path, step, f"its credential: {problem}")
    return content


def _status(status: int | None, timeout: float) -> str:
    if status is None:
        return f"was not done after {timeout:g} s and was ended"
    if status < 0:
        return f"was ended by signal {-status}"
    return {AGAIN: "asks to be tried again", NEVER: "says that it never will"}.get(
        status, f"ended with the status {status}, which the contract does not have"
    )


def _words(said: bytes | bytearray, secret: bytes) -> str:
    """Return the words of what a command said, as far as they can't be a part of the value."""
    content = secret.decode(errors="replace").lower()
    words = []
    for word in said.decode(errors="replace").split():
        plain = word.rstrip(".,:;!?").lower()
        in_value = len(plain) >= _LONG and plain in content
        words.append(word if _WORD.fullmatch(word) and not in_value else "…")
    shown = [word for at, word in enumerate(words) if word != "…" or not at or words[at - 1] != "…"]
    text = " ".join(shown[:MAX_WORDS])
    return text if any(character.isalpha() for character in text) else ""


def _refuse(path: PurePosixPath, step: str, reason: str) -> NoReturn:
    raise KindError(step, f"{path}: {reason}", permanent=True)
