"""A program that answers one request on its standard input; systemd starts it for each connection.

In a checkout, in the demo and for ``vps-secrets-deploy serve`` the same program listens itself (``--listen``)
and starts itself for each connection. The one that listens reads no credential.
"""

from __future__ import annotations

import argparse
import logging
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deployer import listening

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

MAX_PROCESSES: Final = 8


def begin(
    name: str, description: str | None, default: Path, log: logging.Logger, arguments: list[str] | None
) -> argparse.Namespace:
    """Return the options of such a program; from now on it leaves no core file and no traceback."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, default=default, metavar="PATH")
    parser.add_argument("--listen", action="store_true", help="make the socket and serve it")
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    # no traceback: its lines could quote a request
    sys.excepthook = lambda kind, *_: log.critical("%s: please report it", kind.__name__)
    return options


def listen(path: Path, group: str | None, mode: int, log: logging.Logger) -> int:
    """Make the socket and serve it, until SIGTERM; return the exit status."""
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with listening.unix(path, group, mode)[0] as listener:
            serve(listener, one_request())
    except listening.ListenError as error:
        log.error("%s", error)  # noqa: TRY400  # words of ours, no traceback
        return 1
    return 0


def serve(listener: socket.socket, program: Sequence[str]) -> None:
    """Start the program for each connection, its standard input, for ever."""
    with ThreadPoolExecutor(MAX_PROCESSES) as waiting:
        while True:
            connection, _ = listener.accept()
            waiting.submit(_run, connection, program)


def one_request() -> list[str]:
    """Return the command line of this program for one request."""
    return [sys.executable, *(word for word in sys.orig_argv[1:] if word != "--listen")]


def _run(connection: socket.socket, program: Sequence[str]) -> None:
    with connection:
        subprocess.run(  # noqa: S603  # this program itself
            program, stdin=connection.fileno(), stdout=subprocess.DEVNULL, check=False
        )
