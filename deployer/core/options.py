"""What a blueprint says about each kind of secret besides its schedule: a dataclass a kind, and its reader.

A reader takes the keys of its kind from the table and notes every mistake there. Nothing here knows how a
value is made (deployer/kinds).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, TypeAlias

from common.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from common.toml_table import Table

ENCODINGS: Final = ("base64url", "base64", "hex", "raw")
ALGORITHMS: Final = ("ed25519", "ec-p256", "rsa-3072")
FORMATS: Final = ("pem", "jwk")
CLASSES: Final = {
    "lower": "abcdefghijklmnopqrstuvwxyz",
    "upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "digit": "0123456789",
}
SYMBOLS: Final = "!#$%&()*+,-./:;<=>?@[]^_{|}~"
"""What ``symbols`` may hold: printable ASCII without quotes, backslash, back-quote and space."""
MIN_BITS: Final = 80
"""The least that a password must be worth."""
MAX_ROLE: Final = 63
"""Bytes of a PostgreSQL identifier; a longer one would be cut, and be another role's."""
VPS: Final = "{vps}"

_ROLE: Final = re.compile(r"(?:[A-Za-z0-9_.-]|\{vps\})+")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_FIELDS: Final = ("role", "password", "host", "port", "database", "vps")


@dataclass(frozen=True, slots=True)
class RandomOptions:
    """``size`` random bytes, written as ``encoding`` says: one of :data:`ENCODINGS`."""

    size: int = 32
    encoding: str = "base64url"


@dataclass(frozen=True, slots=True)
class PasswordOptions:
    """``length`` characters of these sets, at least one of each."""

    length: int = 32
    sets: tuple[str, ...] = tuple(CLASSES.values())


@dataclass(frozen=True, slots=True)
class KeypairOptions:
    """A private key: one of :data:`ALGORITHMS`, written as one of :data:`FORMATS`."""

    algorithm: str = "ed25519"
    format: str = "pem"


@dataclass(frozen=True, slots=True)
class PostgresqlOptions:
    """Two log-in roles in turn. ``server`` is a name of deployer.toml.

    ``roles``, ``database`` and ``template`` may hold ``{vps}``. ``database`` is None for the server's own.
    """

    server: str
    roles: tuple[str, str]
    template: str
    database: str | None = None

    @property
    def is_shared(self) -> bool:
        """Whether all VPSs of the blueprint would get the same roles, so that it can have one VPS only."""
        return any(VPS not in role for role in self.roles)


@dataclass(frozen=True, slots=True)
class ExternalOptions:
    """Somebody else makes the value and gives it; there is nothing to say about it."""


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """An executable of the operator's. ``value`` is None where it creates the value itself.

    ``slots`` names the third party's two accounts that are used in turn, where it has them.
    """

    path: PurePosixPath
    value: RandomOptions | None = RandomOptions()
    slots: tuple[str, ...] = ()


Options: TypeAlias = (
    RandomOptions | PasswordOptions | KeypairOptions | PostgresqlOptions | ExternalOptions | CommandOptions
)


_RANDOM: Final = RandomOptions()
_PASSWORD: Final = PasswordOptions()
_KEYPAIR: Final = KeypairOptions()


def random(table: Table) -> RandomOptions:
    """Read ``bytes`` and ``encoding``."""
    return RandomOptions(
        table.integer("bytes", _RANDOM.size, 16, 4096),
        table.choice("encoding", _RANDOM.encoding, ENCODINGS),
    )


def password(table: Table) -> PasswordOptions:
    """Read ``length``, ``classes`` and ``symbols``."""
    length = table.integer("length", _PASSWORD.length, 12, 1024)
    names = f"must be a list of {', '.join(CLASSES)}"
    classes = table.texts("classes", _one_of(tuple(CLASSES)), names) if table.has("classes") else (*CLASSES,)
    if len(set(classes)) < len(classes):
        table.add("classes", "names a class twice")
    expected = f"must be one or more of {SYMBOLS} in one text, each once"
    symbols = table.text("symbols", _symbols, expected)
    sets = (*(CLASSES[name] for name in classes), *([symbols] if symbols else []))
    bits = length * math.log2(max(2, sum(map(len, sets))))
    if sets and bits < MIN_BITS:
        worth = f"{length} of these characters are worth {bits:.0f} bits"
        table.add("length", f"is too short: {worth}, and {MIN_BITS} are needed")
    return PasswordOptions(length, sets)


