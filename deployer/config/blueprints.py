"""The folder of blueprints: each ``*.toml`` in it is one."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from common.errors import ConfigurationError, Mistake
from deployer.config.zones import zone
from deployer.core import blueprint
from deployer.core.options import CommandOptions, PostgresqlOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deployer.config.model import Config
    from deployer.core.blueprint import Blueprint


def load(path: Path) -> Blueprint:
    """Return one checked blueprint.

    Raises:
        ConfigurationError: the file can't be read, or anything in it is wrong; carries every mistake.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
    else:
        return blueprint.parse(text, path, zone)
    raise ConfigurationError((Mistake(str(path), "(file)", problem),))


def check_targets(found: Mapping[str, Blueprint], folder: Path, config: Config) -> None:
    """Check that deployer.toml has each server and each executable that a blueprint names.

    Raises:
        ConfigurationError: it has not; carries every mistake.
    """
    mistakes = []
    for one in found.values():
        file = str(folder / f"{one.name}.toml")
        for spec in one.secrets.values():
            options = spec.options
            if isinstance(options, PostgresqlOptions) and options.server not in config.postgresql:
                said = f"{config.path} has no [[postgresql]] named {options.server}"
                mistakes.append(Mistake(file, f"{spec.name}.server", said))
            if isinstance(options, CommandOptions) and Path(options.path) not in config.commands:
                said = f"{config.path} has no [[command]] with the path {options.path}"
                mistakes.append(Mistake(file, f"{spec.name}.command", said))
    if mistakes:
        raise ConfigurationError(tuple(mistakes))


def load_all(folder: Path) -> Mapping[str, Blueprint]:
    """Return every blueprint of the folder by its name.

    Raises:
        ConfigurationError: one can't be read, is wrong, or clashes with another; all mistakes of all.
    """
    found: list[tuple[Path, Blueprint]] = []
    mistakes: list[Mistake] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            found.append((path, load(path)))
        except ConfigurationError as error:
            mistakes += error.mistakes
    mistakes += blueprint.clashes(found)
    if not folder.is_dir():
        mistakes.append(Mistake(str(folder), "(folder)", "is not there, or is no folder"))
    if mistakes:
        raise ConfigurationError(tuple(mistakes))
    return MappingProxyType({one.name: one for _, one in found})
