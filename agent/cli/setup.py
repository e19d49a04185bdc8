"""``vps-secrets setup``: makes this machine the agent's, from a few facts and one credential, as root.

The credential comes from standard input, a descriptor or a terminal, never from an argument, and goes to
systemd-creds(1) only, which encrypts it for this machine. What is written are references: nothing in the
configuration is a secret.

``--replace`` keeps what is not given, and what is in force until the new has proved itself: a draft is
written and checked, Barbican is read with it beside the running agent, then configuration and credential are
exchanged at once; where the agent's own reading fails after that, they are exchanged back (docs/adr/0025).
"""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.cli import setup_add, setup_files, setup_machine, show
from agent.cli.http import AnswerError, PermissionDeniedError, UnreachableError, ask
from agent.cli.setup_config import CREDENTIAL_NAME, Given, UnchangeableError, changed, read
from agent.cli.setup_files import CONFIGURATION, CREDENTIAL, DIRECTORY, DRAFT
from agent.cli.setup_machine import SetupError

if TYPE_CHECKING:
    import argparse

MAX_BYTES: Final = 64 * 1024
_OK: Final = 200
READING_S: Final = 60.0
_KEPT: Final = "nothing was changed: the configuration and the credential in force stay"


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
    parser.add_argument("--proxy", metavar="URL", help="http://HOST:PORT; default: none")
    parser.add_argument("--user", help="the user that the application runs as: it may read the secrets")
    parser.add_argument("--unit", help="a unit that may read them, such as recruitiq.service")
    parser.add_argument("--secrets", metavar="NAMES", help="which ones, with commas; default: all")
    parser.add_argument("--credential-fd", type=int, default=0, metavar="N", help="default: standard input")
    parser.add_argument(
        "--add",
        action="store_true",
        help="another application, by --user or --unit and --secrets",
    )
    parser.add_argument(
        "--replace", action="store_true", help="change what is there; what is not given stays as it is"
    )
    parser.add_argument(
        "--no-start", action="store_true", help="for images: write only, without a reading or a restart"
    )


def run(options: argparse.Namespace) -> int:
    """Set this machine up and return the exit status: 0 it serves, 1 a step failed, 2 facts are missing."""
    if os.geteuid():
        return _say("only root can set this machine up: sudo vps-secrets setup …", 4)
    os.umask(0o022)  # whatever the caller's is: units are configured by what is written
    path = DIRECTORY / CONFIGURATION
    try:
        former = path.read_text() if path.exists() else None
        if options.add:
            return _add(options, former)
        if former is not None and not options.replace:
            return _say(f"{path} is there already: give --replace to change it", 1)
        missing = [] if former is not None else _missing(options)
        if missing:
            return _say(f"needed: {', '.join(missing)}", 2)
        return _set_up(options, former)
    except UnchangeableError as error:
        return _say(f"{path}: {error}", 1)
    except SetupError as error:
        return _say(str(error), 1)
    except (OSError, UnicodeDecodeError) as error:  # a disk that is full or can't be written
        place = getattr(error, "filename", None) or DIRECTORY
        reason = getattr(error, "strerror", None) or type(error).__name__
        place = str(place).replace(str(DRAFT), str(DIRECTORY))
        return _say(f"can't write: {show.clean(place)}: {reason}; nothing was started", 1)
    finally:
        setup_files.discard()


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


def _add(options: argparse.Namespace, former: str | None) -> int:
    """Let another application in."""
    if former is None:
        return _say("--add is for a machine that is set up: first vps-secrets setup without it", 2)
    if options.replace or not (options.user or options.unit) or not options.secrets:
        return _say("--add needs --user or --unit, and --secrets; it does not go with --replace", 2)
    setup_add.add(former, _given(options), started=setup_machine.RUNNING.is_dir() and not options.no_start)
    return 0


def _set_up(options: argparse.Namespace, former: str | None) -> int:
    """Write a draft, try it, put it in force, and take it back where the agent can't read with it."""
    given = _given(options)
    text = changed(former, given)
    dropped_in = setup_machine.drop_in()
    drop_in = setup_machine.drop_in_for(given.user, given.unit) if given.who() else dropped_in
    tried = setup_machine.RUNNING.is_dir() and not options.no_start
    if tried and read(text)["keystone"].get("credential") == CREDENTIAL_NAME:
        setup_machine.check_loads_credential()
    _write_draft(options, former, text)
    if tried and former is not None and not _trial():
        return _say(_KEPT, 1)
    keep = False
    setup_files.exchange()
    try:
        setup_machine.put_drop_in(drop_in)
        setup_machine.reload_units()
        _print_what_is_new(former, text, drop_in if drop_in != dropped_in else None)
        status = 0 if options.no_start else _start(options, socket=drop_in != dropped_in)
        keep = status == 0 or former is None
    finally:
        if not keep and former is not None:
            _take_back(dropped_in, socket=drop_in != dropped_in)
    if options.no_start:
        print(f"not started (--no-start): the next boot does, or: systemctl restart {setup_machine.UNITS}")
    return status


def _given(options: argparse.Namespace) -> Given:
    names = None if options.secrets is None else tuple(n.strip() for n in options.secrets.split(","))
    return Given(
        vps_id=options.vps_id,
        container=options.container,
        auth_url=options.auth_url,
        application_credential_id=options.application_credential_id,
        region=options.region,
        interface=options.interface,
        ca_file=options.ca_file,
        proxy=options.proxy,
        user=options.user,
        unit=options.unit,
        secrets=names,
    )


