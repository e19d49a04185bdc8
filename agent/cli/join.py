"""``vps-secrets join``: a new machine takes over its own identity, and its agent serves, without a person.

All that it needs is the claim that the deployer handed out (agent/cli/join_claim.py). It may be killed at any
moment: run again, it goes on (agent/cli/join_steps.py says how). Nothing that it prints is a secret.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.cli import join_claim, join_machine, join_remains, setup_files, setup_machine, show
from agent.cli.join_claim import ClaimError
from agent.cli.join_steps import JoinError, LaterError, Patience, Steps
from agent.cli.setup_config import UnchangeableError
from agent.cli.setup_machine import SetupError
from agent.identity import held, ways
from agent.identity.calls import Line
from agent.identity.errors import CredentialFileError, IdentityError

if TYPE_CHECKING:
    import argparse

    from agent.cli.join_claim import Claim

OK, NO, USAGE, PERMISSION, LATER = 0, 1, 2, 4, 75
"""75 is EX_TEMPFAIL of sysexits(3): vps-secrets-join.service starts it again then."""
WAIT_S: Final = 600.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--claim", metavar="FILE", help="what the deployer handed out, which is wiped then; -: standard input"
    )
    parser.add_argument("--keep", action="store_true", help="for a machine that was set up by hand")
    parser.add_argument("--user", help="the user that the application runs as: it may read the secrets")
    parser.add_argument("--unit", help="a unit that may read them, such as recruitiq.service")
    parser.add_argument("--no-start", action="store_true", help="write only, without a reading or a restart")
    parser.add_argument(
        "--timeout",
        type=float,
        default=WAIT_S,
        metavar="SECONDS",
        help="how long to wait for cloud and deployer; default: %(default)g",
    )


def run(options: argparse.Namespace) -> int:
    """Join and return the exit status.

    0 it serves, 1 it can't go on, 2 there is no claim, 4 not root, 75 not yet: run it again.
    """
    if os.geteuid():
        return _say("only root can make this machine join: sudo vps-secrets join …", PERMISSION)
    os.umask(0o022)  # whatever the caller's is: units are configured by what is written
    began = time.monotonic()
    try:
        claim = _claim(options)
        if claim is None:
            return _without_claim()
        _join(claim, options, Patience(began + options.timeout, _tell))
    except (ClaimError, UnchangeableError) as error:
        return _say(f"{error}", USAGE)
    except LaterError as error:
        return _say(f"not done yet: {error}. Run it again: it goes on where it was", LATER)
    except IdentityError as error:
        return _say(f"{error}", LATER if error.retriable else NO)
    except (JoinError, SetupError, CredentialFileError) as error:
        return _say(f"{error}", NO)
    except (OSError, UnicodeDecodeError) as error:  # a disk that is full or can't be written
        place, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        return _say(f"can't write: {show.clean(place)}: {reason or type(error).__name__}", NO)
    finally:
        setup_files.discard()
    print(f"joined         after {time.monotonic() - began:.1f} s", flush=True)
    return OK


def _claim(options: argparse.Namespace) -> Claim | None:
    kept = join_claim.STATE / join_claim.FILE
    if options.claim is None and not kept.exists():
        return None
    source = str(kept) if options.claim is None else options.claim
    claim = join_claim.take(source, sys.stdin.buffer, join_claim.STATE, keep=options.keep)
    return replace(claim, user=options.user or claim.user, unit=options.unit or claim.unit)


def _without_claim() -> int:
    if join_machine.former() is not None and held.read(setup_files.DIRECTORY) is not None:
        print("joined         this machine has joined before: nothing to do", flush=True)
        return OK
    return _say("there is no claim: give the deployer's with --claim FILE", USAGE)


def _join(claim: Claim, options: argparse.Namespace, patience: Patience) -> None:
    """Take every step that is left."""
    directory = setup_files.DIRECTORY
    configuration, mine = join_machine.former(), held.read(directory)
    ours = mine is not None and mine.user_id == claim.user_id
    in_use = join_machine.check(configuration, claim, keep=claim.keep, ours=ours)
    started = setup_machine.RUNNING.is_dir() and not options.no_start
    if claim.keep and not started:
        raise JoinError("--keep needs the running agent: run it on the booted machine, without --no-start")
    spared = ""
    if started:
        setup_machine.check_loads_credential()
        spared = in_use
    directory.mkdir(parents=True, exist_ok=True)
    _tell(f"join           {claim.vps_id} as the user {claim.user_id} of {claim.auth_url}")
    line = Line(claim.ca_file, ways.way(join_machine.proxy(configuration), directory))
    steps = Steps(claim, patience, directory, line)
    mine = steps.take_over()
    token = steps.let_in(mine)
    generation = steps.clean(token, spared)
    steps.announce(token, steps.key())
    made = steps.credential(token, generation)
    steps.drop(token)
    join_machine.write_draft(configuration, claim, made)
    if started:
        _have_it_serve(claim, options, patience, tried=bool(spared))
        if spared:
            token = steps.let_in(mine)
            steps.end_former(token, made)
            steps.drop(token)
        setup_machine.start_renewal()
    else:
        _put_in_force(claim)
        _tell(f"not started    the next boot does, or: systemctl restart {setup_machine.UNITS}")
    blotted, left = join_remains.blot(claim.one_time_password)
    join_claim.wipe(join_claim.STATE / join_claim.FILE)
    _tell(
        "claim          wiped; its password, worthless now, is overwritten in "
        f"{len(blotted)} files that cloud-init keeps"
    )
    for path in left:
        _tell(f"left           {path} has that password; it can't be written")


def _put_in_force(claim: Claim) -> bool:
    socket = join_machine.put_in_force(claim)
    _tell(f"configuration  {setup_files.DIRECTORY / setup_files.CONFIGURATION}: checked, in force")
    return socket


def _have_it_serve(claim: Claim, options: argparse.Namespace, patience: Patience, *, tried: bool) -> None:
    """Put the draft in force, if ``tried`` once it reads what is served now; have the agent serve with it."""
    before: frozenset[str] = frozenset()
    if tried:
        before = join_machine.reads(patience, options.control_socket)
        _tell(f"trial reading  with the new credential: {len(before)} secrets, all that are served now")
    socket = _put_in_force(claim)
    names = join_machine.start(patience, options.control_socket, before, socket=socket)
    _tell(f"serving        {len(names)} secrets: {', '.join(map(show.clean, names))}")


def _tell(text: str) -> None:
    print(text, flush=True)


def _say(text: str, status: int) -> int:
    print(f"vps-secrets join: {text}", file=sys.stderr, flush=True)
    return status
