"""``vps-secrets-deploy serve``: api, worker, registrar and, for commands, hook as children of one command.

For trying, for the demo and for the tests; on a server systemd starts each by itself, with a user and a
sandbox of its own. When one child ends, the others are ended too: half a deployer helps nobody.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from deployer.config import reader
from deployer.database.engine import open_database
from deployer.database.migrating import migrate

LOG: Final = logging.getLogger("deployer.serve")
HOOK: Final = ("hook", "vps-secrets-deployer-hook", ("--listen",))
PROGRAMS: Final = (
    ("registrar", "vps-secrets-registrar", ("--listen",)),
    ("worker", "vps-secrets-deployer-worker", ()),
    ("api", "vps-secrets-deployer-api", ()),
)
"""Package below ``deployer``, the name that the Debian package gives it, further words."""
INSTALLED: Final = Path(__file__).parents[2]
"""Where the Debian package has its programs, beside the modules; a checkout has none there."""
END_S: Final = 30.0
"""For a child to end by itself after SIGTERM."""
POLL_S: Final = 0.2


def serve(path: Path) -> int:
    """Bring the database up to date, run the programs until a signal; return the exit status.

    Raises:
        ConfigurationError, DatabaseError: nothing was started.
    """
    config = reader.load(path)
    database = open_database(config.database)
    migrate(database)
    database.close()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.ExitStack() as stack:
        children: dict[str, subprocess.Popen[bytes]] = {}
        # the first one ends last: the worker finishes what it has begun
        for name, program, more in (*([HOOK] if config.commands else []), *PROGRAMS):
            command = [*_program(name, program), "--config", str(path), *more]
            children[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  # ours
            stack.callback(_end, children[name])
        while not ended.wait(POLL_S):
            for name, child in children.items():
                if child.poll() is not None:
                    LOG.error("the %s ended with status %d; the others end, too", name, child.returncode)
                    return 1
    return 0


def _program(name: str, program: str) -> list[str]:
    """Return how a program is started: only the package's own launcher finds the package's modules."""
    launcher = INSTALLED / program
    return [str(launcher)] if launcher.exists() else [sys.executable, "-m", f"deployer.{name}"]


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
