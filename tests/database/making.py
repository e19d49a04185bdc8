"""VPSs and secrets to try things with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from common.names import SecretName, Version
from deployer.core.model import Made, Marks
from deployer.database import blueprints, vpses
from deployer.database.secrets import SeenSecret

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from deployer.database.vpses import VpsRow

NOW: Final = 1_800_000_000.5
DAY: Final = 86400.0
OWNER: Final = "worker-1/task-1"
OTHER: Final = "worker-2/task-1"


def blueprint(c: Connection, name: str = "backend") -> None:
    """Apply a blueprint."""
    blueprints.put(c, NOW, name, '[JWT_SECRET]\nkind = "random"\n', "olga")


def vps(c: Connection, vps_id: str = "vps-1", **labels: str) -> VpsRow:
    """Want a VPS."""
    blueprint(c)
    return vpses.wish(c, NOW, vps_id, "backend", labels=labels, actor="portal")


def uuid(number: int) -> Version:
    """Return a version."""
    return Version(f"00000000-0000-4000-8000-{number:012d}")


def secret(name: str, grp: str = "", number: int = 1, work_at: float | None = NOW) -> SeenSecret:
    """Return a secret as a look found it, due a day after work begins."""
    due = None if work_at is None else work_at + DAY
    return SeenSecret(name, "random", grp or name, uuid(number), NOW - 30 * DAY, due, work_at)


def made(name: str, number: int, rotation: str = "r1") -> Made:
    """Return a version as Barbican lists it."""
    return Made(SecretName(name), uuid(number), NOW + number, Marks(rotation, "random", "a"))
