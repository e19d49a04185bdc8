"""``restore``, ``adopt``, ``look``: for a lost database, and for when Barbican lost something.

They only say what is to be; the worker, which looks at every VPS then, takes what Barbican has and makes what
is missing. All of them may be repeated.
"""

from __future__ import annotations

import getpass
import time
from typing import TYPE_CHECKING, Final

from common.durations import span
from common.names import parse_vps_id
from deployer.backup import archives, restoring
from deployer.cli import screen
from deployer.cli.client import NO, OK, USAGE, ApiError, wake_worker
from deployer.config import reader
from deployer.core.model import Observed
from deployer.database import deployment, vpses
from deployer.database.engine import open_database
from deployer.database.migrating import check, migrate
from deployer.worker import opening

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection

    from sqlalchemy.engine import Connection

    from deployer.backup.restoring import Restored
    from deployer.cloud.barbican import Barbican
    from deployer.database.engine import Database

PAGE: Final = 500
POLL_S: Final = 0.5
SHOWN: Final = 20


def restore(options: argparse.Namespace) -> int:
    """Want again what a backup says; the database is made where there is none.

    Raises:
        RefusedBackupError: the backup is refused, with the reason.
        VpsSecretsError: the configuration, or the database.
    """
    config = reader.load(options.config)
    database = open_database(config.database)
    migrate(database)
    now = time.time()
    with database.write() as c:
        known = deployment.identity(c, now) if vpses.page(c, limit=1) else None
    try:
        encrypted = options.file.read_bytes()
    except OSError as error:
        raise ApiError(f"{options.file}: {error.strerror}", NO) from None
    backup = archives.open_backup(
        encrypted, options.identity, options.signed_by, now, deployment_id=known, most_s=options.max_age
    )
    with database.write() as c:
        restored = restoring.restore(c, now, backup, _actor())
    database.close()
    _show(options, restored)
    return OK


def adopt(options: argparse.Namespace) -> int:
    """Want VPSs that Barbican has and the database does not know, with one blueprint, which is applied.

    Raises:
        NotFoundError: nobody applied such a blueprint.
        VpsSecretsError: the configuration, a credential, the cloud, or the database.
    """
    if not options.vps and not options.all:
        raise ApiError("name the VPSs, or say --all", USAGE)
    config = reader.load(options.config)
    barbican = opening.barbican(config)
    observed = _observed(barbican, options.vps)
    absent = sorted(set(options.vps) - observed.keys())
    if absent:
        raise ApiError(f"Barbican has no container of {', '.join(absent)}; nothing was adopted", NO)
    database = open_database(config.database)
    migrate(database)
    with database.write() as c:
        adopted = restoring.adopt(c, time.time(), observed, options.blueprint, _actor())
    database.close()
    _show(options, adopted)
    return OK


def look(options: argparse.Namespace) -> int:
    """Have the worker look at VPSs now, and wait until it has; exit with 1 where that went wrong.

    Raises:
        ApiError: no such VPS, or the worker has not looked in time; it looks all the same.
        VpsSecretsError: the configuration, or the database.
    """
    if not options.vps and not options.all:
        raise ApiError("name the VPSs, or say --all", USAGE)
    config = reader.load(options.config)
    database = open_database(config.database)
    check(database)
    began = time.time()
    with database.write() as c:
        wanted = list(options.vps) or [row.id for row in _all(c)]
        for vps_id in sorted(wanted):  # in the order of their ids, as everybody locks them
            if vpses.get(c, vps_id) is None:
                raise ApiError(f"there is no VPS {vps_id}; nothing was looked at", NO)
            vpses.wake(c, vps_id, vpses.ORDERED)
    wake_worker(config.worker.socket.path)
    failed = {} if options.no_wait else _wait(database, wanted, began, options.timeout)
    database.close()
    took = time.time() - began
    if options.json:
        screen.document({"vpses": len(wanted), "seconds": took, "failed": failed})
    else:
        done = "are to be looked at" if options.no_wait else f"were looked at in {took:.1f} s"
        print(f"{len(wanted)} VPSs {done}, {len(failed)} with a failure")
        for vps_id, error in sorted(failed.items())[:SHOWN]:
            print(f"{vps_id}: {error}")
    return NO if failed else OK


def _wait(database: Database, wanted: Collection[str], began: float, timeout_s: float) -> dict[str, str]:
    """Return what went wrong, once everything was looked at."""
    left, failed = set(wanted), {}
    while left:
        with database.read() as c:
            rows = {row.id: row for row in _all(c)} if len(left) > SHOWN else {}
            for vps_id in sorted(left):
                row = rows.get(vps_id) or vpses.get(c, vps_id)
                if row is None or (row.next_look > 0 and not row.lease_owner):  # not woken, not in work
                    left.discard(vps_id)
                    if row is not None and row.failures:
                        failed[vps_id] = row.last_error
        if left and time.time() - began > timeout_s:
            raise ApiError(
                f"{len(left)} VPSs were not looked at after {span(timeout_s)}, such as {min(left)}; "
                "does the worker run? systemctl status vps-secrets-deployer-worker",
                NO,
            )
        if left:
            time.sleep(POLL_S)
    return failed


def _observed(barbican: Barbican, wanted: Collection[str]) -> dict[str, Observed]:
    """Return who may read each container whose name is a VPS's id: those that are wanted, or all."""
    found = {}
    for name, container in barbican.containers().items():
        vps_id = parse_vps_id(name)
        if vps_id is not None and (not wanted or vps_id in wanted):
            found[vps_id] = Observed(container=container, granted_to=barbican.granted_to(vps_id, container))
    return found


def _all(c: Connection) -> list[vpses.VpsRow]:
    rows: list[vpses.VpsRow] = []
    while page := vpses.page(c, rows[-1].id if rows else "", PAGE):
        rows += page
    return rows


def _show(options: argparse.Namespace, restored: Restored) -> None:
    if options.json:
        remarks = list(restored.remarks)
        screen.document({"vpses": restored.vpses, "there": restored.there, "remarks": remarks})
        return
    print(f"{restored.vpses} VPSs are wanted again, {restored.there} were there")
    for remark in restored.remarks:
        print(f"to do: {remark}")


def _actor() -> str:
    return f"command:{getpass.getuser()}"