def _write_draft(options: argparse.Namespace, former: str | None, text: str) -> None:
    """Write configuration and credential beside those in force, each checked."""
    setup_files.begin()
    setup_files.write(
        CONFIGURATION, text.encode(), 0o644
    )  # both processes read it; nothing in it is a secret
    draft = str(DRAFT / CONFIGURATION)
    setup_machine.run([setup_machine.AGENT, "--check-config", "--config", draft], "the configuration")
    keystone, before = read(text)["keystone"], {} if former is None else read(former).get("keystone", {})
    key = "application_credential_id"
    credential = _credential(options, needed=former is None or keystone.get(key) != before.get(key))
    if credential is None:
        print(f"credential     {DIRECTORY / CREDENTIAL}: none was given, the former one stays")
        return
    if keystone.get("credential") != CREDENTIAL_NAME:
        raise SetupError("the configuration has its credential elsewhere: change it there, without setup")
    bound = setup_machine.encrypt(credential)
    print(f"credential     {DIRECTORY / CREDENTIAL}: encrypted for this machine with {bound.words}")
    if bound.pcrs:
        numbers = ", ".join(map(str, bound.pcrs))
        print(f"warning        bound to the TPM2's PCR {numbers}: it can't be decrypted any more")
        print("               when these change, with the firmware or its Secure Boot keys: keep the secret")


def _credential(options: argparse.Namespace, *, needed: bool) -> bytes | None:
    """Return the credential's secret part, without the line's end; None where none is given, nor needed."""
    if options.credential_fd == 0 and sys.stdin.isatty():
        keeps = "" if needed else "; empty: the former one stays"
        read_in = getpass.getpass(f"secret of the application credential (not shown{keeps}): ").encode()
    else:
        try:
            with os.fdopen(options.credential_fd, "rb", closefd=False) as source:
                read_in = source.read(MAX_BYTES + 1)
        except OSError as error:
            raise SetupError(f"credential: descriptor {options.credential_fd}: {error.strerror}") from None
    credential = read_in.rstrip(b"\r\n")
    if not credential and not needed:
        return None
    if not credential or len(credential) > MAX_BYTES or b"\n" in credential:
        raise SetupError("credential: one line with the secret is expected on standard input")
    return credential


def _trial() -> bool:
    """Read Barbican with the draft, beside the running agent; tell whether that gave anything to serve."""
    report = setup_machine.try_draft()
    if report.get("failure"):
        print("trial reading  failed", flush=True)
        for line in show.failure(report["failure"]):
            print(f"  {line}")
        return False
    names, unread = report.get("read") or [], report.get("unread") or {}
    print(f"trial reading  {_listed(names)}", flush=True)
    for name, reason in unread.items():
        print(f"  {show.clean(name)}: listed, and can't be read ({show.clean(reason)})")
    for entry in report.get("rejected") or ():
        print(f"  {show.clean(entry)}: listed, and not this VPS's")
    if not names:
        print("  there is nothing to serve: check --vps-id, --container, and the container's entries and ACL")
    return bool(names)


def _print_what_is_new(former: str | None, text: str, drop_in: str | None) -> None:
    print(f"configuration  {DIRECTORY / CONFIGURATION}: checked")
    before, now = _first_grant(former), _first_grant(text)
    if former is not None and before != now:
        print(f"grant          {now}; before: {before}")
    if drop_in:
        print(f"socket         {drop_in.splitlines()[-1]}: {setup_machine.DROP_IN}")


def _first_grant(text: str | None) -> str:
    grants = read(text or "").get("grant") or [{}]
    return show.clean(", ".join(f"{key} {value}" for key, value in grants[0].items())) or "none"


def _start(options: argparse.Namespace, *, socket: bool) -> int:
    """Start the agent, which tries a login and a reading, and tell how that went."""
    setup_machine.restart(socket=socket)
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
    """Tell what the first reading of Barbican came to, and whether anybody can rely on what is served."""
    names = [secret.get("name") for secret in status.get("secrets") or ()]
    failure, reason = status.get("failure"), status.get("notReady")
    if failure or reason:
        print(f"first reading  {'failed' if failure else f'not ready: {show.clean(reason)}'}", flush=True)
        for line in show.failure(failure) if failure else ():
            print(f"  {line}")
        _print_unread(status)
        if failure and names:
            print(f"  {len(names)} secrets that were read before are still served")
        if not failure and not names:
            print("  check --vps-id, --container, and the container's entries and ACL")
        print(f"  next attempt: in {show.span(status.get('nextAttemptIn'))}; the agent goes on trying")
        print("  to change what was given: vps-secrets setup --replace …")
        return 1
    print(f"first reading  {_listed(names)}")
    _print_unread(status)
    for warning in status.get("warnings") or ():
        print(f"warning        {show.clean(warning)}")
    return 0


def _print_unread(status: dict[str, Any]) -> None:
    for name in status.get("pending") or ():
        print(f"  {show.clean(name)}: listed, and not readable yet")


def _take_back(drop_in: str | None, *, socket: bool) -> None:
    """Put in force again what was, since the agent could not read with the new."""
    setup_files.exchange()
    setup_machine.put_drop_in(drop_in)
    setup_machine.reload_units()
    print("taken back     the former configuration and credential are in force again", flush=True)
    setup_machine.restart(socket=socket)


def _listed(names: list[Any]) -> str:
    return f"{len(names)} secrets: {', '.join(map(show.clean, names))}" if names else "0 secrets"


def _say(text: str, status: int) -> int:
    print(f"vps-secrets setup: {text}", file=sys.stderr, flush=True)
    return status
