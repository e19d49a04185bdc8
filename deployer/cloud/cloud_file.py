"""cloud.toml: what a site has in the cloud before its first VPS; packaging/cloud.toml shows every key.

Nothing in the file is a secret.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from common.errors import ConfigurationError
from common.toml_table import Mistakes, Table
from deployer.cloud.accounts import (
    ACKNOWLEDGING_RULES,
    DEPLOYER_RULES,
    LIFE_RULE,
    LISTING_ROLES,
    LISTING_RULES,
    RUNTIME_RULES,
)

if TYPE_CHECKING:
    from pathlib import Path

    from deployer.cloud.accounts import Rule

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:-]{0,63}")
_NAMED: Final = "must be a name of letters, digits, space, dot, dash, colon and underscore"
FORBIDDEN: Final = "admin"


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a program logs in as, with the roles that it has in one place."""

    user: str
    domain: str
    roles: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    """Of its application credential."""
    application_credential: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A project, and the domain that it is in."""

    name: str
    domain: str


@dataclass(frozen=True, slots=True)
class Container:
    """A container of Swift: who may use it besides the operators of its project."""

    name: str
    place: Place
    versioned: bool = False
    """Former versions stay: whoever may only put can't take anything away."""
    readers: Place | None = None
    """Every user of this project may read what is in it."""
    writer: Account | None = None
    """May put, and nothing else."""


@dataclass(frozen=True, slots=True)
class CloudFile:
    """The whole file."""

    domain: str
    """Holds ``runtime`` and the VPS users, and nothing else."""
    secrets: Place
    runtime: Place
    deployer: Account
    registrar: Account | None
    """None: a pool of users that a person made."""
    vps: Account
    """What each VPS user has; its name is the VPS's id."""
    beacon_container: str | None
    backup: Place | None
    backup_container: str
    backup_writer: Account
    """Logs in for its one project, which is empty."""
    backup_writers: Place
    operator_role: str
    """Who has it in a project may make containers there."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The projects."""
        return (self.secrets, self.runtime, *([self.backup, self.backup_writers] if self.backup else []))

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The users that programs log in as, but those of VPSs."""
        return (
            self.deployer,
            *([self.registrar] if self.registrar else []),
            *([self.backup_writer] if self.backup else []),
        )

    @property
    def containers(self) -> tuple[Container, ...]:
        """The containers of Swift."""
        beacon, backup = self.beacon_container, self.backup
        return (
            *([Container(beacon, self.secrets, readers=self.runtime)] if beacon else []),
            *(
                [Container(self.backup_container, backup, versioned=True, writer=self.backup_writer)]
                if backup
                else []
            ),
        )


def load(path: Path) -> CloudFile:
    """Return the checked file.

    Raises:
        ConfigurationError: it can't be read, or anything in it is wrong; carries every mistake.
    """
    mistakes = Mistakes(path)
    values: dict[str, Any] = {}
    problem = ""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
    except (ValueError, RecursionError):  # not UTF-8, or not TOML: the parser's text may quote the file
        problem = "is not TOML in UTF-8"
    if problem:
        mistakes.add("(file)", problem)
        raise ConfigurationError(tuple(mistakes.found))
    found = _read(Table(values, "", mistakes))
    if mistakes.found:
        raise ConfigurationError(tuple(mistakes.found))
    return found


def _read(top: Table) -> CloudFile:
    domain_table = top.table("domain")
    domain = _text(domain_table, "name", "recruitiq-vps")
    domain_table.finish()
    secrets = _place(top, "secrets", "recruitiq-secrets", "Default")
    runtime = _place(top, "runtime", "vps-runtime", domain)
    table = top.table("deployment_service")
    deployer = Account(
        _text(table, "user", "recruitiq-deployment-service"),
        _text(table, "domain", "Default"),
        _roles(table, ("creator", "member")),
        DEPLOYER_RULES,
        _text(table, "application_credential", "deployment-secrets-provisioner"),
    )
    table.finish()
    vps = _vps(top.table("vps"))
    registrar = _registrar(top.table("registrar"), domain)
    beacon = top.table("beacon")
    beacon_container = beacon.text("container", _name, _NAMED)
    beacon.finish()
    backup = top.table("backup")
    backup_project = backup.text("project", _name, _NAMED)
    backup_domain = _text(backup, "domain", "Default")
    backup_container = _text(backup, "container", "vps-secrets-backups")
    backup_writer = Account(
        _text(backup, "user", "recruitiq-backup-writer"),
        backup_domain,
        ("reader",),
        (LIFE_RULE,),
        application_credential="vps-secrets-backup",
    )
    backup_writers = Place(_text(backup, "user_project", "recruitiq-backup-writer"), backup_domain)
    if backup_writers.name in {backup_project, secrets.name, runtime.name}:
        backup.add("user_project", "must be one of its own: elsewhere its role may read more than it puts")
    if backup_project == secrets.name:
        backup.add(
            "project", "must be another one: who takes over the deployer would reach old versions there"
        )
    backup.finish()
    store = top.table("object_store")
    operator_role = _text(store, "operator_role", "member")
    store.finish()
    if (secrets.name, secrets.domain) == (runtime.name, runtime.domain):
        top.add("secrets.project", "must differ from runtime.project: VPS users would list every secret")
    if secrets.domain == domain:
        top.add("secrets.domain", f"must not be {domain}: the registrar could give itself a role there")
    top.finish()
    return CloudFile(
        domain=domain,
        secrets=secrets,
        runtime=runtime,
        deployer=deployer,
        registrar=registrar,
        vps=vps,
        beacon_container=beacon_container,
        backup=Place(backup_project, backup_domain) if backup_project else None,
        backup_container=backup_container,
        backup_writer=backup_writer,
        backup_writers=backup_writers,
        operator_role=operator_role,
    )


def _place(top: Table, name: str, project: str, domain: str) -> Place:
    table = top.table(name)
    found = Place(_text(table, "project", project), _text(table, "domain", domain))
    table.finish()
    return found


def _vps(table: Table) -> Account:
    lists = table.boolean("list_metadata", default=False)
    acknowledges = table.boolean("acknowledge", default=False)
    rules = (*(LISTING_RULES if lists else ()), *(ACKNOWLEDGING_RULES if acknowledges else RUNTIME_RULES))
    found = Account(
        "",
        "",
        LISTING_ROLES if lists else ("reader",),
        tuple(dict.fromkeys(rules)),
        _text(table, "application_credential", "vps-secrets-reader"),
    )
    table.finish()
    return found


def _registrar(table: Table, domain: str) -> Account | None:
    pool = table.boolean("pool", default=False)
    found = Account(
        _text(table, "user", "recruitiq-vps-accounts"),
        _text(table, "domain", "Default"),
        ("manager",),
    )
    if pool and (table.has("user") or table.has("domain")):
        table.add("pool", "can't be combined with user and domain: with a pool, a person makes the users")
    if found.domain == domain:
        table.add("domain", f"must not be {domain}: the registrar could give itself roles there")
    table.finish()
    return None if pool else found


def _text(table: Table, key: str, default: str) -> str:
    return table.text(key, _name, _NAMED) or default


def _name(text: str) -> str | None:
    return text if _NAME.fullmatch(text) else None


def _roles(table: Table, default: tuple[str, ...]) -> tuple[str, ...]:
    def role(text: str) -> str | None:
        return _name(text) if text != FORBIDDEN else None

    expected = f"must be a list of names of roles, never {FORBIDDEN}: it may do too much, everywhere"
    return table.texts("roles", role, expected) if table.has("roles") else default
