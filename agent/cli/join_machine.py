"""What ``vps-secrets join`` writes on this machine, and the agent that it starts with it.

Configuration and credentials are a draft first, and then put in force as one (agent/cli/setup_files.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.cli import setup_files, setup_machine, show
from agent.cli.http import AnswerError, PermissionDeniedError, UnreachableError, ask
from agent.cli.join_steps import JoinError
from agent.cli.setup_config import Given, changed, read
from agent.cli.setup_files import CONFIGURATION, DIRECTORY
from agent.config.proxy import proxy as proxy_of
from agent.identity import credential_file, held
from common.toml_table import Mistakes, Table

if TYPE_CHECKING:
    from agent.cli.join_claim import Claim
    from agent.cli.join_steps import Patience
    from agent.config.model import Proxy
    from agent.identity.account import NewCredential

LOGINS: Final = ("application_credential_id", "username", "cloud")
READING_S: Final = 60.0
_OK: Final = 200


def former() -> str | None:
    """Return the configuration that is there."""
    path = setup_files.DIRECTORY / CONFIGURATION
    return path.read_text() if path.exists() else None


def proxy(configuration: str | None) -> Proxy | None:
    """Return the proxy of a configuration that need not have anything else yet: an image may bring it along.

    Raises:
        JoinError: it is wrong.
    """
    mistakes = Mistakes(DIRECTORY / CONFIGURATION)
    found = proxy_of(Table(read(configuration or "").get("keystone", {}), "keystone", mistakes))
    if mistakes.found:
        raise JoinError("; ".join(map(str, mistakes.found)))
    return found


def check(configuration: str | None, claim: Claim, *, keep: bool, ours: bool) -> str:
    """Find out whether this machine may take the claim; return the id of the credential that it reads with.

    That is empty where it was not set up yet. ``keep``: what was set up by hand moves into the deployer's
    care; ``ours``: an earlier join made it.

    Raises:
        JoinError: it is set up already, for another VPS or by hand. SetupError: it has no such user.
        CredentialFileError: the credential can't be decrypted.
    """
    setup_machine.group_for(claim.user, claim.unit)
    tables = read(configuration or "")
    keystone = tables.get("keystone", {})
    login = next((key for key in LOGINS if key in keystone), None)
    if login is None:
        return ""
    there = tables.get("vps_id")
    if there != claim.vps_id:
        raise JoinError(
            f"this machine is set up as {show.clean(there)}, and the claim is of {claim.vps_id}: "
            f"move {DIRECTORY / CONFIGURATION} away if it is to be another one"
        )
    if not (keep or ours):
        raise JoinError(
            "this machine was set up by hand: give --keep to have it keep its configuration and take its "
            "identity and secrets from the deployer"
        )
    if login != LOGINS[0]:
        raise JoinError(
            f"this machine logs in by keystone.{login}, which can't be kept meanwhile: give it an "
            "application credential first: vps-secrets setup --replace --application-credential-id ID"
        )
    kept = held.pair(setup_files.DIRECTORY)
    return kept.id if kept else str(keystone[login])


def given(claim: Claim) -> Given:
    """Return what the claim says of the configuration."""
    return Given(
        vps_id=claim.vps_id,
        container=claim.container_id,
        auth_url=claim.auth_url,
        region=claim.region,
        interface=claim.interface,
        ca_file=claim.ca_file,
        user=claim.user,
        unit=claim.unit,
        acknowledge=True,
        require_sealed=claim.sealed or None,
    )


def write_draft(configuration: str | None, claim: Claim, made: NewCredential) -> None:
    """Write configuration and credential beside those in force.

    Raises:
        SetupError, CredentialFileError, UnchangeableError, OSError: they can't be, or are refused.
    """
    facts = replace(given(claim), application_credential_id=made.credential.id)
    setup_files.begin()
    setup_files.write(CONFIGURATION, changed(configuration, facts).encode(), 0o644)
    credential_file.write(credential_file.KEYSTONE_CREDENTIAL, made.secret.encode(), setup_files.DRAFT)
    draft = str(setup_files.DRAFT / CONFIGURATION)
    setup_machine.run([setup_machine.AGENT, "--check-config", "--config", draft], "the configuration")


def put_in_force(claim: Claim) -> bool:
    """Exchange the draft for what is in force; return whether the application's socket has changed.

    Raises:
        SetupError, OSError: it can't be.
    """
    drop_in, before = setup_machine.drop_in_for(claim.user, claim.unit), setup_machine.drop_in()
    setup_files.exchange()
    if drop_in is not None:
        setup_machine.put_drop_in(drop_in)
    setup_machine.reload_units()
    return drop_in not in {None, before}


def reads(patience: Patience, control_socket: str) -> frozenset[str]:
    """Wait until the draft reads, beside the running agent, all that the agent serves now; return its names.

    Raises:
        SetupError: there is no report. LaterError: it does not read all of it.
    """
    names = frozenset(_served(control_socket) or ())

    def all_of_it() -> bool | None:
        report = setup_machine.try_draft()
        return True if not report.get("failure") and names <= set(report.get("read") or ()) else None

    patience.wait(all_of_it, "the new identity does not read yet what this machine serves now")
    return names


def start(patience: Patience, control_socket: str, before: frozenset[str], *, socket: bool) -> list[str]:
    """Restart the agent and wait until it serves a secret; return the names of those that it serves.

    Where it has served some ``before``, it holds them still: it has to have read, and to serve all of them.

    Raises:
        SetupError: systemd can't. LaterError: there is none yet.
    """
    setup_machine.restart(socket=socket)

    def served() -> list[str] | None:
        try:
            # it need not wait for its next poll
            read = ask(control_socket, "POST", "/v1/refresh", READING_S).status == _OK
        except (UnreachableError, PermissionDeniedError, AnswerError):
            return None
        names = _served(control_socket)
        return names if not before or (read and before <= set(names or ())) else None

    return patience.wait(served, "no secret is served yet: the deployer makes them once it has seen the key")


def _served(control_socket: str) -> list[str] | None:
    """Return the names that the agent serves, None where there are none."""
    try:
        status = ask(control_socket, "GET", "/v1/status").content
    except (UnreachableError, PermissionDeniedError, AnswerError):
        return None
    return [str(one.get("name")) for one in status.get("secrets") or ()] or None
