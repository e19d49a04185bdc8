"""What ``vps-secrets setup`` asks of this machine: systemd, its credentials, users, and a trial reading."""

from __future__ import annotations

import grp
import json
import pwd
import subprocess
from pathlib import Path
from typing import Any, Final

from agent.cli import setup_files, show
from agent.cli.setup_config import CREDENTIAL_NAME
from agent.identity import ciphertext
from common import sealing_key

AGENT: Final = "/usr/sbin/vps-secrets-agent"
FETCH: Final = "/usr/lib/vps-secrets-agent/vps-secrets-fetch"
RUNNING: Final = Path("/run/systemd/system")  # sd_booted(3)
SOCKET: Final = "vps-secrets-app.socket"
SERVICE: Final = "vps-secrets-agent.service"
RENEWAL: Final = "vps-secrets-renew.timer"
UNITS: Final = f"{SOCKET} {SERVICE}"
DROP_IN: Final = Path("/etc/systemd/system/vps-secrets-app.socket.d/group.conf")
TRIAL: Final = "vps-secrets-fetch@setup.service"
_TRIAL_DROP_IN: Final = RUNNING / f"{TRIAL}.d" / "zzz-trial.conf"
_REPORT: Final = Path("/run/vps-secrets-setup.json")
_TRIAL_UNIT: Final = f"""\
# written by vps-secrets setup, for one reading
[Service]
StandardInput=null
StandardOutput=file:{_REPORT}
ExecStart=
ExecStart={FETCH} --trial --config {setup_files.DRAFT / setup_files.CONFIGURATION}
LoadCredentialEncrypted={CREDENTIAL_NAME}:{setup_files.DRAFT / setup_files.CREDENTIAL}
RuntimeMaxSec=11min
"""
_LOADS: Final = (
    f"LoadCredentialEncrypted={CREDENTIAL_NAME}:{setup_files.DIRECTORY / setup_files.CREDENTIAL}\\n"
    f"LoadCredentialEncrypted={sealing_key.CREDENTIAL}:{setup_files.DIRECTORY / sealing_key.CREDENTIAL}.cred"
)
"""As printf(1) takes it; the key where the VPS has one, as the unit says it."""
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
"""The distribution's programs, not those that somebody has put in /usr/local."""


class SetupError(Exception):
    """A step failed; the text names it, and what to do."""


def run(command: list[str], step: str, given: bytes | None = None) -> bytes:
    """Run a program of this machine and return its output; its words are shown where it fails.

    Raises:
        SetupError: it failed.
    """
    try:
        done = subprocess.run(  # noqa: S603  # our own words and paths, no shell
            command, input=given, capture_output=True, check=False, env=_ENVIRONMENT
        )
    except OSError as error:
        raise SetupError(f"{step}: {command[0]}: {error.strerror}") from None
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()
        words = words.replace(str(setup_files.DRAFT), str(setup_files.DIRECTORY))
        raise SetupError("\n  ".join([f"{step}: refused", *map(show.clean, words.splitlines())]))
    return done.stdout


def reload_units() -> None:
    """Have systemd read its units again, where it runs."""
    if RUNNING.is_dir():
        run(["systemctl", "daemon-reload"], "systemd")


def encrypt(credential: bytes) -> ciphertext.Bound:
    """Encrypt it into the draft; it never lies on a disk in the clear. Return what it is bound to."""
    command = ["systemd-creds", "encrypt", f"--name={CREDENTIAL_NAME}", "-", "-"]
    encrypted = run(command, "systemd-creds, which encrypts the credential", credential)
    bound = ciphertext.bound_to(encrypted)
    if not bound.safe:
        raise SetupError("systemd-creds: it encrypts with no key, so anybody could read the credential")
    setup_files.write(setup_files.CREDENTIAL, encrypted, 0o600)
    return bound


