"""What Barbican has of one VPS: with one call where nothing has changed, with all of them where it matters.

The versions that a look found are kept in the database. As long as the container lists what it listed then,
they are still right. Once a day, after a failure and whenever there is something to do, everything is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from common.names import SecretName, Version
from deployer.cloud.errors import CloudError
from deployer.core import schedule
from deployer.core.model import Made, Marks, Observed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deployer.cloud.barbican import Barbican
    from deployer.database.secrets import VersionRow
    from deployer.database.vpses import VpsRow

DAY_S: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Known:
    """What the database has of a VPS: a copy of what former looks found."""

    row: VpsRow
    versions: tuple[VersionRow, ...]

    def made(self) -> frozenset[Made]:
        """Return the versions, as a look would find them."""
        return frozenset(
            Made(SecretName(version.name), Version(version.uuid), version.created, _marks(version))
            for version in self.versions
        )


def look(barbican: Barbican, known: Known) -> Observed:
    """Return what a VPS has by its container alone: one call."""
    container, observed = _container(barbican, known)
    return replace(observed, made=known.made(), granted_to=_granted(known.row, container))


def look_at_all(barbican: Barbican, known: Known, names: Iterable[SecretName]) -> Observed:
    """Return all that a VPS has: the container, and every version of its names, with their marks."""
    container, observed = _container(barbican, known)
    marks = {version.uuid: _marks(version) for version in known.versions}
    wanted = {
        *names,
        *(entry.name for entry in observed.entries),
        *(SecretName(version.name) for version in known.versions),
    }
    found: set[Made] = set()
    for name in sorted(wanted):
        for made in barbican.made(known.row.id, name):
            # marks are written once; a version without may have got them since
            found.add(replace(made, marks=marks.get(made.version) or barbican.marks(made.version)))
    return replace(observed, made=frozenset(found), granted_to=_granted(known.row, container))


def is_daily(row: VpsRow, now: float) -> bool:
    """Tell whether this is the first look of a day, which looks at everything.

    Each VPS has a day of its own, or a whole fleet would be looked at in the hour after midnight.
    """
    begin = DAY_S * schedule.share(row.id)
    return row.looked_at is None or (row.looked_at - begin) // DAY_S != (now - begin) // DAY_S


def _container(barbican: Barbican, known: Known) -> tuple[Version | None, Observed]:
    vps_id = known.row.id
    for container in (Version(known.row.container) if known.row.container else None, None):
        found = container or barbican.container_named(vps_id)
        if found is None:
            return None, Observed()
        try:
            listing = barbican.container(vps_id, found)
        except CloudError as error:
            if not error.gone or container is None:
                raise
            continue  # it was deleted; another one may have its name
        return found, Observed(found, listing.entries, consumers=listing.consumers)
    return None, Observed()


def _granted(row: VpsRow, container: Version | None) -> str | None:
    """Return whom the ACLs name; of a container that was made since the last look nobody knows it."""
    return row.granted_to if container in {None, row.container} else None


def _marks(version: VersionRow) -> Marks | None:
    if not version.rotation:
        return None
    return Marks(version.rotation, version.kind, version.slot, version.sequence, version.sealed_to)
