"""Rows of the database as the contract's objects. Names, references, dates and words: no row has a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deployer.api.backup_health import Health
    from deployer.api.fleet import Seen
    from deployer.database.backups import BackupRow
    from deployer.database.blueprints import BlueprintRow
    from deployer.database.checks import CheckRow
    from deployer.database.history import HistoryRow
    from deployer.database.operations import Operation
    from deployer.database.rotations import RotationRow
    from deployer.database.secrets import SecretRow

Content: TypeAlias = "str | int | float | bool | Sequence[Content] | Mapping[str, Content] | None"
"""What an answer can say: JSON. There is no place in it for bytes."""


def vps(seen: Seen) -> dict[str, Content]:
    """Return a VPS."""
    row = seen.vps
    return {
        "id": row.id,
        "blueprint": row.blueprint,
        "labels": dict(row.labels),
        "wave": row.wave,
        "wanted": row.wanted,
        "sealing": row.sealing,
        "look": seen.look,
        "state": row.state,
        "userId": row.user_id or None,
        "container": row.container or None,
        "createdAt": row.created_at,
        "servedAt": row.served_at,
        "lookedAt": row.looked_at,
        # below zero: it comes before every date
        "nextLook": None if row.next_look < 0 else row.next_look,
        "nextDue": seen.next_due,
        "failures": row.failures,
        "lastError": row.last_error or None,
    }


def secret(row: SecretRow) -> dict[str, Content]:
    """Return a secret: its version is a reference."""
    return {
        "name": row.name,
        "kind": row.kind,
        "group": row.grp,
        "version": row.current,
        "createdAt": row.created if row.current else None,
        "lost": row.current is None and row.created is not None,
        "due": row.due,
        "workAt": row.work_at,
        "state": row.state,
        "remark": row.remark or None,
    }


def rotation(row: RotationRow) -> dict[str, Content]:
    """Return a rotation."""
    return {
        "id": row.id,
        "vps": row.vps,
        "group": row.grp,
        "names": list(row.names),
        "reason": row.reason,
        "askedBy": row.asked_by or None,
        "note": row.note or None,
        "due": row.due,
        "wantedAt": row.wanted_at,
        "begunAt": row.begun_at,
        "listedAt": row.listed_at,
        "arrivedAt": row.arrived_at,
        "endedAt": row.ended_at,
        "state": row.state,
        "attempts": row.attempts,
        "lastError": row.last_error or None,
    }


def operation(row: Operation) -> dict[str, Content]:
    """Return an operation."""
    return {
        "id": row.id,
        "kind": row.kind,
        "target": row.target,
        "askedBy": row.asked_by,
        "state": row.state,
        "createdAt": row.created_at,
        "changedAt": row.changed_at,
        "done": row.done,
        "total": row.total,
        "detail": dict(row.detail),
        "error": row.error or None,
    }


def entry(row: HistoryRow) -> dict[str, Content]:
    """Return an entry of the history."""
    return {
        "id": row.id,
        "at": row.at,
        "actor": row.actor,
        "action": row.action,
        "vps": row.vps or None,
        "name": row.name or None,
        "rotation": row.rotation or None,
        "detail": dict(row.detail),
    }


def place(health: Health) -> dict[str, Content]:
    """Return how a place of backups is."""
    return {
        "name": health.name,
        "where": health.where,
        "goodAt": health.good_at,
        "provedAt": health.proved_at,
        "problem": health.problem,
    }


def backup(row: BackupRow) -> dict[str, Content]:
    """Return a backup."""
    return {
        "id": row.id,
        "begunAt": row.begun_at,
        "endedAt": row.ended_at,
        "state": row.state,
        "destination": row.destination,
        "object": row.object or None,
        "size": row.size,
        "vpses": row.vpses,
        "secrets": row.secrets,
        "provedAt": row.proved_at,
        "error": row.error or None,
    }


def blueprint(row: BlueprintRow) -> dict[str, Content]:
    """Return a blueprint, without its text: what a VPS has is shown with the VPS."""
    return {"name": row.name, "digest": row.digest, "appliedAt": row.applied_at, "appliedBy": row.applied_by}


def check(row: CheckRow) -> dict[str, Content]:
    """Return what a check found, in words and names."""
    return {"name": row.name, "at": row.at, "passed": row.passed, "detail": dict(row.detail)}
