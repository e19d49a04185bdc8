"""``backup run|prove``: what the database knows, encrypted to the offline keys, to where deployer.toml says.

On the deployer's machine, with what the worker has: the address that references have is asked of Keystone,
unless ``endpoint_override`` names it.
"""

from __future__ import annotations

import getpass
import os
import time
from typing import TYPE_CHECKING

from common.durations import span
from common.errors import VpsSecretsError
from deployer.backup import archives, places, signing
from deployer.cli import screen
from deployer.cli.client import NO, OK
from deployer.config import reader
from deployer.config.model import BackupKind
from deployer.database import backups
from deployer.database.engine import open_database
from deployer.database.migrating import check
from deployer.worker import opening

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from deployer.config.model import Backup, Config
    from deployer.database.backups import BackupRow
    from deployer.database.engine import Database


def run(options: argparse.Namespace) -> int:
    """Make a backup for each place, or for those where one is due; exit with 1 where one failed.

    What is wrong with one place, or with what all need, is kept as a failure of it: status and metrics tell.

    Raises:
        VpsSecretsError: nothing was written: the configuration, or the database.
    """
    config = reader.load(options.config)
    if not config.backups:
        return _no_place(config, options)
    database = open_database(config.database)
    check(database)
    wanted = list(config.backups)
    if options.if_due:
        with database.read() as c:
            wanted = [place for place in wanted if places.is_due(c, place, time.time())]
    keeper = opening.backup_keeper(config, database)
    if keeper.is_old():
        keeper.look()
    problems: dict[str, str] = {}
    means = _Means(config, database, f"command:{getpass.getuser()}")
    for place in wanted:
        try:
            means.back_up(place)
        except VpsSecretsError as error:  # the other places go on
            problems[place.name] = str(error)
    _show(options, database, wanted, problems)
    if not options.json and not wanted:
        print("no backup is due")
    if not options.json and means.signed_by:
        print(f"signed by {means.signed_by}: note it down beside the offline key; restore asks for it")
    database.close()
    return NO if problems else OK


def prove(options: argparse.Namespace) -> int:
    """Read the newest backup of each place back and compare it; exit with 1 where one is not as written.

    Raises:
        VpsSecretsError: the configuration, or the database.
    """
    config = reader.load(options.config)
    if not config.backups:
        return _no_place(config, options)
    database = open_database(config.database)
    check(database)
    problems: dict[str, str] = {}
    for place in config.backups:
        if place.kind is BackupKind.SWIFT:
            continue  # what the deployer has can only put
        with database.read() as c:
            newest = backups.newest(c, place.where, good=True)
        try:
            destination = places.destination(config, place, os.environ)
            archives.prove(database, destination, time.time(), newest.id if newest else "")
        except VpsSecretsError as error:
            problems[place.name] = str(error)
    _show(options, database, config.backups, problems)
    for place in config.backups:
        if place.kind is BackupKind.SWIFT and not options.json:
            print(f"{place.name}: not proved: only its owner can read it. Have him open one, once a quarter")
    database.close()
    return NO if problems else OK


class _Means:
    """What backups need. A failure of it is one of the place that it was for."""

    def __init__(self, config: Config, database: Database, actor: str) -> None:
        self._config = config
        self._database = database
        self._actor = actor
        self._barbican = ""
        self.signed_by = ""

    def back_up(self, place: Backup) -> None:
        """Make one backup.

        Raises:
            VpsSecretsError: it was not made, or old ones were not deleted; the database has the reason.
        """
        now, config = time.time(), self._config
        try:
            destination = places.destination(config, place, os.environ)
            signer = signing.signer(config.signing_key)
            self._barbican = self._barbican or _address(config)
            cloud = config.cloud.read_text() if config.cloud is not None and config.cloud.exists() else None
        except VpsSecretsError as error:
            with self._database.write() as c:
                backups.failed(c, now, backups.begin(c, now, place.where, self._actor), str(error))
            raise
        archives.run(
            self._database,
            destination,
            now,
            signer,
            recipients=place.recipients,
            barbican=self._barbican,
            cloud=cloud,
            actor=self._actor,
        )
        self.signed_by = signer.public


def _no_place(config: Config, options: argparse.Namespace) -> int:
    """Say so; whether that is a mistake is the site's matter, not the timer's."""
    if options.json:
        screen.document([])
    else:
        print(f"{config.path} has no [[backup]]: nothing to do")
    return OK


def _address(config: Config) -> str:
    """Return what every reference of this Barbican begins with."""
    if config.keystone is not None and config.keystone.endpoint_override:
        return config.keystone.endpoint_override.rstrip("/").removesuffix("/v1") + "/v1"
    return opening.barbican(config).url


def _show(
    options: argparse.Namespace, database: Database, wanted: Sequence[Backup], problems: dict[str, str]
) -> None:
    rows: list[tuple[Backup, BackupRow | None]] = []
    with database.read() as c:
        rows = [(place, backups.newest(c, place.where)) for place in wanted]
    if options.json:
        screen.document([_json(place, row, problems.get(place.name)) for place, row in rows])
        return
    now = time.time()
    table = [
        (
            place.name,
            row.state,
            row.object,
            f"{span(max(0.0, now - row.begun_at))} old",
            row.vpses,
            row.secrets,
        )
        for place, row in rows
        if row is not None
    ]
    if table:
        screen.table(("PLACE", "STATE", "OBJECT", "AGE", "VPSS", "SECRETS"), table)
    for name, problem in problems.items():
        print(f"{name}: {problem}")


def _json(place: Backup, row: BackupRow | None, problem: str | None) -> dict[str, object]:
    found: dict[str, object] = {"place": place.name, "where": place.where, "problem": problem}
    if row is not None:
        found |= {"id": row.id, "state": row.state, "object": row.object, "begunAt": row.begun_at}
        found |= {"provedAt": row.proved_at, "vpses": row.vpses, "secrets": row.secrets}
    return found
