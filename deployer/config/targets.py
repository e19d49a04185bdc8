"""[[postgresql]], [[command]], [[backup]] and [beacon] of deployer.toml: what the worker reaches besides."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from common.names import parse_name
from common.toml_table import url
from deployer.config import parts
from deployer.config.model import Backup, BackupKind, Beacon, Command, PostgresqlServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from common.toml_table import Table

_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,252})|/[\x21-\x7e]{1,100}")
_IDENTIFIER: Final = re.compile(r"[a-z_][a-z0-9_$]{0,62}")
_RECIPIENT: Final = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_HTTPS: Final = "must be an https:// URL without user or query (http:// only on loopback)"
_NAME: Final = "must be a name of letters, digits, dot, dash and underscore"
_NO_DEFAULT: Final = "is missing; there is no default"


def servers(top: Table) -> Mapping[str, PostgresqlServer]:
    """Return the PostgreSQL servers by the name that blueprints give."""
    found: dict[str, PostgresqlServer] = {}
    for table in top.tables("postgresql"):
        name = table.required("name", parse_name, _NAME)
        server = PostgresqlServer(
            name=name,
            host=table.required(
                "host", _host, "must be a host name, an address, or the folder of a Unix socket"
            ),
            port=table.integer("port", 5432, 1, 65535),
            database=table.required(
                "database", _identifier, "must be a name as PostgreSQL keeps it, in lower case"
            ),
            user=table.text("user", _identifier, "must be a role's name as PostgreSQL keeps it")
            or "vps_rotator",
            credential=parts.credential(table, f"postgresql-{name}"),
            ca_file=table.path("ca_file"),
            connect_timeout=table.seconds("connect_timeout", 5.0, 1.0, 60.0),
        )
        if not server.host.startswith("/") and server.ca_file is None and not table.has("ca_file"):
            table.add(
                "ca_file", "is missing; over TCP the server is checked by its certificate (verify-full)"
            )
        if name in found:
            table.add("name", "is the name of another server, too")
        table.finish()
        found[name] = server
    return found


def commands(top: Table) -> Mapping[Path, Command]:
    """Return the executables that blueprints may name; any other is refused."""
    found: dict[Path, Command] = {}
    for table in top.tables("command"):
        path = table.path("path")
        has_credential = table.has("credential") or table.has("credential_file")
        command_credential = parts.credential(table, None)
        timeout = table.seconds("timeout", 30.0, 1.0, 300.0)
        if not table.has("path"):
            table.add("path", _NO_DEFAULT)
        if path in found:
            table.add("path", "is listed already")
        table.finish()
        if path is not None:
            found[path] = Command(path, command_credential if has_credential else None, timeout)
    return found


def backups(top: Table) -> tuple[Backup, ...]:
    """Return where backups go."""
    found: list[Backup] = []
    for table in top.tables("backup"):
        name = table.required("name", parse_name, _NAME)
        directory, swift = table.path("directory"), table.text("swift", url, _HTTPS)
        if table.has("directory") == table.has("swift"):
            table.add("", "needs exactly one of directory and swift")
        recipient = "must be a list of age's public keys (age1…); the private ones stay offline"
        for key in ("application_credential_id", "credential", "credential_file"):
            if table.has(key) and not table.has("swift"):
                table.add(key, "has no effect without swift")
        backup = Backup(
            name=name,
            kind=BackupKind.SWIFT if swift else BackupKind.DIRECTORY,
            location=swift or str(directory or ""),
            recipients=table.texts("recipients", _recipient, recipient),
            every=table.seconds("every", 86400.0, 60.0, 7 * 86400.0),
            application_credential_id=table.text("application_credential_id"),
            credential=parts.credential(table, f"backup-{name}") if swift else None,
        )
        if any(name == other.name for other in found):
            table.add("name", "is the name of another destination, too")
        table.finish()
        found.append(backup)
    return tuple(found)


def beacon(table: Table) -> Beacon:
    """Return what is touched after a rotation."""
    found = Beacon(url=table.text("url", url, _HTTPS), directory=table.path("directory"))
    if table.has("url") == table.has("directory"):
        table.add("", "needs exactly one of url and directory")
    table.finish()
    return found


def _host(text: str) -> str | None:
    return text if _HOST.fullmatch(text) else None


def _identifier(text: str) -> str | None:
    return text if _IDENTIFIER.fullmatch(text) else None


def _recipient(text: str) -> str | None:
    return text if _RECIPIENT.fullmatch(text) else None
