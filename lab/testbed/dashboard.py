"""A fleet as the worker would have written it, with something of everything that the dashboard shows."""

from __future__ import annotations

import random
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert

from deployer.database import blueprints, checks, history, operations, schema

if TYPE_CHECKING:
    from deployer.database.engine import Database
    from deployer.database.words import Detail

DAY_S: Final = 86400.0
KINDS: Final = (
    ("DATABASE_URL", "postgresql", "DATABASE_URL", 30),
    ("ENCRYPTION_KEY", "random", "ENCRYPTION_KEY", None),
    ("JWT_SECRET", "random", "session", 30),
    ("SESSION_SECRET", "random", "session", 30),
    ("SIGNING_KEY", "keypair", "SIGNING_KEY", 90),
    ("SMTP_PASSWORD", "external", "SMTP_PASSWORD", 180),
    ("WEBHOOK_SECRET", "command", "WEBHOOK_SECRET", 90),
)
LATE: Final = "vps-prod-003"


def fill(database: Database, count: int, markup: str = "") -> None:
    """Write ``count`` VPSs; ``markup`` goes into every text that somebody else may have a say in."""
    draw, now = random.Random(1), time.time()  # noqa: S311  # the same fleet each time
    with database.write() as c:
        for name in ("backend", "worker", "mail"):
            blueprints.put(c, now - 90 * DAY_S, name, '[A]\nkind = "random"\n', "unix:ops")
        rows = [_vps(draw, now, number, markup) for number in range(count)]
        c.execute(insert(schema.vps), rows)
        c.execute(insert(schema.secret), [each for row in rows for each in _secrets(draw, now, row)])
        late = [row["id"] for row in rows if _is_late(row)]
        for vps_id in late:
            error = f"apply failed: db1 refused the connection; it is tried again in 15 minutes{markup}"
            c.execute(insert(schema.rotation).values(**_rotation(now, vps_id, error, markup)))
        c.execute(insert(schema.rotation), [_past(draw, now, number, rows) for number in range(1200)])
        _orders(c, now, late[0], markup)
        for number in range(12):
            c.execute(insert(schema.backup).values(**_backup(now, number, count, markup)))
        for name in ("no stranger has a role", "access rules bind", "the deployer reads nothing"):
            checks.record(
                c, now - 5 * 3600, f"cloud: {name}", passed=True, detail={"tried": f"12 calls{markup}"}
            )


def _is_late(row: dict[str, Any]) -> bool:
    return int(row["id"][-5:].rpartition("-")[2]) % 2500 == 3


def _vps(draw: random.Random, now: float, number: int, markup: str) -> dict[str, Any]:
    joins, fails = number % 900 == 7, number % 1700 == 5
    env = "stage" if number % 4 == 2 else "prod"
    error = f"make JWT_SECRET failed: Barbican answered 503; it is tried again in 8 minutes{markup}"
    return {
        "id": f"vps-{env}-{number:03d}",
        "blueprint": draw.choice(["backend", "worker", "mail"]),
        "labels": {"env": env, "region": draw.choice(["ams", "fra"])},
        "wave": number % 3,
        "wanted": "revoked" if number % 4000 == 11 else "present",
        "user_id": f"{number:032x}",
        "container": str(uuid.UUID(int=number)),
        "granted_to": "",
        "state": "current",
        "created_at": now - (300 if joins else 90 * DAY_S * draw.random()),
        "next_look": now + 1000,
        "failures": 4 if fails else 0,
        "last_error": error if fails else "",
        "served": "" if joins else "x",
        "served_at": None if joins else now - 3600,
        "looked_at": now - 100,
    }


def _secrets(draw: random.Random, now: float, row: dict[str, Any]) -> list[dict[str, Any]]:
    number = int(row["id"].rpartition("-")[2])
    found: list[dict[str, Any]] = []
    for name, kind, group, days in KINDS if row["served"] else ():
        created = now - (days or 60) * DAY_S * 0.85 * draw.random()
        if number % 2500 == 3 and kind == "postgresql":
            created = now - 30 * DAY_S - 5 * 3600
        if number % 500 == 9 and kind == "external":
            created = now - 172 * DAY_S
        due = created + days * DAY_S if days else None
        by_itself = due is not None and kind != "external"
        found.append({
            "vps": row["id"],
            "name": name,
            "kind": kind,
            "grp": group,
            "current": str(uuid.UUID(int=draw.getrandbits(128))),
            "created": created,
            "due": due,
            "work_at": due - (days or 0) * DAY_S / 10 if by_itself and due else None,
            "state": "rotating" if due is not None and due < now else "current",
        })  # fmt: skip
    return found


def _rotation(now: float, vps_id: str, error: str, markup: str) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "vps": vps_id,
        "grp": "DATABASE_URL",
        "names": ["DATABASE_URL"],
        "reason": "schedule",
        "asked_by": f"worker{markup}",
        "due": now - 5 * 3600,
        "wanted_at": now - 3 * DAY_S,
        "begun_at": now - 3 * DAY_S,
        "state": "wanted",
        "attempts": 37,
        "last_error": error,
    }


def _past(draw: random.Random, now: float, number: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    due = now - 29 * DAY_S * draw.random()
    return {
        "id": str(uuid.UUID(int=draw.getrandbits(128))),
        "vps": rows[number % len(rows)]["id"],
        "grp": f"session{number}",
        "names": ["JWT_SECRET", "SESSION_SECRET"],
        "reason": "schedule",
        "due": due,
        "wanted_at": due - 3 * DAY_S,
        "arrived_at": due + (3600 if number % 400 == 0 else -3600),
        "ended_at": due,
        "state": "arrived",
        "attempts": 1,
    }


def _orders(c: Any, now: float, late: str, markup: str) -> None:
    """Write what people ordered, and what came of it."""
    for number in range(130):
        detail = {"reason": "ordered", "note": f"asked for{markup}"}
        history.note(c, now - 20_000 + number * 60, "worker", "rotation.want", vps=late, detail=detail)
    portal, person = f"unix:recruitiq-portal{markup}", "tls:CN=ops"
    seen: dict[str, Detail] = {
        "reason": f"a developer saw it{markup}",
        "names": ["JWT_SECRET"],
        "rotations": [],
    }
    done = operations.begin(c, now - 7000, "rotate", late, portal, total=2, detail=seen)
    operations.finish(c, now - 6900, done.id)
    many: dict[str, Detail] = {
        "labels": {"env": "prod"},
        "names": [],
        "reason": "quarterly",
        "waveInterval": 1e6,
        "through": 0,
    }
    waits = operations.begin(c, now - 700, "rotate-many", "*", person, total=400, detail=many)
    operations.progress(c, now - 20, waits.id, 240, detail={**many, "orderedAt": now + 1e6})
    failed = operations.begin(c, now - 400, "rollback", late, portal)
    words = f"1 of 1 rotations were given up; the history says why{markup}"
    operations.fail(c, now - 300, failed.id, words)


def _backup(now: float, number: int, count: int, markup: str) -> dict[str, Any]:
    begun = now - number * DAY_S - 3000
    state = "proved" if number % 7 == 1 else "failed" if number == 5 else "written"
    return {
        "id": str(uuid.uuid4()),
        "begun_at": begun,
        "ended_at": begun + 10,
        "state": state,
        "destination": f"swift: elsewhere{markup}",
        "object": f"vps-secrets-{number:02d}.age",
        "size": 1_400_000 + number,
        "vpses": count,
        "secrets": 7 * count,
        "proved_at": begun + 3000 if state == "proved" else None,
        "error": f"Swift answered 507: no room{markup}" if state == "failed" else "",
    }
