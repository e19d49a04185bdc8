"""The daemon's command line.

Exit status: 0 stopped, 1 failed, 2 usage, 78 (sysexits.h) bad configuration, or a socket that can't be made:
to start it again would change nothing.
"""

# ruff: noqa: E402  # what comes first must come first

from __future__ import annotations

import sys

# There is no network here: without TLS and OpenSSL's hashes, which Python has itself, 6 MB less are resident.
for unneeded in ("ssl", "_hashlib"):
    sys.modules[unneeded] = None  # type: ignore[assignment]  # importlib: then it can't be imported

from agent.serve.host import signals

if __name__ == "__main__":
    signals.block()

import argparse
import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from agent import __version__
from agent.config.reader import DEFAULT_PATH, load
from agent.serve import unconfigured
from agent.serve.daemon import Daemon
from agent.serve.host import accounts, hardening, logs
from agent.serve.host.fdstore import Inherited, inherit
from agent.serve.host.journal import OUTBOX
from agent.serve.host.listener import ListenError
from common.errors import ConfigurationError, VpsSecretsError

if TYPE_CHECKING:
    from agent.config.model import Config


def main(arguments: list[str] | None = None) -> int:
    """Run the agent until a signal ends it, or check its configuration; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="vps-secrets-agent",
        description="Serves the Barbican secrets of this VPS to its application, from memory.",
        epilog="Exit status: 0 stopped, 1 failed, 2 usage, 78 bad configuration or no socket.",
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, help="default: %(default)s")
    parser.add_argument("--check-config", action="store_true", help="report every mistake, then end")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    if not options.check_config:
        signals.block()
    inherited = Inherited() if options.check_config else inherit()
    path = options.config.absolute()
    problem: ConfigurationError | None = None
    try:
        config = load(path)
    except ConfigurationError as error:
        problem = error
    if problem is not None and not inherited.sockets:
        for mistake in problem.mistakes:
            sys.stderr.write(f"{mistake}\n")
        return os.EX_CONFIG
    if options.check_config:
        for warning in _absent(config):
            sys.stderr.write(f"{config.path}: warning: {warning}\n")
        sys.stdout.write(f"{config.path}: right ({config.vps_id}, grants: {len(config.grants)})\n")
        return 0
    hardening.keep_memory_private()
    logs.set_up("info")
    try:
        if problem is not None:
            fixed = asyncio.run(unconfigured.wait(path, inherited.sockets, problem))
            if fixed is None:
                return 0
            config = fixed
        logs.set_up(config.log.level)
        asyncio.run(_run(config, inherited))
    except VpsSecretsError as error:
        logging.getLogger("agent").error("%s", error)  # noqa: TRY400  # no traceback
        return os.EX_CONFIG if isinstance(error, ListenError) else 1
    finally:
        OUTBOX.close()
    return 0


def _absent(config: Config) -> list[str]:
    """Return what the configuration names and this machine does not have: it may be made later."""
    ids = accounts.look_up(accounts.named(config), {}).ids
    found = list(accounts.missing(config, accounts.grants_of(config.grants, ids), ids))
    beacon_ca = config.beacon.ca_file if config.beacon else None
    for key, file in (
        ("keystone.ca_file", config.keystone.ca_file),
        ("keystone.clouds_file", config.keystone.clouds_file),
        ("keystone.credential_file", config.keystone.credential.file),
        ("beacon.ca_file", beacon_ca),
    ):
        if file is not None and not file.exists():
            found.append(f"{key}: there is no such file on this machine")
    return found


async def _run(config: Config, inherited: Inherited) -> None:
    await Daemon(config, inherited).run()


if __name__ == "__main__":
    sys.exit(main())
