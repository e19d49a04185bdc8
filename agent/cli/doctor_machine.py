"""What ``vps-secrets doctor`` asks of the machine: sockets, users, systemd's restrictions, files."""

from __future__ import annotations

import grp
import pwd
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli import setup_machine
from agent.identity import ciphertext, credential_file
from common.finding import FAILURE, OK, RESTRICTED, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.model import Config

_ANYBODY: Final = 0o007
SHIPPED: Final = {
    "vps-secrets-agent.service": RESTRICTED
    | {"User": "vps-secrets", "PrivateNetwork": "yes", "RestrictAddressFamilies": "AF_UNIX"},
    "vps-secrets-fetch@doctor.service": RESTRICTED | {"User": "vps-secrets-fetch"},
}
"""What systemd must say of the units: what a drop-in could take away unnoticed."""


def sockets(config: Config) -> Iterator[Finding]:
    """Look at owner and mode of each."""
    for name, path in (("app.sock", config.app.socket), ("control.sock", config.control.socket)):
        try:
            found = path.stat()
        except OSError as error:
            remedy = f"systemctl status vps-secrets-{name.partition('.')[0]}.socket"
            yield Finding(FAILURE, name, f"{path}: {error.strerror}", remedy)
            continue
        owner, group = _user(found.st_uid), _group(found.st_gid)
        words = f"{path}: mode {found.st_mode & 0o7777:04o}, {owner}:{group}"
        if not stat.S_ISSOCK(found.st_mode):
            yield Finding(FAILURE, name, f"{words}: it is no socket")
        elif found.st_mode & _ANYBODY:
            remedy = "SocketMode=0660: systemctl cat vps-secrets-app.socket vps-secrets-control.socket"
            yield Finding(WARNING, name, f"{words}: every local user may connect", remedy)
        else:
            yield Finding(OK, name, words)


def callers(config: Config) -> Iterator[Finding]:
    """Look whether the users and groups of the grants are there."""
    if not config.grants:
        yield Finding(FAILURE, "grants", "there are none, so nobody reads anything", "add a [[grant]] table")
    for number, grant in enumerate(config.grants, start=1):
        for kind, name, known in (("user", grant.user, pwd.getpwnam), ("group", grant.group, grp.getgrnam)):
            if name is None:
                continue
            try:
                known(name)
            except KeyError:
                remedy = f"make it, or change grant {number} in {config.path}"
                yield Finding(FAILURE, f"grant {number}", f"there is no {kind} {name}", remedy)


def sandbox() -> Iterator[Finding]:
    """Compare what systemd does with what the package ships."""
    if not setup_machine.RUNNING.is_dir():
        yield Finding(WARNING, "sandbox", "systemd does not run here: nothing restricts the programs")
        return
    for unit, shipped in SHIPPED.items():
        try:
            said = _properties(unit, (*shipped, "DropInPaths"))
        except setup_machine.SetupError as error:
            yield Finding(FAILURE, "sandbox", str(error), f"systemctl cat {unit}")
            continue
        weaker = [
            f"{key}={said.get(key, '')}" for key, value in shipped.items() if said.get(key, "") != value
        ]
        if not weaker:
            yield Finding(OK, "sandbox", f"{unit}: as shipped")
            continue
        remedy = f"look at {said.get('DropInPaths') or f'systemctl cat {unit}'}"
        yield Finding(FAILURE, "sandbox", f"{unit} is weaker than shipped: {', '.join(weaker)}", remedy)


def keeping(config: Config) -> Iterator[Finding]:
    """Look at what keeps the credential, and the records of who read what."""
    source = config.keystone.credential
    if source.name is not None:
        try:
            bound = ciphertext.bound_to(credential_file.path_of(source.name, config.path.parent).read_bytes())
        except OSError as error:
            yield Finding(WARNING, "credential's file", f"can't be looked at: {error.strerror}")
        else:
            words = f"decrypted with {bound.words}"
            if "TPM2" in bound.words:
                yield Finding(OK, "credential's file", words)
            else:
                words += ": the thief of the disk has it too"
                yield Finding(WARNING, "credential's file", words, "a TPM2, where the VPS can have one")
    elif source.file is not None:
        words = f"{source.file} holds it in the clear"
        yield Finding(WARNING, "credential's file", words, "vps-secrets setup --replace encrypts it")
    if setup_machine.RUNNING.is_dir():
        kept = Path("/var/log/journal").is_dir()
        words = "the journal is kept over a boot" if kept else "the journal ends with the next boot"
        remedy = "" if kept else "mkdir /var/log/journal; systemctl restart systemd-journald"
        yield Finding(OK if kept else WARNING, "records", words, remedy)


def _properties(unit: str, wanted: tuple[str, ...]) -> dict[str, str]:
    command = ["systemctl", "show", f"--property={','.join(wanted)}", "--", unit]
    lines = setup_machine.run(command, "the unit").decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
