"""What ``vps-secrets-deploy doctor`` asks of the machine: files, disks, units, timers, restrictions."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.finding import FAILURE, OK, RESTRICTED, WARNING, Finding
from deployer.config.model import BackupKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.config.model import Config

RUNNING: Final = Path("/run/systemd/system")
JOURNAL: Final = Path("/var/log/journal")
NAME: Final = "vps-secrets-deployer"
ALWAYS: Final = (
    *(f"{NAME}-api.service", f"{NAME}-worker.service"),
    *(f"{NAME}-api.socket", f"{NAME}-worker.socket", f"{NAME}-hook.socket", "vps-secrets-registrar.socket"),
    *(f"{NAME}-backup.timer", f"{NAME}-prove.timer", f"{NAME}-report.timer"),
)
"""What runs or waits on one machine that has everything."""
NOW_AND_THEN: Final = (f"{NAME}-backup@due.service", f"{NAME}-backup@prove.service", f"{NAME}-report.service")
LOW, LEAST = 0.10, 0.02
"""Of a disk: what is left is a warning, a failure."""
SHIPPED: Final = {
    f"{NAME}-api.service": RESTRICTED | {"User": "vps-secrets-api", "PrivateNetwork": "yes"},
    f"{NAME}-worker.service": RESTRICTED | {"User": "vps-secrets-worker"},
    f"{NAME}-backup@doctor.service": RESTRICTED | {"User": "vps-secrets-backup"},
    f"{NAME}-hook@doctor.service": RESTRICTED | {"User": "vps-secrets-hook"},
    "vps-secrets-registrar@doctor.service": RESTRICTED | {"User": "vps-secrets-registrar"},
    f"{NAME}-report.service": RESTRICTED | {"User": "vps-secrets-report"},
}
"""What systemd must say of the units: what a drop-in could take away unnoticed."""


class SystemdError(Exception):
    """systemctl can't be run, or refuses."""


def files(config: Config) -> Iterator[Finding]:
    """Look at what others must not read, at age, and at the room that is left."""
    yield from _closed("signing key", config.signing_key, needed=bool(config.backups))
    database = Path(config.database.removeprefix("sqlite:///"))
    if config.database.startswith("sqlite:///"):
        yield from _closed("database's file", database, needed=False)
    if config.backups and shutil.which("age") is None:
        words = "there are places of backups, and no program that encrypts them"
        yield Finding(FAILURE, "age", words, "apt-get install age")
    folders = [database.parent] if config.database.startswith("sqlite:///") else []
    folders += [Path(place.location) for place in config.backups if place.kind is BackupKind.DIRECTORY]
    folders += [folder for folder in (JOURNAL, Path("/var/lib")) if folder.is_dir()]
    seen: set[int] = set()
    for folder in folders:
        try:
            device = folder.stat().st_dev
            room = os.statvfs(folder)
        except OSError as error:
            yield Finding(FAILURE, "disk", f"{folder}: {error.strerror}", "make it, for its program's user")
            continue
        if device not in seen:
            seen.add(device)
            yield _room(folder, room)


def _closed(what: str, path: Path, *, needed: bool) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if needed and not isinstance(error, FileNotFoundError):  # the first backup makes it
            yield Finding(WARNING, what, f"{path}: {error.strerror}", "sudo vps-secrets-deploy doctor")
        return
    if stat.S_IMODE(mode) & stat.S_IRWXO:
        words = f"{path}: mode {stat.S_IMODE(mode):04o}: every local user may use it"
        yield Finding(FAILURE, what, words, f"chmod o= {path}")
    else:
        yield Finding(OK, what, f"{path}: mode {stat.S_IMODE(mode):04o}")


