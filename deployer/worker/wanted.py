"""What a VPS should have, from what the database holds of it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from common.names import SecretName, Version
from deployer.core import schedule
from deployer.core.model import Desired, Rotation
from deployer.core.planning import Index
from deployer.database.secrets import SeenSecret

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from deployer.core.blueprint import Blueprint, SecretSpec
    from deployer.core.model import Observed
    from deployer.database.rotations import RotationRow
    from deployer.database.secrets import SecretRow
    from deployer.database.vpses import VpsRow


def desired(
    row: VpsRow,
    blueprint: Blueprint,
    orders: Collection[RotationRow],
    secrets: Collection[SecretRow],
    waits: Callable[[SecretName], bool],
    *,
    claimed_at: float = 0.0,
) -> Desired:
    """Return what a VPS should have now.

    ``orders`` are its rotations that have not been listed, ``waits`` tells whether somebody has given the
    value of an external secret, which only this process knows.
    """
    last = {secret.name: secret.current for secret in secrets}
    made = {secret.name for secret in secrets if secret.created is not None}
    ordered = {name for order in orders for name in order.names}
    wishes = []
    for name, spec in blueprint.secrets.items():
        current = last.get(name)
        wish = spec.wish(ever_made=name in made)
        may_make = waits(name) if spec.kind == "external" else wish.may_make or name in ordered
        wishes.append(replace(wish, may_make=may_make, last=Version(current) if current else None))
    rotations = (
        Rotation(
            order.id,
            frozenset(SecretName(name) for name in order.names if SecretName(name) in blueprint.secrets),
            {SecretName(name): Version(version) for name, version in order.targets.items()},
            compromised=order.reason == "compromised",
        )
        for order in orders
    )
    return Desired(
        row.id,
        row.user_id,
        tuple(wishes),
        tuple(rotation for rotation in rotations if rotation.names),
        access=row.wanted == "present",
        present=row.wanted != "retired",
        sealed=row.sealing == "required",
        claimed_at=claimed_at,
    )


def seen(
    vps_id: str,
    blueprint: Blueprint,
    observed: Observed,
    held: Mapping[str, float],
    remarks: Mapping[SecretName, str],
) -> list[SeenSecret]:
    """Return what the database keeps about each name of a VPS: what it has, and when that is due.

    ``held`` says of groups that were rolled back until when their schedule rests (s since 1970), ``remarks``
    what a person has to do about a name.
    """
    index = Index(observed)
    found = []
    for name, spec in blueprint.secrets.items():
        current = index.current(name)
        row = SeenSecret(name, spec.kind, spec.group, remark=remarks.get(name, ""))
        if current is not None:
            due = schedule.due(current.created, spec.rotate_s)
            row = replace(row, current=current.version, created=current.created, due=due)
            row = replace(row, work_at=_work_at(vps_id, spec, due, held.get(spec.group, 0.0)))
        found.append(row)
    return found


def _work_at(vps_id: str, spec: SecretSpec, due: float | None, held: float) -> float | None:
    """Return when the work on a name begins; None where a person has to do it, or nobody."""
    if due is None or spec.rotate_s is None or spec.kind == "external":
        return None
    lead = schedule.lead(spec.rotate_s)
    return max(held, schedule.work_at(due, lead, vps_id, spec.group, spec.window))
