"""``vps-secrets doctor``: what is well here and what is not, from the configuration to the account.

It reads and asks; nothing is changed, on the machine or in the cloud, and no secret is read. The account is
tried with its own credential, so that part needs root, who can decrypt it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import doctor_cloud, doctor_machine, doctor_status
from agent.cli.answer import AnswerError
from agent.cli.http import PermissionDeniedError, UnreachableError, ask
from agent.config import reader
from common import finding
from common.errors import ConfigurationError
from common.finding import FAILURE, OK, WARNING, Finding
from common.names import parse_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.model import Config

_GOOD = 200


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--config", type=Path, default=reader.DEFAULT_PATH, metavar="PATH")
    parser.add_argument(
        "--neighbour",
        action="append",
        default=[],
        type=_uuid,
        metavar="UUID",
        help="another VPS's container, which this one must not be able to read",
    )


def _uuid(text: str) -> str:
    found = parse_version(text.rpartition("/")[2])
    if found is None:
        raise argparse.ArgumentTypeError("give the UUID of a container, or its reference")
    return found


def run(options: argparse.Namespace) -> int:
    """Tell what was found; return 0 where nothing failed, warnings or not."""
    found = list(_findings(options))
    if options.json:
        print(json.dumps(finding.document(found)))
    else:
        print("\n".join(finding.lines(found)))
    return 1 if finding.failures(found) else 0


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    config: Config | None = None
    try:
        config = reader.load(options.config)
    except ConfigurationError as error:
        for mistake in error.mistakes:
            yield Finding(
                FAILURE, "configuration", str(mistake), "fix it, then systemctl reload vps-secrets-agent"
            )
    status = _status(options)
    if isinstance(status, Finding):
        yield status
        status = {}
    else:
        yield from doctor_status.findings(status, time.time())
    if config is None:
        return
    yield Finding(OK, "configuration", f"{config.path}: {config.vps_id}, {len(config.grants)} grants")
    yield from doctor_machine.sockets(config)
    yield from doctor_machine.callers(config)
    yield from _reach(options, config, status)
    yield from doctor_machine.sandbox()
    yield from doctor_machine.keeping(config)
    if os.geteuid():
        words = "not tried: only root can decrypt its credential"
        yield Finding(WARNING, "account", words, "sudo vps-secrets doctor")
    else:
        yield from doctor_cloud.findings(config, tuple(options.neighbour))


def _status(options: argparse.Namespace) -> dict[str, Any] | Finding:
    try:
        answer = ask(options.control_socket, "GET", "/v1/status", options.timeout)
    except (UnreachableError, AnswerError) as error:
        return Finding(FAILURE, "agent", str(error), "systemctl status vps-secrets-agent")
    except PermissionDeniedError as error:
        return Finding(FAILURE, "agent", str(error), "sudo vps-secrets doctor")
    if answer.status != _GOOD:
        words = (
            f"it answers HTTP {answer.status}: {answer.content.get('detail') or answer.content.get('title')}"
        )
        return Finding(FAILURE, "agent", words, "systemctl status vps-secrets-agent")
    return answer.content


def _reach(options: argparse.Namespace, config: Config, status: dict[str, Any]) -> Iterator[Finding]:
    """Ask the agent about each user of a grant: whether the socket's permissions let him in."""
    names = [str(secret.get("name")) for secret in status.get("secrets") or ()]
    for grant in config.grants:
        if grant.user is None or grant.unit is not None:
            continue
        name = next((one for one in names if grant.covers(one)), None)
        if name is None:
            continue
        try:
            target = f"/v1/explain?user={grant.user}&name={name}"
            said = ask(options.control_socket, "GET", target, options.timeout).content
        except (UnreachableError, AnswerError, PermissionDeniedError) as error:
            yield Finding(FAILURE, f"user {grant.user}", str(error))
            continue
        if said.get("allowed"):
            yield Finding(OK, f"user {grant.user}", f"can read {name}, and gets as far as the socket")
        else:
            lines = "; ".join(said.get("lines") or ())
            yield Finding(
                FAILURE, f"user {grant.user}", lines, f"vps-secrets explain {name} --user {grant.user}"
            )
