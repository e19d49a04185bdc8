"""Every kind by the name that blueprints use, as deployer.toml sets it up."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from deployer.kinds.command import Command, Rule
from deployer.kinds.keypair import Keypair
from deployer.kinds.password import Password
from deployer.kinds.postgresql import Postgresql
from deployer.kinds.postgresql_link import Server
from deployer.kinds.random import Random

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deployer.config.model import Config, Credential
    from deployer.kinds.external import External
    from deployer.kinds.kind import Kind


def registry(config: Config, read: Callable[[Credential], bytes], given: External) -> Mapping[str, Kind]:
    """Return the kinds. ``read`` returns a credential's content; ``given`` holds the external values."""
    servers = {
        name: Server(
            name=name,
            host=server.host,
            port=server.port,
            database=server.database,
            user=server.user,
            password=partial(read, server.credential),
            ca_file=server.ca_file,
            connect_timeout=server.connect_timeout,
        )
        for name, server in config.postgresql.items()
    }
    rules = {
        PurePosixPath(path): Rule(
            timeout=command.timeout,
            credential=partial(read, command.credential) if command.credential is not None else None,
        )
        for path, command in config.commands.items()
    }
    kinds: tuple[Kind, ...] = (
        *(Random(), Password(), Keypair(), given),
        *(Postgresql(servers), Command(rules, config.hook.path)),
    )
    return MappingProxyType({kind.name: kind for kind in kinds})
