"""The blueprints that were applied, as their authors wrote them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from deployer.database import history
from deployer.database.schema import blueprint
from deployer.database.statements import each, one, upsert

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


@dataclass(frozen=True, slots=True)
class BlueprintRow:
    """One blueprint. ``digest`` is SHA-256 of its text, in hexadecimal."""

    name: str
    digest: str
    text: str
    applied_at: float
    applied_by: str


def put(c: Connection, now: float, name: str, text: str, actor: str) -> BlueprintRow:
    """Keep a blueprint that has been read without a mistake. Nothing is written where it is the same."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    known = get(c, name)
    if known is not None and known.digest == digest:
        return known
    row = {"name": name, "digest": digest, "text": text, "applied_at": now, "applied_by": actor}
    upsert(c, blueprint, [row])
    before = known.digest if known else ""
    history.note(c, now, actor, "blueprint.apply", detail={"name": name, "digest": digest, "before": before})
    return BlueprintRow(name, digest, text, now, actor)


def get(c: Connection, name: str, *, lock: bool = False) -> BlueprintRow | None:
    """Return a blueprint, or None. ``lock``: whoever else locks it waits for this transaction's end."""
    query = select(blueprint).where(blueprint.c.name == name)
    return one(BlueprintRow, c.execute(query.with_for_update() if lock else query).first())


def all_of(c: Connection) -> tuple[BlueprintRow, ...]:
    """Return every blueprint in the order of their names."""
    return each(BlueprintRow, c.execute(select(blueprint).order_by(blueprint.c.name)))
