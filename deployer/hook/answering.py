"""One request of the worker's on a connected Unix socket: the step is run, and the answer says how it ended.

What runs is listed in deployer.toml, which this process reads itself: a worker that was taken over can't have
anything else run. Which step, how it ended and how long it took go to the journal; what was said does not.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.untrusted_json import MalformedError
from deployer import peers
from deployer.hook import messages
from deployer.hook.messages import MAX_CREATED, Answer
from deployer.hook.process import Run

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import PurePosixPath

    from deployer.config.model import Command
    from deployer.hook.messages import Request

LOG: Final = logging.getLogger("deployer.hook")
MESSAGE_S: Final = 10.0
"""For a request to arrive; as long may the answer take."""


def answer(connection: socket.socket, callers: frozenset[int], commands: Mapping[Path, Command]) -> None:
    """Do one step for one of ``callers``, who are users."""
    peer = peers.ids(connection)
    try:
        if peer is None or peer.uid not in callers:
            LOG.warning("refused: uid %s is not the worker's", peer.uid if peer else "unknown")
            Answer(refused="this user may not have commands run").send(connection, MESSAGE_S)
            return
        request = messages.receive_request(connection, MESSAGE_S)
        created = bytearray(MAX_CREATED if request.step == "create" else 0)
        try:
            _run(connection, request, commands.get(Path(request.path)), created).send(connection, MESSAGE_S)
        finally:
            created[:] = bytes(len(created))
    except MalformedError as error:
        LOG.warning("refused: %s", error)
    except (OSError, EOFError):
        LOG.warning("the worker went away before its answer; what was running is ended")


def _run(connection: socket.socket, request: Request, command: Command | None, created: bytearray) -> Answer:
    path, step = request.path, request.step
    problem = _problem(path) if command is not None else "deployer.toml has no [[command]] with this path"
    if command is None or problem:
        LOG.warning("%s %s: not run: %s", path, step, problem)
        return Answer(refused=problem)
    begun = time.monotonic()
    try:
        with Run(path, step, request.given, created or None) as run:
            ended = run.wait(command.timeout, connection.fileno())
    except OSError as error:
        problem = f"can't be started: {error.strerror}"
        LOG.warning("%s %s: %s", path, step, problem)
        return Answer(refused=problem)
    took = time.monotonic() - begun
    LOG.info("%s %s: status %s after %.1f s", path, step, ended.status, took)
    return Answer(ended.status, ended.said, created[: run.filled])


def _problem(path: PurePosixPath) -> str:
    """Return why a file must not be run, "" for no reason."""
    try:
        status = Path(path).stat()
    except OSError as error:
        return f"can't be run: {error.strerror}"
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
        return "is no file that the user of commands may run"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in {0, os.geteuid()}:
        return "others can change it: it must be of root, and writable by root alone"
    return ""