def group_for(user: str | None, unit: str | None) -> str | None:
    """Return the group that gets the application's socket; None leaves it to vps-secrets-app.

    Raises:
        SetupError: there is no such user.
    """
    if user:
        try:
            return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
        except KeyError:
            raise SetupError(f"there is no user {show.clean(user)} on this machine: make it first") from None
    if unit and RUNNING.is_dir():
        shown = run(["systemctl", "show", "--property=User", "--property=Group", "--", unit], "the unit")
        facts = dict(line.split("=", 1) for line in shown.decode().splitlines() if "=" in line)
        if facts.get("Group"):
            return facts["Group"]
        if facts.get("User"):
            return group_for(facts["User"], None)
    return None


def drop_in_for(user: str | None, unit: str | None) -> str | None:
    """Return the drop-in that gives the application its socket, or None where the default group does.

    Raises:
        SetupError: there is no such user.
    """
    group = group_for(user, unit)
    return f"# written by vps-secrets setup\n[Socket]\nSocketGroup={group}\n" if group else None


def drop_in() -> str | None:
    """Return the drop-in of the application's socket that is there."""
    return DROP_IN.read_text() if DROP_IN.exists() else None


def put_drop_in(text: str | None) -> None:
    """Write the socket's drop-in, or remove it (None)."""
    if text is None:
        DROP_IN.unlink(missing_ok=True)
    elif text != drop_in():
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(text)
        DROP_IN.chmod(0o644)


def check_loads_credential() -> None:
    """Find out whether fetch gets a credential at all: drop-ins of container images reset what units load.

    Raises:
        SetupError: it gets none.
    """
    loaded, place, resets = False, "", "of the unit itself"
    for line in run(["systemctl", "cat", "--", TRIAL], "systemd").decode().splitlines():
        key, _, setting = line.partition("=")
        if line.startswith("# /"):
            place = line[2:]
        elif key in {"LoadCredential", "LoadCredentialEncrypted"}:
            loaded = setting.startswith(f"{CREDENTIAL_NAME}:") or (loaded and bool(setting))
            resets = "" if setting else place
    if loaded:
        return
    directory = "/etc/systemd/system/vps-secrets-fetch@.service.d"
    raise SetupError(
        "the credential would not reach fetch: a drop-in resets LoadCredential=, as images for LXC do "
        f"({show.clean(resets)}). Undo that for fetch, in a file that sorts after it, "
        "and run this again:\n"
        f"  mkdir -p {directory}\n"
        f"  printf '[Service]\\n{_LOADS}\\n' >{directory}/zzzz-credential.conf\n"
        "  systemctl daemon-reload\n"
        "Where this container can't mount credentials (243/CREDENTIALS in the journal), use "
        "keystone.credential_file instead, see vps-secrets-agent.toml(5)"
    )


def try_draft() -> dict[str, Any]:
    """Read Barbican once with the draft, beside the running agent, as fetch's own unit; return its report.

    Raises:
        SetupError: there is no report.
    """
    _TRIAL_DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    _TRIAL_DROP_IN.write_text(_TRIAL_UNIT)
    _REPORT.unlink(missing_ok=True)
    try:
        reload_units()
        run(["systemctl", "start", "--wait", TRIAL], "the trial reading")
        report = json.loads(_REPORT.read_bytes())
    except SetupError as error:
        raise SetupError(f"{error}\n  journalctl -u {TRIAL} says why") from None
    except (OSError, ValueError):
        raise SetupError(f"the trial reading: no report; journalctl -u {TRIAL} says why") from None
    finally:
        _REPORT.unlink(missing_ok=True)
        _TRIAL_DROP_IN.unlink(missing_ok=True)
        _TRIAL_DROP_IN.parent.rmdir()
        reload_units()
    if not isinstance(report, dict):
        raise SetupError(f"the trial reading: no report; journalctl -u {TRIAL} says why")
    return report


def start_renewal() -> None:
    """Have the credential renewed from now on, and not from the next boot."""
    run(["systemctl", "start", RENEWAL], "the renewal's timer")


def restart(*, socket: bool) -> None:
    """Restart the agent, which keeps its secrets; and its socket only where that has changed."""
    if socket:
        run(["systemctl", "restart", SOCKET], "the application's socket")
    run(["systemctl", "restart", SERVICE], "the agent")
