"""One run of an operator's executable: what it gets and gives on its descriptors, until a deadline.

0 facts as JSON. 1 and 2 what it says: bounded, and only words of it are ever repeated. 3 the value. 4 what it
creates. 5 the third party's credential. Nothing is in its arguments or its environment. It has a session of
its own; whatever is left of its process group when it ends, or at the deadline, is killed.

Owns the process and the pipes of one run. The value leaves our memory only into a pipe that this process
alone reads; what it creates is read into the caller's memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import selectors
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import PurePosixPath

FACTS, SAID, ERRORS, VALUE, CREATED, CREDENTIAL = range(6)
MAX_SAID: Final = 4096
"""Bytes of what it says that are kept; the rest is read and dropped, so that it does not wait for us."""
ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_FIRST: Final = 10
"""Our ends of the pipes are above what the executable gets."""
_CHUNK: Final = 65536
_SIGNALS: Final = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. ``status``: its exit status, minus a signal's number, or None: it was killed by us."""

    status: int | None
    said: bytes = field(repr=False)


class Run:
    """Starts the executable; :meth:`wait` ends it. A context manager: leaving it kills what is left."""

    def __init__(
        self,
        path: PurePosixPath,
        step: str,
        given: Mapping[int, bytes | bytearray | memoryview],
        created: bytearray | None,
    ) -> None:
        """``given``: descriptor → what is written to it. ``created`` is filled from descriptor 4.

        Raises:
            OSError: it can't be started.
        """
        self._given = {number: memoryview(content) for number, content in given.items()}
        self._created = created
        self.filled = 0
        """Bytes of ``created``; what has no room is dropped."""
        self._said = bytearray()
        self._selector = selectors.DefaultSelector()
        self._ours: dict[int, Callable[[], bool]] = {}
        self._pid = 0
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            self._start(path, step)
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._close()

    def wait(self, seconds: float, caller: int) -> Ended:
        """Serve its descriptors until it ends, for so many seconds, or as long as ``caller`` is silent.

        ``caller`` is a connection that says nothing more: it is ready to be read when its other end has gone.
        """
        ended = os.pidfd_open(self._pid)
        try:
            self._selector.register(ended, selectors.EVENT_READ)
            self._selector.register(caller, selectors.EVENT_READ)
            end = time.monotonic() + seconds
            over = gone = False
            while not over and not gone and (left := end - time.monotonic()) > 0:
                ready = [key.fd for key, _ in self._selector.select(left)]
                over, gone = ended in ready, caller in ready
                self._serve(ready)
            # it has ended: what it said and gave just before is in the pipes
            self._serve(list(self._ours) if over else [])
            status = self._end()
        finally:
            os.close(ended)
        return Ended(status if over else None, bytes(self._said))

    def _start(self, path: PurePosixPath, step: str) -> None:
        theirs: dict[int, int] = {}
        try:
            for number in self._given:
                reading, writing = _pipe()
                theirs[number] = reading
                self._watch(writing, selectors.EVENT_WRITE, self._writer(number, writing))
            reading, writing = _pipe()
            theirs[SAID] = theirs[ERRORS] = writing
            self._watch(reading, selectors.EVENT_READ, lambda: self._hear(reading))
            if self._created is not None:
                gives, theirs[CREATED] = _pipe()
                self._watch(gives, selectors.EVENT_READ, lambda: self._take(gives))
            actions: list[tuple[int, int] | tuple[int, int, int]] = [
                (os.POSIX_SPAWN_DUP2, source, number) for number, source in theirs.items()
            ]
            actions += [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable() - theirs.keys()]
            self._pid = os.posix_spawn(
                path,
                [str(path), step],
                ENVIRONMENT,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_SIGNALS,
            )
        finally:
            for source in set(theirs.values()):
                os.close(source)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # ended already; setuid
            resource.prlimit(self._pid, resource.RLIMIT_CORE, (0, 0))

    def _watch(self, ours: int, event: int, serve: Callable[[], bool]) -> None:
        """Let ``serve`` be called when our end is ready, until it returns that there is no more."""
        os.set_blocking(ours, False)
        self._selector.register(ours, event)
        self._ours[ours] = serve

    def _serve(self, ready: list[int]) -> None:
        for ours in ready:
            serve = self._ours.get(ours)
            if serve is not None and not serve():
                self._drop(ours)

    def _drop(self, ours: int) -> None:
        self._selector.unregister(ours)
        del self._ours[ours]
        os.close(ours)

    def _writer(self, number: int, ours: int) -> Callable[[], bool]:
        """Return what writes the rest of what is given on a descriptor; done when it has, or nobody reads."""

        def write() -> bool:
            content = self._given[number]
            try:
                self._given[number] = content[os.write(ours, content[:_CHUNK]) :]
            except BlockingIOError:
                return True
            except BrokenPipeError:
                return False
            return bool(self._given[number])

        return write

    def _hear(self, ours: int) -> bool:
        """Read what it says to the end of what is there."""
        while True:
            try:
                heard = os.read(ours, _CHUNK)
            except BlockingIOError:
                return True
            if not heard:
                return False
            self._said += heard[: MAX_SAID - len(self._said)]

    def _take(self, ours: int) -> bool:
        """Read what it creates into the memory that was given for it; what has no room is dropped."""
        room = self._created if self._created is not None else bytearray()
        dropped = bytearray(MAX_SAID)
        while True:
            try:
                count = os.readv(ours, [memoryview(room)[self.filled :], dropped])
            except BlockingIOError:
                return True
            finally:
                dropped[:] = bytes(MAX_SAID)
            if not count:
                return False
            self.filled = min(self.filled + count, len(room))

    def _end(self) -> int:
        """Kill what is left of the process group; return the exit status, or minus a signal's number."""
        if not self._pid:
            return 0
        pid, self._pid = self._pid, 0
        # before it is reaped: until then no other group can have its number
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _close(self) -> None:
        for ours in list(self._ours):
            self._drop(ours)
        self._selector.close()


def _pipe() -> tuple[int, int]:
    """Return the ends of a pipe, both above what the executable gets, neither inherited."""
    ends = os.pipe()
    try:
        reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST) for end in ends)
    finally:
        for end in ends:
            os.close(end)
    return reading, writing


def _inheritable() -> set[int]:
    """Return what this process has inherited itself, and would hand on: of a shell, of systemd."""
    found = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    return {number for number in found if _is_inheritable(number)}


def _is_inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:  # the one that listed the folder, or another thread's
        return False
