"""``cloud plan|apply|credential|verify|export``: what cloud.toml says, and whether its promises are kept.

An administrator gives a token, not a password: ``openstack token issue -f value -c id | vps-secrets-deploy
cloud apply --admin-token -``.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.errors import ConfigurationError, Mistake, VpsSecretsError
from deployer.backup import places
from deployer.cli import screen
from deployer.cli.client import NO, OK
from deployer.cloud import administrator, cloud_apply, cloud_file, export
from deployer.cloud.cloud_plan import plan as plan_cloud
from deployer.cloud.identity import Identity
from deployer.cloud.verify.run import Sessions, Writer, verify
from deployer.config import reader
from deployer.config.credentials import CredentialError
from deployer.config.model import BackupKind
from deployer.registrar import opening as registrar
from deployer.worker import opening as worker

if TYPE_CHECKING:
    import argparse

    from deployer.cloud.administrator import Administrator
    from deployer.cloud.cloud_apply import Credential
    from deployer.cloud.cloud_file import CloudFile
    from deployer.config.model import Config, Keystone

PRIVATE: Final = 0o600
ACCOUNTS: Final = ("deployment-service", "registrar", "backup")


def plan(options: argparse.Namespace) -> int:
    """Say what differs from cloud.toml; exit with 1 where anything does."""
    wanted, identity, keystone = _opened(options)
    found = plan_cloud(wanted, cloud_apply.read(identity, wanted, keystone.region))
    _tell(options, [str(change) for change in found.changes], list(found.excess))
    return NO if found.changes or found.excess else OK


def apply(options: argparse.Namespace) -> int:
    """Make what is missing; what is too much is told, and left to a person."""
    wanted, identity, keystone = _opened(options)
    changes = cloud_apply.apply(identity, wanted, keystone.region)
    left = plan_cloud(wanted, cloud_apply.read(identity, wanted, keystone.region)).excess
    _tell(options, [str(change) for change in changes], list(left))
    return NO if left else OK


def credential(options: argparse.Namespace) -> int:
    """Make what a program logs in with, and write its secret into a new file; the former one stays valid.

    Of the registrar the former password ends. ``--end-former`` makes nothing, and ends what is not in force.
    """
    wanted, identity, keystone = _opened(options)
    if options.account == "registrar" and wanted.registrar is None:
        raise CredentialError("a pool has no registrar's account")
    if options.end_former:
        return _end_former(options, wanted, identity, keystone)
    try:
        descriptor = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
    except OSError as error:
        print(f"vps-secrets-deploy: {options.output}: {error.strerror}; nothing was made", file=sys.stderr)
        return NO
    with os.fdopen(descriptor, "w") as file:
        try:
            made = _made(options, wanted, identity, keystone)
        except BaseException:
            Path(options.output).unlink()
            raise
        file.write(made.secret)
    print(
        f"{options.output} has the secret of {made.user}; its id is {made.id}: encrypt it with systemd-creds"
    )
    if made.url:
        key = "[[backup]] swift" if options.account == "backup" else "[beacon] url"
        print(f'in deployer.toml: {key} = "{made.url}"')
    return OK


def _end_former(
    options: argparse.Namespace, wanted: CloudFile, identity: Identity, keystone: Keystone
) -> int:
    """End every credential of the worker's account but the one that deployer.toml names."""
    if options.account == "registrar":
        raise CredentialError("the registrar's former password ended when the new one was made")
    config = reader.load(options.config)
    account, place = wanted.deployer, wanted.secrets
    keep = frozenset({config.worker.application_credential_id})
    if options.account == "backup":
        account, place = wanted.backup_writer, wanted.backup_writers
        keep = frozenset(each.application_credential_id or "" for each in config.backups) - {""}
    count = cloud_apply.end_former_credentials(
        identity, _admin(options, keystone), keystone.auth_url, account, place, keep=keep
    )
    print(f"{account.user} has what deployer.toml names and nothing else: {count} were deleted")
    return OK


