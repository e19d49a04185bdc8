"""From deployer.toml to what the worker works with: the database, the login, the kinds, the beacon."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from common.errors import ConfigurationError, Mistake
from deployer.backup import places
from deployer.cloud import beacon, calls
from deployer.cloud.barbican import Barbican
from deployer.config import credentials
from deployer.config.zones import zone
from deployer.core import blueprint
from deployer.database.engine import open_database
from deployer.kinds.external import External
from deployer.kinds.registry import registry
from deployer.worker import lifetimes
from deployer.worker.clock import Clock
from deployer.worker.lifetimes import RENEW_BACKUP, Keeper
from deployer.worker.means import Means
from deployer.worker.pacing import Pace, PacedSession
from deployer.worker.registrar import Registrar

if TYPE_CHECKING:
    from collections.abc import Callable

    from deployer.config.model import Backup, Config, Keystone
    from deployer.core.blueprint import Blueprint
    from deployer.core.lifetimes import Lifetime
    from deployer.database.engine import Database

MAX_PARSED: Final = 256
"""Blueprints that are kept parsed."""


def means(config: Config) -> Means:
    """Return what the worker works with. The cloud is asked for nothing yet but where Barbican is.

    Raises:
        ConfigurationError, CredentialError, CloudError, DatabaseError: it can't be used.
    """
    keystone = _keystone(config)
    session = session_of(config, keystone)
    external = External()
    return Means(
        database=open_database(config.database),
        barbican=_barbican(config, session, keystone),
        registrar=Registrar(config.registrar.socket.path),
        kinds=registry(config, functools.partial(credentials.read, environ=os.environ), external),
        external=external,
        parse=_parse,
        touch=_toucher(config, session),
        lease_s=config.worker.lease,
        interval_s=config.worker.interval,
        emergency_s=config.worker.emergency_deadline,
    )


def keeper(config: Config, means: Means) -> Keeper:
    """Return who looks how long the deployer's own credentials last; each has a session of its own.

    Raises:
        ConfigurationError: Keystone is not configured.
    """
    keystone = _keystone(config)

    def of_worker() -> tuple[Session, str]:
        return session_of(config, keystone), config.worker.application_credential_id

    of_login = functools.partial(
        lifetimes.of_login, lifetimes.WORKER, lifetimes.RENEW_WORKER, keystone.auth_url, of_worker
    )
    asks: list[tuple[str, str, Callable[[], Lifetime]]] = [
        (lifetimes.WORKER, lifetimes.RENEW_WORKER, of_login)
    ]
    if config.registrar.pool is None:
        of_registrar = functools.partial(lifetimes.of_registrar, means.registrar)
        asks.append((lifetimes.REGISTRAR, lifetimes.RENEW_REGISTRAR, of_registrar))
    recipients = sorted({key for place in config.backups for key in place.recipients})
    return Keeper(means.database, means.now, asks, recipients)


def backup_keeper(config: Config, database: Database) -> Keeper:
    """Return who looks how long the credentials of backups in Swift last: whoever makes backups has them.

    Raises:
        ConfigurationError: Keystone is not configured.
    """
    asks: list[tuple[str, str, Callable[[], Lifetime]]] = []
    for place in config.backups:
        if place.application_credential_id is not None:
            name = f"application credential of the backup {place.name}"
            login = functools.partial(_backup_login, config, place)
            url = _keystone(config).auth_url
            ask = functools.partial(lifetimes.of_login, name, RENEW_BACKUP, url, login)
            asks.append((name, RENEW_BACKUP, ask))
    return Keeper(database, Clock().now, asks)


def _backup_login(config: Config, place: Backup) -> tuple[Session, str]:
    return places.session(config, place, os.environ), place.application_credential_id or ""


def barbican(config: Config) -> Barbican:
    """Return Barbican as the worker sees it, for a command that looks.

    Raises:
        ConfigurationError, CredentialError, CloudError: it can't be used.
    """
    keystone = _keystone(config)
    return _barbican(config, session_of(config, keystone), keystone)


def _barbican(config: Config, session: Session, keystone: Keystone) -> Barbican:
    pace = Pace(config.worker.calls_per_second, config.worker.burst)
    return Barbican(cast("Session", PacedSession(session, pace)), endpoint(session, keystone))


def _keystone(config: Config) -> Keystone:
    if config.keystone is None:
        raise ConfigurationError((Mistake(str(config.path), "keystone", "is missing"),))
    return config.keystone


@functools.lru_cache(maxsize=MAX_PARSED)
def _parse(name: str, text: str) -> Blueprint:
    return blueprint.parse(text.encode(), Path(f"{name}.toml"), zone)


def session_of(config: Config, keystone: Keystone) -> Session:
    """Return a session of the deployment service's; it logs in at its first call."""
    if not config.worker.application_credential_id:
        raise ConfigurationError(
            (
                Mistake(
                    str(config.path),
                    "worker.application_credential_id",
                    "is missing: cloud credential says it",
                ),
            )
        )
    secret = credentials.read(config.worker.credential, os.environ)
    login = v3.ApplicationCredential(
        auth_url=keystone.auth_url,
        application_credential_id=config.worker.application_credential_id,
        application_credential_secret=secret.decode("utf-8", "replace"),
    )
    verify = str(keystone.ca_file) if keystone.ca_file else True
    return Session(auth=login, verify=verify, timeout=keystone.timeout, user_agent="vps-secrets-deployer")


def endpoint(session: Session, keystone: Keystone) -> str:
    """Return where Barbican is, by the configuration or the catalog."""
    if keystone.endpoint_override:
        return keystone.endpoint_override.rstrip("/").removesuffix("/v1")
    found = calls.endpoint(
        session,
        "find Barbican in Keystone's catalog",
        service_type=keystone.service_type,
        interface=keystone.interface,
        region_name=keystone.region,
    )
    return found.rstrip("/").removesuffix("/v1")


def _toucher(config: Config, session: Session) -> Callable[[str], None]:
    """Return what touches the beacon of a VPS."""
    if config.beacon is None:
        return lambda _: None
    if config.beacon.directory is not None:
        folder = config.beacon.directory
        return lambda vps_id: beacon.touch_file(folder / vps_id)
    return beacon.Beacons(session, config.beacon.url or "").touch
