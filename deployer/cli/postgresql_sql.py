"""``blueprint sql``: what an administrator of PostgreSQL runs once for a secret of the kind ``postgresql``.

Prints; asks nobody and needs no server: whoever runs it reads it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.names import parse_vps_id
from deployer.cli.client import NO, OK, USAGE, ApiError
from deployer.config import blueprints as files
from deployer.config import reader
from deployer.core.options import VPS, PostgresqlOptions, filled
from deployer.kinds.postgresql_setup import setup_sql

if TYPE_CHECKING:
    import argparse

    from deployer.core.blueprint import Blueprint


class _Secret(NamedTuple):
    name: str
    options: PostgresqlOptions


def run(options: argparse.Namespace) -> int:
    """Print the SQL; the file of the blueprint is asked, applied or not.

    Raises:
        ApiError: there is no such blueprint or secret, or not one alone; a VPS is missing, or too many.
        ConfigurationError: deployer.toml or a blueprint is wrong.
    """
    config = reader.load(options.config)
    found = files.load_all(options.folder or config.blueprints).get(options.blueprint)
    if found is None:
        raise ApiError(f"there is no blueprint {options.blueprint} in the folder of blueprints", NO)
    secret = _secret(found, options.secret)
    server = config.postgresql.get(secret.options.server)
    if server is None:
        raise ApiError(
            f"{options.blueprint}/{secret.name}: {config.path} has no [[postgresql]] named "
            f"{secret.options.server}: add it first",
            NO,
        )
    vpses = _vpses(options, secret)
    owner = options.owner or (f"{VPS}_owner" if _each(secret) else f"{found.name}_owner")
    owners = {vps_id: filled(owner, vps_id) for vps_id in vpses}
    print(setup_sql(secret.options, database=server.database, rotator=server.user, owners=owners), end="")
    return OK


def _secret(found: Blueprint, name: str | None) -> _Secret:
    """Return the one that is meant."""
    kept = [
        _Secret(str(spec.name), spec.options)
        for spec in found.secrets.values()
        if isinstance(spec.options, PostgresqlOptions) and name in {None, str(spec.name)}
    ]
    if len(kept) == 1:
        return kept[0]
    if kept:
        names = ", ".join(one.name for one in kept)
        raise ApiError(f"{found.name} has more than one: say --secret, one of {names}", USAGE)
    what = f"no secret {name}" if name else "no secret"
    raise ApiError(f"{found.name} has {what} of the kind postgresql", NO)


def _each(secret: _Secret) -> bool:
    """Tell whether each VPS has roles of its own."""
    return not secret.options.is_shared


def _vpses(options: argparse.Namespace, secret: _Secret) -> list[str]:
    for vps_id in options.vps:
        if parse_vps_id(vps_id) is None:
            raise ApiError(f"{vps_id!r} is no id of a VPS", USAGE)
    if _each(secret) and not options.vps:
        raise ApiError(
            f"roles of {secret.name} have {VPS} in their names: say --vps for each, even before it is there",
            USAGE,
        )
    if not _each(secret) and len(options.vps) > 1:
        raise ApiError(f"the roles of {secret.name} are the same for all: only one VPS can have them", USAGE)
    return options.vps or [options.blueprint]