def _room(folder: Path, room: os.statvfs_result) -> Finding:
    """Judge what is left, of bytes and of files."""
    left = min(room.f_bavail / max(room.f_blocks, 1), room.f_favail / room.f_files if room.f_files else 1.0)
    words = f"{folder}: {left:.0%} left, {room.f_bavail * room.f_frsize / 1e9:.1f} GB"
    level = OK if left > LOW else WARNING if left > LEAST else FAILURE
    return Finding(level, "disk", words, "" if level == OK else "make room, or a larger disk")


def units() -> Iterator[Finding]:
    """Look what runs, what has failed, and when each timer's work was done last."""
    if not RUNNING.is_dir():
        yield Finding(WARNING, "units", "systemd does not run here")
        return
    try:
        for unit in ALWAYS:
            yield _always(unit, _show(unit, "ActiveState", "UnitFileState", "Result", "LastTriggerUSec"))
        for unit in NOW_AND_THEN:
            said = _show(unit, "ActiveState", "Result", "ExecMainExitTimestamp", "ConditionResult")
            yield _now_and_then(unit, said)
    except SystemdError as error:
        yield Finding(FAILURE, "units", str(error), "systemctl status")


def _always(unit: str, said: dict[str, str]) -> Finding:
    state, enabled = said.get("ActiveState", ""), said.get("UnitFileState", "")
    if state == "active":
        last = said.get("LastTriggerUSec", "")
        return Finding(OK, unit, "active" + (f", last {last}" if last not in {"", "n/a"} else ""))
    if enabled in {"disabled", "masked"}:
        return Finding(OK, unit, f"{enabled}: not for this machine")
    if not enabled:
        return Finding(WARNING, unit, "there is no such unit", "install the package, or run: serve")
    words = f"{state}, {said.get('Result') or 'never started'}"
    return Finding(FAILURE, unit, words, f"systemctl status {unit}")


def _now_and_then(unit: str, said: dict[str, str]) -> Finding:
    last = said.get("ExecMainExitTimestamp") or ""
    if said.get("ActiveState") == "failed":
        return Finding(FAILURE, unit, f"failed, {said.get('Result')}; {last}", f"journalctl --unit {unit}")
    return Finding(OK, unit, f"last done {last}" if last else "not since the boot")


def sandbox(config: Config | None) -> Iterator[Finding]:
    """Compare what systemd does with what the package ships."""
    if not RUNNING.is_dir():
        yield Finding(WARNING, "sandbox", "systemd does not run here: nothing restricts the programs")
        return
    for unit, shipped in SHIPPED.items():
        try:
            said = _show(unit, *shipped, "DropInPaths", "LoadState")
        except SystemdError as error:
            yield Finding(FAILURE, "sandbox", str(error), f"systemctl cat {unit}")
            continue
        if said.get("LoadState") == "not-found":
            continue  # it was said above
        weaker = {
            key: said.get(key, "")
            for key, value in shipped.items()
            if said.get(key, "") != value and not (key == "PrivateNetwork" and _reaches_others(config))
        }
        if not weaker:
            yield Finding(OK, "sandbox", f"{unit}: as shipped")
            continue
        # a command in Node.js needs this, and the document says so
        level = WARNING if set(weaker) == {"MemoryDenyWriteExecute"} and "-hook@" in unit else FAILURE
        told = ", ".join(f"{key}={value}" for key, value in weaker.items())
        remedy = f"look at {said.get('DropInPaths') or f'systemctl cat {unit}'}"
        yield Finding(level, "sandbox", f"{unit} is weaker than shipped: {told}", remedy)


def _reaches_others(config: Config | None) -> bool:
    """Return whether the API is to have a network."""
    return config is None or config.api.tls is not None or config.database.startswith("postgresql")


def _show(unit: str, *names: str) -> dict[str, str]:
    command = ["systemctl", "show", f"--property={','.join(names)}", "--", unit]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        raise SystemdError(f"systemctl can't be run for {unit}") from None
    if done.returncode:
        raise SystemdError(f"systemctl does not show {unit}")
    lines = done.stdout.decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
