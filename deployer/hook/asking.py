"""The worker's side of ``hook.sock``: a step is handed over, and its answer taken, within a time."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError
from common.untrusted_json import MalformedError
from deployer.hook import messages

if TYPE_CHECKING:
    from pathlib import Path

    from deployer.hook.messages import Answer, Request

START_S: Final = 30.0
"""Besides what the step may take: for a process to be started, on a machine under load."""
_JOURNAL: Final = "journalctl --unit 'vps-secrets-deployer-hook@*'"


class HookError(VpsSecretsError):
    """No answer, or none as agreed; it may be tried again. The text says what to look at."""


def ask(path: Path, request: Request, timeout: float) -> Answer:
    """Have a step run by the process behind a socket; ``timeout``: what the step itself may take (s).

    Raises:
        HookError: it can't be known how it ended.
    """
    reason = ""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(START_S)
            connection.connect(str(path))
        except OSError as error:
            reason = (
                f"nobody runs commands at {path}: {error.strerror or 'no answer'}; "
                "systemctl start vps-secrets-deployer-hook.socket"
            )
        if reason:
            raise HookError(reason)
        try:
            request.send(connection, START_S)
            return messages.receive_answer(connection, timeout + START_S)
        except TimeoutError:
            reason = f"its process has not answered for {timeout + START_S:g} s; {_JOURNAL}"
        except (OSError, EOFError):
            reason = f"its process ended without an answer; {_JOURNAL}"
        except MalformedError as error:
            reason = f"its process did not answer as agreed: {error}; {_JOURNAL}"
    raise HookError(reason)
