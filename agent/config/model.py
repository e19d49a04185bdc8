"""What the configuration file says, checked: frozen dataclasses. Durations are floats in seconds.

Nothing here is a secret: the file names where the credential's secret part is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core.budget import MAX_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.config.beacon import BeaconSettings
    from agent.config.grants import GrantRule
    from common.names import SecretName


class Method(enum.StrEnum):
    """How fetch logs in; it follows from the keys that are given."""

    APPLICATION_CREDENTIAL = "application credential"
    PASSWORD = "password"  # noqa: S105  # the method's name
    CLOUDS = "clouds.yaml"


@dataclass(frozen=True, slots=True)
class Container:
    """The VPS's container. ``reference`` is the URL as configured, or None where only the UUID was given."""

    id: str
    reference: str | None


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """Where the credential's secret part is: at most one of a name in $CREDENTIALS_DIRECTORY, a file, a
    descriptor. None of them with clouds.yaml, which then holds it.
    """  # noqa: D205  # one sentence

    name: str | None = None
    file: Path | None = None
    fd: int | None = None


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked to connect. ``exempt`` is reached straight; ``user`` None: no login."""

    host: str
    port: int
    exempt: tuple[str, ...] = ()
    user: str | None = None
    password: CredentialSource = CredentialSource()


@dataclass(frozen=True, slots=True)
class Keystone:
    """How to log in, and where in the catalog Barbican is."""

    method: Method
    credential: CredentialSource
    auth_url: str | None = None
    application_credential_id: str | None = None
    username: str | None = None
    user_domain: str | None = None
    project: str | None = None
    project_domain: str | None = None
    cloud: str | None = None
    clouds_file: Path | None = None
    region: str | None = None
    interface: str = "public"
    ca_file: Path | None = None
    service_type: str = "key-manager"
    endpoint_override: str | None = None
    proxy: Proxy | None = None


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How a cycle is made. ``socket`` None: serve starts fetch itself. Times in seconds.

    ``sealing_key_file`` None: the key is systemd's credential (common/sealing_key.py), where there is one.
    """

    socket: Path | None = None
    timeout: float = 30.0
    connect_timeout: float = 5.0
    threads: int = 4
    list_metadata: bool = False
    acknowledge: bool = False
    require_sealed: bool = False
    sealing_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """When to read. Times in seconds. ``fleet_size`` gives ``spread``, and that ``start_jitter``."""

    fleet_size: int
    spread: float
    start_jitter: float
    poll_interval: float = 900.0
    previous_grace: float = 600.0
    backoff_base: float = 1.0
    backoff_cap: float = 600.0


@dataclass(frozen=True, slots=True)
class Staleness:
    """What to do with values that Barbican has not confirmed for long. Times in seconds, None is never."""

    fresh_for: float
    revocation_grace: float
    max_stale: float | None
    after_max_stale: str
    secrets: Mapping[SecretName, float | None]


@dataclass(frozen=True, slots=True)
class Budget:
    """What calls to Barbican may be and cost in a month. No two polls are ``longest_interval`` (s) apart."""

    calls_per_month: int | None = None
    price_per_1000_calls: float = 0.01
    price_per_secret_month: float = 0.02
    currency: str = "EUR"
    longest_interval: float = MAX_S


@dataclass(frozen=True, slots=True)
class Limits:
    """What one socket takes. Times in seconds; ``requests_per_second`` is per uid, 0 is no limit."""

    connections: int = 1024
    connections_per_uid: int = 512
    header_bytes: int = 16384
    header_timeout: float = 5.0
    idle_timeout: float = 75.0
    requests_per_second: float = 0.0
    watch_timeout: float = 300.0


@dataclass(frozen=True, slots=True)
class AppDoor:
    """The application's socket: ``group`` owns it (None: the agent's own), ``mode`` are its permissions."""

    socket: Path
    group: str | None
    mode: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class ControlDoor:
    """The operators' socket, for root and ``admin_group``."""

    socket: Path
    admin_group: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Log:
    """What goes to the journal."""

    level: str = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file, checked."""

    path: Path
    vps_id: str
    container: Container
    keystone: Keystone
    fetch: FetchSettings
    rotation: RotationSettings
    staleness: Staleness
    budget: Budget
    app: AppDoor
    control: ControlDoor
    log: Log
    grants: tuple[GrantRule, ...]
    beacon: BeaconSettings | None
