"""Watches a file system for writes, whoever makes them (fanotify(7)): which unit's process, which path."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from pathlib import Path
from typing import Self

_FAN_CLOEXEC, _FAN_UNLIMITED_QUEUE = 0x1, 0x10
_FAN_MARK_ADD, _FAN_MARK_FILESYSTEM = 0x1, 0x100
_FAN_MODIFY, _FAN_CLOSE_WRITE = 0x2, 0x8
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")  # length, version, reserved, length of this, mask, descriptor, process
_LIBC = ctypes.CDLL(None, use_errno=True)


class Writes:
    """Every write to the file system of ``root`` while the block runs."""

    def __init__(self, root: Path) -> None:
        self.seen: set[tuple[str, str]] = set()
        """(unit or "" where the process had ended before it was looked at, path)."""
        self._fd = _LIBC.fanotify_init(_FAN_CLOEXEC | _FAN_UNLIMITED_QUEUE, os.O_RDONLY | os.O_CLOEXEC)
        assert self._fd >= 0, os.strerror(ctypes.get_errno())
        marked = _LIBC.fanotify_mark(
            self._fd,
            _FAN_MARK_ADD | _FAN_MARK_FILESYSTEM,
            ctypes.c_uint64(_FAN_MODIFY | _FAN_CLOSE_WRITE),
            _AT_FDCWD,
            os.fsencode(root),
        )
        assert marked == 0, os.strerror(ctypes.get_errno())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._fd)

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while poll.poll(200) or not self._stop.is_set():
            if poll.poll(0):
                self._take(os.read(self._fd, 65536))

    def _take(self, events: bytes) -> None:
        at = 0
        while at < len(events):
            length, _, _, _, _, fd, pid = _EVENT.unpack_from(events, at)
            at += length
            if fd >= 0:
                self.seen.add((_unit(pid), str(Path(f"/proc/self/fd/{fd}").readlink())))
                os.close(fd)


def _unit(pid: int) -> str:
    try:
        group = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
    return next((part for part in reversed(group.split("/")) if "." in part), "session").strip()
