"""Where the configuration wants backups, and whether one is due."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from common.errors import ConfigurationError, Mistake
from deployer.backup.destinations import Directory, Swift
from deployer.config import credentials
from deployer.config.model import BackupKind
from deployer.database import backups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

    from deployer.backup.destinations import Destination
    from deployer.config.model import Backup, Config

RETRY_S: Final = 900.0
"""Between two attempts, while they fail."""


def is_due(c: Connection, wanted: Backup, now: float) -> bool:
    """Tell whether a backup should be made: none is good and recent, and none was tried just now."""
    tried = backups.newest(c, wanted.where)
    if tried is None:
        return True
    good = backups.newest(c, wanted.where, good=True)
    if good is not None and now < good.begun_at + wanted.every:
        return False
    return tried == good or now >= tried.begun_at + RETRY_S


def destination(config: Config, wanted: Backup, environ: Mapping[str, str]) -> Destination:
    """Return one destination, with its credential where it needs one; nothing is asked or written yet.

    Raises:
        ConfigurationError: it is in Swift, and Keystone is not configured.
        CredentialError: its credential can't be used.
    """
    if wanted.kind is BackupKind.DIRECTORY:
        return Directory(Path(wanted.location))
    return Swift(session(config, wanted, environ), wanted.location)


def session(config: Config, wanted: Backup, environ: Mapping[str, str]) -> Session:
    """Return what puts into Swift; raises as :func:`destination` does."""
    keystone = config.keystone
    if keystone is None or wanted.credential is None:
        raise ConfigurationError((Mistake(str(config.path), "keystone", "is needed for a backup in Swift"),))
    secret = credentials.read(wanted.credential, environ)
    login = v3.ApplicationCredential(
        auth_url=keystone.auth_url,
        application_credential_id=wanted.application_credential_id,
        application_credential_secret=secret.decode("utf-8", "replace"),
    )
    verify = str(keystone.ca_file) if keystone.ca_file else True
    return Session(auth=login, verify=verify, timeout=keystone.timeout, user_agent="vps-secrets-deployer")
