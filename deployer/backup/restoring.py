"""A lost database: wanted again from a backup, or from what Barbican itself lists.

Neither replaces anything that the database knows. Both only say what is to be: the worker looks at each VPS
then, takes what Barbican has, and makes what is missing. So both may be repeated, and broken off.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployer.core.backup_format import RefusedBackupError
from deployer.database import blueprints, deployment, history, secrets, vpses
from deployer.database.secrets import SeenSecret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

    from deployer.core.backup_format import Backup
    from deployer.core.model import Observed


@dataclass(frozen=True, slots=True)
class Restored:
    """How many VPSs are wanted again, how many were there, and what a person has to know."""

    vpses: int
    there: int
    remarks: tuple[str, ...]


def restore(c: Connection, now: float, backup: Backup, actor: str) -> Restored:
    """Want what a backup says, and be its deployment from now on.

    Raises:
        RefusedBackupError: the database is another deployment's, with VPSs of its own.
    """
    own = deployment.identity(c, now)
    if own != backup.deployment and vpses.page(c, limit=1):
        raise RefusedBackupError(
            f"restore: the database has VPSs of deployment {own}, the backup is of {backup.deployment}. "
            "Name an empty database, or a backup of this deployment."
        )
    deployment.become(c, now, backup.deployment, actor)
    remarks = []
    for name, text in sorted(backup.blueprints.items()):
        known = blueprints.get(c, name)
        if known is None:
            blueprints.put(c, now, name, text, actor)
        elif known.digest != hashlib.sha256(text.encode()).hexdigest():
            remarks.append(f"blueprint {name}: another one has been applied since, which stays")
    made = 0
    for saved in backup.vpses:
        if vpses.get(c, saved.vps_id) is not None:
            continue
        made += 1
        vpses.wish(
            c,
            now,
            saved.vps_id,
            saved.blueprint,
            labels=saved.labels,
            actor=actor,
            wave=saved.wave,
            sealing=saved.sealing,
        )
        vpses.know(c, saved.vps_id, saved.user_id, saved.container or "")
        # only that there was one: what there is now Barbican tells. One that never rotates is not made anew
        there_was = (
            SeenSecret(name, secret.kind, secret.group, created=secret.created)
            for name, secret in sorted(saved.secrets.items())
            if secret.created is not None
        )
        secrets.seen(c, saved.vps_id, there_was)
        if saved.wanted == "revoked":
            vpses.order(c, now, saved.vps_id, "revoked", actor, note="as the backup says")
        remarks += [
            f"{saved.vps_id}/{name}: only a person has it; give it again if Barbican lost it"
            for name, secret in sorted(saved.secrets.items())
            if secret.kind == "external"
        ]
    detail = {"made": backup.made, "vpses": made}
    history.note(c, now, actor, "backup.restore", detail=detail)
    return Restored(made, len(backup.vpses) - made, tuple(remarks))


def adopt(
    c: Connection, now: float, observed: Mapping[str, Observed], blueprint: str, actor: str
) -> Restored:
    """Want the VPSs that Barbican has and the database does not know, all with one blueprint.

    What Barbican can't tell is left to a person, and told: labels and waves; and where the ACLs name nobody,
    whether the VPS was revoked, or never had a user.

    Raises:
        NotFoundError: nobody applied such a blueprint.
    """
    made, remarks = 0, []
    for vps_id, seen in sorted(observed.items()):
        if seen.container is None or vpses.get(c, vps_id) is not None:
            continue
        made += 1
        sealing = "required" if seen.keys else "off"
        vpses.wish(c, now, vps_id, blueprint, labels={}, actor=actor, sealing=sealing)
        vpses.know(c, vps_id, seen.granted_to or "", seen.container)
        remarks.append(f"{vps_id}: its labels and its wave are not known")
        if not seen.granted_to:
            vpses.order(c, now, vps_id, "revoked", actor, note="its ACLs name nobody")
            remarks.append(f"{vps_id}: its ACLs name nobody: taken for revoked")
    history.note(c, now, actor, "backup.adopt", detail={"vpses": made, "blueprint": blueprint})
    return Restored(
        made, sum(seen.container is not None for seen in observed.values()) - made, tuple(remarks)
    )
