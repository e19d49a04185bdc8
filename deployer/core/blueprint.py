"""A blueprint: which secrets a kind of VPS has, how each is made, when it is replaced, with which others.

One TOML file, a table a secret (docs/blueprints.md). :func:`parse` finds every mistake in one run and tells
file and key, never a value. Durations are seconds here and texts with a unit in the file.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from common.errors import ConfigurationError, Mistake
from common.limits import MAX_SECRETS
from common.names import SecretName, parse_name
from common.toml_table import Mistakes, Table, written
from deployer.core import options
from deployer.core.model import Wish
from deployer.core.options import CommandOptions, ExternalOptions, Options, PostgresqlOptions
from deployer.core.schedule import DAY_S, WINDOW_NEEDS_S, Window, parse_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import tzinfo
    from pathlib import Path

MAX_NAME: Final = 174
"""Characters of a name: Barbican takes 255 of ``VPS-ID/NAME~K``; a VPS id has up to 64, K up to 15 digits."""
MAX_NAMES: Final = MAX_SECRETS // 2
"""Secrets of a blueprint: a rotation lists each twice, and agents refuse a container with more entries."""
MIN_ROTATE_S: Final = 5.0
MAX_KEEP_PREVIOUS_S: Final = DAY_S
"""Agents serve a former version so long at most."""
MAX_ROLLBACK_S: Final = 90 * DAY_S
ROLLBACK_S: Final = DAY_S
"""How long a former version stays in Barbican unless the blueprint says it."""


@dataclass(frozen=True, slots=True)
class SecretSpec:
    """What the blueprint says about one name. ``rotate_s`` is None for ``"never"``."""

    name: SecretName
    kind: str
    options: Options
    rotate_s: float | None
    window: Window | None
    group: str
    """Its rotation group; its own name where the file gives none."""
    keep_previous_s: float | None
    """How long agents serve the former version; None for their default."""
    rollback_for_s: float
    """How long the former version stays in Barbican, unlisted."""

    @property
    def slots(self) -> tuple[str, ...]:
        """The third party's two accounts, as the blueprint writes them; none where there are not two."""
        if isinstance(self.options, PostgresqlOptions):
            return self.options.roles
        return self.options.slots if isinstance(self.options, CommandOptions) else ()

    def wish(self, *, ever_made: bool) -> Wish:
        """Return what the planner is to know; ``ever_made``: the VPS has, or had, a version of it.

        An external one only a person has, and one that never changes is what old data were encrypted with:
        if that is gone, another one would hide the loss.
        """
        lost = ever_made and self.rotate_s is None
        may_make = not lost and not isinstance(self.options, ExternalOptions)
        keep = None if self.keep_previous_s is None else int(self.keep_previous_s)
        return Wish(self.name, self.kind, self.group, self.slots, self.rollback_for_s, may_make, keep)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The whole file; ``name`` is the file's own, without ``.toml``."""

    name: str
    secrets: Mapping[SecretName, SecretSpec]

    def groups(self) -> dict[str, tuple[SecretSpec, ...]]:
        """Return the rotation groups, each with its members in the order of the file."""
        found: dict[str, tuple[SecretSpec, ...]] = {}
        for spec in self.secrets.values():
            found[spec.group] = (*found.get(spec.group, ()), spec)
        return found


def parse(text: bytes, file: Path, zone: Callable[[str], tzinfo | None]) -> Blueprint:
    """Return the checked blueprint. ``zone`` returns the rules of a place's clock (deployer/config/zones.py).

    Raises:
        ConfigurationError: anything in the file is wrong; carries every mistake.
    """
    mistakes = Mistakes(file)
    values = _values(text, mistakes)
    if parse_name(file.stem) is None:
        mistakes.add("(file)", "must have a name of letters, digits, dot, dash and underscore, then .toml")
    if not values:
        mistakes.add("(file)", "has no secret: each is a table, written [NAME]")
    if len(values) > MAX_NAMES:
        mistakes.add("(file)", f"has {len(values)} secrets; a VPS can have {MAX_NAMES}")
    specs = [spec for name, value in values.items() if (spec := _secret(name, value, mistakes, zone))]
    told = {mistake.key for mistake in mistakes.found}
    for spec, other, key, expected in (*_group_mistakes(specs), *_role_mistakes(specs)):
        if told.isdisjoint({f"{spec.name}.{key}", f"{other.name}.{key}"}):  # else it may follow from that
            mistakes.add(f"{spec.name}.{key}", expected)
    if mistakes.found:
        raise ConfigurationError(tuple(mistakes.found))
    return Blueprint(file.stem, MappingProxyType({spec.name: spec for spec in specs}))


def clashes(blueprints: Iterable[tuple[Path, Blueprint]]) -> tuple[Mistake, ...]:
    """Return a mistake for each role of PostgreSQL that two blueprints use, and each name of two files."""
    found: list[Mistake] = []
    roles: dict[tuple[str, str], Path] = {}
    for file, blueprint in blueprints:
        for spec in blueprint.secrets.values():
            for server, role in _roles(spec):
                other = roles.setdefault((server, role), file)
                if other != file:
                    what = f"has a role that {other.name} uses too: each would change the other's password"
                    found.append(Mistake(str(file), f"{spec.name}.roles", what))
    return tuple(found)


def _values(text: bytes, mistakes: Mistakes) -> dict[str, Any]:
    """Return the parsed file. Its parser's message may quote the file, so only the place is told."""
    problem = ""
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        problem = f"is not TOML, {place[1] if place else 'nested too deep'}"
    mistakes.add("(file)", problem)
    raise ConfigurationError(tuple(mistakes.found))


