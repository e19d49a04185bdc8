"""Whether what a backup says is what Barbican has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deployer.core.backup_format import Backup, SavedVps
    from deployer.core.model import Observed


def differences(backup: Backup, observed: Mapping[str, Observed]) -> tuple[str, ...]:
    """Return a line for each thing that is not as the backup says; none: all of it could be restored.

    What rotated after the backup was made differs, and so does what was added: that is not its fault, but it
    would be lost with it.
    """
    lines = [line for vps in backup.vpses for line in _of_vps(vps, observed.get(vps.vps_id))]
    known = {vps.vps_id for vps in backup.vpses}
    lines += [f"{vps_id}: not in the backup" for vps_id in sorted(observed.keys() - known)]
    return tuple(lines)


def _of_vps(vps: SavedVps, observed: Observed | None) -> list[str]:
    if observed is None or observed.container is None:
        return [] if vps.container is None else [f"{vps.vps_id}: Barbican has no container of it"]
    if observed.container != vps.container:
        return [f"{vps.vps_id}: its container is {observed.container}, the backup says {vps.container}"]
    # of the entries of one name, the highest K counts
    listed = {entry.name: entry.version for entry in sorted(observed.entries, key=lambda entry: entry.k)}
    saved = {name: secret.version for name, secret in vps.secrets.items() if secret.version is not None}
    lines = []
    for name in sorted(listed.keys() | saved.keys()):
        if name not in listed:
            lines.append(f"{vps.vps_id}/{name}: the container does not list it")
        elif listed[name] != saved.get(name):
            lines.append(f"{vps.vps_id}/{name}: {listed[name]} is listed, the backup says {saved.get(name)}")
    return lines
