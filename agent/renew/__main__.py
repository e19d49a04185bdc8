"""``vps-secrets-renew``: the VPS renews its own credential, when a third of its life is left.

Started every hour by vps-secrets-renew.timer; while it is not time it logs in once a day, so that somebody is
told when the password was reset, and asks nobody else. Exit status: 0 done, or
nothing to do; 1 it failed, and what was in force is in force; 78 the configuration is bad.
"""

from __future__ import annotations

import argparse
import functools
import resource
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config import reader
from agent.config.model import Method
from agent.core import renewal
from agent.core.renewal import Record
from agent.identity import credential_file, held, ways
from agent.identity.account import Account
from agent.identity.calls import Line
from agent.identity.consumers import Consumers, url_of
from agent.identity.errors import CredentialFileError, IdentityError
from agent.renew.steps import Place, Renewal, RenewalError, keep
from common.errors import ConfigurationError, VpsSecretsError
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from agent.config.model import Config
    from agent.identity.account import Token

EXIT_CONFIGURATION: Final = 78  # sysexits.h
CONFIGURATION: Final = "agent.toml"


def main(arguments: list[str] | None = None) -> int:
    """Renew if it is time, and return the exit status."""
    parser = argparse.ArgumentParser(prog="vps-secrets-renew", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--directory",
        type=Path,
        default=credential_file.DIRECTORY,
        metavar="PATH",
        help="with agent.toml and the credentials; default: %(default)s",
    )
    parser.add_argument("--new-key", action="store_true", help="take the next sealing key now")
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    directory: Path = options.directory
    try:
        config = reader.load(directory / CONFIGURATION)
    except ConfigurationError as error:
        return _fail(EXIT_CONFIGURATION, str(error))
    record = _record(directory)
    try:
        return _run(config, directory, record, new_key=options.new_key)
    except VpsSecretsError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001  # its text, or a traceback, could quote a password
        place = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"a defect: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}: report it"
    # what is kept may be newer than what was read: a step was taken before the failure
    record = replace(_record(directory), tried=time.time(), problem=problem)
    try:
        keep(record, directory)
    except CredentialFileError as error:
        problem = f"{problem}; {error}"
    return _fail(1, f"{problem}. It is tried again in an hour")


def _run(config: Config, directory: Path, record: Record, *, new_key: bool) -> int:
    mine = held.read(directory)
    if mine is None:
        return 0  # a VPS that was set up by hand
    keystone = config.keystone
    if keystone.method is not Method.APPLICATION_CREDENTIAL or keystone.auth_url is None:
        raise RenewalError(
            "agent.toml has another login than an application credential: keystone in agent.toml"
        )
    place = Place(directory, str(config.control.socket))
    in_force = _in_force(place, keystone.application_credential_id or "")
    quiet = renewal.is_quiet(record, in_force, time.time()) and not new_key
    if quiet and renewal.is_checked(record, time.time()):
        return 0
    line = Line(str(keystone.ca_file) if keystone.ca_file else None, ways.way(keystone.proxy, directory))
    account = Account(line, keystone.auth_url, mine.user_id)
    run = Renewal(account, mine, place, _say)
    if quiet:
        try:
            run.check()
        except IdentityError as error:
            if not error.retriable:
                raise
            _say(f"{error}. The password is tried again in an hour")
            return 0
        found = replace(record, problem="")
    else:
        container = functools.partial(_container, config, line)
        found = run.run(in_force, record, container, new_key=new_key)
    keep(replace(found, tried=time.time()), directory)
    if warns := renewal.warning(found, time.time()):
        _say(f"ALARM: {warns}")
    return 0


def _container(config: Config, line: Line, token: Token) -> Consumers:
    keystone = config.keystone
    found = keystone.endpoint_override or token.endpoint(
        keystone.service_type, keystone.region, keystone.interface
    )
    url = url_of(found, keystone.auth_url or "", config.container.id)
    return Consumers(line, url)


def _in_force(place: Place, configured: str) -> str:
    """Return the id of the credential in use; nothing where its file is lost, so that another one is made."""
    try:
        if not credential_file.path_of(credential_file.KEYSTONE_CREDENTIAL, place.directory).exists():
            return ""
        kept = place.kept()
    except CredentialFileError as error:
        _say(f"{error}: another one is made")
        return ""
    return kept.id if kept else configured


def _record(directory: Path) -> Record:
    """Return the record; an empty one where there is none, or a damaged one: then Keystone is asked."""
    try:
        return renewal.parse((directory / renewal.RECORD).read_bytes()[: renewal.MAX_BYTES])
    except (OSError, MalformedError):
        return Record()


def _say(words: str) -> None:
    sys.stderr.write(f"vps-secrets-renew: {words}\n")
    sys.stderr.flush()


def _fail(status: int, words: str) -> int:
    _say(words)
    return status


if __name__ == "__main__":
    sys.exit(main())