def _secret(
    untrusted_name: str, value: object, mistakes: Mistakes, zone: Callable[[str], tzinfo | None]
) -> SecretSpec | None:
    """Return what one table says; None where its name or kind is none, of which nothing more can be said."""
    name = parse_name(untrusted_name)
    if name is None or len(name) > MAX_NAME:
        expected = f"must be 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, no mark first"
        mistakes.add(untrusted_name if untrusted_name.isprintable() else ascii(untrusted_name), expected)
        return None
    if not isinstance(value, dict):
        mistakes.add(name, f"must be a table, written [{name}]")
        return None
    table = Table(value, name, mistakes)
    kinds = f"must be one of {', '.join(options.READERS)}"
    kind = table.required("kind", _kind, kinds)
    if not kind:
        return None  # which of its keys are right depends on it
    rotate_s = _rotate(table)
    chosen = options.READERS[kind](table)
    spec = SecretSpec(
        name=name,
        kind=kind,
        options=chosen,
        rotate_s=rotate_s,
        window=_window(table, rotate_s, zone, chosen),
        group=table.text("group", parse_name, "must be a name, as a secret's") or name,
        keep_previous_s=_keep_previous(table, rotate_s),
        rollback_for_s=_rollback_for(table, rotate_s, chosen),
    )
    table.finish()
    return spec


def _kind(text: str) -> str | None:
    if text == "hook":
        return "command"
    return text if text in options.READERS else None


def _rotate(table: Table) -> float | None:
    if not table.has("rotate"):
        table.add("rotate", 'is missing; it must be a duration such as "30d", or "never"')
        return None
    return table.seconds_or_never("rotate", None, MIN_ROTATE_S)


def _window(
    table: Table, rotate_s: float | None, zone: Callable[[str], tzinfo | None], chosen: Options
) -> Window | None:
    found: list[Window] = []

    def check(text: str) -> str | None:
        window = parse_window(text, zone)
        found.extend([window] if window else [])
        return text if window else None

    expected = 'must be as "02:00-05:00 Europe/Amsterdam": two times of a day, and a place that is known'
    table.text("window", check, expected)
    if table.has("window"):
        if rotate_s is None:
            table.add("window", 'has no effect with rotate = "never"')
        elif isinstance(chosen, ExternalOptions):
            table.add("window", "has no effect: the value comes when somebody gives it")
        elif rotate_s < WINDOW_NEEDS_S:
            needs = f"needs rotate of {written(WINDOW_NEEDS_S)} or more, or there is not always one in time"
            table.add("window", needs)
    return found[0] if found else None


def _keep_previous(table: Table, rotate_s: float | None) -> float | None:
    if not table.has("keep_previous"):
        return None
    seconds = table.seconds("keep_previous", 0.0, 0.0, MAX_KEEP_PREVIOUS_S)
    if rotate_s is not None and seconds > rotate_s / 2:
        table.add("keep_previous", "must be at most half of rotate, or versions come faster than they go")
    return seconds


def _rollback_for(table: Table, rotate_s: float | None, chosen: Options) -> float:
    """Return how long a former version is kept.

    With two accounts in turn the former one gets another password at the next rotation, which may come after
    half of the interval: what is kept longer would not work any more.
    """
    in_turn = isinstance(chosen, PostgresqlOptions) or (isinstance(chosen, CommandOptions) and chosen.slots)
    most = rotate_s / 2 if in_turn and rotate_s is not None else MAX_ROLLBACK_S
    seconds = table.seconds("rollback_for", min(ROLLBACK_S, most), 0.0, MAX_ROLLBACK_S)
    if seconds > most:
        table.add("rollback_for", "must be at most half of rotate: then the former account is needed again")
    return seconds


def _group_mistakes(specs: list[SecretSpec]) -> Iterator[tuple[SecretSpec, SecretSpec, str, str]]:
    """Yield (secret, the other one, key, what is expected) for what makes a rotation group impossible."""
    first: dict[str, SecretSpec] = {}
    for spec in specs:
        leader = first.setdefault(spec.group, spec)
        of_group = f"must be as in {leader.name}, which is of the same group"
        if spec.rotate_s != leader.rotate_s:
            yield spec, leader, "rotate", of_group
        if str(spec.window) != str(leader.window):
            yield spec, leader, "window", of_group
        if isinstance(spec.options, ExternalOptions) != isinstance(leader.options, ExternalOptions):
            yield spec, leader, "group", f"can't be that of {leader.name}: only one of the two is external"
    names = {spec.name: spec for spec in specs}
    for spec in specs:
        named = names.get(SecretName(spec.group))
        if named is not None and named.group != spec.group:
            expected = f"is the name of a secret that is of another group: write it at {named.name} too"
            yield spec, named, "group", expected


def _role_mistakes(specs: list[SecretSpec]) -> Iterator[tuple[SecretSpec, SecretSpec, str, str]]:
    """Yield the same for each role of a server that two secrets use."""
    users: dict[tuple[str, str], SecretSpec] = {}
    for spec in specs:
        for server, role in _roles(spec):
            other = users.setdefault((server, role), spec)
            if other is not spec:
                expected = f"has a role of {other.name}: each would change the other's password"
                yield spec, other, "roles", expected


def _roles(spec: SecretSpec) -> tuple[tuple[str, str], ...]:
    """Return (server, role) of each role that a secret uses."""
    chosen = spec.options
    if not isinstance(chosen, PostgresqlOptions):
        return ()
    return tuple((chosen.server, role) for role in chosen.roles if role)
