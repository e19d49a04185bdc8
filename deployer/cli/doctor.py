"""``vps-secrets-deploy doctor``: what is well on the deployer's machine, what is not, and what to do.

It reads and asks; nothing is changed, here or in the cloud, and no secret is read. The cloud is asked with
the programs' own credentials: that part needs root, who can decrypt them. Exit status 1 means a failure.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from common import finding
from common.durations import span
from common.errors import ConfigurationError, VpsSecretsError
from common.finding import FAILURE, OK, WARNING, Finding
from deployer.cli import doctor_cloud, doctor_machine, screen
from deployer.cli.client import NO, ApiError, Client
from deployer.cli.client import OK as DONE
from deployer.config import reader
from deployer.core import lifetimes
from deployer.database import migrating, schema
from deployer.database.engine import open_database

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from deployer.config.model import Config

SILENT: Final = 3.0
"""So many intervals after its last look the worker is late."""
LEAST_SILENT_S: Final = 900.0
_SQLITE: Final = "sqlite:///"


def run(options: argparse.Namespace) -> int:
    """Tell what was found."""
    found = list(_findings(options))
    if options.json:
        screen.document(finding.document(found))
    else:
        print("\n".join(finding.lines(found)))
    return NO if finding.failures(found) else DONE


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    config: Config | None = None
    try:
        config = reader.load(options.config)
    except ConfigurationError as error:
        for mistake in error.mistakes:
            yield Finding(FAILURE, "configuration", str(mistake), "fix it; each program takes it by itself")
    if config is not None:
        words = f"{config.path}: {len(config.api.roles)} roles, {len(config.backups)} places of backups"
        yield Finding(OK, "configuration", words)
        yield from doctor_machine.files(config)
        yield from _database(config)
    yield from doctor_machine.units()
    yield from doctor_machine.sandbox(config)
    yield from _api(options.socket)
    if config is None:
        return
    if os.geteuid():
        words = "not tried: only root can decrypt the credentials of the programs"
        yield Finding(WARNING, "cloud", words, "sudo vps-secrets-deploy doctor")
    else:
        yield from doctor_cloud.findings(config)


def _database(config: Config) -> Iterator[Finding]:
    """Look whether its tables are those of this version, and when the worker looked last."""
    remedy = "docs/runbooks/database-lost.md"
    path = config.database.removeprefix(_SQLITE) if config.database.startswith(_SQLITE) else ""
    if path and not Path(path).exists():  # to open it would make it
        words = f"{path} is not there"
        yield Finding(FAILURE, "database", words, "systemctl start vps-secrets-deployer.target makes it")
        return
    try:
        database = open_database(config.database)
        try:
            migrating.check(database)
            with database.read() as c:
                number = c.execute(select(func.count()).select_from(schema.vps)).scalar_one()
                looked = c.execute(
                    select(func.max(schema.vps.c.looked_at)).where(schema.vps.c.wanted == "present")
                ).scalar()
                wanted = c.execute(
                    select(func.count()).select_from(schema.vps).where(schema.vps.c.wanted == "present")
                ).scalar_one()
        finally:
            database.close()
    except VpsSecretsError as error:
        yield Finding(FAILURE, "database", str(error), remedy)
        return
    yield Finding(OK, "database", f"{database.name}: its tables have this version's form; {number} VPSs")
    if not wanted:
        return
    late = max(SILENT * config.worker.interval, LEAST_SILENT_S)
    age = time.time() - looked if looked is not None else None
    words = f"the last look at a VPS was {span(age)} ago" if age is not None else "no VPS was looked at yet"
    if age is None or age > late:
        yield Finding(FAILURE, "worker", words, "docs/runbooks/worker-away.md")
    else:
        yield Finding(OK, "worker", words)


def _api(socket: Path) -> Iterator[Finding]:
    """Ask the API how the fleet is, as any viewer may."""
    client, began = Client(socket), time.monotonic()
    try:
        figures, found = client.get("figures"), client.get("checks")["items"]
    except ApiError as error:
        yield Finding(FAILURE, "api", str(error), "docs/runbooks/api-away.md")
        return
    yield Finding(OK, "api", f"{socket} answers, in {(time.monotonic() - began) * 1000:.0f} ms")
    now = time.time()
    yield from _fleet(figures)
    for place in figures["backups"]:
        yield _backup(place, now)
    if not figures["backups"]:
        words = "there is none: a lost database comes back by adopt only"
        yield Finding(WARNING, "backup", words, "[[backup]] in deployer.toml")
    for one in found:
        life = lifetimes.of_check(one["name"], one["at"], one["detail"], now)
        if life is not None:
            yield _lifetime(life, now)


def _fleet(figures: dict[str, Any]) -> Iterator[Finding]:
    looks, rotations = figures["vps"], figures["rotations"]
    words = ", ".join(f"{count} {look}" for look, count in looks.items() if count) or "none yet"
    poor = looks["late"] + looks["failing"]
    yield Finding(WARNING if poor else OK, "VPSs", words, "vps-secrets-deploy status" if poor else "")
    left = figures["waiting"] + rotations["unattended"]
    words = f"{rotations['inTime']} in time, {rotations['late']} late, of the last 30 days"
    if left:
        words = f"the worker does not come: {left} VPSs or secrets wait for it"
        yield Finding(FAILURE, "rotations", words, "docs/runbooks/worker-away.md")
    else:
        level = WARNING if rotations["late"] else OK
        remedy = "docs/runbooks/rotation-late.md" if rotations["late"] else ""
        yield Finding(level, "rotations", words, remedy)
    for words in figures["byHand"]:
        yield Finding(WARNING, "by hand", words, "as it says; it is shown for 7 days")


def _backup(place: dict[str, Any], now: float) -> Finding:
    what = f"backup {place['name']}"
    if place["problem"]:
        return Finding(FAILURE, what, place["problem"], "docs/runbooks/backup-old.md")
    proved = f"read back {span(now - place['provedAt'])} ago" if place["provedAt"] else "not read back yet"
    return Finding(OK, what, f"{place['where']}: {span(now - place['goodAt'])} old, {proved}")


def _lifetime(life: lifetimes.Lifetime, now: float) -> Finding:
    words, urgency = lifetimes.words(life, now), lifetimes.urgency(life, now)
    if not urgency and not life.problem:
        return Finding(OK, life.name, words)
    soon = len(lifetimes.WARN_BEFORE_S) - 1
    level = FAILURE if urgency >= soon else WARNING
    return Finding(level, life.name, words, life.renew or "docs/runbooks/credential-ends.md")
