"""Log lines, for the journal or on standard error. Never a traceback: a frame's text could hold anything.

They leave through the outbox that audit records leave through: none of them waits, and those that can't be
written now are written later.
"""

from __future__ import annotations

import errno
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from agent.serve.host.journal import IS_JOURNAL, OUTBOX

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

_WARNING: Final = {"levelno": logging.WARNING, "levelname": "WARNING"}
IDENTIFIER: Final = "vps-secrets-agent"
_REFUSED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


class LineFormatter(logging.Formatter):
    """One line for each message: an entry of the journal, or ``info: message`` on standard error."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the fields of the entry (systemd.io, "Native Journal Protocol")."""
        text = record.getMessage().replace("\n", "; ")
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {place(record.exc_info[1])}"
        if self._journal:
            priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
            return f"MESSAGE={text}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\n"
        return f"{record.levelname.lower()}: {text}\n"


class OutboxHandler(logging.Handler):
    """Posts each message; where there is no place for it any more, it is counted, which the next one says."""

    def emit(self, record: logging.LogRecord) -> None:
        """Post one message, after the count of those that were lost before it."""
        if OUTBOX.lost and not OUTBOX.fails:
            lost, OUTBOX.lost = OUTBOX.lost, 0
            self.emit(
                logging.makeLogRecord({"msg": f"{lost} messages were lost: nobody took them", **_WARNING})
            )
        OUTBOX.post(self.format(record).encode(errors="replace"))


def set_up(level: str) -> None:
    """Send the log of this process to the journal or standard error, from ``level`` on."""
    handler = OutboxHandler()
    handler.setFormatter(LineFormatter(journal=IS_JOURNAL))
    logging.raiseExceptions = False  # it would print a traceback, and wait for standard error
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # asyncio's debug lines carry reprs of whatever is awaited
    logging.getLogger("asyncio").setLevel(logging.INFO)
    sys.excepthook = _uncaught


def place(error: BaseException) -> str:
    """Return type and place of an error, for errors whose text could hold anything."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace else "nowhere"
    return f"{type(error).__name__} at {where}"


def in_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what an event loop could not deliver to anybody: message and place only."""
    del loop
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _REFUSED:  # asyncio tries again a second later
        logging.getLogger("agent.loop").error("no connection can be accepted for 1 s: %s", error.strerror)
        return
    text = place(error) if isinstance(error, BaseException) else "no exception"
    logging.getLogger("agent.loop").error("unhandled in the event loop, report this bug: %s", text)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    del kind, trace
    logging.getLogger("agent").error("ended by a bug, report it: %s", place(error))
