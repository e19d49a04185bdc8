"""What deployer.toml says, checked: frozen dataclasses. Durations are floats in seconds.

Nothing here is a secret: the file names where each credential is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Role(enum.IntEnum):
    """What a caller of the API may do; each may what those below it may."""

    VIEWER = 1
    """Reads everything that is shown."""
    PORTAL = 2
    """Asks for VPSs, claims them, gives external values, orders rotations of one VPS."""
    OPERATOR = 3
    """Orders what reaches many VPSs or takes something away."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Where a secret is: a name in ``$CREDENTIALS_DIRECTORY``, or a file. At most one of them."""

    name: str | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Socket:
    """A Unix socket. ``group`` owns it; None is the process's own group. ``mode`` as in chmod(2)."""

    path: Path
    group: str | None
    mode: int


@dataclass(frozen=True, slots=True)
class Tls:
    """The API over TCP, for callers on other machines; each needs a certificate of ``client_ca``."""

    host: str
    port: int
    certificate: Path
    key: Credential
    client_ca: Path


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers of the API may take. Sizes in bytes, times in seconds."""

    connections: int = 1024
    connections_per_caller: int = 512
    """Of one uid, or one certificate."""
    body_bytes: int = 65536
    """Of a JSON body; an external value has the bound of Barbican's payloads (common/limits.py)."""
    header_bytes: int = 8192
    request_timeout: float = 15.0
    """How long a whole request may take to arrive."""
    idle_timeout: float = 75.0
    event_streams: int = 64


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Who has a role: exactly one of a Unix group, a Unix user, a certificate's subject is given.

    ``certificate`` is ``CN=name`` or ``OU=name``.
    """

    role: Role
    group: str | None = None
    user: str | None = None
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class Api:
    """The API's doors. ``hosts``: names of the Host header that it answers to."""

    socket: Socket
    hosts: tuple[str, ...]
    limits: Limits
    tls: Tls | None
    roles: tuple[RoleRule, ...]


@dataclass(frozen=True, slots=True)
class Keystone:
    """How Keystone and, by its catalog, Barbican are reached; for worker and registrar alike."""

    auth_url: str
    region: str | None
    interface: str
    ca_file: Path | None
    service_type: str
    endpoint_override: str | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Worker:
    """The reconcile loop. ``calls_per_second`` and ``burst`` are its token bucket of calls to Barbican."""

    socket: Socket
    application_credential_id: str
    credential: Credential
    concurrency: int
    interval: float
    """Each VPS is looked at at least so often, though nothing is due."""
    sweep: float
    """The database is asked for due work at least so often, though nobody wakes the worker."""
    lease: float
    """A VPS whose worker is silent for so long may be taken by another one."""
    calls_per_second: float
    burst: int
    emergency_deadline: float


@dataclass(frozen=True, slots=True)
class Registrar:
    """Who makes Keystone users. ``domain`` holds the VPS users and ``project``, and nothing else."""

    socket: Socket
    username: str
    user_domain: str
    domain: str
    project: str
    credential: Credential
    key: Credential
    """From it the one-time passwords are derived."""
    api_user: str | None
    """Who may ask for anything, besides the registrar's own user and root."""
    worker_user: str | None
    """Who may ask for anything but a one-time password."""
    pool: Credential | None
    """Users that a person made, for a cloud without a domain manager: it needs no account of its own."""
    pool_state: Path


@dataclass(frozen=True, slots=True)
class PostgresqlServer:
    """A server of the kind ``postgresql``. ``user`` may execute the rotation's functions, nothing else."""

    name: str
    host: str
    port: int
    database: str
    user: str
    credential: Credential
    ca_file: Path | None
    connect_timeout: float


@dataclass(frozen=True, slots=True)
class Command:
    """An executable that blueprints may name. ``credential`` is the third party's, for this one only."""

    path: Path
    credential: Credential | None
    timeout: float


class BackupKind(enum.StrEnum):
    """Where a backup goes."""

    DIRECTORY = "directory"
    SWIFT = "swift"


@dataclass(frozen=True, slots=True)
class Backup:
    """One destination. ``location`` is a path or the URL of a Swift container.

    ``recipients`` are age's public keys; the private ones are offline.
    """

    name: str
    kind: BackupKind
    location: str
    recipients: tuple[str, ...]
    every: float
    application_credential_id: str | None
    credential: Credential | None

    @property
    def where(self) -> str:
        """Return what records of backups call the place."""
        return f"{'Swift' if self.kind is BackupKind.SWIFT else 'directory'} {self.location.rstrip('/')}"


@dataclass(frozen=True, slots=True)
class Beacon:
    """What is touched after a rotation: a Swift container's URL, or a directory that a web server shows."""

    url: str | None
    directory: Path | None


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    path: Path
    database: str
    """SQLAlchemy's URL; a password is never part of it."""
    keep_history: float
    """How long what has ended is kept (s)."""
    blueprints: Path
    cloud: Path | None
    api: Api
    keystone: Keystone | None
    worker: Worker
    registrar: Registrar
    postgresql: Mapping[str, PostgresqlServer]
    commands: Mapping[Path, Command]
    hook: Socket
    """Who connects there has a command run in a process of its own."""
    backups: tuple[Backup, ...]
    signing_key: Path
    """The file of the key that signs backups; made where there is none."""
    beacon: Beacon | None
    sealing: str
    """Of a new VPS of which nothing else is said: ``required`` or ``off``."""
    log_level: str
