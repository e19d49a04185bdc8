"""What a look works with, and what it knows at its beginning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployer.worker.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deployer.cloud.barbican import Barbican
    from deployer.core.blueprint import Blueprint
    from deployer.database.engine import Database
    from deployer.database.rotations import RotationRow
    from deployer.database.secrets import SecretRow
    from deployer.kinds.external import External
    from deployer.kinds.kind import Kind
    from deployer.worker.observing import Known
    from deployer.worker.registrar import Registrar


@dataclass(frozen=True, slots=True)
class Means:
    """What a look works with."""

    database: Database
    barbican: Barbican
    registrar: Registrar
    kinds: Mapping[str, Kind]
    external: External
    parse: Callable[[str, str], Blueprint]
    """Makes a blueprint of its name and text."""
    touch: Callable[[str], None]
    """Touches the beacon of a VPS."""
    lease_s: float
    interval_s: float
    now: Callable[[], float] = field(default_factory=lambda: Clock().now)
    """What time it is for schedules (s since 1970); never read with another clock."""
    emergency_s: float = 300.0
    """An emergency that takes longer is an alarm."""


@dataclass(frozen=True, slots=True)
class State:
    """What the database has of a VPS at the beginning of a look."""

    blueprint: Blueprint
    orders: tuple[RotationRow, ...]
    secrets: tuple[SecretRow, ...]
    known: Known
    claimed_at: float = 0.0
    """When its user was claimed last (s since 1970); 0 where that is not known."""
