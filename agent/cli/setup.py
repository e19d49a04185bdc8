"""``vps-secrets setup``: makes this machine the agent's, from a few facts and one credential, as root.

The credential comes from standard input, a descriptor or a terminal, never from an argument, and goes to
systemd-creds(1) only, which encrypts it for this machine (TPM2 where there is one, else its own key). What is
written are references: nothing in the configuration is a secret.
"""

from __future__ import annotations

import contextlib
import getpass
import grp
import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.cli import show
from agent.cli.http import AnswerError, PermissionDeniedError, UnreachableError, ask
from common.places import FETCH_SOCKET

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

DIRECTORY: Final = Path("/etc/vps-secrets-agent")
CONFIGURATION: Final = DIRECTORY / "agent.toml"
CREDENTIAL: Final = DIRECTORY / "keystone-credential.cred"
DROP_IN: Final = Path("/etc/systemd/system/vps-secrets-app.socket.d/group.conf")
CREDENTIAL_NAME: Final = "keystone-credential"
MAX_BYTES: Final = 64 * 1024
RUNNING: Final = Path("/run/systemd/system")  # sd_booted(3)
UNITS: Final = ("vps-secrets-app.socket", "vps-secrets-agent.service")
AGENT: Final = "/usr/sbin/vps-secrets-agent"
_CONTAINER: Final = re.compile(r".*[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OK: Final = 200
READING_S: Final = 60.0
ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
"""The distribution's programs, not those that somebody has put in /usr/local."""


class SetupError(Exception):
    """A step failed; the text names it, and what to do."""


class Question(NamedTuple):
    """One fact that is needed: its option, and how a person is asked for it."""

    option: str
    text: str


QUESTIONS: Final = (
    Question("vps_id", "id of this VPS, such as vps-prod-001"),
    Question("container", "reference of its Barbican container"),
    Question("auth_url", "Keystone, such as https://keystone.example.org/v3"),
    Question("application_credential_id", "id of the application credential"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    for question in QUESTIONS:
        parser.add_argument("--" + question.option.replace("_", "-"), metavar="TEXT", help=question.text)
    parser.add_argument("--region", metavar="TEXT", help="default: the first of the catalog")
    parser.add_argument("--interface", choices=("public", "internal", "admin"), help="default: public")
    parser.add_argument("--ca-file", metavar="PATH", help="default: the system's certificates")
    parser.add_argument("--user", help="the user that the application runs as: it may read the secrets")
    parser.add_argument("--unit", help="a unit that may read them, such as recruitiq.service")
    parser.add_argument(
        "--secrets", default="*", metavar="NAMES", help="which ones, with commas; default: all"
    )
    parser.add_argument("--credential-fd", type=int, default=0, metavar="N", help="default: standard input")
    parser.add_argument("--replace", action="store_true", help="overwrite the configuration that is there")
    parser.add_argument("--no-start", action="store_true", help="for images: leave the agent as it is")


def run(options: argparse.Namespace) -> int:
    """Set this machine up and return the exit status: 0 it serves, 1 a step failed, 2 facts are missing."""
    if os.geteuid():
        return _say("only root can set this machine up: sudo vps-secrets setup …", 4)
    os.umask(0o022)  # whatever the caller's is: units are configured by what is written
    missing = _missing(options)
    if missing:
        return _say(f"needed: {', '.join(missing)}", 2)
    try:
        _set_up(options)
        if RUNNING.is_dir():
            _run(["systemctl", "daemon-reload"], "systemd")
        if options.no_start:
            print(f"not started (--no-start): the next boot does, or: systemctl restart {' '.join(UNITS)}")
            return 0
        return _start(options)
    except SetupError as error:
        return _say(str(error), 1)
    except OSError as error:  # a disk that is full or can't be written
        place = f"{show.clean(str(error.filename))}: " if error.filename else f"{CONFIGURATION.parent}: "
        return _say(f"can't write: {place}{error.strerror}; nothing was started", 1)


def _missing(options: argparse.Namespace) -> list[str]:
    """Ask a person for what is missing; return the options that nobody could be asked for."""
    missing = []
    for option, text in QUESTIONS:
        if getattr(options, option) is None:
            if sys.stdin.isatty():
                setattr(options, option, input(f"{text}: ").strip())
            else:
                missing.append("--" + option.replace("_", "-"))
    if not options.user and not options.unit:
        if sys.stdin.isatty():
            options.user = input("user that the application runs as: ").strip()
        else:
            missing.append("--user or --unit")
    return missing


def _set_up(options: argparse.Namespace) -> None:
    """Write the configuration, the encrypted credential and the socket's group, each checked before."""
    if CONFIGURATION.exists() and not options.replace:
        raise SetupError(f"{CONFIGURATION} is there already: give --replace to overwrite it")
    group = _group_of(options.user)
    with _beside(CONFIGURATION, configuration(options)) as draft:
        _run([AGENT, "--check-config", "--config", str(draft)], "the configuration", str(draft))
        credential = _credential(options)
        _encrypt(credential)
        draft.chmod(0o644)  # both processes read it, and nothing in it is a secret
        draft.replace(CONFIGURATION)
    print(f"configuration  {CONFIGURATION}: checked")
    if group is not None:
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(f"# written by vps-secrets setup\n[Socket]\nSocketGroup={group}\n")
        print(f"socket         group {group}: {DROP_IN}")


def configuration(options: argparse.Namespace) -> str:
    """Return the configuration file. JSON's strings are TOML's basic strings."""
    keystone = [
        ("auth_url", options.auth_url),
        ("application_credential_id", options.application_credential_id),
        ("credential", CREDENTIAL_NAME),
        ("region", options.region),
        ("interface", options.interface),
        ("ca_file", options.ca_file),
    ]
    grant = [("user", options.user), ("unit", options.unit)]
    names = [name.strip() for name in options.secrets.split(",")]
    lines = [
        "# Written by vps-secrets setup; every key is explained in vps-secrets-agent.toml(5).",
        f"vps_id = {json.dumps(options.vps_id)}",
        f"container = {json.dumps(options.container)}",
        "",
        "[keystone]",
        *(f"{key} = {json.dumps(value)}" for key, value in keystone if value),
        "",
        "[fetch]",
        f"socket = {json.dumps(FETCH_SOCKET)}",
        "",
        "[[grant]]",
        *(f"{key} = {json.dumps(value)}" for key, value in grant if value),
        f"secrets = {json.dumps(names)}",
        "",
    ]
    return "\n".join(lines)


def _group_of(user: str | None) -> str | None:
    """Return the primary group of the application's user, which gets the socket."""
    if not user:
        return None
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        raise SetupError(f"there is no user {show.clean(user)} on this machine: make it first") from None


def _credential(options: argparse.Namespace) -> bytes:
    """Return the credential's secret part, without the line's end."""
    if options.credential_fd == 0 and sys.stdin.isatty():
        read = getpass.getpass("secret of the application credential (not shown): ").encode()
    else:
        try:
            with os.fdopen(options.credential_fd, "rb", closefd=False) as source:
                read = source.read(MAX_BYTES + 1)
        except OSError as error:
            raise SetupError(f"credential: descriptor {options.credential_fd}: {error.strerror}") from None
    credential = read.rstrip(b"\r\n")
    if not credential or len(credential) > MAX_BYTES or b"\n" in credential:
        raise SetupError("credential: one line with the secret is expected on standard input")
    return credential


def _encrypt(credential: bytes) -> None:
    """Encrypt it for this machine; it never lies on a disk in the clear."""
    with _beside(CREDENTIAL, "") as draft:
        draft.unlink()
        command = ["systemd-creds", "encrypt", f"--name={CREDENTIAL_NAME}", "-", str(draft)]
        _run(command, "systemd-creds, which encrypts the credential", "", credential)
        draft.chmod(0o600)
        draft.replace(CREDENTIAL)
    how = "its TPM2" if Path("/dev/tpmrm0").exists() else "its own key, /var/lib/systemd/credential.secret"
    print(f"credential     {CREDENTIAL}: encrypted for this machine with {how}")


@contextlib.contextmanager
def _beside(path: Path, text: str) -> Iterator[Path]:
    """Write a draft in the same directory, to be moved over the path; it is gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _run(command: list[str], step: str, draft: str = "", given: bytes | None = None) -> None:
    """Run a program of this machine; its words are told where it fails, never what it was given."""
    try:
        done = subprocess.run(  # noqa: S603  # our own words and paths, no shell
            command, input=given, capture_output=True, check=False, env=ENVIRONMENT
        )
    except OSError as error:
        raise SetupError(f"{step}: {command[0]}: {error.strerror}") from None
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()
        told = "\n  ".join(show.clean(line) for line in words.splitlines())
        raise SetupError(f"{step}: refused\n  {told.replace(draft, str(CONFIGURATION)) if draft else told}")


def _start(options: argparse.Namespace) -> int:
    """Start the agent, which tries a login and a reading, and tell how that went."""
    for unit, step in zip(UNITS, ("the application's socket", "the agent"), strict=True):
        _run(["systemctl", "restart", unit], step)
    try:
        answer = ask(options.control_socket, "GET", "/v1/status")
        if answer.status == _OK and not (answer.content.get("cycles") or {}).get("total"):
            # it holds what its forerunner held: that says nothing of this credential
            ask(options.control_socket, "POST", "/v1/refresh", READING_S)
            answer = ask(options.control_socket, "GET", "/v1/status")
    except (UnreachableError, PermissionDeniedError, AnswerError) as error:
        raise SetupError(f"the agent does not answer: {error}; journalctl -u vps-secrets-agent") from None
    if answer.status != _OK:
        raise SetupError(f"the agent: {show.clean(answer.content.get('detail'))}")
    return _told(answer.content)


def _told(status: dict[str, Any]) -> int:
    """Tell what the first reading of Barbican came to."""
    held = status.get("secrets") or ()
    if status.get("generation") is None or status.get("failure"):
        print("first reading  failed", flush=True)
        for line in show.failure(status.get("failure") or {}):
            print(f"  {line}")
        if held:
            print(f"  {len(held)} secrets that were read before are still served")
        print(f"  next attempt: in {show.span(status.get('nextAttemptIn'))}; the agent goes on trying")
        print("  set up again with: vps-secrets setup --replace …")
        return 1
    print(
        f"first reading  {len(held)} secrets: {', '.join(show.clean(secret.get('name')) for secret in held)}"
    )
    for warning in status.get("warnings") or ():
        print(f"warning        {show.clean(warning)}")
    return 0


def _say(text: str, status: int) -> int:
    print(f"vps-secrets setup: {text}", file=sys.stderr, flush=True)
    return status
