"""Which deployment this is: one id for as long as the database lives, in each backup."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from deployer.database import history
from deployer.database.schema import deployment
from deployer.database.statements import insert_unless_there

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def identity(c: Connection, now: float) -> str:
    """Return the id, which is made at the first call. Needs a transaction that may write."""
    found = c.execute(select(deployment.c.id)).scalar_one_or_none()
    if found is not None:
        return str(found)
    insert_unless_there(c, deployment, {"one": 1, "id": str(uuid.uuid4()), "created_at": now})
    return str(c.execute(select(deployment.c.id)).scalar_one())


def become(c: Connection, now: float, deployment_id: str, actor: str) -> None:
    """Be the deployment of this id from now on: a lost database that is restored from its backup."""
    before = identity(c, now)
    if before != deployment_id:
        c.execute(update(deployment).values(id=deployment_id))
        history.note(
            c, now, actor, "deployment.become", detail={"before": before, "deployment": deployment_id}
        )
