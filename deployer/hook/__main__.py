"""``python -m deployer.hook --config PATH``: one step of a command, as standard input asks, a Unix socket.

With ``--listen`` it makes the configured socket and starts itself for each connection. Exit status: 0 it was
answered, also refused; 78 the configuration is bad.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Final

from common.errors import ConfigurationError
from deployer import peers, spawning
from deployer.config import reader
from deployer.hook import answering

LOG: Final = logging.getLogger("deployer.hook")
EXIT_CONFIGURATION: Final = 78  # sysexits.h


def main(arguments: list[str] | None = None) -> int:
    """Have one step run, or listen, and return the exit status."""
    options = spawning.begin("vps-secrets-deployer-hook", __doc__, reader.DEFAULT_PATH, LOG, arguments)
    try:
        config = reader.load(options.config)
        worker = peers.uids(config.path, "registrar.worker_user", config.registrar.worker_user)
    except ConfigurationError as error:
        LOG.error("%s", error)  # noqa: TRY400  # every mistake, no value, no traceback
        return EXIT_CONFIGURATION
    if options.listen:
        return spawning.listen(config.hook.path, config.hook.group, config.hook.mode, LOG)
    LOG.setLevel(logging.INFO)
    with socket.socket(fileno=0) as connection:
        answering.answer(connection, worker | {os.getuid(), peers.ROOT_UID}, config.commands)
    return 0


if __name__ == "__main__":
    sys.exit(main())
