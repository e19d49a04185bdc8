"""Makes backups of what the database knows, and opens and proves them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError
from common.names import SecretName, Version
from deployer.backup import age, destinations, signing
from deployer.core import backup_format
from deployer.core.backup_format import Backup, RefusedBackupError, SavedSecret, SavedVps
from deployer.database import backups, blueprints, deployment, secrets, vpses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from deployer.backup.destinations import Destination
    from deployer.backup.signing import Signer
    from deployer.database.engine import Database
    from deployer.database.secrets import SecretRow
    from deployer.database.vpses import VpsRow

PAGE: Final = 500


def gather(c: Connection, now: float, deployment_id: str, barbican: str, cloud: str | None) -> Backup:
    """Return all that the database knows, at one moment. ``barbican`` is its address, up to ``/v1``."""
    return Backup(
        deployment=deployment_id,
        made=now,
        barbican=barbican,
        blueprints={row.name: row.text for row in blueprints.all_of(c)},
        cloud=cloud,
        vpses=tuple(_vpses(c)),
    )


def run(
    database: Database,
    destination: Destination,
    now: float,
    signer: Signer,
    *,
    recipients: Sequence[str],
    barbican: str,
    cloud: str | None,
    actor: str,
) -> str:
    """Make one backup, write it, keep a record of it, and delete old ones; return the record's id.

    Raises:
        VpsSecretsError: a step failed; the record says which, and why. Nothing incomplete was left.
        DestinationError: also where only the deletion of old ones failed; the record says written then.
    """
    with database.write() as c:
        deployment_id = deployment.identity(c, now)
        record = backups.begin(c, now, destination.where, actor)
    try:
        with database.read() as c:
            backup = gather(c, now, deployment_id, barbican, cloud)
        said = backup_format.encode(backup)
        backup_format.decode(said)  # what nobody could read would be no backup
        content = age.encrypt(signer.sign(said), recipients)
        name = destinations.name_of(now)
        destination.put(name, content)
    except VpsSecretsError as error:
        with database.write() as c:
            backups.failed(c, now, record, str(error))
        raise
    with database.write() as c:
        backups.written(
            c,
            now,
            record,
            name,
            hashlib.sha256(content).hexdigest(),
            size=len(content),
            vpses=len(backup.vpses),
            secrets=sum(len(vps.secrets) for vps in backup.vpses),
        )
    destination.prune(now)
    return record


def prove(database: Database, destination: Destination, now: float, record: str) -> None:
    """Read a backup back, and compare it, byte for byte by its digest, with what was written.

    What it says can't be read here: the private key is elsewhere. Its owner compares it with Barbican there
    (:func:`open_backup`, :func:`deployer.core.backup_proof.differences`).

    Raises:
        RefusedBackupError: it is not there, or another one; the record says so.
        DestinationError: this destination can't be read with what the deployer has.
    """
    with database.read() as c:
        row = backups.get(c, record)
    if row is None or not row.digest:
        raise RefusedBackupError("prove the backup: there is no record of it, or it was never written.")
    if not destination.readable:
        destination.get(row.object)
    problem = ""
    try:
        if hashlib.sha256(destination.get(row.object)).hexdigest() != row.digest:
            problem = f"prove the backup {row.object}: it is not what was written. Make another one."
    except RefusedBackupError as error:
        problem = str(error)
    with database.write() as c:
        if problem:
            backups.failed(c, now, record, problem)
        else:
            backups.proved(c, now, record)
    if problem:
        raise RefusedBackupError(problem)


def open_backup(
    encrypted: bytes,
    identity: Path,
    public: str,
    now: float,
    *,
    deployment_id: str | None,
    most_s: float = backup_format.TOO_OLD_S,
) -> Backup:
    """Return what a backup says, once everything about it is right.

    ``identity`` is the file of the private key, ``public`` the key of who signs; ``deployment_id`` None where
    the database is lost and any deployment of this signer is meant.

    Raises:
        RefusedBackupError: it is damaged, cut off, forged, of another deployment or time; with the reason.
    """
    backup = backup_format.decode(signing.opened(age.decrypt(encrypted, identity), public))
    backup_format.accept(backup, now, deployment_id, most_s=most_s)
    return backup


def _vpses(c: Connection) -> Iterator[SavedVps]:
    after = ""
    while page := vpses.page(c, after, PAGE):
        after = page[-1].id
        of: dict[str, list[SecretRow]] = {row.id: [] for row in page}
        for secret in secrets.of_many(c, list(of)):
            of[secret.vps].append(secret)
        yield from (_vps(row, of[row.id]) for row in page if row.wanted != "retired")


def _vps(row: VpsRow, of: list[SecretRow]) -> SavedVps:
    return SavedVps(
        sealing=row.sealing,
        vps_id=row.id,
        container=Version(row.container) if row.container else None,
        blueprint=row.blueprint,
        labels=row.labels,
        wave=row.wave,
        wanted=row.wanted,
        user_id=row.user_id,
        secrets={
            SecretName(secret.name): SavedSecret(
                version=None if secret.current is None else Version(secret.current),
                kind=secret.kind,
                group=secret.grp,
                created=secret.created,
                due=secret.due,
            )
            for secret in of
        },
    )