def _made(
    options: argparse.Namespace, wanted: CloudFile, identity: Identity, keystone: Keystone
) -> Credential:
    if options.account == "registrar" and wanted.registrar is not None:
        return cloud_apply.new_password(identity, wanted.registrar)
    admin = _admin(options, keystone)
    if options.account == "backup":
        return cloud_apply.new_backup_credential(
            identity, admin, keystone.auth_url, wanted, keystone.region, lasts_s=options.expires
        )
    return cloud_apply.new_credential(
        identity,
        admin,
        keystone.auth_url,
        wanted.deployer,
        wanted.secrets,
        container=wanted.beacon_container,
        region=keystone.region,
        lasts_s=options.expires,
    )


def verify_cloud(options: argparse.Namespace) -> int:
    """Try every promise; exit with 1 where one is broken."""
    config, wanted = _files(options)
    keystone = _keystone(config)
    admin = _admin(options, keystone) if options.admin_token else None
    manager = None
    try:
        manager = registrar.manager(config) if wanted.registrar else None
    except CredentialError as error:
        print(f"without the registrar's login: {error}", file=sys.stderr)
    deployer = worker.session_of(config, keystone)
    url = worker.endpoint(deployer, keystone)
    writers, without = _writers(config)
    pool = {} if wanted.registrar else registrar.pool_users(config)
    sessions = Sessions(deployer, admin, manager, writers, pool)
    report = verify(sessions, wanted, keystone.auth_url, url, time.time())
    report = replace(report, left_out=(*report.left_out, *without))
    if options.json:
        screen.document(report.json())
    else:
        print(report.words())
    return OK if report.good else NO


def _writers(config: Config) -> tuple[tuple[Writer, ...], list[str]]:
    """Return who puts backups into Swift, and whose credential this program has not."""
    found, without = [], []
    for place in config.backups:
        if place.kind is BackupKind.SWIFT:
            try:
                session = places.session(config, place, os.environ)
            except VpsSecretsError as error:
                without.append(f"what the backup {place.name} may do: {error}")
            else:
                found.append(Writer(place.name, session, place.location))
    return tuple(found), without


def terraform(options: argparse.Namespace) -> int:
    """Print cloud.toml as Terraform."""
    print(export.terraform(_files(options)[1]), end="")
    return OK


def _tell(options: argparse.Namespace, changes: list[str], excess: list[str]) -> None:
    if options.json:
        screen.document({"changes": changes, "excess": excess})
        return
    for line in [*changes, *(f"too much: {what}" for what in excess)] or ["the cloud is as cloud.toml says"]:
        print(line)


def _opened(options: argparse.Namespace) -> tuple[CloudFile, Identity, Keystone]:
    config, wanted = _files(options)
    keystone = _keystone(config)
    return wanted, Identity(_admin(options, keystone), keystone.auth_url), keystone


def _files(options: argparse.Namespace) -> tuple[Config, CloudFile]:
    config = reader.load(options.config)
    path = options.file or config.cloud
    if path is None:
        raise ConfigurationError((Mistake(str(config.path), "cloud.file", "is missing, and --file too"),))
    return config, cloud_file.load(path)


def _keystone(config: Config) -> Keystone:
    if config.keystone is None:
        raise ConfigurationError((Mistake(str(config.path), "keystone", "is missing"),))
    return config.keystone


def _admin(options: argparse.Namespace, keystone: Keystone) -> Administrator:
    """Return the administrator's session; the token is read once, from a file or standard input."""
    if not hasattr(options, "read_token"):
        if options.admin_token is None:
            raise CredentialError("this needs an administrator's token: --admin-token FILE, or - for stdin")
        if str(options.admin_token) == "-":
            options.read_token = sys.stdin.readline().strip()
        else:
            options.read_token = _first_line(options.admin_token)
    ca_file = str(keystone.ca_file) if keystone.ca_file else None
    return administrator.session(keystone.auth_url, options.read_token, ca_file, keystone.timeout)


def _first_line(path: Path) -> str:
    try:
        return path.read_text("ascii").partition("\n")[0]
    except (OSError, ValueError):
        pass
    raise CredentialError(f"read {path}: it can't be read, or is no token")
