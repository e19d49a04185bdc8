"""Starts the command, passes signals on, and starts or signals it again when what it got has changed.

All signals are blocked and taken one by one (sigwaitinfo(2)), which also says who sent them: what a terminal
sent (Ctrl-C) the command has got itself, since it is of the same process group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.run import reading
from agent.run.errors import NOT_EXECUTABLE, NOT_FOUND, SIGNALLED, RunError, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from signal import Signals

PASSED_ON: Final = frozenset(
    {
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM),
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
    }
)
NEWS: Final = signal.SIGRTMIN + 1
_SI_KERNEL: Final = 0x80
AGAIN_S: Final = 1.0
"""Between two questions to an agent that is away."""


@dataclass(frozen=True, slots=True)
class Manner:
    """What a change does: ``signal`` sends it, else the command is started again."""

    debounce_s: float
    """What changes within it is one change."""
    signal: Signals | None
    stop_signal: Signals
    stop_timeout_s: float


class Watcher:
    """A thread that says by a signal to this process that something has changed."""

    def __init__(self, socket: str, generation: int) -> None:
        self._socket = socket
        self._generation = generation
        self._again = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def read_up_to(self, generation: int) -> None:
        """Have news after this generation reported."""
        self._generation = generation
        self._again.set()

    def _watch(self) -> None:
        while True:
            try:
                news = reading.changed(self._socket, self._generation)
            except RunError:
                time.sleep(AGAIN_S)
                continue
            if news:
                self._again.clear()
                os.kill(os.getpid(), NEWS)
                self._again.wait()


class Supervisor:
    """Runs one command until it ends by itself or somebody ends it."""

    def __init__(self, command: list[str], manner: Manner) -> None:
        self._command = command
        self._manner = manner
        self._pid = 0
        self._ended: int | None = None
        self._ending = False
        self._news = False
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD, NEWS})

    def start(self, environment: Mapping[bytes, bytes]) -> None:
        """Start the command with these variables.

        Raises:
            RunError: there is no such program, or it can't be executed.
        """
        ours = {*PASSED_ON, signal.SIGCHLD, NEWS, signal.SIGPIPE, signal.SIGXFSZ}
        try:
            self._pid = os.posix_spawnp(
                self._command[0], self._command, environment, setsigmask=(), setsigdef=ours
            )
        except OSError as error:
            raise not_started(self._command[0], error) from None
        self._ended = None

    def run(self, renew: Callable[[], Mapping[bytes, bytes] | None]) -> int:
        """Wait for the end and return the exit status as a shell says it.

        ``renew`` reads what there is now, and returns the variables of a new start or None where nothing that
        the command gets has changed.
        """
        act_at: float | None = None
        while (status := self._status()) is None:
            self._take(None if act_at is None else max(0.0, act_at - time.monotonic()))
            if self._news:
                self._news = False
                act_at = time.monotonic() + self._manner.debounce_s
            if act_at is not None and time.monotonic() >= act_at:
                act_at = None
                environment = renew() if self._wanted() else None
                if environment is not None:
                    self._renewed(environment)
        return status

    def _status(self) -> int | None:
        return self._ended

    def _wanted(self) -> bool:
        """Return whether the command runs, and nobody has asked for its end."""
        return self._ended is None and not self._ending

    def _renewed(self, environment: Mapping[bytes, bytes]) -> None:
        if self._manner.signal is not None:
            tell(f"secrets have changed: {self._manner.signal.name} sent")
            self._send(self._manner.signal)
            return
        tell("secrets have changed: the command is started again")
        self._send(self._manner.stop_signal)
        end = time.monotonic() + self._manner.stop_timeout_s
        while self._ended is None and (left := end - time.monotonic()) > 0:
            self._take(left)
        if self._ended is None:
            tell(f"the command did not end within {self._manner.stop_timeout_s:g} s: killed")
            self._send(signal.SIGKILL)
        while self._status() is None:
            self._take(None)
        if not self._ending:
            self.start(environment)

    def _take(self, seconds: float | None) -> None:
        """Take one signal, or let the time pass."""
        taken = PASSED_ON | {signal.SIGCHLD, NEWS}
        info = signal.sigwaitinfo(taken) if seconds is None else signal.sigtimedwait(taken, seconds)
        if info is None:
            return
        if info.si_signo == signal.SIGCHLD:
            self._reap()
        elif info.si_signo == NEWS:
            self._news = True
        elif info.si_code != _SI_KERNEL:
            self._send(signal.Signals(info.si_signo))
        if info.si_signo in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}:
            self._ending = True  # whoever asked for the end does not want a new start

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._pid:
                    code = os.waitstatus_to_exitcode(status)
                    self._ended = code if code >= 0 else SIGNALLED - code

    def _send(self, number: Signals) -> None:
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)


def not_started(program: str, error: OSError) -> RunError:
    """Return why a program can't be started, with the status that a shell gives."""
    status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return RunError(f"{program}: {error.strerror}", status)