def keypair(table: Table) -> KeypairOptions:
    """Read ``algorithm`` and ``format``."""
    return KeypairOptions(
        table.choice("algorithm", _KEYPAIR.algorithm, ALGORITHMS),
        table.choice("format", _KEYPAIR.format, FORMATS),
    )


def postgresql(table: Table) -> PostgresqlOptions:
    """Read ``server``, ``roles``, ``template`` and ``database``."""
    server = table.required("server", parse_name, "must be the name of a [[postgresql]] of deployer.toml")
    expected = 'must be a list of two roles, such as ["app_a", "app_b"], which may hold {vps}'
    roles = table.texts("roles", _role, expected)
    if table.has("roles") and roles and len(roles) != 2:  # noqa: PLR2004  # in turn
        table.add("roles", expected)
    elif len(set(roles)) < len(roles):
        table.add("roles", "must be two different roles: one is used while the other gets its new password")
    fields = ", ".join(f"{{{field}}}" for field in _FIELDS)
    template = table.required(
        "template", _template, f"must be a text with {{role}} and {{password}}; it may hold {fields}"
    )
    database = table.text("database", _role, "must be the name of a database, which may hold {vps}")
    return PostgresqlOptions(server, (*roles, "", "")[:2], template, database)  # type: ignore[arg-type]


def external(_table: Table) -> ExternalOptions:
    """Read nothing: only a person or a portal has such a value."""
    return ExternalOptions()


def command(table: Table) -> CommandOptions:
    """Read ``command`` (or ``hook``, its other name), ``creates``, ``slots``, and the keys of ``random``."""
    key = "hook" if table.has("hook") else "command"
    if table.has("hook") and table.has("command"):
        table.add("hook", "says the same as command: write one of them")
    if not table.has(key):
        table.add(key, "is missing; it must be the absolute path of an executable")
    path = table.path(key)
    creates = table.boolean("creates", default=False)
    for other in ("bytes", "encoding"):
        if creates and table.has(other):
            table.add(other, "has no effect with creates: the command makes the value itself")
    expected = "must be a list of two different names: the third party's accounts that are used in turn"
    slots = table.texts("slots", parse_name, expected) if table.has("slots") else ()
    if slots and len(set(slots)) != 2:  # noqa: PLR2004  # in turn
        table.add("slots", expected)
    value = random(table)
    return CommandOptions(PurePosixPath(path or "/"), None if creates else value, slots)


READERS: Final[Mapping[str, Callable[[Table], Options]]] = {
    "random": random,
    "password": password,
    "keypair": keypair,
    "postgresql": postgresql,
    "external": external,
    "command": command,
}
"""The reader of each kind's keys."""


def filled(text: str, vps_id: str) -> str:
    """Return a role's or a database's name with ``{vps}`` replaced."""
    return text.replace(VPS, vps_id)


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str | None]:
    return lambda text: text if text in choices else None


def _symbols(text: str) -> str | None:
    return text if text and set(text) <= set(SYMBOLS) and len(set(text)) == len(text) else None


def _role(text: str) -> str | None:
    fits = _ROLE.fullmatch(text) and len(text.replace(VPS, "")) <= MAX_ROLE
    return text if fits and not text.startswith("pg_") else None


def _template(text: str) -> str | None:
    """Return a text whose placeholders are known ones, with the two that make it a secret."""
    rest = _PLACEHOLDER.sub("", text)
    fields = _PLACEHOLDER.findall(text)
    known = set(fields) <= set(_FIELDS) and {"role", "password"} <= set(fields)
    return text if known and "{" not in rest and "}" not in rest else None
