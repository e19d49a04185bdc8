"""``python -m deployer.registrar --config PATH``: one request on standard input, a connected Unix socket.

With ``--listen`` it makes the configured socket and starts itself for each connection. Exit status: 0 a
request was answered, also refused; 78 the configuration is bad.
"""

from __future__ import annotations

import logging
import socket
import sys
from typing import Final

from common.errors import ConfigurationError
from deployer import spawning
from deployer.config import reader
from deployer.registrar import answering, opening

LOG: Final = logging.getLogger("deployer.registrar")
EXIT_CONFIGURATION: Final = 78  # sysexits.h


def main(arguments: list[str] | None = None) -> int:
    """Answer one request, or listen, and return the exit status."""
    options = spawning.begin("vps-secrets-registrar", __doc__, reader.DEFAULT_PATH, LOG, arguments)
    try:
        config = reader.load(options.config)
        callers = opening.callers(config)
    except ConfigurationError as error:
        LOG.error("%s", error)  # noqa: TRY400  # every mistake, no value, no traceback
        return EXIT_CONFIGURATION
    if options.listen:
        place = config.registrar.socket
        return spawning.listen(place.path, place.group, place.mode, LOG)
    with socket.socket(fileno=0) as connection:
        answering.answer(connection, callers, lambda: opening.users(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
